"""A cluster that loses a node, or its head, or stops the job."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from tests.cluster.conftest import Head, ray_head, ray_start

from .conftest import IN_FLIGHT, LIFE_S, end, finish, harm, processes, until

GCS_TIMEOUT_S = 15  # 60 by default


def kill_node(node) -> None:
    """SIGKILL for the raylet and all below ``ray start``, as when the machine goes away."""
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    node.wait()


def worker(head: Head):
    return ray_start(head, "--address", head.address, "--num-cpus", "1")


def test_raylet_killed(undisturbed, run, cluster, row):
    """Of the one node with a CPU: the engine and the trials are on it. Another one joins later."""
    with ray_head(cluster, cpus=0), worker(cluster) as first:
        driver = run.under_way(cluster.address, environment=cluster.environment)
        assert run.pids()[0] in processes(first.pid, "ray::EngineActor")
        [raylet] = [p for p in psutil.Process(first.pid).children(recursive=True) if p.name() == "raylet"]
        os.kill(raylet.pid, signal.SIGKILL)
        until(lambda: "engine 0 waits for 0.9 CPU" in driver.said, driver)
        with worker(cluster):
            finish(driver)
    seen = harm(run, undisturbed)
    assert 0 < seen.repeated <= IN_FLIGHT
    row(seen)


def test_head_restarted(undisturbed, run, cluster, row):
    """The driver ends by itself, after Ray's own limit; one that is started on the new head goes on."""
    with ray_head(cluster) as head:
        environment = cluster.environment | {"RAY_gcs_rpc_server_reconnect_timeout_s": str(GCS_TIMEOUT_S)}
        driver = run.under_way(cluster.address, environment=environment)
        kill_node(head)
        began = time.monotonic()
        said = end(driver, seconds=120)
        print(f"the driver ended {time.monotonic() - began:.0f} s after the head, with {driver.returncode}: {said}")
        assert driver.returncode != 0
        run.ended()
    with ray_head(cluster):
        run.finish(cluster.address, environment=cluster.environment)
    row(harm(run, undisturbed))


def test_ray_job_stop(undisturbed, run, cluster, row):
    with ray_head(cluster):
        submit = ("ray", "job", "submit", "--no-wait", "--submission-id", "job", "--runtime-env-json",
                  '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}', "--", *run.command)
        status, out, err = cluster.run(*submit)
        assert status == 0, out + err
        deadline = time.monotonic() + LIFE_S
        while len(run.recorded()) < 60:
            assert time.monotonic() < deadline, cluster.run("ray", "job", "logs", "job")
            time.sleep(0.1)
        status, out, err = cluster.run("ray", "job", "stop", "job")
        assert status == 0, out + err
        run.ended()
        status, out, err = cluster.run("ray", "job", "logs", "job")
        assert f"interrupted; nothing that was answered is lost: lipo-e-ray resume {run.folder}" in out
        assert "Traceback" not in out + err
        run.finish(cluster.address, environment=cluster.environment)
    row(harm(run, undisturbed))
