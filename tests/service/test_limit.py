"""The limit of the service: whatever fails, whenever it is killed, no more calls reach an engine than it says."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.service import service as module
from lipo_e_ray.service.dispatch import Dispatcher
from lipo_e_ray.service.service import CHUNK, EvaluationService
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Completion, Evaluation, Fingerprints, Outcome, Prompt, Sampling, SpentError, Status

PRINTS = Fingerprints("model", "sampling", "template")
PROMPTS = [Prompt(f"Prompt {i}.") for i in range(3)]


class World:
    """What reached the engines of all the services on one ledger, held against what the ledger says at that moment."""

    def __init__(self, path, seed=0, failing=0.0, broken=0.0):
        self.path = path
        self.rng = random.Random(seed)
        self.failing = failing  # share of the calls that fail one by one
        self.broken = broken  # share of the requests that fail as a whole
        self.reached = Counter()
        self.retries = 0
        self.chunks = []

    def ask(self, keys):
        """``keys`` have come to an engine: whether each of them fails."""
        self.reached.update(keys)
        self.chunks.append(len(keys))
        with Ledger(self.path) as ledger:
            assert ledger.calls() >= self.reached.total(), "sent before it was recorded"
            assert not [key for key in keys if self.answered(ledger, key)], "asked although the answer was known"
            self.retries += len(ledger.unanswered().keys() & set(keys))
        broken = self.rng.random() < self.broken
        return [broken or self.rng.random() < self.failing for _ in keys]

    @staticmethod
    def answered(ledger, key):
        return ledger.generation(key[0]) if not key[1] else key[1] in ledger.outcomes(key[0])


class DicePool:
    """Two engines of a ``World`` behind the real dispatcher."""

    def __init__(self, world):
        self.world = world
        self.dispatcher = Dispatcher()
        self.dispatcher.add(0, 32)
        self.dispatcher.add(1, 8)

    async def work(self, prompt_id, keys, wave, avoid, before_send):
        async with self.dispatcher.turn(prompt_id, len(keys), wave, avoid) as number:
            await before_send()
            failed = self.world.ask(keys)
            for _ in range(self.world.rng.randrange(6)):
                await asyncio.sleep(0)
            return number, failed

    async def evaluate(self, prompt, example_ids, avoid, wave, before_send):
        keys = [(prompt.id, example_id) for example_id in example_ids]
        number, failed = await self.work(prompt.id, keys, wave, avoid, before_send)
        statuses = [Status.FAILED if fails else Status.CORRECT for fails in failed]
        return number, [
            Outcome(*key, status, error="bad luck" if status is Status.FAILED else "")
            for key, status in zip(keys, statuses, strict=True)
        ]

    async def generate(self, conversations, samplings, avoid, before_send):
        keys = [(generation_key(PRINTS, *pair), "") for pair in zip(conversations, samplings, strict=True)]
        number, failed = await self.work(None, keys, 0, avoid, before_send)
        return number, [Completion("", error="bad luck") if fails else Completion("text") for fails in failed]

    def sizes(self):
        return 2, 2

    def pause(self, paused):
        self.dispatcher.pause(paused)

    def waiting(self):
        return ""

    async def close(self):
        pass


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)


async def started(world, task, limit=0, reserve=0):
    service = EvaluationService(world.path, task, PRINTS, lambda: DicePool(world), limit, reserve)
    await service.start()
    return service


def write(service, texts, purpose="ape"):
    return service.generate([[{"role": "user", "content": text}] for text in texts], [Sampling()] * len(texts), purpose)


requests = st.one_of(
    st.tuples(st.sampled_from(PROMPTS), st.sampled_from(["validation", "test"]), st.integers(1, 48), st.integers(0, 2)),
    st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=20),
)
# Requests, each so many turns of the event loop after the one before; then it is killed after so many, or ends.
sessions = st.tuples(
    st.lists(st.tuples(requests, st.integers(0, 8)), min_size=1, max_size=8), st.none() | st.integers(0, 30)
)


async def session(world, task, limit, reserve, asked, killed_after):
    """One process's life; the service, which is closed unless it was killed."""
    service = await started(world, task, limit, reserve)

    async def ask(request):
        try:
            if isinstance(request, list):
                assert len(await write(service, request)) == len(request)
            else:
                evaluation = await service.evaluate(*request)
                assert evaluation.observation.evaluated + evaluation.failed == request[2]
        except SpentError:
            assert limit and (await service.spent()).left < CHUNK, "refused although there was room for any chunk"

    tasks = []
    for request, turns in asked:
        tasks.append(asyncio.create_task(ask(request)))
        for _ in range(turns):
            await asyncio.sleep(0)
    if killed_after is None:
        await asyncio.gather(*tasks)
        spent = await service.spent()
        with Ledger(world.path) as ledger:
            assert spent.sent == ledger.sent()
            assert spent.overhead == ledger.calls() - ledger.asked()
            assert spent.left == (limit - ledger.calls() if limit else None)
            assert (await service.progress()).calls == ledger.calls()
        await service.close()
    else:
        for _ in range(killed_after):
            await asyncio.sleep(0)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
    return service


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(sessions, min_size=1, max_size=4),
    st.just(0) | st.integers(1, 150),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 99),
)
def test_no_more_is_sent_than_the_limit_says_whatever_fails_and_whenever_it_is_killed(
    small_task, history, limit, reserve, failing, broken, seed
):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "ledger.sqlite", seed, failing, broken)
        known = set()
        for asked, killed_after in history:
            # At the end ``asyncio.run`` cancels what a killed service was doing: nothing is written after that.
            service = asyncio.run(session(world, small_task, limit, reserve, asked, killed_after))
            service._ledger.close()  # so that the next process gets the lock
            with Ledger(world.path) as ledger:
                if limit:
                    assert world.reached.total() <= ledger.calls() <= limit
                    assert world.retries <= reserve
                answered = {key for key in world.reached if world.answered(ledger, key)}
                assert known <= answered, "an answer that was recorded is gone"
                known = answered
                if killed_after is None:
                    lost = world.reached.keys() - answered - ledger.unanswered().keys()
                    assert not lost or any(killed is not None for _, killed in history)
        if all(killed is None for _, killed in history):
            with Ledger(world.path) as ledger:
                assert ledger.calls() == world.reached.total()
                assert ledger.calls() - ledger.asked() == world.retries


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "ledger.sqlite")


