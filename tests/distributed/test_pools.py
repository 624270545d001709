from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lipo_e_ray.distributed import pools as module
from lipo_e_ray.distributed.calls import result
from lipo_e_ray.distributed.pools import EnginePool, EnginesConfig, start_service
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import EngineError, Fingerprints, InputError, Observation, Prompt, Sampling

PRINTS = Fingerprints("fake-model", "fake-sampling", "fake-template")
PROMPT = Prompt("Solve the problem.")
WHOLE = Observation(PROMPT.id, errors=45, evaluated=96, unparseable=13)  # of 0..95
ONE = EnginesConfig(num_cpus=0.1, timeout_s=60)
TWO = EnginesConfig(count=2, num_gpus=0, num_cpus=0.1, timeout_s=60)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def start(ray_cluster, path, small_task, fake_engines):
    services = []

    def start(engines=ONE, latency_s=0.0):
        services.append(start_service(path, small_task, PRINTS, fake_engines.factory(latency_s), engines))
        return services[-1]

    yield start
    for service in services:
        result(service.close.remote())


def test_two_engines_share_a_prompts_examples_and_a_second_service_needs_none(start, path, fake_engines):
    service = start(TWO, latency_s=0.05)
    assert result(service.progress.remote()).engines == 0  # nothing to pay yet
    requests = [service.evaluate.remote(PROMPT, "validation", n) for n in (96, 20, 96)]
    evaluations = [result(request) for request in requests]
    assert evaluations[0].observation == evaluations[2].observation == WHOLE
    assert sum(evaluation.new_calls for evaluation in evaluations) == 96  # Ray may deliver them in any order
    conversation = [{"role": "user", "content": "a"}]
    assert result(service.generate.remote([conversation], [Sampling()], "ape"))[0].text == "a, continued"
    assert result(service.progress.remote()).engines == 2
    result(service.close.remote())
    assert (fake_engines.folder / "closed").exists()

    again = start(TWO)
    assert result(again.evaluate.remote(PROMPT, "validation", 96)).new_calls == 0
    assert result(again.generate.remote([conversation], [Sampling()], "ape"))[0].text == "a, continued"
    assert result(again.progress.remote()).engines == 0
    assert sum(fake_engines.calls.values()) == len(fake_engines.calls) == 97
    with Ledger(path) as ledger:
        assert ledger.observations("validation") == {PROMPT.id: WHOLE}
        assert ledger.failures() == []


def test_a_broken_engine_is_replaced_and_nothing_is_lost_or_doubled(start, path, fake_engines):
    reasons = {"exit": "ActorDiedError", "raise": "EngineError: the engine core is dead", "hang": "no answer in time"}
    service = start(EnginesConfig(num_cpus=0.1, timeout_s=3), latency_s=0.02)
    for order, reason in reasons.items():
        fake_engines.order(order)
        prompt = Prompt(order)
        evaluation = result(service.evaluate.remote(prompt, "validation", 96))
        assert (evaluation.observation, evaluation.failed) == (replace(WHOLE, prompt_id=prompt.id), 0)
        with Ledger(path) as ledger:
            failures = [failure.error for failure in ledger.failures() if failure.prompt_id == prompt.id]
            assert ledger.observation(prompt.id, ledger.outcomes(prompt.id)) == evaluation.observation
        assert evaluation.new_calls == 96 + len(failures)
        assert any(reason in failure for failure in failures)
        assert not any("\n" in failure for failure in failures)
    assert len(fake_engines.pids) >= 4


def test_an_engine_killed_in_the_middle_of_its_work(start, fake_engines):
    service = start(EnginesConfig(num_cpus=0.1, in_flight=16, timeout_s=60), latency_s=0.2)
    request = service.evaluate.remote(PROMPT, "validation", 96)
    while sum(fake_engines.calls.values()) < 33:  # two chunks of 16 answered, the third on its way
        time.sleep(0.02)
    os.kill(fake_engines.pids[0], signal.SIGKILL)
    evaluation = result(request)
    assert (evaluation.observation, evaluation.failed) == (WHOLE, 0)
    assert evaluation.new_calls == 96 + 16  # one chunk was in flight; those in the queue waited for the next engine
    assert max(fake_engines.calls.values()) <= 2


def test_an_engine_that_waits_for_its_resources_holds_up_nothing(start):
    service = start(EnginesConfig(count=3, num_gpus=0, num_cpus=1, timeout_s=60))  # of two CPUs
    assert result(service.evaluate.remote(PROMPT, "validation", 96)).observation == WHOLE
    progress = result(service.progress.remote())
    assert 1 <= progress.engines_ready <= 2 and progress.engines == 3


def test_a_model_that_cannot_be_loaded_is_the_callers_input_error(start, fake_engines):
    fake_engines.order("refuse")
    service = start()
    with pytest.raises(InputError) as caught:
        result(service.evaluate.remote(PROMPT, "validation", 96))
    assert str(caught.value) == "model: expected a folder or a hub id, got 'nothing'; name another --model"
    assert fake_engines.calls == {}


