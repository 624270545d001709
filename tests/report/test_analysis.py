import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lipo_e_ray.proposal import sources
from lipo_e_ray.report.analysis import (
    WAYS,
    best_over_calls,
    coverage,
    new_instructions,
    parts,
    predictions,
    stage_spans,
    top_prompts,
    ways,
)
from lipo_e_ray.report.records import read
from lipo_e_ray.report.statistics import Paired, Rate
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Batch, Fingerprints, Observation, Origin, Outcome, Prompt, Proposal, RungResult, Status


def record(ledger, bracket, prompts, source="seed", **info):
    proposals = (Proposal(p, Origin(source, "hyperband", bracket), info) for p in prompts)
    ledger.record_batch(bracket, 0, Batch(tuple(proposals)))


def names(scored):
    return [(s.prompt.instruction[:12], len(s.prompt.exemplars), s.fidelity) for s in scored]


def test_the_incumbent_comes_from_the_highest_fidelity(records):
    assert records.full_fidelity == 8
    assert names([records.best]) == [("By the model", 3, 8)]  # not the later 3/8, not the 0/4
    assert records.best.accuracy == Rate(5, 8)
    assert names([records.baseline]) == [("Seed one.", 0, 8)]


def test_ranks_never_mix_fidelities(records):
    table = top_prompts(records)
    assert [rank for rank, _ in table] == [1, 2, 3, 4, None, None, None]
    assert [s.observation.errors for rank, s in table if rank] == [3, 3, 4, 6]
    assert [(s.fidelity, s.observation.errors) for rank, s in table if not rank] == [(4, 0), (4, 4), (4, 4)]
    assert [rank for rank, _ in top_prompts(records, 2)] == [1, 2]


def test_best_over_calls_goes_up_in_fidelity_and_never_down(records):
    """A: 3/4, then 6/8; C: 4/8; D: 3/8. B's 4/4, and E's 0/4, come when a higher fidelity was or is reached."""
    assert [(r.fidelity, r.observation.errors, r.calls) for r in best_over_calls(records)] == [
        (4, 3, 4),
        (8, 6, 12),
        (8, 4, 24),
        (8, 3, 28),
    ]
    assert stage_spans(records) == [("hyperband", 0, 28), ("invbo", 28, 44)]


def test_of_results_that_come_at_once_only_the_best_is_a_step(records):
    """And none of the baseline's race is."""
    last = records.rungs[-1]
    rung = [
        replace(last, stage=stage, fidelity=16, calls=99, observation=replace(last.observation, evaluated=16, errors=n))
        for stage, n in (("baseline", 1), ("final", 12), ("final", 5), ("final", 7))
    ]
    ended = replace(records, rungs=(*records.rungs, *rung))
    assert best_over_calls(ended) == [*best_over_calls(records), rung[2]]


def test_ways_say_how_the_prompts_came_about(tmp_path):
    """One line for each way that was taken; with the calls and the best full result of its prompts."""
    taken = {"plain": 4, "edited": 1, "paired": 2, "not known": 0}
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        for bracket, (way, errors) in enumerate(taken.items()):
            prompt = Prompt(way)
            record(ledger, bracket, [prompt], way=way)
            ledger.record_outcomes("validation", [Outcome(prompt.id, f"e{i}", Status.WRONG) for i in range(bracket)])
            seen = Observation(prompt.id, errors, 8)
            ledger.record_rung(RungResult(bracket, "hyperband", 0, 0, 8, seen, False, 8))
        found = ways(read(ledger))
    assert [part.name for part in found] == [WAYS[way] for way in ("plain", "edited", "paired")]
    assert [(part.prompts, part.finished, part.calls) for part in found] == [(1, 1, 0), (1, 1, 1), (1, 1, 2)]
    assert [part.best.observation.errors for part in found] == [4, 1, 2]


def test_every_way_that_a_source_names_is_in_the_table():
    """So that no prompt is left out of it silently."""
    folder = Path(inspect.getfile(sources)).parent
    named = {way for path in folder.glob("*.py") for way in re.findall(r"\"way\": \"(\w+)\"", path.read_text())}
    assert named and named <= set(WAYS)


