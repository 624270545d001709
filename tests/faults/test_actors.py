"""What a run started: its engines, the BO actor, its trials. They are replaced, and the driver goes on."""

from __future__ import annotations

import os
import signal

from .conftest import IN_FLIGHT, alive, finish, harm, until


def repeated(run, undisturbed, row) -> int:
    seen = harm(run, undisturbed)
    row(seen)
    return seen.repeated


def test_engine_killed(undisturbed, run, row):
    driver = run.under_way()
    os.kill(run.pids()[0], signal.SIGKILL)
    finish(driver)
    assert len(run.pids()) == 2
    assert all(error.startswith("ActorDiedError") for (error,) in run.rows("SELECT error FROM failures"))
    assert 0 < repeated(run, undisturbed, row) <= IN_FLIGHT


def test_engine_hung(undisturbed, run, row):
    """A stopped process answers nothing, nor Ray's request to end; it goes all the same, with its memory."""
    driver = run.under_way()
    os.kill(run.pids()[0], signal.SIGSTOP)
    until(lambda: len(run.pids()) > 1 and not alive(run.pids()[0]), driver)
    finish(driver)
    assert ("no answer in time",) in run.rows("SELECT error FROM failures")
    assert 0 < repeated(run, undisturbed, row) <= IN_FLIGHT


def test_engine_out_of_memory(undisturbed, run, row):
    driver = run.under_way()
    run.paid_file.with_suffix(".oom").touch()
    finish(driver)
    assert len(run.pids()) == 2
    assert any("MemoryError: CUDA out of memory" in error for (error,) in run.rows("SELECT error FROM failures"))
    assert 0 < repeated(run, undisturbed, row) <= IN_FLIGHT


def test_bo_actor_killed(undisturbed, run, row):
    """Once while it trains the VAE or proposes, and the one that replaces it once more."""
    driver, killed = run.start(), []

    def busy() -> list[int]:
        return [pid for pid in run.processes("ray::BOActor.p") if pid not in killed]

    for _ in range(2):
        until(lambda: run.recorded() and busy(), driver)
        killed += busy()
        os.kill(killed[-1], signal.SIGKILL)
    finish(driver)
    assert len(killed) == 2
    assert repeated(run, undisturbed, row) == 0


def test_trial_killed(undisturbed, run, row):
    """All of them, in the middle of their rungs: the kernel takes small processes too when memory is short."""
    driver = run.start()
    until(lambda: len(run.recorded()) > 60 and run.processes("ray::ResourceTrainable.train"), driver)
    trials = run.processes("ray::ResourceTrainable")
    for pid in trials:
        os.kill(pid, signal.SIGKILL)
    finish(driver)
    assert repeated(run, undisturbed, row) == 0