def test_what_the_limit_pays_for_is_recorded_and_others_are_not_disturbed(world, small_task):
    async def go():
        service = await started(world, small_task, limit=60)
        large, small = await asyncio.gather(
            service.evaluate(PROMPTS[0], "validation", 96),
            service.evaluate(PROMPTS[1], "validation", 10),
            return_exceptions=True,
        )
        with pytest.raises(SpentError):
            await service.evaluate(PROMPTS[2], "test", 48)
        rest = (await service.spent()).left
        last = await service.evaluate(PROMPTS[2], "test", rest)
        with pytest.raises(SpentError, match=r"expected 1 calls or more to be left, got 0 \(60 were sent\)"):
            await write(service, ["a"])
        again = await service.evaluate(PROMPTS[1], "validation", 10)
        await service.close()
        return large, small, last, again

    large, small, last, again = asyncio.run(go())
    assert isinstance(large, SpentError) and "--max-llm-calls 60: expected 16 calls or more to be left" in str(large)
    assert isinstance(small, Evaluation) and (small.new_calls, small.failed) == (10, 0)
    assert (last.failed, again.new_calls) == (0, 0), "what is in the ledger costs nothing"
    assert world.reached.total() == len(world.reached) == 60
    with Ledger(world.path) as ledger:
        assert ledger.answers() == 60


def test_without_a_reserve_what_failed_stays_failed_and_is_not_asked_again(world, small_task):
    async def go():
        service = await started(world, small_task, limit=200)
        world.failing = 1.0
        failed = await service.evaluate(PROMPTS[0], "validation", 20)
        (text,) = await write(service, ["a"])
        await service.close()
        world.failing = 0.0
        later = await started(world, small_task, limit=200)
        evaluation, (same,) = await later.evaluate(PROMPTS[0], "validation", 30), await write(later, ["a"])
        spent = await later.spent()
        await later.close()
        return failed, text, evaluation, same, spent

    failed, text, evaluation, same, spent = asyncio.run(go())
    assert (failed.failed, failed.new_calls, failed.observation.evaluated) == (20, 20, 0)
    assert text.error == same.error == "bad luck"
    assert (evaluation.failed, evaluation.new_calls, evaluation.observation.evaluated) == (20, 10, 10)
    assert (spent.sent, spent.overhead, spent.left) == ({"writing": 1, "validation": 30, "test": 0}, 0, 169)


def test_the_reserve_pays_for_retries_of_this_and_of_later_processes(world, small_task):
    async def go():
        world.failing = 1.0
        service = await started(world, small_task, limit=200, reserve=17)
        first = await service.evaluate(PROMPTS[0], "validation", 8)
        await service.close()
        world.failing = 0.0
        later = await started(world, small_task, limit=200, reserve=17)
        second = await later.evaluate(PROMPTS[0], "validation", 10)
        spent = await later.spent()
        await later.close()
        return first, second, spent

    first, second, spent = asyncio.run(go())
    assert (first.failed, first.new_calls) == (8, 24), "three attempts take 16 of the reserve"
    assert (second.failed, second.new_calls) == (8, 2), "1 of the reserve is left, too few for 8"
    assert (spent.overhead, world.retries) == (16, 16)


def test_calls_that_a_kill_lost_are_asked_again_and_take_from_the_reserve(world, small_task):
    async def killed():
        service = await started(world, small_task, limit=100)
        requests = asyncio.create_task(service.evaluate(PROMPTS[0], "validation", 32))
        while world.reached.total() < 32:
            await asyncio.sleep(0)
        requests.cancel()
        return service

    async def later():
        service = await started(world, small_task, limit=100, reserve=40)
        before = await service.spent()
        evaluation = await service.evaluate(PROMPTS[0], "validation", 32)
        world.failing = 1.0
        failed = await service.evaluate(PROMPTS[1], "validation", 16)
        await service.close()
        return before, evaluation, failed

    world.rng.randrange = lambda turns: 10**6  # turns of the event loop until an answer comes
    asyncio.run(killed())._ledger.close()
    del world.rng.randrange
    before, evaluation, failed = asyncio.run(later())
    assert (before.overhead, before.left) == (32, 68)
    assert (evaluation.failed, evaluation.new_calls) == (0, 32)
    assert (failed.failed, failed.new_calls) == (16, 16), "8 of the reserve are left, too few for 16"


def test_chunks_that_go_out_together_are_counted_in_one_transaction(world, small_task):
    async def go():
        service = await started(world, small_task)
        record, transactions = service._ledger.record_sent, []

        def record_sent(calls):
            transactions.append(dict(calls))
            record(calls)

        service._ledger.record_sent = record_sent
        await asyncio.gather(service.evaluate(PROMPTS[0], "validation", 16), service.evaluate(PROMPTS[1], "test", 16))
        await service.close()
        return transactions

    assert asyncio.run(go()) == [{"validation": 16, "test": 16}]
