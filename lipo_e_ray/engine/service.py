"""The one place that pays for LLM calls: asks the ledger, sends the rest to the engines, writes, then answers.

Plain asyncio: ``engine/pool.py`` makes it a Ray actor and brings the engines.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.results.ledger import Ledger, RungResult
from lipo_e_ray.types import (
    Completion,
    Evaluation,
    Fingerprints,
    Message,
    Outcome,
    Prompt,
    Proposal,
    Sampling,
    Status,
    Task,
)

Split = Literal["validation", "test"]
Key = tuple[str, str]  # (prompt id, example id), or (generation key, ""): what is paid for, and under what it fails
Payment = tuple[int, dict[Key, Outcome | Completion]]  # calls sent, the last answer for what failed for good

CHUNK = 16  # what one request to an engine holds: some milliseconds of RPC, and what a kill can lose per request
ATTEMPTS = 3
BACKOFF_S = 0.5  # before the second attempt; four times as long before each further one
RATE_WINDOW_S = 20.0


class Pool(Protocol):
    """Engines behind one address. ``avoid`` is the number of the engine that failed last time, to try another one;
    a lower ``wave`` is needed earlier, generations before all else.

    Both calls return the engine's number and one result per input, in order; when an engine dies, failed ones. They
    raise ``InputError`` or ``EngineError`` only when no engine is left to ask.
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

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Progress:
    """``calls`` and tokens: all in the ledger; ``new_calls``, ``failed`` attempts: since this service started.

    ``rate``: evaluations answered per second, over the last 20 s.
    """

    calls: int
    new_calls: int
    failed: int
    rate: float
    engines_ready: int
    engines: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class EvaluationService:
    """Answers evaluations and generations; nothing that is in the ledger, or on its way, is sent again.

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

    async def start(self) -> None:
        """To be called once, before anything else: an error here, unlike one in an actor's constructor, stays whole."""
        self._ledger = Ledger(self._path, self._fingerprints)
        self._meter = _Meter(self._ledger)

    async def evaluate(self, prompt: Prompt, split: Split, n: int, wave: int = 0) -> Evaluation:
        """``prompt`` on the first ``n`` examples of ``split``; all outcomes are in the ledger when this returns.

        ``wave`` is how early the search needs them: lower waves are sent first. Raises ``ValueError`` when
        ``n`` is not in 1..len(split), ``InputError`` when no engine can be built, ``EngineError`` when all engines are
        gone for good.
        """
        if not 1 <= n <= len(self._example_ids[split]):
            raise ValueError(f"expected 1 to {len(self._example_ids[split])} examples of {split}, got {n}")
        example_ids = self._example_ids[split][:n]
        known = self._ledger.statuses(prompt.id, split)
        unpaid = [(prompt.id, example_id) for example_id in example_ids if example_id not in known]

        async def send(keys: list[Key], avoid: int | None) -> tuple[int, list[Outcome]]:
            engine, outcomes = await self._pool.evaluate(prompt, [example_id for _, example_id in keys], avoid, wave)
            self._ledger.record_outcomes(split, outcomes)
            return engine, outcomes

        if unpaid:
            self._ledger.record_prompt(prompt)
        new_calls, _ = await self._settle(unpaid, send)
        observation = self._ledger.observation(prompt.id, example_ids)
        return Evaluation(observation, failed=n - observation.evaluated, new_calls=new_calls)

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        """One completion per conversation; equal conversations under equal samplings are one call, ever.

        A call that failed for good has an ``error``, and is sent again the next time it is asked for.
        """
        keys: list[Key] = [(generation_key(self._fingerprints, conversation, sampling), "")
                           for conversation, sampling in zip(conversations, samplings, strict=True)]
        requests = dict(zip(keys, zip(conversations, samplings, strict=True), strict=True))

        async def send(keys: list[Key], avoid: int | None) -> tuple[int, list[Completion]]:
            engine, completions = await self._pool.generate(
                [requests[key][0] for key in keys], [requests[key][1] for key in keys], avoid)
            for (key, _), completion in zip(keys, completions, strict=True):
                self._ledger.record_generation(key, completion)
            return engine, completions

        _, failed = await self._settle([key for key in requests if self._ledger.generation(key[0]) is None], send)
        return [self._ledger.generation(key[0]) or failed[key] for key in keys]

    # ---- paying ----

    async def _settle(self, unpaid: list[Key], send: Callable) -> Payment:
        """Wait for what others pay already and pay for the rest; the calls of our own and what failed for good.

        There is no ``await`` between the look at the ledger and the entry in ``_paying``, so nothing is paid twice.
        """
        others = {self._paying[key] for key in unpaid if key in self._paying}
        ours = [key for key in unpaid if key not in self._paying]
        own = []
        for start in range(0, len(ours), CHUNK):
            chunk = ours[start:start + CHUNK]
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

    async def _pay(
        self, keys: list[Key], send: Callable[[list[Key], int | None], Awaitable[tuple[int, Sequence]]]
    ) -> Payment:
        """Send one chunk, and what failed of it again, to another engine if there is one."""
        calls, engine, failed = 0, None, dict.fromkeys(keys)
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(BACKOFF_S * 4 ** (attempt - 1))
                sent = list(failed)
                engine, answers = await send(sent, engine)
                self._meter.count(answers)
                calls += len(sent)
                failed = {key: answer for key, answer in zip(sent, answers, strict=True) if _is_failed(answer)}
                if not failed:
                    break
            return calls, failed
        finally:
            for key in keys:
                del self._paying[key]

    # ---- the search's own records ----

    async def record_proposals(self, bracket: int, proposals: Sequence[Proposal]) -> None:
        """See ``Ledger.record_proposals``."""
        self._ledger.record_proposals(bracket, proposals)

    async def recorded_proposals(self, bracket: int) -> list[Proposal] | None:
        """The proposals of an earlier walk, in order, or ``None``."""
        return [proposal for index, proposal in self._ledger.proposals() if index == bracket] or None

    async def record_rung(self, result: RungResult) -> None:
        """See ``Ledger.record_rung``."""
        self._ledger.record_rung(result)

    async def progress(self) -> Progress:
        """Cheap enough to ask several times a second."""
        return self._meter.read(*self._pool.sizes())

    async def close(self) -> None:
        """Stop what is under way, the engines, the ledger. A second call does nothing."""
        tasks = set(self._paying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()
        self._ledger.close()


class _Meter:
    """Running sums: the ledger is asked once, at the start."""

    def __init__(self, ledger: Ledger) -> None:
        self._before = ledger.calls()
        self._tokens = ledger.tokens()
        self._new = self._failed = 0
        self._start = time.monotonic()
        self._evaluated: deque[tuple[float, int]] = deque()

    def count(self, answers: Sequence[Outcome | Completion]) -> None:
        answered = [answer for answer in answers if not _is_failed(answer)]
        self._new += len(answers)
        self._failed += len(answers) - len(answered)
        for name in self._tokens:
            self._tokens[name] += sum(getattr(answer, name) for answer in answered)
        self._evaluated.append((time.monotonic(), sum(isinstance(answer, Outcome) for answer in answered)))

    def read(self, ready: int, engines: int) -> Progress:
        now = time.monotonic()
        while self._evaluated and self._evaluated[0][0] < now - RATE_WINDOW_S:
            self._evaluated.popleft()
        rate = sum(n for _, n in self._evaluated) / min(RATE_WINDOW_S, now - self._start)
        return Progress(self._before + self._new, self._new, self._failed, rate, ready, engines, **self._tokens)


def _is_failed(answer: Outcome | Completion) -> bool:
    return bool(answer.error) if isinstance(answer, Completion) else answer.status is Status.FAILED