def test_an_unusable_ledger_is_the_callers_input_error(ray_cluster, path, small_task, fake_engines):
    path.write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a database") as caught:
        start_service(path, small_task, PRINTS, fake_engines.factory(), ONE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"num_gpus": -1}, {"num_gpus": 1.5}, {"in_flight": 0}, {"timeout_s": 0}]
)
def test_a_config_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="engines: expected"):
        EnginesConfig(**wrong)


def test_a_config_may_share_a_gpu_or_take_several():
    for num_gpus in (0, 0.5, 1, 2):
        assert EnginesConfig(num_gpus=num_gpus).num_gpus == num_gpus


class StubCluster:
    """In Ray's place: nodes with GPUs, and actors that answer nothing."""

    def __init__(self, *gpus, lost=()):
        self.gpus = list(gpus)
        self.lost = lost
        self.reserved = Counter()

    def nodes(self):
        return [
            {"Alive": True, "Resources": {"CPU": 4.0, "GPU": float(n)} if n else {"CPU": 4.0}} for n in self.gpus
        ] + [{"Alive": False, "Resources": {"GPU": 8.0}}]

    def remote(self, *_):
        return self

    def options(self, num_gpus, **_):
        self.reserved[num_gpus] += 1
        return self

    def put(self, value):
        return value


class StubSlot:
    """An engine that is soon ready, or lost if its cluster says so; one after the other."""

    def __init__(self, number, make_actor, expected, changed):
        self.number, self.cluster, self.changed = number, make_actor(), changed
        self.actor, self.lost, self.ready = self.cluster.actor, None, False
        self.starting = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01 * number, self.begin)

    def begin(self):
        self.lost = EngineError(f"{self.number} is gone") if self.number in self.cluster.lost else None
        self.ready = self.lost is None
        self.changed(self)

    def answered(self):
        pass

    @property
    def running(self):
        return self.actor

    def kill(self):
        self.actor = None


@pytest.fixture
def stub_pool(monkeypatch, small_task):
    """A pool on a cluster of stubs."""

    def stub_pool(cluster, **config):
        async def answer(*_):
            return []

        actor = SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name in ("evaluate", "generate", "close")})
        cluster.actor = actor
        monkeypatch.setattr(module, "ray", cluster)
        monkeypatch.setattr(module, "EngineSlot", StubSlot)
        monkeypatch.setattr(module, "FOLLOW_S", 0.01)
        return EnginePool(small_task, PRINTS, lambda: None, EnginesConfig(**config))

    return stub_pool


async def first_call(pool):
    async def before_send():
        """Nobody counts."""

    return await asyncio.wait_for(pool.generate([], [], None, before_send), 10)


async def grown_to(engines, pool):
    async with asyncio.timeout(10):
        while pool.sizes() != (engines, engines):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("gpus", "num_gpus", "engines", "reserved"),
    [
        ((0, 0), 1, 1, 0),
        ((4,), 0, 1, 0),
        ((1, 2), 1, 3, 1),
        ((1, 10), 0.9, 11, 0.9),
        ((2,), 0.5, 4, 0.5),
        ((3, 3), 2, 2, 2),
    ],
)
def test_one_engine_for_every_gpu(stub_pool, gpus, num_gpus, engines, reserved):
    async def go():
        pool = stub_pool(cluster := StubCluster(*gpus), num_gpus=num_gpus)
        assert pool.sizes() == (0, 0)
        await first_call(pool)
        await grown_to(engines, pool)
        assert cluster.reserved == {reserved: 1}
        await pool.close()
        assert pool.sizes() == (0, 0)

    asyncio.run(go())


def test_gpus_that_join_get_an_engine_and_those_that_go_keep_its_place(stub_pool):
    async def go():
        pool = stub_pool(cluster := StubCluster(2))
        await first_call(pool)
        await grown_to(2, pool)
        cluster.gpus = [1]
        await asyncio.sleep(0.1)
        assert pool.sizes() == (2, 2)
        cluster.gpus = [1, 3]
        await grown_to(4, pool)
        await pool.close()

    asyncio.run(go())


def test_a_count_that_is_given_stays(stub_pool):
    async def go():
        pool = stub_pool(cluster := StubCluster(2), count=3)
        await first_call(pool)
        await grown_to(3, pool)
        cluster.gpus = [8]
        await asyncio.sleep(0.1)
        assert pool.sizes() == (3, 3)
        await pool.close()

    asyncio.run(go())


def test_only_when_all_engines_are_given_up_everyone_is_told_why(stub_pool):
    async def go(lost):
        pool = stub_pool(StubCluster(2, lost=lost))
        answers = await asyncio.gather(first_call(pool), first_call(pool), return_exceptions=True)
        answers += await asyncio.gather(first_call(pool), return_exceptions=True)
        await pool.close()
        return [str(answer) for answer in answers]

    assert asyncio.run(go({0})) == [str((1, []))] * 3
    assert asyncio.run(go({0, 1})) == ["1 is gone"] * 3
