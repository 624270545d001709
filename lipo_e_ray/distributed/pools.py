"""The engines of a run as a pool of Ray actors that grows with the cluster, and the service's actor that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lipo_e_ray.distributed.calls import reason_of, result
from lipo_e_ray.distributed.slots import EngineActor, EngineSlot
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.service.dispatch import Dispatcher
from lipo_e_ray.service.service import BeforeSend, EvaluationService
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Completion, Fingerprints, InputError, Message, Outcome, Prompt, Sampling, Status

CLOSE_TIMEOUT_S = 10.0
FOLLOW_S = 5.0  # between two counts of the cluster's GPUs; an engine takes longer than this to start


@dataclass(frozen=True)
class EnginesConfig:
    """``count`` engines, some of which may wait for their resources, so that Ray's autoscaler starts nodes for them.
    ``None``: one for every GPU of the cluster, also for those that join later; without any, a single one on a CPU.

    ``num_gpus`` and ``num_cpus`` are what Ray reserves for each engine. By default that is less than a CPU: on a
    machine with an engine per core, whole CPUs would leave nothing for the trials. ``in_flight``: how many examples an
    engine has at a time. ``timeout_s``: an engine that needs longer for a request counts as hung.
    """

    count: int | None = None
    num_gpus: float = 1.0
    num_cpus: float = 0.9
    in_flight: int = 256
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"engines: expected a count of 1 or more, or none for one per GPU, got {self.count}")
        if min(self.num_gpus, self.num_cpus) < 0 or self.in_flight < 1 or self.timeout_s <= 0:
            raise InputError(
                f"engines: expected num_gpus and num_cpus of 0 or more, in_flight and timeout_s above 0, got {self}"
            )
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise InputError(
                "engines: expected a whole number of num_gpus above 1 (Ray shares one GPU, not several), "
                f"got {self.num_gpus}"
            )


class EnginePool:
    """The ``Pool`` of engine actors. The first call creates them, so a run that sends none starts no engine."""

    def __init__(
        self, task: Task, fingerprints: Fingerprints, make_engine: Callable[[], Engine], config: EnginesConfig
    ) -> None:
        self._task = task
        self._fingerprints = fingerprints
        self._make_engine = make_engine
        self._config = config
        self._slots: list[EngineSlot] = []
        self._dispatcher = Dispatcher()
        self._following: asyncio.Task[None] | None = None

    async def evaluate(
        self, prompt: Prompt, example_ids: Sequence[str], avoid: int | None, wave: int, before_send: BeforeSend
    ) -> tuple[int, list[Outcome]]:
        """See ``Pool`` and ``Dispatcher``."""
        engine, answer = await self._send(
            prompt.id,
            len(example_ids),
            wave,
            avoid,
            before_send,
            lambda actor: actor.evaluate.remote(prompt, example_ids),
        )
        if isinstance(answer, str):
            answer = [Outcome(prompt.id, example_id, Status.FAILED, error=answer) for example_id in example_ids]
        return engine, answer

    async def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        samplings: Sequence[Sampling],
        avoid: int | None,
        before_send: BeforeSend,
    ) -> tuple[int, list[Completion]]:
        """See ``Pool`` and ``Dispatcher``."""
        engine, answer = await self._send(
            None,
            len(conversations),
            0,
            avoid,
            before_send,
            lambda actor: actor.generate.remote(conversations, samplings),
        )
        if isinstance(answer, str):
            answer = [Completion("", error=answer) for _ in conversations]
        return engine, answer

    def sizes(self) -> tuple[int, int]:
        """Engines that are ready; engines in all, 0 before the first call."""
        return sum(slot.ready for slot in self._slots), len(self._slots)

    def pause(self, paused: bool) -> None:
        """See ``Pool``."""
        self._dispatcher.pause(paused)

    def waiting(self) -> str:
        """See ``Pool``."""
        wanted = {"GPU": self._config.num_gpus, "CPU": self._config.num_cpus}
        resources = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        return next(filter(None, (slot.waiting(resources) for slot in self._slots)), "")

    async def close(self) -> None:
        """Close and kill all engines."""
        if self._following:
            self._following.cancel()
        slots, self._slots = self._slots, []
        closing = [asyncio.create_task(_quietly(slot.running.close.remote())) for slot in slots if slot.ready]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
        for slot in slots:
            self._dispatcher.remove(slot.number)
            slot.starting.cancel()
            slot.kill()

    async def _send(
        self,
        prompt_id: str | None,
        n: int,
        wave: int,
        avoid: int | None,
        before_send: BeforeSend,
        call: Callable[[ActorHandle[Any]], Any],
    ) -> tuple[int, list[Any] | str]:
        """The engine's number and its answer, or one line that says why there is none."""
        if not self._slots:
            self._create()
        async with self._dispatcher.turn(prompt_id, n, wave, avoid) as number:
            slot = self._slots[number]
            actor = slot.running
            await before_send()  # if the actor dies meanwhile, the call is one that failed
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    answer = await call(actor)
            except (RayError, TimeoutError) as error:
                answer = reason_of(error)
                slot.broke(actor, answer)
            else:
                slot.answered()
            return number, answer

    def _create(self) -> None:
        config = self._config
        gpus = _capacity(config.num_gpus)
        num_gpus = 0 if config.count is None and not gpus else config.num_gpus
        # Ray hides no GPU from an actor that reserves none, so they are hidden here. Hiding them from the service would
        # hide them from all its engines, which inherit its environment.
        environment = {} if num_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        actor: Any = ray.remote(EngineActor).options(
            num_gpus=num_gpus, num_cpus=config.num_cpus, runtime_env={"env_vars": environment}
        )
        make_actor = partial(actor.remote, self._make_engine, ray.put(self._task))
        self._grow(config.count or max(gpus, 1), make_actor)
        if config.count is None and gpus:
            self._following = asyncio.create_task(self._follow(make_actor))

    async def _follow(self, make_actor: Callable[[], ActorHandle[Any]]) -> None:
        """Start an engine for every GPU that joins. An engine whose GPU has left waits in Ray's queue for another."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            self._grow(await asyncio.to_thread(_capacity, self._config.num_gpus), make_actor)

    def _grow(self, count: int, make_actor: Callable[[], ActorHandle[Any]]) -> None:
        self._slots += [
            EngineSlot(number, make_actor, self._fingerprints, self._changed)
            for number in range(len(self._slots), count)
        ]

    def _changed(self, slot: EngineSlot) -> None:
        if slot.ready:
            self._dispatcher.add(slot.number, self._config.in_flight)
            return
        self._dispatcher.remove(slot.number)
        if slot.lost and all(slot.lost for slot in self._slots):
            self._dispatcher.abandon(slot.lost)


def _capacity(num_gpus: float) -> int:
    """How many engines of ``num_gpus`` fit on the cluster: a share never spans two GPUs, nor an engine two nodes."""
    if not num_gpus:
        return 0
    gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    return sum(int(n // num_gpus) if num_gpus > 1 else n * int(1 / num_gpus) for n in gpus)


def start_service(
    ledger_path: Path,
    task: Task,
    fingerprints: Fingerprints,
    make_engine: Callable[[], Engine],
    engines: EnginesConfig,
    limit: int = 0,
    reserve: int = 0,
) -> ActorHandle[Any]:
    """Start the ``EvaluationService`` as an actor on this node, where the run folder is.

    ``limit``, ``reserve``: calls, see ``EvaluationService``. Raises ``InputError`` when the ledger cannot be used.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(EvaluationService).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
    make_pool = partial(EnginePool, task, fingerprints, make_engine, engines)
    service: ActorHandle[Any] = actor.remote(ledger_path, task, fingerprints, make_pool, limit, reserve)
    result(service.start.remote(), "the evaluation service's start")
    return service


async def _quietly(reference: Any) -> None:
    """Wait for an engine to close, and ignore that it is dead: it is killed afterwards anyway."""
    try:
        await reference
    except RayError:
        return
