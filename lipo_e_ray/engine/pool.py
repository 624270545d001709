"""Engines as a pool: creation, routing, retry elsewhere; and the service as the actor before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lipo_e_ray.engine.actor import EngineActor, EngineSlot, cause_of, reason_of
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.service import CHUNK, EvaluationService, Progress
from lipo_e_ray.types import (
    Completion,
    Fingerprints,
    InputError,
    LipoError,
    Message,
    Outcome,
    Prompt,
    Sampling,
    Status,
    Task,
    digest,
)

__all__ = ["EngineActor", "EnginePool", "EnginesConfig", "EvaluationService", "Progress", "result", "start_service"]

SPILL = 64  # examples: a prefill saved on the prompt's own engine is worth about as long a queue
CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class EnginesConfig:
    """``count`` engines (``None``: one per GPU of the cluster, or a single one without a GPU if there is none).

    ``num_gpus`` and ``num_cpus`` are what Ray reserves for each; ``in_flight`` is how many examples one engine is
    given at a time; ``timeout_s`` how long it may take over a request before it counts as hung.
    """

    count: int | None = None
    num_gpus: float = 1.0
    num_cpus: float = 1.0
    in_flight: int = 256
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"engines: expected a count of 1 or more, or none for one per GPU, got {self.count}")
        if min(self.num_gpus, self.num_cpus) < 0 or self.in_flight < 1 or self.timeout_s <= 0:
            raise InputError("engines: expected num_gpus and num_cpus of 0 or more, in_flight and timeout_s above 0, "
                             f"got {self}")


class EnginePool:
    """The ``Pool`` of engine actors. They are created on the first call; until then none costs anything."""

    def __init__(self, task: Task, fingerprints: Fingerprints, make_engine: Callable[[], Engine],
                 config: EnginesConfig) -> None:
        self._task = task
        self._fingerprints = fingerprints
        self._make_engine = make_engine
        self._config = config
        self._slots: list[EngineSlot] = []

    async def evaluate(
        self, prompt: Prompt, example_ids: Sequence[str], avoid: int | None
    ) -> tuple[int, list[Outcome]]:
        """A prompt's requests go to the same engine, for its prefix cache, unless that has more to do than others."""
        engine, answer = await self._send(prompt.id, len(example_ids), avoid,
                                          lambda actor: actor.evaluate.remote(prompt, example_ids))
        if isinstance(answer, str):
            answer = [Outcome(prompt.id, example_id, Status.FAILED, error=answer) for example_id in example_ids]
        return engine, answer

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling], avoid: int | None
    ) -> tuple[int, list[Completion]]:
        """Generations go to the engine with the least to do."""
        engine, answer = await self._send(None, len(conversations), avoid,
                                          lambda actor: actor.generate.remote(conversations, samplings))
        if isinstance(answer, str):
            answer = [Completion("", error=answer) for _ in conversations]
        return engine, answer

    def sizes(self) -> tuple[int, int]:
        """Engines that are ready; engines in all, 0 before the first call."""
        return sum(slot.ready for slot in self._slots), len(self._slots)

    async def close(self) -> None:
        """Close and kill all engines."""
        slots, self._slots = self._slots, []
        goodbyes = [asyncio.create_task(_quietly(slot.actor.close.remote())) for slot in slots if slot.ready]
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=CLOSE_TIMEOUT_S)
        for slot in slots:
            slot.starting.cancel()
            slot.kill()

    async def _send(self, prompt_id: str | None, n: int, avoid: int | None,
                    call: Callable[[ActorHandle], Any]) -> tuple[int, list | str]:
        """The engine's number and its answer, or in one line why there is none."""
        if not self._slots:
            self._create()
        while True:
            slot = await self._choose(prompt_id, avoid)
            slot.load += n
            try:
                async with slot.window:
                    if not slot.ready:  # it broke while this request waited for its turn
                        continue
                    actor = slot.actor
                    try:
                        async with asyncio.timeout(self._config.timeout_s):
                            answer = await call(actor)
                    except (RayError, TimeoutError) as error:
                        answer = reason_of(error)
                        slot.broke(actor, answer)
                    else:
                        slot.answered()
                    return slot.number, answer
            finally:
                slot.load -= n

    async def _choose(self, prompt_id: str | None, avoid: int | None) -> EngineSlot:
        while not (ready := [slot for slot in self._slots if slot.ready]):
            hopeful = [slot.starting for slot in self._slots if slot.lost is None]
            if not hopeful:
                raise next(slot.lost for slot in self._slots)
            await asyncio.wait(hopeful, return_when=asyncio.FIRST_COMPLETED)
        ready = [slot for slot in ready if slot.number != avoid] or ready
        least = min(ready, key=lambda slot: slot.load)
        if prompt_id is None:
            return least
        # Rendezvous hashing: when an engine goes, only its own prompts move.
        preferred = max(ready, key=lambda slot: digest(prompt_id, str(slot.number)))
        return preferred if preferred.load - least.load <= SPILL else least

    def _create(self) -> None:
        config = self._config
        gpus = int(ray.cluster_resources().get("GPU", 0) / config.num_gpus) if config.num_gpus else 0
        count = config.count if config.count is not None else max(gpus, 1)
        num_gpus = 0 if config.count is None and not gpus else config.num_gpus
        # Ray hides no GPU from an actor that reserves none. Only here: what the service hides, its engines inherit.
        environment = {} if num_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        actor = ray.remote(EngineActor).options(num_gpus=num_gpus, num_cpus=config.num_cpus,
                                                runtime_env={"env_vars": environment})
        make_actor = partial(actor.remote, self._make_engine, ray.put(self._task))
        window = max(1, config.in_flight // CHUNK)
        self._slots = [EngineSlot(number, make_actor, self._fingerprints, window) for number in range(count)]


def start_service(ledger_path: Path, task: Task, fingerprints: Fingerprints, make_engine: Callable[[], Engine],
                  engines: EnginesConfig) -> ActorHandle:
    """The ``EvaluationService`` as an actor on this node, where the run folder is. Raises ``InputError`` (ledger)."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    service = ray.remote(EvaluationService).options(
        num_cpus=0, max_concurrency=1000, scheduling_strategy=here,
    ).remote(ledger_path, task, fingerprints, partial(EnginePool, task, fingerprints, make_engine, engines))
    result(service.start.remote())
    return service


def result(reference: Any) -> Any:
    """``ray.get`` that raises this package's own errors as they were raised, without Ray's traceback in their text."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(cause := cause_of(error), LipoError):
            raise cause from None
        raise


async def _quietly(reference: Any) -> None:
    """Wait for an engine's goodbye; one that cannot say it is killed all the same."""
    try:
        await reference
    except RayError:
        return
