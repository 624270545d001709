"""Which engine takes which chunk: one queue before all engines, and a chunk is bound when an engine has room for it.

Until then it can go to any of them: to one that is done early, or one that joins late. Plain asyncio, no Ray, no clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PREFIX_COST = 4  # examples: a prefix of 8 exemplars takes a GPU about as long as these in a full batch
HELD_PROMPTS = 256  # of an engine, least recently used: its cache is bounded too, and a miss only costs a prefix


@dataclass(eq=False, slots=True)
class _Engine:
    number: int
    capacity: int
    load: int = 0  # examples in flight
    prefixes: dict[str, None] = field(default_factory=dict)  # prompts it holds, least recently used first

    @property
    def has_room(self) -> bool:
        return self.load < self.capacity


@dataclass(eq=False, slots=True)
class _Turn:
    prompt_id: str | None
    n: int
    wave: int
    avoid: int | None
    arrived: int
    engine: asyncio.Future[_Engine]

    @property
    def key(self) -> str | _Turn:
        """Its queue in the wave: a generation shares its prefix with nothing, it is a prompt of its own."""
        return self if self.prompt_id is None else self.prompt_id


@dataclass(eq=False, slots=True)
class _Wave:
    """``queues``: chunks by prompt. ``fresh``: the prompts that no engine holds. Both in order of arrival."""

    retries: dict[_Turn, None] = field(default_factory=dict)
    queues: dict[str | _Turn, deque[_Turn]] = field(default_factory=dict)
    fresh: dict[str | _Turn, None] = field(default_factory=dict)


class Dispatcher:
    """Gives the chunks that wait to engines with room: lower waves first, and where their prefix is cached.

    An engine has room while it has fewer examples in flight than its capacity: its last chunk may go over it, so that
    a chunk of any size runs. No engine with room is left without work while a chunk waits that may go there.

    The engine with the least to do chooses first, in the lowest wave: a chunk to be tried elsewhere (they have waited
    longest), the first chunk of a prompt that it holds, the first of a prompt that nobody holds, or a chunk of the
    prompt with the most of them, unless a holder with room has at most ``PREFIX_COST`` examples more to do.
    """

    def __init__(self) -> None:
        self._engines: dict[int, _Engine] = {}
        self._waves: dict[int, _Wave] = {}
        self._holders: dict[str, list[_Engine]] = {}
        self._arrivals = 0
        self._woken = False
        self._paused = False
        self._error: Exception | None = None

    def add(self, number: int, capacity: int) -> None:
        """An engine, with nothing in flight and no prefix, takes part; one of that number before it is gone."""
        self.remove(number)
        self._engines[number] = _Engine(number, capacity)
        self._error = None
        self._wake()

    def remove(self, number: int) -> None:
        """Nothing is sent to this engine any more; what is in flight there ends by itself."""
        if engine := self._engines.pop(number, None):
            for prompt_id in list(engine.prefixes):
                self._forget(engine, prompt_id)
            self._wake()  # with one engine left, there is nothing else to avoid it for

    def abandon(self, error: Exception) -> None:
        """There is no hope for an engine: until one is added, all that wait and all that come raise ``error``."""
        self._error = error
        waves, self._waves = self._waves, {}
        for wave in waves.values():
            for turn in (*wave.retries, *(turn for queue in wave.queues.values() for turn in queue)):
                turn.engine.set_exception(error)

    def pause(self, paused: bool) -> None:
        """While it is, all that come wait for their turn."""
        self._paused = paused
        self._wake()

    @asynccontextmanager
    async def turn(self, prompt_id: str | None, n: int, wave: int, avoid: int | None) -> AsyncIterator[int]:
        """Wait for room for ``n`` examples; yields the number of the engine, whose room they take until the end.

        ``prompt_id`` says whose prefix they share (``None``: nobody's). The lower ``wave``, the earlier it is their
        turn. ``avoid`` is an engine that they do not go to unless it is the only one.
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
        """Match soon, once for all that happens now: among chunks that come together there is a choice."""
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
            for holder in self._holders[queue[0].prompt_id]
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
