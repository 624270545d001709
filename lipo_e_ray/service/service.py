"""The one place that pays for LLM calls: asks the ledger, sends the rest to the engines, writes, then answers.

A call is counted as sent in the ledger before it goes out: a kill may lose its answer, but not that it was paid for.
Plain asyncio; ``distributed/pools.py`` runs it as a Ray actor and gives it the engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.service.budget import CallBudget, Spent
from lipo_e_ray.service.meter import Meter, Reading, is_failed
from lipo_e_ray.service.writer import LedgerWriter
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import (
    Batch,
    CallKind,
    Completion,
    Evaluation,
    Fingerprints,
    InputError,
    Message,
    Outcome,
    Prompt,
    RungResult,
    Sampling,
    SpentError,
)

Split = Literal["validation", "test"]
Key = tuple[str, str]  # one call: (prompt id, example id), or (generation key, "")
BeforeSend = Callable[[], Awaitable[None]]

# Sends calls to any engine but the given one; returns the engine that took them, and its answers in order
Send = Callable[[list[Key], int | None, BeforeSend], Awaitable[tuple[int, Sequence[Outcome | Completion]]]]

CHUNK = 16  # examples per request to an engine: a request costs milliseconds, and a kill loses all its examples
ATTEMPTS = 3
BACKOFF_S = 0.5  # wait before the second attempt; before each further one it is four times as long


class Pool(Protocol):
    """The engines as the service sees them.

    ``evaluate`` and ``generate`` return the engine's number and one result per input, in order; failed results when
    the engine dies. They raise ``InputError`` or ``EngineError`` only when no engine is left to ask. ``avoid``: the
    number of the engine that failed the same inputs before, if any. Requests of a lower ``wave`` are sent first, and
    generations before all evaluations.

    Both await ``before_send`` once an engine has room for the request, just before they send it. Where that raises,
    they send nothing and raise the same.
    """

    async def evaluate(
        self, prompt: Prompt, example_ids: Sequence[str], avoid: int | None, wave: int, before_send: BeforeSend
    ) -> tuple[int, list[Outcome]]: ...

    async def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        samplings: Sequence[Sampling],
        avoid: int | None,
        before_send: BeforeSend,
    ) -> tuple[int, list[Completion]]: ...

    def sizes(self) -> tuple[int, int]:
        """Engines that are ready; engines in all, 0 before the first call."""
        ...

    def pause(self, paused: bool) -> None:
        """Whether to hold back new requests; those in flight go on."""
        ...

    def waiting(self) -> str:
        """What the first engine that is not ready waits for and for how long, in words; empty when all are ready."""
        ...

    async def close(self) -> None: ...


class EvaluationService:
    """Answers evaluations and generations. A call whose answer is in the ledger or under way is never sent again.

    ``limit``: how many calls may be sent in all the processes that use this ledger (0: any number); ``reserve``: how
    many of them may be retries or lose their answer to a kill. A first attempt that the limit does not pay for raises
    ``SpentError``. A retry that limit or reserve does not pay for is left out: the call stays failed.

    ``start`` opens the ledger, and raises ``InputError`` when it cannot be used.
    """

    def __init__(
        self,
        ledger_path: Path,
        task: Task,
        fingerprints: Fingerprints,
        make_pool: Callable[[], Pool],
        limit: int = 0,
        reserve: int = 0,
    ) -> None:
        self._path = ledger_path
        self._limit = limit
        self._reserve = reserve
        self._fingerprints = fingerprints
        self._example_ids: dict[str, list[str]] = {
            "validation": [example.id for example in task.ladder],
            "test": [example.id for example in task.test],
        }
        self._pool = make_pool()
        self._paying: dict[Key, asyncio.Task[int]] = {}

    async def start(self) -> None:
        """Open the ledger, once and first. Not part of the constructor: Ray loses the type of an error raised there."""
        self._ledger = Ledger(self._path, self._fingerprints)
        try:
            self._ledger.check_fingerprints()
        except InputError:
            self._ledger.close()
            raise
        self._writer = LedgerWriter(self._ledger, self._pool.pause)
        self._meter = Meter(self._ledger)
        self._budget = CallBudget(self._limit, self._reserve, self._ledger.sent(), self._ledger.asked())
        self._unanswered: dict[Key, str] = self._ledger.unanswered()  # the last error of each

    async def evaluate(self, prompt: Prompt, split: Split, n: int, wave: int = 0) -> Evaluation:
        """Evaluate ``prompt`` on the first ``n`` examples of ``split``; their outcomes are then in the ledger.

        Calls of a lower ``wave`` are sent first. Raises ``ValueError`` when ``n`` is not in 1..len(split),
        ``InputError`` when no engine can be built, ``EngineError`` when no engine is left, ``SpentError`` when the
        limit does not pay for all; what it does pay for is then in the ledger nevertheless.
        """
        if not 1 <= n <= len(self._example_ids[split]):
            raise ValueError(f"expected 1 to {len(self._example_ids[split])} examples of {split}, got {n}")
        example_ids = self._example_ids[split][:n]

        def unpaid() -> list[Key]:
            known = self._ledger.statuses(prompt.id, split)
            return [(prompt.id, example_id) for example_id in example_ids if example_id not in known]

        async def send(keys: list[Key], avoid: int | None, before_send: BeforeSend) -> tuple[int, list[Outcome]]:
            ids = [example_id for _, example_id in keys]
            engine, outcomes = await self._pool.evaluate(prompt, ids, avoid, wave, before_send)
            await self._writer.write(lambda: self._ledger.record_outcomes(split, outcomes))
            return engine, outcomes

        if unpaid():
            await self._writer.write(lambda: self._ledger.record_prompt(prompt))
        new_calls = await self._settle(split, unpaid(), send)
        observation = self._ledger.observation(prompt.id, example_ids)
        return Evaluation(observation, failed=n - observation.evaluated, new_calls=new_calls)

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling], purpose: str
    ) -> list[Completion]:
        """One completion per conversation. The same conversation with the same sampling is sent only once per ledger.

        ``purpose``: what the texts are for, by which ``Ledger.generations_for`` counts them. The completion of a call
        that failed for good has an ``error``; the next request for it sends it again. Raises as ``evaluate`` does.
        """
        keys: list[Key] = [
            (generation_key(self._fingerprints, conversation, sampling), "")
            for conversation, sampling in zip(conversations, samplings, strict=True)
        ]
        requests = dict(zip(keys, zip(conversations, samplings, strict=True), strict=True))

        async def send(keys: list[Key], avoid: int | None, before_send: BeforeSend) -> tuple[int, list[Completion]]:
            engine, completions = await self._pool.generate(
                [requests[key][0] for key in keys], [requests[key][1] for key in keys], avoid, before_send
            )
            for (key, _), completion in zip(keys, completions, strict=True):
                await self._writer.write(partial(self._ledger.record_generation, key, completion, purpose))
            return engine, completions

        await self._settle("writing", [key for key in requests if self._ledger.generation(key[0]) is None], send)
        return [self._ledger.generation(key[0]) or Completion("", error=self._unanswered[key]) for key in keys]

    # ---- paying ----

    async def _settle(self, kind: CallKind, unpaid: list[Key], send: Send) -> int:
        """Send the calls that no other request is waiting for, and wait for all. Returns how many calls it sent.

        The reserve pays for calls that failed in an earlier request, so these are in chunks of their own. The caller
        looks into the ledger and this enters the calls in ``_paying`` without an ``await`` in between, so nothing is
        paid twice.
        """
        others = {self._paying[key] for key in unpaid if key in self._paying}
        ours = [key for key in unpaid if key not in self._paying]
        own = []
        for again in (False, True):
            keys = [key for key in ours if (key in self._unanswered) is again]
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                task = asyncio.create_task(self._pay(kind, chunk, send, again))
                self._paying |= dict.fromkeys(chunk, task)
                own.append(task)
        if tasks := [*own, *others]:
            await asyncio.wait(tasks)  # not gather: a caller that gives up must not cancel what others wait for
            for error in [task.exception() for task in tasks]:
                if error is not None:
                    raise error
        return sum(task.result() for task in own)

    async def _pay(self, kind: CallKind, keys: list[Key], send: Send, again: bool) -> int:
        """Send one chunk; send what failed of it again, to another engine if there is one. Returns how many calls it
        sent. ``again``: all of the chunk failed in an earlier request.
        """
        calls, engine, failed = 0, None, keys
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    again = True
                    await asyncio.sleep(BACKOFF_S * 4 ** (attempt - 1))
                try:
                    engine, answers = await send(failed, engine, partial(self._count, kind, len(failed), again))
                except SpentError:
                    if again:
                        break  # what failed stays failed
                    raise
                self._meter.count(answers)
                calls += len(failed)
                errors = {key: answer.error for key, answer in zip(failed, answers, strict=True) if is_failed(answer)}
                self._unanswered |= errors
                if not (failed := list(errors)):
                    break
            return calls
        finally:
            for key in keys:
                del self._paying[key]

    async def _count(self, kind: CallKind, n: int, again: bool) -> None:
        """Count ``n`` calls as sent, in the budget and then in the ledger. Raises ``SpentError``."""
        self._budget.take(kind, n, again)
        await self._writer.count_sent(kind, n)

    # ---- the search's own records ----

    async def record_batch(self, bracket: int, first: int, batch: Batch) -> None:
        """See ``Ledger.record_batch``."""
        await self._writer.write(lambda: self._ledger.record_batch(bracket, first, batch))

    async def recorded_batch(self, bracket: int, first: int) -> Batch | None:
        """The proposals of an earlier walk for a bracket's chunk, which begins with number ``first``, or ``None``."""
        return self._ledger.batch(bracket, first)

    async def record_rung(self, result: RungResult) -> None:
        """See ``Ledger.record_rung``."""
        await self._writer.write(lambda: self._ledger.record_rung(result))

    async def progress(self) -> Reading:
        """Cheap enough to ask several times a second."""
        return self._meter.read(self._budget.calls, *self._pool.sizes(), self._writer.problem or self._pool.waiting())

    async def spent(self) -> Spent:
        """What was sent in this ledger, and what is left of the limit."""
        return self._budget.spent()

    async def close(self) -> None:
        """Cancel the calls under way, close the engines, then the ledger. A second call does nothing."""
        tasks = set(self._paying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._writer.close()
        await self._pool.close()
        self._ledger.close()
