"""The one place that pays for LLM calls: asks the ledger, sends the rest to the engines, writes, then answers.

Plain asyncio; ``distributed/pools.py`` runs it as a Ray actor and gives it the engines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.service.meter import Meter, Reading, is_failed
from lipo_e_ray.store.database import NotWritten
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import (
    Completion,
    Evaluation,
    Fingerprints,
    InputError,
    Message,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Sampling,
)

Split = Literal["validation", "test"]
Key = tuple[str, str]  # one call: (prompt id, example id), or (generation key, "")
Payment = tuple[int, dict[Key, Any]]  # number of calls sent; the failed answer of each call that failed for good

# Sends calls to any engine but the given one; returns the engine that took them, and its answers in order
Send = Callable[[list[Key], int | None], Awaitable[tuple[int, Sequence[Outcome | Completion]]]]

CHUNK = 16  # examples per request to an engine: a request costs milliseconds, and a kill loses all its examples
ATTEMPTS = 3
LEDGER_RETRY_S = 1.0
LEDGER_WAIT_S = 600.0  # the run ends when the disk stays full or the file locked for longer
BACKOFF_S = 0.5  # wait before the second attempt; before each further one it is four times as long


class Pool(Protocol):
    """The engines as the service sees them.

    ``evaluate`` and ``generate`` return the engine's number and one result per input, in order; failed results when
    the engine dies. They raise ``InputError`` or ``EngineError`` only when no engine is left to ask. ``avoid``: the
    number of the engine that failed the same inputs before, if any. Requests of a lower ``wave`` are sent first, and
    generations before all evaluations.
    """

    async def evaluate(
        self, prompt: Prompt, example_ids: Sequence[str], avoid: int | None, wave: int
    ) -> tuple[int, list[Outcome]]: ...

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling], avoid: int | None
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

    ``start`` opens the ledger, and raises ``InputError`` when it cannot be used.
    """

    def __init__(self, ledger_path: Path, task: Task, fingerprints: Fingerprints, make_pool: Callable[[], Pool]):
        self._path = ledger_path
        self._fingerprints = fingerprints
        self._example_ids: dict[str, list[str]] = {
            "validation": [example.id for example in task.validation],
            "test": [example.id for example in task.test],
        }
        self._pool = make_pool()
        self._paying: dict[Key, asyncio.Task[Payment]] = {}
        self._writing = asyncio.Lock()
        self._unwritten = ""  # why the last write did not succeed

    async def start(self) -> None:
        """Open the ledger, once and first. Not part of the constructor: Ray loses the type of an error raised there."""
        self._ledger = Ledger(self._path, self._fingerprints)
        try:
            self._ledger.check_fingerprints()
        except InputError:
            self._ledger.close()
            raise
        self._meter = Meter(self._ledger)

    async def evaluate(self, prompt: Prompt, split: Split, n: int, wave: int = 0) -> Evaluation:
        """Evaluate ``prompt`` on the first ``n`` examples of ``split``; their outcomes are then in the ledger.

        Calls of a lower ``wave`` are sent first. Raises ``ValueError`` when ``n`` is not in 1..len(split),
        ``InputError`` when no engine can be built, ``EngineError`` when no engine is left.
        """
        if not 1 <= n <= len(self._example_ids[split]):
            raise ValueError(f"expected 1 to {len(self._example_ids[split])} examples of {split}, got {n}")
        example_ids = self._example_ids[split][:n]

        def unpaid() -> list[Key]:
            known = self._ledger.statuses(prompt.id, split)
            return [(prompt.id, example_id) for example_id in example_ids if example_id not in known]

        async def send(keys: list[Key], avoid: int | None) -> tuple[int, list[Outcome]]:
            engine, outcomes = await self._pool.evaluate(prompt, [example_id for _, example_id in keys], avoid, wave)
            await self._write(lambda: self._ledger.record_outcomes(split, outcomes))
            return engine, outcomes

        if unpaid():
            await self._write(lambda: self._ledger.record_prompt(prompt))
        new_calls, _ = await self._settle(unpaid(), send)
        observation = self._ledger.observation(prompt.id, example_ids)
        return Evaluation(observation, failed=n - observation.evaluated, new_calls=new_calls)

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        """One completion per conversation. The same conversation with the same sampling is sent only once per ledger.

        The completion of a call that failed for good has an ``error``; the next request for it sends it again.
        """
        keys: list[Key] = [
            (generation_key(self._fingerprints, conversation, sampling), "")
            for conversation, sampling in zip(conversations, samplings, strict=True)
        ]
        requests = dict(zip(keys, zip(conversations, samplings, strict=True), strict=True))

        async def send(keys: list[Key], avoid: int | None) -> tuple[int, list[Completion]]:
            engine, completions = await self._pool.generate(
                [requests[key][0] for key in keys], [requests[key][1] for key in keys], avoid
            )
            for (key, _), completion in zip(keys, completions, strict=True):
                await self._write(partial(self._ledger.record_generation, key, completion))
            return engine, completions

        _, failed = await self._settle([key for key in requests if self._ledger.generation(key[0]) is None], send)
        return [self._ledger.generation(key[0]) or failed[key] for key in keys]

    async def spending(self, rungs: Sequence[tuple[Sequence[Prompt], int]]) -> tuple[int, int]:
        """Answers in the ledger; and those that ``rungs``, prompts on the first n validation examples, still lack."""
        lacking: set[Key] = set()
        for prompts, n in rungs:
            for prompt in prompts:
                known = self._ledger.statuses(prompt.id, "validation")
                lacking |= {(prompt.id, example_id) for example_id in self._example_ids["validation"][:n]
                            if example_id not in known}  # fmt: skip
        return self._ledger.answers(), len(lacking)

    # ---- paying ----

    async def _settle(self, unpaid: list[Key], send: Send) -> Payment:
        """Send the calls that no other request is waiting for, and wait for all. Counts only the calls sent here.

        The caller looks into the ledger and this enters the calls in ``_paying`` without an ``await`` in between, so
        nothing is paid twice.
        """
        others = {self._paying[key] for key in unpaid if key in self._paying}
        ours = [key for key in unpaid if key not in self._paying]
        own = []
        for start in range(0, len(ours), CHUNK):
            chunk = ours[start : start + CHUNK]
            task = asyncio.create_task(self._pay(chunk, send))
            self._paying |= dict.fromkeys(chunk, task)
            own.append(task)
        if tasks := [*own, *others]:
            await asyncio.wait(tasks)  # not gather: a caller that gives up must not cancel what others wait for
            for error in [task.exception() for task in tasks]:
                if error is not None:
                    raise error
        failed = {key: answer for task in tasks for key, answer in task.result()[1].items()}
        return sum(task.result()[0] for task in own), failed

    async def _pay(self, keys: list[Key], send: Send) -> Payment:
        """Send one chunk; send what failed of it again, to another engine if there is one."""
        calls, engine = 0, None
        failed: dict[Key, Any] = dict.fromkeys(keys)
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(BACKOFF_S * 4 ** (attempt - 1))
                sent = list(failed)
                engine, answers = await send(sent, engine)
                self._meter.count(answers)
                calls += len(sent)
                failed = {key: answer for key, answer in zip(sent, answers, strict=True) if is_failed(answer)}
                if not failed:
                    break
            return calls, failed
        finally:
            for key in keys:
                del self._paying[key]

    async def _write(self, write: Callable[[], None]) -> None:
        """Write; where the file is locked or the disk is full, send nothing more and try again until it succeeds.

        Raises ``NotWritten`` after ``LEDGER_WAIT_S``.
        """
        deadline = time.monotonic() + LEDGER_WAIT_S
        async with self._writing:  # each try at a locked file blocks this process for seconds
            while True:
                try:
                    write()
                except NotWritten as error:
                    if time.monotonic() > deadline:
                        raise
                    self._unwritten = str(error)
                    self._pool.pause(True)
                    await asyncio.sleep(LEDGER_RETRY_S)
                else:
                    if self._unwritten:
                        self._unwritten = ""
                        self._pool.pause(False)
                    return

    # ---- the search's own records ----

    async def record_proposals(self, bracket: int, proposals: Sequence[Proposal]) -> None:
        """See ``Ledger.record_proposals``."""
        await self._write(lambda: self._ledger.record_proposals(bracket, proposals))

    async def recorded_proposals(self, bracket: int) -> list[Proposal] | None:
        """The proposals of an earlier walk, in order, or ``None``."""
        return [proposal for index, proposal in self._ledger.proposals() if index == bracket] or None

    async def record_rung(self, result: RungResult) -> None:
        """See ``Ledger.record_rung``."""
        await self._write(lambda: self._ledger.record_rung(result))

    async def progress(self) -> Reading:
        """Cheap enough to ask several times a second."""
        return self._meter.read(*self._pool.sizes(), self._unwritten or self._pool.waiting())

    async def close(self) -> None:
        """Cancel the calls under way, close the engines, then the ledger. A second call does nothing."""
        tasks = set(self._paying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()
        self._ledger.close()
