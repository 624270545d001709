"""The driver itself: killed, interrupted, started twice."""

from __future__ import annotations

import random
import signal
import time

import pytest

from .conftest import LIFE_S, end, finish, harm, until

KILLS = 20


@pytest.mark.timeout((KILLS + 2) * LIFE_S)
def test_driver_killed_20_times(undisturbed, run, row):
    """Most kills come some calls after the first of that life, a quarter of them up to 25 s after its start, and all of
    them before that life has made more than its share of the calls."""
    rng = random.Random(0)
    total = undisturbed.paid().total()
    for kill in range(KILLS):
        before, began = run.paid().total(), time.monotonic()
        share = max(1, (total - len(run.recorded())) // (KILLS - kill + 4))
        calls, delay = (rng.randint(1, share), LIFE_S) if rng.random() < 0.75 else (share, rng.uniform(0, 25))
        driver = run.start()
        until(lambda: run.paid().total() >= before + calls or time.monotonic() >= began + delay, driver)  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        assert driver.poll() is None, f"the run ended before kill {kill + 1}: {end(driver)}"
        known = run.recorded()
        run.kill(driver)
        print(f"kill {kill + 1}, {time.monotonic() - began:.0f} s after the start: {len(run.recorded())} of {total} "
              "are in the ledger")
        assert known.items() <= run.recorded().items(), "an outcome that was in the ledger is lost"
    run.finish()
    row(harm(run, undisturbed))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_driver_interrupted(undisturbed, run, row, number):
    driver = run.under_way(recorded=100)
    said = end(driver, number, seconds=60)
    run.ended()
    assert driver.returncode == 130
    assert said.splitlines()[-1].endswith(f"interrupted; nothing that was answered is lost: lipo-e-ray resume "
                                          f"{run.folder}") and "Traceback" not in said
    assert len(run.recorded()) < len(undisturbed.recorded())
    run.finish()
    row(harm(run, undisturbed))


def test_two_drivers_on_one_folder(undisturbed, run, row):
    first = run.under_way(recorded=10)
    second = run.start()
    said = end(second, seconds=60)
    assert second.returncode == 1
    assert said.splitlines()[-1] == (f"lipo-e-ray: {run.folder}: another process is running in this folder; wait for "
                                     "it, or give another --output") and "Traceback" not in said
    assert first.poll() is None
    finish(first)
    row(harm(run, undisturbed))
