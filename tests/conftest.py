"""What tests of several modules share: a small task, an engine that fails on order, and two Rays."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from lipo_e_ray.engine.model import fast_dtype
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import (
    Completion,
    EngineError,
    Example,
    Fingerprints,
    InputError,
    Message,
    Outcome,
    Prompt,
    Sampling,
    Status,
)
from tests.heads import Head, new_head, ray_head

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

settings.register_profile("any machine", deadline=None)  # one example may take long on a busy one
settings.load_profile("any machine")

ROW = "row of docs/reliability.md"
DTYPE = fast_dtype()  # of models that really run
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is imported: later it only breaks the start
# One thread for each vLLM engine: beside other tests, two that wait for each other take twice as long.
os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(max(0, len(os.sched_getaffinity(0)) - 1))


SMALL = {
    "task.pool_size": 16,
    "task.validation_size": 24,
    "task.test_size": 20,
    "ape.num_instructions": 4,
    "vae.training_sets": 32,
    "vae.max_epochs": 5,
    "vae.batch_size": 32,
    "proposal.instructions": 6,
    "proposal.restarts": 2,
    "proposal.steps": 3,
    "invbo.iterations": 1,
    "invbo.q": 2,
}
"""Settings over the profile ``demo`` for a whole run of seconds."""

SLOW_FIXTURES = {"ray_cluster", "head", "undisturbed", "private_run"}  # they start Ray
# The tests of a part run in one process, because they share a Ray, which takes 10 s to start, or a model. The parts
# start in this order, the longest first; each other module is a part of its own and comes after them.
PARTS = {
    "a cluster": ("tests/cluster/test_client", "tests/cluster/test_submit", "tests/faults/test_"),
    "a private Ray": (
        "tests/test_job",
        "tests/test_api",
        "tests/test_examples",
        "tests/distributed/test_pools",
        "tests/distributed/test_runner",
        "tests/distributed/test_bo_actor",
        "tests/distributed/test_calls",
        "tests/app/test_remote",
        "tests/benchmarks/simulated/test_ray_scaling",
    ),
    "another cluster": ("tests/faults/test_driver",),
    "a model": ("tests/faults/test_real_engine", "tests/test_end_to_end", "tests/engine/test_vllm"),
}


def part_of(nodeid: str) -> str:
    """The part that a test belongs to: the one in ``PARTS`` with the longest match, else its module."""
    matches = [(len(start), part) for part, starts in PARTS.items() for start in starts if nodeid.startswith(start)]
    return max(matches)[1] if matches else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a slow fixture is used by, and put the tests in the order in which their parts start."""
    use_one_torch_thread()  # here, because fixtures of modules come before those of tests
    order = list(PARTS)
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: order.index(part) if (part := part_of(item.nodeid)) in order else len(order))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Gives the processes that run the tests whole parts, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Parts(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    config.option.loadscopereorder = False  # by default, the part with the most tests would come first
    return Parts(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The rows of docs/reliability.md, as the fault tests saw them."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == ROW:
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


def use_one_torch_thread() -> None:
    """On a busy machine two threads that wait for each other take many times as long: 370 s for what takes 10."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Also where the test before has changed it."""
    use_one_torch_thread()


@pytest.fixture(scope="session")
def small_task() -> Task:
    """16 pool, 96 validation, 48 test examples; the answer is the question's number."""

    def examples(name: str, n: int) -> tuple[Example, ...]:
        return tuple(Example(f"{name}: what is {i}?", f"#### {i}") for i in range(n))

    return Task("small", examples("pool", 16), examples("validation", 96), examples("test", 48), "numeric")


class FakeEngine:
    """Logs every example it is asked in ``folder/calls``; answers by the number in the question: multiples of 3 are
    wrong, those of 5 unparseable, the rest correct. Orders lie as files in ``folder``, each is carried out once per
    file: ``fail`` (one example), ``raise`` (the whole engine), ``exit``, ``hang``; ``refuse`` stays."""

    fingerprints = Fingerprints("fake-model", "fake-sampling", "fake-template")

    def __init__(self, folder: Path, latency_s: float = 0.0) -> None:
        self._folder = folder
        self._latency_s = latency_s
        if (folder / "refuse").exists():
            raise InputError("model: expected a folder or a hub id, got 'nothing'; name another --model")
        (folder / f"{os.getpid()}.pid").touch()

    def _ordered(self, order: str) -> bool:
        try:
            (self._folder / order).unlink()
        except FileNotFoundError:
            return False
        return True

    async def _work(self, what: Sequence[str]) -> None:
        with (self._folder / "calls").open("a") as log:
            log.write("".join(f"{line}\n" for line in what))
        await asyncio.sleep(self._latency_s)
        if self._ordered("exit"):
            os._exit(1)
        if self._ordered("raise"):
            raise EngineError("the engine core is dead")
        if self._ordered("hang"):
            await asyncio.sleep(3600)

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        await self._work([f"{prompt.id} {example.id}" for example in examples])
        outcomes = []
        for example in examples:
            number = int(example.answer.split()[-1])
            status = Status.WRONG if number % 3 == 0 else Status.UNPARSEABLE if number % 5 == 0 else Status.CORRECT
            outcomes.append(
                Outcome(prompt.id, example.id, Status.FAILED, error="no answer")
                if self._ordered("fail")
                else Outcome(prompt.id, example.id, status, "text", "", 10, 5, 2)
            )
        return outcomes

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        await self._work(
            [
                f"{messages[-1]['content']} {sampling.seed}"
                for messages, sampling in zip(conversations, samplings, strict=True)
            ]
        )
        return [
            Completion("", error="no text")
            if self._ordered("fail")
            else Completion(f"{messages[-1]['content']}, continued", "", 4, 0, 3)
            for messages in conversations
        ]

    async def close(self) -> None:
        (self._folder / "closed").touch()


class FakeEngines:
    """A folder with orders for ``FakeEngine``s, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def factory(self, latency_s: float = 0.0) -> partial[FakeEngine]:
        return partial(FakeEngine, self.folder, latency_s)

    def order(self, name: str) -> None:
        (self.folder / name).touch()

    @property
    def calls(self) -> Counter[str]:
        """ "prompt-id example-id" -> how often it was sent."""
        log = self.folder / "calls"
        return Counter(log.read_text().splitlines() if log.exists() else [])

    @property
    def pids(self) -> list[int]:
        """Processes in which an engine was built, oldest first."""
        files = sorted(self.folder.glob("*.pid"), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.stem) for file in files]


@pytest.fixture
def fake_engines(tmp_path) -> FakeEngines:
    folder = tmp_path / "engines"
    folder.mkdir()
    return FakeEngines(folder)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray of our own: two CPUs, no GPU, no dashboard, token authentication, gone at the end."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: Ray's sockets lie below, 107 bytes at most
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_gcs_server_port_wait_time_s", "120")  # 20 s by default: too short on a busy machine
        environment.setenv("CUDA_VISIBLE_DEVICES", "")
        # Workers cannot import what pytest collected under names of its own.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        try:
            ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
                _temp_dir=str(folder),
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A cluster of one node with two CPUs that tests must leave as it is; see ``tests/heads.py``."""
    head = new_head()
    with ray_head(head) as process:
        yield replace(head, pid=process.pid)
    shutil.rmtree(head.folder, ignore_errors=True)
