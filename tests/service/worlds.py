"""A dispatcher by itself, for its tests: they say when a chunk is answered."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lipo_e_ray.service.dispatch import Dispatcher


@dataclass(eq=False)
class Chunk:
    prompt_id: str | None
    n: int
    wave: int
    avoid: int | None
    engine: int | None = None  # once it has its turn
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task | None = None


class World:
    """A dispatcher, the chunks asked for, and what must hold whenever one gets its turn."""

    def __init__(self):
        self.dispatcher = Dispatcher()
        self.capacities = {}
        self._numbers = itertools.count()
        self.chunks = []
        self.sent = []  # in the order of their turns

    def add(self, *capacities):
        for capacity in capacities:
            self.put(next(self._numbers), capacity)

    def put(self, number, capacity):
        self.capacities[number] = capacity
        self.dispatcher.add(number, capacity)

    def remove(self, number):
        del self.capacities[number]
        self.dispatcher.remove(number)

    def ask(self, prompt_id, n=1, wave=0, avoid=None):
        chunk = Chunk(prompt_id, n, wave, avoid)
        chunk.task = asyncio.create_task(self._run(chunk))
        self.chunks.append(chunk)
        return chunk

    async def _run(self, chunk):
        async with self.dispatcher.turn(chunk.prompt_id, chunk.n, chunk.wave, chunk.avoid) as number:
            assert number in self.capacities, "sent to an engine that is gone"
            assert self.load(number) < self.capacities[number], "sent to an engine without room"
            chunk.engine = number
            self.sent.append(chunk)
            await chunk.answered.wait()

    def load(self, number):
        return sum(chunk.n for chunk in self.at_work if chunk.engine == number)

    @property
    def at_work(self):
        return [chunk for chunk in self.sent if not chunk.task.done()]

    @property
    def waiting(self):
        return [chunk for chunk in self.chunks if chunk.engine is None and not chunk.task.done()]

    def may_go(self, chunk, number):
        return chunk.avoid != number or len(self.capacities) == 1

    async def settle(self):
        """Until nothing happens by itself."""
        for _ in range(12):
            await asyncio.sleep(0)
        for task in [chunk.task for chunk in self.chunks]:
            if task.done() and not task.cancelled():
                task.result()

    async def answer(self, *chunks):
        for chunk in chunks:
            chunk.answered.set()
        await self.settle()

    async def drain(self):
        """The engines work until nothing is left; how many chunks each of them did, by prompt."""
        while at_work := self.at_work:
            await self.answer(at_work[0])
        assert not self.waiting
        return Counter((chunk.engine, chunk.prompt_id) for chunk in self.sent)


@asynccontextmanager
async def world(*capacities):
    world = World()
    world.add(*capacities)
    try:
        yield world
    finally:
        for chunk in world.chunks:
            chunk.task.cancel()
        await asyncio.gather(*(chunk.task for chunk in world.chunks), return_exceptions=True)
