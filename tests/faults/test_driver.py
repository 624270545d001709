"""The driver itself: killed, interrupted, started twice."""

from __future__ import annotations

import random
import signal
import time

import pytest

from .conftest import LIFE_S, end, finish, harm, until

KILLS = 20
START_S = 12  # of a life, until it makes new calls


@pytest.mark.timeout((KILLS + 2) * LIFE_S)
def test_driver_killed_20_times(undisturbed, run, row):
    """Half of the kills come some calls after the first of that life, half of them at any moment after its start, and
    all of them before that life has made more than its share of the calls."""
    rng = random.Random(0)
    total = undisturbed.paid().total()
    kill_again_and_again(run, rng, total)
    run.finish()
    row(harm(run, undisturbed))


def kill_again_and_again(run, rng, total):
    """``total``: calls of the whole run."""
    for kill in range(KILLS):
        before, began = run.paid().total(), time.monotonic()
        share = max(1, (total - len(run.recorded())) // (KILLS - kill + 4))
        calls, delay = (rng.randint(1, share), LIFE_S) if rng.random() < 0.5 else (share, rng.uniform(0, START_S))
        driver = run.start()
        until(lambda: run.paid().total() >= before + calls or time.monotonic() >= began + delay, driver)  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        assert driver.poll() is None, f"the run ended before kill {kill + 1}: {end(driver)}"
        known = run.recorded()
        run.kill(driver)
        print(
            f"kill {kill + 1}, {time.monotonic() - began:.0f} s after the start: {len(run.recorded())} of {total} "
            "are in the ledger"
        )
        assert known.items() <= run.recorded().items(), "an outcome that was in the ledger is lost"


def test_driver_interrupted(undisturbed, private_run, row):
    """By SIGINT, and when resumed by SIGTERM; on a private Ray, as on a laptop."""
    run = private_run
    for number, recorded in ((signal.SIGINT, 100), (signal.SIGTERM, 200)):
        driver = run.under_way(recorded=recorded)
        said = end(driver, number, seconds=60)
        run.ended()
        assert driver.returncode == 130
        assert (
            said.splitlines()[-1].endswith(
                f"interrupted; nothing that was answered is lost: lipo-e-ray resume {run.folder}; "
                "with your own engine or metric function, make the same call again"
            )
            and "Traceback" not in said
        )
        assert len(run.recorded()) < len(undisturbed.recorded())
    run.finish()
    row(harm(run, undisturbed))


def test_two_drivers_on_one_folder(undisturbed, run, row):
    first = run.under_way(recorded=10)
    second = run.start()
    said = end(second, seconds=60)
    assert second.returncode == 1
    assert (
        said.splitlines()[-1]
        == (
            f"lipo-e-ray: {run.folder}: another process is running in this folder; wait for "
            "it, or give another --output"
        )
        and "Traceback" not in said
    )
    assert first.poll() is None
    finish(first)
    row(harm(run, undisturbed))
