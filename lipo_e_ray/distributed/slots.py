"""One engine as a Ray actor, and its slot: start, failure and replacement.

An engine that raises, hangs or dies is always handled alike: its actor is killed and a new one takes its place. Ray's
own restarts are off: they do not notice hung engines, and they lose the reason, which the ledger records as a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from lipo_e_ray.distributed.calls import cause_of, reason_of
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Completion, EngineError, Fingerprints, InputError, Message, Outcome, Prompt, Sampling

START_ATTEMPTS = 4
START_BACKOFF_S = 2.0  # doubles each time: a process that has just ended may not have given back its memory yet
MAX_DEATHS = 5  # an engine that broke so often without an answer in between is given up
START_TIMEOUT_S = 3600.0  # from the start of its process; a large model may have to be downloaded


class EngineActor:
    """Any ``Engine`` in a process of its own. It has the task, so requests name examples by id."""

    def __init__(self, make_engine: Callable[[], Engine], task: Task) -> None:
        self._make_engine = make_engine
        self._examples = {example.id: example for example in (*task.ladder, *task.test)}
        self._built: Engine | None = None

    async def ready(self) -> Fingerprints:
        """Build the engine. Not in the constructor: Ray loses the type of an error that is raised there."""
        if self._built is None:
            self._built = self._make_engine()
        return self._built.fingerprints

    async def evaluate(self, prompt: Prompt, example_ids: Sequence[str]) -> list[Outcome]:
        """See ``Engine.evaluate``."""
        return await self._engine.evaluate(prompt, [self._examples[example_id] for example_id in example_ids])

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        """See ``Engine.generate``."""
        return await self._engine.generate(conversations, samplings)

    async def close(self) -> None:
        """See ``Engine.close``."""
        if self._built is not None:
            await self._built.close()

    @property
    def _engine(self) -> Engine:
        if self._built is None:
            raise RuntimeError("expected a call of ready() before the first request, got none")
        return self._built


class EngineSlot:
    """One engine of the pool: its current actor, which is replaced when it breaks, until the engine is given up.

    ``changed`` is called with the slot whenever its engine has become ready, has broken, or is given up; ``lost`` says
    why it was given up.
    """

    def __init__(
        self,
        number: int,
        make_actor: Callable[[], ActorHandle[Any]],
        expected: Fingerprints,
        changed: Callable[[EngineSlot], None],
    ) -> None:
        self.number = number
        self.lost: BaseException | None = None
        self.actor: ActorHandle[Any] | None = None
        self._make_actor = make_actor
        self._expected = expected
        self._changed = changed
        self._deaths = 0
        self._placed = False
        self._begin()

    @property
    def ready(self) -> bool:
        """Whether requests can be sent."""
        return self.starting.done() and self.actor is not None and self.lost is None

    @property
    def running(self) -> ActorHandle[Any]:
        """The actor of a slot that is ``ready``."""
        if self.actor is None:
            raise RuntimeError(f"engine {self.number}: expected an actor, got a slot that has none")
        return self.actor

    def waiting(self, resources: str) -> str:
        """What the engine waits for, in words; empty when it is ready. ``resources``: what Ray reserves for it."""
        if self.ready or self.lost:
            return ""
        what = "its model" if self._placed else resources
        return f"engine {self.number} waits for {what}, for {time.monotonic() - self._since:.0f} s"

    def answered(self) -> None:
        """Note that a request was answered: the engine works."""
        self._deaths = 0

    def broke(self, actor: ActorHandle[Any], reason: str) -> None:
        """Replace ``actor``, to which a request failed. Further requests that fail with it change nothing."""
        if actor is not self.actor:
            return
        self.kill()
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            self.lost = EngineError(
                f"engine {self.number} broke {MAX_DEATHS} times without an answer in between, "
                f"last: {reason}; nothing is lost: remove the cause and resume"
            )
        else:
            self._begin()
        self._changed(self)

    def kill(self) -> None:
        """End the actor's process, if there is one."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None

    def _begin(self) -> None:
        self._since = time.monotonic()
        self.starting = asyncio.create_task(self._start())
        self.starting.add_done_callback(self._started)

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled():
            self.lost = self.lost or starting.exception()  # an error that ``_start`` does not handle
            self._changed(self)

    async def _start(self) -> None:
        reason = ""
        for attempt in range(START_ATTEMPTS):
            if attempt:
                await asyncio.sleep(START_BACKOFF_S * 2 ** (attempt - 1))
            self.actor, self._placed = self._make_actor(), False
            try:
                await self.actor.__ray_ready__.remote()  # without a limit: Ray may not have the resources yet
                self._placed = True
                async with asyncio.timeout(START_TIMEOUT_S):
                    fingerprints = await self.actor.ready.remote()
            except (RayError, TimeoutError) as error:
                reason = reason_of(error)
                self.kill()
                if isinstance(cause := cause_of(error), InputError):
                    self.lost = cause
                    return
                continue
            if fingerprints != self._expected:
                self.kill()
                self.lost = InputError(
                    f"engine: expected {self._expected}, got {fingerprints}; the model or its "
                    "template has changed: use a new run folder"
                )
            return
        self.lost = EngineError(
            f"engine {self.number} did not start in {START_ATTEMPTS} attempts, last: {reason}; "
            "see the engine's log in Ray's session folder"
        )
