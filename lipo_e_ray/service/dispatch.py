"""Which engine takes which chunk: all engines share one queue, and a chunk is bound to an engine once that has room.

So a waiting chunk can still go to an engine that is done early or joins late. Plain asyncio, no Ray, no clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PREFIX_COST = 4  # in examples of a full batch: about what a GPU needs to read a prompt with 8 exemplars
HELD_PROMPTS = 256  # an engine is taken to have cached its last so many prompts; an error costs one prefix


@dataclass(eq=False, slots=True)
class _Engine:
    """An engine that takes chunks."""

    number: int
    capacity: int
    load: int = 0  # examples in flight
    prefixes: dict[str, None] = field(default_factory=dict)  # prompts it holds, least recently used first

    @property
    def has_room(self) -> bool:
        return self.load < self.capacity


@dataclass(eq=False, slots=True)
class _Turn:
    """A chunk of ``n`` examples that waits for an engine."""

    prompt_id: str | None
    n: int
    wave: int
    avoid: int | None
    arrived: int
    engine: asyncio.Future[_Engine]

    @property
    def key(self) -> _Key:
        """The chunk's queue in its wave: its prompt, or itself for a generation, which has no prefix in common."""
        return self if self.prompt_id is None else self.prompt_id


_Key = str | _Turn


@dataclass(eq=False, slots=True)
class _Wave:
    """``queues``: the chunks of each prompt; ``fresh``: prompts that no engine has cached. Both in order of arrival.

    ``retries``: chunks that an engine failed and another one should get.
    """

    retries: dict[_Turn, None] = field(default_factory=dict)
    queues: dict[_Key, deque[_Turn]] = field(default_factory=dict)
    fresh: dict[_Key, None] = field(default_factory=dict)