def test_parts_say_what_each_gave(records):
    assert [(p.prompts, p.finished, p.calls, p.best.observation.errors) for p in parts(records)] == [
        (2, 1, 12, 6),
        (1, 1, 8, 4),
        (1, 1, 8, 3),
        (3, 1, 16, 3),
        (2, 1, 12, 3),
    ]


def test_a_part_without_a_result_has_no_score(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        for bracket, (source, fidelity) in enumerate([("seed", 8), ("ape", 4)]):
            prompt = Prompt(source)
            record(ledger, bracket, [prompt], source)
            seen = Observation(prompt.id, 1, fidelity)
            ledger.record_rung(RungResult(bracket, "hyperband", 0, 0, fidelity, seen, False, 8))
        assert [p.best is None for p in parts(read(ledger))] == [False, True, False, True, True]


def test_a_result_with_failed_calls_is_no_score(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        prompt = Prompt("Do it.")
        record(ledger, 0, [prompt])
        ledger.record_rung(RungResult(0, "hyperband", 0, 0, 4, Observation(prompt.id, 2, 4), True, 4))
        ledger.record_rung(RungResult(0, "hyperband", 0, 1, 8, Observation(prompt.id, 2, 7), False, 8))
        records = read(ledger)
    assert (records.full_fidelity, records.best.observation.evaluated) == (4, 4)


def test_of_equals_the_tested_one_is_the_best(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        prompts = [Prompt("First."), Prompt("Second.")]
        record(ledger, 0, prompts)
        for p in reversed(prompts):  # the order of arrival, which may be another one in the same run elsewhere
            ledger.record_rung(RungResult(0, "hyperband", 0, 0, 4, Observation(p.id, 2, 4), False, 4))
        assert read(ledger).best.prompt == prompts[0]
        ledger.record_outcomes("test", [Outcome(prompts[1].id, "t", Status.WRONG)])
        assert read(ledger).best.prompt == prompts[1]


def test_usage_counts_everything_that_was_sent(records):
    usage = records.usage
    assert (usage.calls, usage.answers, usage.unparseable) == (44 + 20 + 1 + 1, 64, 2)
    assert usage.tokens == {"prompt_tokens": 6440, "cached_tokens": 3840, "completion_tokens": 646}
    assert usage.cache_share == pytest.approx(3840 / 6440)
    assert [f.error for f in records.failures] == ["timed\nout"]
    assert records.fingerprints == Fingerprints("a-model", "a-sampling", "a-template")


def test_test_split_is_compared_on_the_same_questions(records):
    assert (records.baseline.test, records.best.test) == (Rate(3, 10), Rate(8, 10))
    assert records.paired == Paired(both=2, only_best=6, only_baseline=1, neither=1)
    assert records.paired.difference == pytest.approx(0.5)


def test_calibration_uses_the_first_result_and_the_binomial_noise(records):
    c, d, f = predictions(records)
    assert (c.observation.errors, c.observation.evaluated) == (2, 4)
    assert c.spread == pytest.approx(math.sqrt(0.01 + (0.25 - 0.01) / 4))
    assert c.residual == 0
    assert d.spread == pytest.approx(0.15)
    assert d.residual == pytest.approx((0.25 - 0.9) / 0.15)
    assert f.residual == pytest.approx((0.5 - 0.3) / math.sqrt(0.04 + (0.21 - 0.04) / 4))
    assert coverage([c, d, f]) == Rate(2, 3)


def test_new_instructions_tell_copies_from_new_texts(records):
    found = new_instructions(records)
    assert [(n.best.origin.cosine, n.prompts, n.novel) for n in found] == [(0.91, 1, True), (0.5, 1, False)]
    assert not any(n.novel for n in new_instructions(records, [n.best.prompt.instruction for n in found]))


def test_an_empty_ledger_has_no_answer(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        records = read(ledger)
    assert (records.best, records.baseline, records.paired, records.full_fidelity) == (None, None, None, 0)
    assert top_prompts(records) == best_over_calls(records) == predictions(records) == new_instructions(records) == []
