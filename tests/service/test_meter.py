from __future__ import annotations

from types import SimpleNamespace

from lipo_e_ray.service import meter as module
from lipo_e_ray.service.meter import Meter
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Completion, Fingerprints, Outcome, Status

PRINTS = Fingerprints("model", "sampling", "template")


def answer(status=Status.CORRECT):
    return Outcome("p", "e", status, "text", "", 10, 5, 2)


def test_sums_go_on_from_the_ledger_and_the_rate_forgets_what_is_older_than_its_window(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Ledger(tmp_path / "ledger.sqlite", PRINTS) as ledger:
        ledger.record_outcomes("validation", [answer()])
        meter = Meter(ledger)
    now[0] += 10
    meter.count([answer(), answer(), answer(Status.FAILED), answer(Status.WRONG)])
    meter.count([Completion("text", "", 4, 0, 3), Completion("", error="no text")])
    reading = meter.read(9, 1, 2, "engine 1 waits")
    assert (reading.calls, reading.new_calls, reading.failed) == (9, 6, 2)
    assert (reading.prompt_tokens, reading.cached_tokens, reading.completion_tokens) == (44, 20, 11)
    assert (reading.engines_ready, reading.engines, reading.waiting) == (1, 2, "engine 1 waits")
    assert reading.rate == 3 / 10
    now[0] += 15
    assert meter.read(9, 1, 2, "").rate == 3 / 20
    now[0] += 10
    assert meter.read(9, 1, 2, "").rate == 0
