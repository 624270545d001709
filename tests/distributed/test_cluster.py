"""Several nodes that come and go, on this machine: real raylets with pretended GPUs, simulated engines.

In a process of its own, with its own Ray: the one that other tests share has a single node.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from lipo_e_ray.service.service import CHUNK
from lipo_e_ray.store.ledger import Ledger

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lipo_e_ray.distributed.calls import result
from lipo_e_ray.distributed.pools import EnginesConfig, start_service
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Prompt

folder = Path(sys.argv[1])
examples = tuple(Example(f"What is {i}?", f"#### {i}") for i in range(64))
task = Task("small", (), examples, (), "numeric")


class Engine(SimulatedEngine):
    async def evaluate(self, prompt, examples):
        log = folder / f"{ray.get_runtime_context().get_node_id()}.sent"
        with log.open("a") as file:
            file.writelines(f"{prompt.id} {example.id}\\n" for example in examples)
        return await super().evaluate(prompt, examples)


def make():
    return Engine(0, Latency(1e9, 0.05, 0.0, 64, answer_tokens=10))


def add_node(**resources):
    return cluster.add_node(object_store_memory=80 * 2**20, dashboard_agent_listen_port=0, include_dashboard=False,
                            **resources)


def work_until(done):
    while not done():
        answered = ray.wait(requests, num_returns=len(requests), timeout=0.05)[0] if requests else []
        for _ in range(6 - len(requests) + len(answered)):
            requests.append(service.evaluate.remote(Prompt(f"Prompt number {len(requests)}."), "validation", 64))
        time.sleep(0.05)


def works(*nodes):
    sizes = {node: (folder / f"{node.node_id}.sent") for node in nodes}
    before = {node: file.stat().st_size if file.exists() else 0 for node, file in sizes.items()}
    return lambda: all(file.exists() and file.stat().st_size > before[node] for node, file in sizes.items())


cluster, requests = Cluster(), []
try:
    add_node(num_cpus=1)
    first, second = add_node(num_cpus=1, num_gpus=1), add_node(num_cpus=1, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    service = start_service(folder / "ledger.sqlite", task, make().fingerprints, make, EnginesConfig(in_flight=32))
    work_until(works(first, second))
    third = add_node(num_cpus=1, num_gpus=1)
    work_until(works(first, second, third))
    cluster.remove_node(first, allow_graceful=False)
    work_until(works(second, third))
    work_until(lambda: result(service.progress.remote()).engines_ready == 2)
    fourth = add_node(num_cpus=1, num_gpus=1)
    work_until(works(second, third, fourth))
    evaluations = [result(request) for request in requests]
    progress = result(service.progress.remote())
    result(service.close.remote())
    (folder / "report.json").write_text(json.dumps({
        "nodes": [node.node_id for node in (first, second, third, fourth)],
        "evaluated": [evaluation.observation.evaluated for evaluation in evaluations],
        "new_calls": sum(evaluation.new_calls for evaluation in evaluations),
        "ready": progress.engines_ready,
    }))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.fixture
def environment():
    """Of a Ray of its own: its own folder, also for the address that other drivers would find, and token."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: Ray's sockets lie below, 107 bytes at most
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    yield inherited | {  # another test's Ray may have hidden the GPUs; here some are made up
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_server_port_wait_time_s": "120",
    }
    shutil.rmtree(folder, ignore_errors=True)


def test_nodes_come_and_go_in_the_middle_of_the_work(tmp_path, environment):
    run = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        timeout=300,
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())

    assert set(report["evaluated"]) == {64}, "something asked for was not answered"
    assert report["ready"] == 3  # on the second, third and fourth node
    by_node = [Counter((tmp_path / f"{node}.sent").read_text().splitlines()) for node in report["nodes"]]
    sent = sum(by_node, Counter())
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        failed = Counter(f"{failure.prompt_id} {failure.example_id}" for failure in ledger.failures())
        paid = ledger.calls()
    asked = 64 * len(report["evaluated"])
    assert paid == report["new_calls"] == asked + failed.total()
    assert 0 < failed.total() <= 2 * CHUNK, "only what was in flight on the node that went"
    twice = {key for key, n in sent.items() if n > 1}
    assert twice <= set(failed) & set(by_node[0]), "sent again although an engine had answered"
    assert len(sent) == asked and max(sent.values()) <= 2