class Dispatcher:
    """Gives the chunks that wait to engines with room: lower waves first, and where their prefix is cached.

    An engine has room while it has fewer examples in flight than its capacity. Its last chunk may exceed the capacity,
    so that a chunk of any size runs. No engine with room is left without work while a chunk waits that may go there.

    The engine with the fewest examples in flight chooses first, from the lowest wave. It takes, in this order: a chunk
    that another engine failed (these have waited longest); the first chunk of a prompt that it has cached; the first
    chunk of a prompt that no engine has cached; a chunk of the prompt with the most waiting chunks. The last one goes
    to an engine that has cached the prompt instead, if that has room and at most ``PREFIX_COST`` more in flight.
    """

    def __init__(self) -> None:
        self._engines: dict[int, _Engine] = {}
        self._waves: dict[int, _Wave] = {}
        self._holders: dict[_Key, list[_Engine]] = {}
        self._arrivals = 0
        self._woken = False
        self._paused = False
        self._error: BaseException | None = None

    def add(self, number: int, capacity: int) -> None:
        """Add an engine with nothing in flight and nothing cached; it replaces one with the same number."""
        self.remove(number)
        self._engines[number] = _Engine(number, capacity)
        self._error = None
        self._wake()

    def remove(self, number: int) -> None:
        """Send nothing more to this engine. The caller deals with what is in flight there."""
        if engine := self._engines.pop(number, None):
            for prompt_id in list(engine.prefixes):
                self._forget(engine, prompt_id)
            self._wake()  # retries may go to the last engine although they should avoid it

    def abandon(self, error: BaseException) -> None:
        """No engine is left: ``turn`` raises ``error`` for all chunks, waiting and new, until an engine is added."""
        self._error = error
        waves, self._waves = self._waves, {}
        for wave in waves.values():
            for turn in (*wave.retries, *(turn for queue in wave.queues.values() for turn in queue)):
                turn.engine.set_exception(error)

    def pause(self, paused: bool) -> None:
        """Whether chunks wait even where an engine has room."""
        self._paused = paused
        self._wake()

    @asynccontextmanager
    async def turn(self, prompt_id: str | None, n: int, wave: int, avoid: int | None) -> AsyncIterator[int]:
        """Wait until an engine has room for a chunk of ``n`` examples. Yields the engine's number; the chunk counts as
        in flight there until the block ends.

        ``prompt_id``: the prompt whose prefix the examples share; ``None`` for generations. Chunks of a lower ``wave``
        go first. ``avoid``: the number of an engine that must not get the chunk unless it is the only one.
        """
        engine = await self._engine_for(prompt_id, n, wave, avoid)
        try:
            yield engine.number
        finally:
            self._give_back(engine, n)

    async def _engine_for(self, prompt_id: str | None, n: int, wave: int, avoid: int | None) -> _Engine:
        while True:
            if self._error:
                raise self._error
            self._arrivals += 1
            turn = _Turn(prompt_id, n, wave, avoid, self._arrivals, asyncio.get_running_loop().create_future())
            self._put_in(turn)
            try:
                engine = await asyncio.shield(turn.engine)  # so that only this dispatcher settles the future
            except asyncio.CancelledError:
                if not turn.engine.done():
                    self._take_out(turn)
                elif not turn.engine.exception():
                    self._give_back(turn.engine.result(), n)
                raise
            if self._engines.get(engine.number) is engine:  # it may have gone since it was chosen
                return engine

    def _put_in(self, turn: _Turn) -> None:
        wave = self._waves.setdefault(turn.wave, _Wave())
        if turn.avoid is not None:
            wave.retries[turn] = None
        else:
            wave.queues.setdefault(turn.key, deque()).append(turn)
            if turn.key not in self._holders:
                wave.fresh[turn.key] = None
        self._wake()

    def _take_out(self, turn: _Turn) -> None:
        wave = self._waves[turn.wave]
        if turn.avoid is not None:
            del wave.retries[turn]
        else:
            queue = wave.queues[turn.key]
            queue.remove(turn)
            if not queue:
                del wave.queues[turn.key]
                wave.fresh.pop(turn.key, None)
        if not wave.retries and not wave.queues:
            del self._waves[turn.wave]

    def _give_back(self, engine: _Engine, n: int) -> None:
        engine.load -= n
        self._wake()

    def _wake(self) -> None:
        """Match chunks and engines after this turn of the event loop, so that all chunks that come in it compete."""
        if not self._woken and not self._paused and self._waves:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._match)

    def _match(self) -> None:
        self._woken = False
        while not self._paused and (match := self._next_match()):
            turn, engine = match
            self._take_out(turn)
            engine.load += turn.n
            if turn.prompt_id is not None:
                self._hold(engine, turn.prompt_id)
            turn.engine.set_result(engine)

    def _next_match(self) -> tuple[_Turn, _Engine] | None:
        for engine in sorted((e for e in self._engines.values() if e.has_room), key=lambda engine: engine.load):
            for number in sorted(self._waves):
                wave = self._waves[number]
                for turn in wave.retries:
                    if turn.avoid != engine.number or len(self._engines) == 1:
                        return turn, engine
                if wave.queues:
                    return self._by_prefix(wave, engine)
        return None

    def _by_prefix(self, wave: _Wave, engine: _Engine) -> tuple[_Turn, _Engine]:
        if held := wave.queues.keys() & engine.prefixes.keys():
            return min((wave.queues[key][0] for key in held), key=lambda turn: turn.arrived), engine
        if wave.fresh:
            return wave.queues[next(iter(wave.fresh))][0], engine
        queue = max(wave.queues.values(), key=len)
        holders = [
            holder
            for holder in self._holders[queue[0].key]
            if holder.has_room and holder.load - engine.load <= PREFIX_COST
        ]
        return queue[0], min(holders, key=lambda holder: holder.load, default=engine)

    def _hold(self, engine: _Engine, prompt_id: str) -> None:
        if prompt_id in engine.prefixes:
            del engine.prefixes[prompt_id]  # to come last again
        else:
            self._holders.setdefault(prompt_id, []).append(engine)
            for wave in self._waves.values():
                wave.fresh.pop(prompt_id, None)
        engine.prefixes[prompt_id] = None
        if len(engine.prefixes) > HELD_PROMPTS:
            self._forget(engine, next(iter(engine.prefixes)))

    def _forget(self, engine: _Engine, prompt_id: str) -> None:
        del engine.prefixes[prompt_id]
        self._holders[prompt_id].remove(engine)
        if not self._holders[prompt_id]:
            del self._holders[prompt_id]
            for wave in self._waves.values():
                if prompt_id in wave.queues:
                    wave.fresh[prompt_id] = None
