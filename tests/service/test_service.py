"""The service over engines in this process; ``test_pool.py`` has it over Ray."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest

from lipo_e_ray.service import service as module
from lipo_e_ray.service import writer
from lipo_e_ray.service.service import EvaluationService
from lipo_e_ray.store import database
from lipo_e_ray.store.database import NotWritten
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import (
    Batch,
    Completion,
    EngineError,
    Fingerprints,
    InputError,
    LipoError,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Sampling,
    Status,
)

PRINTS = Fingerprints("fake-model", "fake-sampling", "fake-template")
PROMPT = Prompt("Solve the problem.")


class LocalPool:
    """One engine under two numbers, 0 and 1: it answers as the one it was not told to avoid."""

    def __init__(self, engine, task):
        self.engine = engine
        self.examples = {example.id: example for example in (*task.validation, *task.test)}
        self.avoided = []
        self.waves = []
        self.chunks = []
        self.error = None
        self.pauses = []
        self.gate = None  # when set, all but the first chunk wait for it

    async def evaluate(self, prompt, example_ids, avoid, wave, before_send):
        first = not self.chunks
        self.avoided.append(avoid)
        self.waves.append(wave)
        self.chunks.append(len(example_ids))
        if self.error:
            raise self.error
        await before_send()
        if self.gate and not first:
            await self.gate.wait()
        try:
            return int(avoid == 0), await self.engine.evaluate(prompt, [self.examples[e] for e in example_ids])
        except EngineError as error:
            return int(avoid == 0), [Outcome(prompt.id, e, Status.FAILED, error=str(error)) for e in example_ids]

    async def generate(self, conversations, samplings, avoid, before_send):
        await before_send()
        return int(avoid == 0), await self.engine.generate(conversations, samplings)

    def sizes(self):
        return 1, 2

    def pause(self, paused):
        self.pauses.append(paused)

    def waiting(self):
        return "engine 1 waits"

    async def close(self):
        await self.engine.close()


@pytest.fixture
def opened(tmp_path, small_task, fake_engines, monkeypatch):
    """``async with opened(latency, limit, reserve) as (service, pool)``; each time a new service on the same ledger."""
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)

    @asynccontextmanager
    async def opened(latency_s=0.001, limit=0, reserve=0):
        pool = LocalPool(fake_engines.factory(latency_s)(), small_task)
        service = EvaluationService(tmp_path / "ledger.sqlite", small_task, PRINTS, lambda: pool, limit, reserve)
        await service.start()
        try:
            yield service, pool
        finally:
            await service.close()

    return opened


@pytest.fixture
def look(tmp_path):
    """Reads something from the ledger."""

    def look(read):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            return read(ledger)

    return look


def test_counts_wrong_and_unparseable(opened, look):
    async def go():
        async with opened() as (service, _):
            return await service.evaluate(PROMPT, "validation", 32), await service.evaluate(PROMPT, "test", 10)

    # 0..31: 11 multiples of 3; of those of 5 four more (5, 10, 20, 25)
    validation, test = asyncio.run(go())
    assert validation.observation == Observation(PROMPT.id, errors=15, evaluated=32, unparseable=4)
    assert (validation.failed, validation.new_calls) == (0, 32)
    assert test.observation == Observation(PROMPT.id, errors=5, evaluated=10, unparseable=1)  # 0 3 6 9 5
    assert look(lambda ledger: ledger.prompts()) == {PROMPT.id: PROMPT}


def test_a_prefix_extension_pays_only_the_difference(opened, fake_engines, small_task):
    async def go():
        async with opened() as (service, _):
            return [await service.evaluate(PROMPT, "validation", n) for n in (10, 40, 40, 20)]

    assert [evaluation.new_calls for evaluation in asyncio.run(go())] == [10, 30, 0, 0]
    assert fake_engines.calls == {f"{PROMPT.id} {example.id}": 1 for example in small_task.validation[:40]}


def test_a_resumed_run_pays_nothing_twice(opened, fake_engines):
    async def go(n):
        async with opened() as (service, _):
            return await service.evaluate(PROMPT, "validation", n), await service.progress()

    first, _ = asyncio.run(go(50))
    again, progress = asyncio.run(go(50))
    assert again.observation == first.observation
    assert (again.new_calls, progress.calls, progress.new_calls) == (0, 50, 0)
    asyncio.run(go(60))
    assert sum(fake_engines.calls.values()) == len(fake_engines.calls) == 60


def test_concurrent_requests_share_what_is_on_its_way(opened, fake_engines):
    async def go():
        async with opened(latency_s=0.02) as (service, _):
            return await asyncio.gather(*(service.evaluate(PROMPT, "validation", n) for n in (20, 96, 40, 96, 10, 20)))

    evaluations = asyncio.run(go())
    assert [evaluation.observation.evaluated for evaluation in evaluations] == [20, 96, 40, 96, 10, 20]
    assert sum(evaluation.new_calls for evaluation in evaluations) == 96
    assert set(fake_engines.calls.values()) == {1}


def test_a_caller_that_gives_up_cancels_nothing(opened, fake_engines):
    async def go():
        async with opened(latency_s=0.05) as (service, _):
            first = asyncio.create_task(service.evaluate(PROMPT, "validation", 20))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(service.evaluate(PROMPT, "validation", 20))
            await asyncio.sleep(0.01)
            first.cancel()
            return await second

    evaluation = asyncio.run(go())
    assert (evaluation.observation.evaluated, evaluation.new_calls) == (20, 0)
    assert set(fake_engines.calls.values()) == {1}


def test_what_was_answered_is_written_before_the_rest_comes(opened, look):
    async def go():
        async with opened() as (service, pool):
            pool.gate = asyncio.Event()
            task = asyncio.create_task(service.evaluate(PROMPT, "validation", 40))
            await asyncio.sleep(0.1)
            written = look(lambda ledger: (ledger.answers(), ledger.calls()))
            pool.gate.set()
            await task
            return pool.chunks, written

    assert asyncio.run(go()) == ([16, 16, 8], (16, 40))


def test_a_failure_is_retried_on_another_engine_and_is_not_an_error_of_the_prompt(opened, fake_engines, look):
    fake_engines.order("fail")

    async def go():
        async with opened() as (service, pool):
            evaluation = await service.evaluate(PROMPT, "validation", 16)
            return evaluation, pool.avoided, pool.chunks

    evaluation, avoided, chunks = asyncio.run(go())
    assert evaluation.observation == Observation(PROMPT.id, 8, 16, 2)
    assert (evaluation.failed, evaluation.new_calls) == (0, 17)
    assert (avoided, chunks) == ([None, 0], [16, 1])
    assert [failure.error for failure in look(lambda ledger: ledger.failures())] == ["no answer"]
    assert look(lambda ledger: ledger.calls()) == 17


def test_the_wave_goes_along_with_every_chunk_and_every_retry(opened, fake_engines):
    fake_engines.order("fail")

    async def go():
        async with opened() as (service, pool):
            await service.evaluate(PROMPT, "validation", 20, wave=7)
            await service.evaluate(PROMPT, "validation", 21)
            return pool.waves

    assert asyncio.run(go()) == [7, 7, 7, 0]


def test_failed_for_good_is_counted_apart_and_tried_again_when_asked_again(opened, fake_engines, look, small_task):
    async def go():
        async with opened() as (service, pool):
            pool.engine._ordered = lambda order: order == "fail"
            first = await service.evaluate(PROMPT, "validation", 4)
            progress = await service.progress()
            del pool.engine._ordered
            return first, progress, await service.evaluate(PROMPT, "validation", 4)

    first, progress, second = asyncio.run(go())
    assert (first.observation.evaluated, first.failed, first.new_calls) == (0, 4, 12)
    assert (progress.failed, progress.new_calls) == (12, 12)
    assert (second.observation.evaluated, second.failed, second.new_calls) == (4, 0, 4)
    assert len(look(lambda ledger: ledger.failures())) == 12


def test_an_engine_that_broke_is_one_failed_attempt_of_its_chunk(opened, fake_engines, look):
    fake_engines.order("raise")

    async def go():
        async with opened() as (service, _):
            return await service.evaluate(PROMPT, "validation", 40)

    evaluation = asyncio.run(go())
    assert (evaluation.observation.evaluated, evaluation.failed) == (40, 0)
    assert len(look(lambda ledger: ledger.failures())) in (8, 16)  # the size of the chunk it hit
    assert look(lambda ledger: ledger.observations("validation"))[PROMPT.id].evaluated == 40


def test_without_any_engine_the_error_reaches_every_caller_and_nothing_sticks(opened):
    async def go():
        async with opened() as (service, pool):
            pool.error = InputError("no such model")
            errors = await asyncio.gather(
                *(service.evaluate(PROMPT, "validation", 40) for _ in range(2)), return_exceptions=True
            )
            pool.error = None
            return errors, await service.evaluate(PROMPT, "validation", 40)

    errors, evaluation = asyncio.run(go())
    assert [str(error) for error in errors] == ["no such model"] * 2
    assert evaluation.observation.evaluated == 40


def test_close_stops_what_is_under_way(opened, look):
    async def go():
        async with opened() as (service, pool):
            pool.gate = asyncio.Event()  # never set
            task = asyncio.create_task(service.evaluate(PROMPT, "validation", 40))
            await asyncio.sleep(0.1)
            await service.close()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())
    assert look(lambda ledger: (ledger.answers(), ledger.calls())) == (16, 40), "what was in flight counts as spent"


@pytest.mark.parametrize("n", [0, 97])
def test_n_must_lie_in_the_split(opened, n):
    async def go():
        async with opened() as (service, _):
            await service.evaluate(PROMPT, "validation", n)

    with pytest.raises(ValueError, match=f"1 to 96 examples of validation, got {n}"):
        asyncio.run(go())


def say(text):
    return [{"role": "user", "content": text}]


def test_equal_generations_are_one_call_ever(opened, fake_engines):
    async def go():
        async with opened() as (service, _):
            requests = [say("a"), say("b"), say("a"), say("a")]
            samplings = [Sampling(seed=1), Sampling(seed=1), Sampling(seed=1), Sampling(seed=2)]
            return await asyncio.gather(*(service.generate(requests, samplings, "ape") for _ in range(2)))

    for texts in (*asyncio.run(go()), *asyncio.run(go())):
        assert [completion.text[0] for completion in texts] == ["a", "b", "a", "a"]
        assert texts[0] == Completion("a, continued", "", 4, 0, 3)
    assert fake_engines.calls == {"a 1": 1, "b 1": 1, "a 2": 1}


def test_a_failed_generation_is_retried_and_then_comes_back_with_its_error(opened, fake_engines, look):
    async def go():
        async with opened() as (service, pool):
            fake_engines.order("fail")
            healed = await service.generate([say("a")], [Sampling()], "ape")
            pool.engine._ordered = lambda order: order == "fail"
            return healed, await service.generate([say("a"), say("b"), say("b")], [Sampling()] * 3, "bracket 12")

    (healed,), failed = asyncio.run(go())
    assert healed.text == "a, continued"
    assert [completion.error for completion in failed] == ["", "no text", "no text"]
    assert len(look(lambda ledger: ledger.failures())) == 1 + 3
    assert look(lambda ledger: ledger.sent()) == {"writing": 1 + 1 + 3, "validation": 0, "test": 0}
    assert look(lambda ledger: ledger.texts()) == 1


def test_progress(opened):
    async def go():
        async with opened() as (service, _):
            await service.evaluate(PROMPT, "validation", 20)
            await service.generate([say("a")], [Sampling()], "ape")
            return await service.progress()

    progress = asyncio.run(go())
    assert (progress.calls, progress.new_calls, progress.failed) == (21, 21, 0)
    assert (progress.engines_ready, progress.engines) == (1, 2)
    assert (progress.prompt_tokens, progress.cached_tokens, progress.completion_tokens) == (204, 100, 43)
    assert progress.rate > 1


def test_the_searchs_records(opened, look):
    batch = Batch((Proposal(PROMPT, Origin("seed", "hyperband", 0)),), 3)
    rung = RungResult(0, "hyperband", 1, 0, 8, Observation(PROMPT.id, 3, 8), True, 8)

    async def go():
        async with opened() as (service, _):
            before = await service.recorded_batch(0, 0)
            await service.record_batch(0, 0, batch)
            await service.record_rung(rung)
            with pytest.raises(LipoError, match="bracket 0"):
                await service.record_batch(0, 0, Batch(()))
            await service.record_batch(0, 1, Batch((), 2))
            return before, [await service.recorded_batch(*key) for key in ((0, 0), (0, 1), (1, 0))]

    assert asyncio.run(go()) == (None, [batch, Batch((), 2), None])
    assert look(lambda ledger: ledger.rungs()) == [rung]


@pytest.fixture
def other(tmp_path):
    """Another process's connection to the ledger's file."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
        yield other


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_answers_wait_for_a_ledger_that_cannot_be_written_and_nothing_more_is_sent(
    opened, other, fake_engines, look, monkeypatch
):
    monkeypatch.setattr(writer, "RETRY_S", 0.01)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)

    async def go():
        async with opened() as (service, pool):
            await service.evaluate(PROMPT, "validation", 4)
            assert (await service.progress()).waiting == "engine 1 waits"
            other.execute("BEGIN IMMEDIATE")
            request = asyncio.create_task(service.evaluate(PROMPT, "validation", 32))
            await until(lambda: pool.pauses)
            waiting = (await service.progress()).waiting
            assert not request.done()
            other.execute("ROLLBACK")
            return waiting, await request, pool.pauses

    waiting, evaluation, pauses = asyncio.run(go())
    assert "ledger.sqlite: expected to write to it, got: database is locked; free the file or the disk" in waiting
    assert evaluation.new_calls == 28 and evaluation.observation.evaluated == 32
    assert set(pauses[:-1]) == {True} and pauses[-1] is False
    assert max(fake_engines.calls.values()) == 1
    assert look(lambda ledger: ledger.calls()) == 32


def test_a_ledger_that_stays_unwritable_ends_the_run(opened, other, monkeypatch):
    for name, value in (("RETRY_S", 0.01), ("WAIT_S", 0.1)):
        monkeypatch.setattr(writer, name, value)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)

    async def go():
        async with opened() as (service, _):
            await service.evaluate(PROMPT, "validation", 4)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(NotWritten, match="database is locked"):
                await service.evaluate(PROMPT, "validation", 32)
            other.execute("ROLLBACK")

    asyncio.run(go())
