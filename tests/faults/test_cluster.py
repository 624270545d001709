"""A cluster that loses a node, or its head, or stops the job."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.heads import Head, new_head, ray_head, ray_start

from .conftest import IN_FLIGHT, LIFE_S, Run, end, finish, harm, processes, until

GCS_TIMEOUT_S = 15  # 60 by default


@pytest.fixture
def run(tmp_path) -> Iterator[Run]:
    """On a cluster of its own that is not started yet."""
    head = new_head()
    yield Run(tmp_path / "run", tmp_path, head)
    shutil.rmtree(head.folder, ignore_errors=True)


def kill_node(node) -> None:
    """SIGKILL for the raylet and all below ``ray start``, as when the machine goes away."""
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    node.wait()


def worker(head: Head):
    return ray_start(head, "--address", head.address, "--num-cpus", "1")


def test_raylet_killed(undisturbed, run, row):
    """Of the one node with a CPU: the engine and the trials are on it. Another one joins later."""
    with ray_head(run.cluster, cpus=0, dashboard=False), worker(run.cluster) as first:
        [raylet] = [p for p in psutil.Process(first.pid).children(recursive=True) if p.name() == "raylet"]
        driver = run.under_way()
        assert run.pids()[0] in processes(first.pid, "ray::EngineActor")
        os.kill(raylet.pid, signal.SIGKILL)
        # Its processes outlive it by a moment, in which the rung may come to its end: then the next one waits.
        until(lambda: re.search(r"(engine 0 waits for 0.9|bracket \d waits for 0.001) CPU", driver.said), driver)
        with worker(run.cluster):
            finish(driver)
    seen = harm(run, undisturbed)
    assert seen.repeated <= IN_FLIGHT
    row(seen)


def test_head_restarted(undisturbed, run, row):
    """The driver ends by itself, after Ray's own limit; one that is started on the new head goes on."""
    with ray_head(run.cluster, dashboard=False) as head:
        driver = run.under_way(RAY_gcs_rpc_server_reconnect_timeout_s=str(GCS_TIMEOUT_S))
        kill_node(head)
        began = time.monotonic()
        said = end(driver, seconds=120)
        print(f"the driver ended {time.monotonic() - began:.0f} s after the head, with {driver.returncode}: {said}")
        assert driver.returncode != 0
        run.ended()
    with ray_head(run.cluster, dashboard=False):
        run.finish()
    row(harm(run, undisturbed))


def test_ray_job_stop(undisturbed, tmp_path, head, row):
    run = Run(tmp_path / "run", tmp_path, head)
    submit = (
        "ray",
        "job",
        "submit",
        "--no-wait",
        "--submission-id",
        "stopped",
        "--runtime-env-json",
        '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}',
        "--",
        *run.command,
    )
    status, out, err = head.run(*submit)
    assert status == 0, out + err
    deadline = time.monotonic() + LIFE_S
    while len(run.recorded()) < 60:
        assert time.monotonic() < deadline, head.run("ray", "job", "logs", "stopped")
        time.sleep(0.1)
    status, out, err = head.run("ray", "job", "stop", "stopped")
    assert status == 0, out + err
    run.ended()
    status, out, err = head.run("ray", "job", "logs", "stopped")
    assert f"interrupted; nothing that was answered is lost: lipo-e-ray resume {run.folder}" in out
    assert "Traceback" not in out + err
    run.finish()
    row(harm(run, undisturbed))
