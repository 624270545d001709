"""The dispatcher by itself: no engines, no Ray; a test says when a chunk is answered."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.service import dispatch as module
from lipo_e_ray.service.dispatch import PREFIX_COST, Dispatcher
from lipo_e_ray.types import EngineError
from tests.service.worlds import world

asks = st.tuples(
    st.just("ask"),
    st.sampled_from(["p", "q", "r", None]),
    st.integers(1, 20),
    st.integers(0, 2),
    st.sampled_from([None, None, None, 0, 1]),
)
steps = st.one_of(
    asks,
    asks,
    st.tuples(st.sampled_from(["answer", "answer", "cancel", "remove"]), st.integers(0, 99)),
    st.tuples(st.just("add"), st.integers(1, 40)),
)


async def take(world, step):
    """One step of a random history; the chunks that waited before it, and those that got their turn in it."""
    before, sent = world.waiting, len(world.sent)
    match step:
        case ("ask", prompt_id, n, wave, avoid):
            world.ask(prompt_id, n, wave, avoid)
        case ("add", capacity):
            world.add(capacity)
        case ("remove", i) if world.capacities:
            world.remove(list(world.capacities)[i % len(world.capacities)])
        case ("answer", i) if world.at_work:
            world.at_work[i % len(world.at_work)].answered.set()
        case ("cancel", i) if alive := [chunk for chunk in world.chunks if not chunk.task.done()]:
            alive[i % len(alive)].task.cancel()
    await world.settle()
    return before, world.sent[sent:]


@settings(max_examples=300)
@given(st.lists(st.lists(steps, min_size=1, max_size=6), max_size=25))
def test_whatever_happens_no_room_is_exceeded_nor_left_unused_and_lower_waves_go_first(history):
    async def go():
        async with world(16, 8) as w:
            for step in [step for steps in history for step in steps]:
                before, sent = await take(w, step)
                for chunk in w.waiting:
                    assert not [
                        number
                        for number, capacity in w.capacities.items()
                        if w.load(number) < capacity and w.may_go(chunk, number)
                    ], "room left unused"
                    assert all(
                        first.wave <= chunk.wave for first in sent if chunk in before and w.may_go(chunk, first.engine)
                    ), "a later wave went first"
            w.add(16)
            w.add(4)
            await w.settle()
            await w.drain()

    asyncio.run(go())


@given(st.lists(steps, max_size=12))
def test_what_happens_at_once_leaks_no_room(history):
    async def go():
        async with world(16) as w:
            for step in history:  # without settling in between
                match step:
                    case ("ask", prompt_id, n, wave, avoid):
                        w.ask(prompt_id, n, wave, avoid)
                        await asyncio.sleep(0)
                    case (_, i) if w.chunks:
                        w.chunks[i % len(w.chunks)].task.cancel()
            await w.settle()
            await w.drain()
            last = [w.ask("p", 8), w.ask("p", 8)]
            await w.settle()
            assert w.at_work == last

    asyncio.run(go())


def test_generations_go_in_order_of_arrival_to_the_engine_with_the_least_to_do():
    async def go():
        async with world(4, 4, 4) as w:
            for _ in range(9):
                w.ask(None, n=1)
            await w.settle()
            assert [chunk.engine for chunk in w.sent] == [0, 1, 2] * 3
            rest = [w.ask(None, n=4) for _ in range(6)]
            await w.drain()
            assert w.sent[9:] == rest

    asyncio.run(go())


def test_a_chunk_larger_than_any_engine_runs_alone():
    async def go():
        async with world(4) as w:
            chunks = [w.ask("p", n=16), w.ask("p", n=16)]
            await w.settle()
            assert w.at_work == chunks[:1]
            await w.drain()

    asyncio.run(go())


def test_a_prefix_stays_at_home_while_the_load_is_light():
    async def go():
        async with world(16, 16, 16) as w:
            await w.answer(w.ask(None), home := w.ask("p"))
            for _ in range(5):
                first = w.ask("p", n=PREFIX_COST)
                await w.settle()
                second = w.ask("p")  # the others are idle, but not so much that it pays
                await w.settle()
                assert first.engine == second.engine == home.engine
                third = w.ask("p")
                await w.settle()
                assert third.engine != home.engine
                w.remove(third.engine)  # so that its copy of the prefix is gone
                w.put(third.engine, 16)
                await w.answer(first, second, third)

    asyncio.run(go())


def test_of_many_prompts_each_is_computed_about_once():
    async def go():
        async with world(*[32] * 8) as w:
            for i in range(60):
                for _ in range(6):
                    w.ask(f"prompt {i}", n=16)
            await w.settle()
            done = await w.drain()
            assert 60 <= len(done) <= 60 + 2 * 8  # only the last ones are split, between engines with nothing else
            work = Counter(engine for engine, _ in done.elements())
            assert max(work.values()) - min(work.values()) <= 2

    asyncio.run(go())


def test_a_high_rung_is_split_over_all_engines():
    async def go():
        async with world(*[32] * 8) as w:
            for prompt_id in ("p", "q"):
                for _ in range(80):
                    w.ask(prompt_id, n=16)
            await w.settle()
            assert {w.load(number) for number in range(8)} == {32}
            done = await w.drain()
            assert len(done) <= 8 + 2
            assert set(Counter(engine for engine, _ in done.elements()).values()) == {20}

    asyncio.run(go())


def test_an_engine_without_work_takes_from_the_longest_queue():
    async def go():
        async with world(1, 1) as w:
            for prompt_id, n in (("p", 3), ("q", 5)):
                for _ in range(n):
                    w.ask(prompt_id)
            await w.settle()
            w.add(1)
            await w.settle()
            assert w.sent[-1].prompt_id == "q"

    asyncio.run(go())


def test_a_failed_chunk_goes_elsewhere_first_and_waits_for_it():
    async def go():
        async with world(4, 4) as w:
            busy = w.ask("p", n=4)
            await w.settle()
            w.ask("q", n=4)
            await w.settle()
            w.ask("r", n=4)
            again = w.ask("p", n=4, avoid=busy.engine)
            await w.answer(busy)
            assert w.sent[-1].prompt_id == "r"
            assert again in w.waiting
            await w.answer(w.sent[1])
            assert again.engine == 1 - busy.engine

    asyncio.run(go())


def test_an_engine_to_avoid_is_taken_if_it_is_the_only_one():
    async def go():
        async with world(4, 4) as w:
            w.ask(None, n=4, avoid=0)
            await w.settle()
            again = w.ask("p", avoid=0)
            await w.settle()
            assert again in w.waiting
            w.remove(1)
            await w.settle()
            assert again.engine == 0

    asyncio.run(go())


def test_when_an_engine_goes_its_prompts_are_anybodys_and_it_comes_back_with_nothing():
    async def go():
        async with world(16, 16) as w:
            await w.answer(w.ask("p"))
            w.remove(0)
            await w.answer(moved := w.ask("p"))
            assert moved.engine == 1
            w.put(0, 16)
            await w.answer(stays := w.ask("p"))
            assert stays.engine == 1

    asyncio.run(go())


@pytest.mark.parametrize("ticks", range(6))
def test_an_engine_that_goes_just_after_it_was_chosen_gets_nothing(ticks):
    async def go():
        async with world(1) as w:
            chunk = w.ask("p")
            for _ in range(ticks):
                await asyncio.sleep(0)
            if at_work := bool(w.at_work):
                await w.answer(chunk)
            w.remove(0)
            w.add(1)
            await w.settle()
            assert chunk.engine == (0 if at_work else 1)

    asyncio.run(go())


def test_of_several_prompts_that_an_engine_holds_the_first_chunk_goes_first():
    async def go():
        async with world(1) as w:
            await w.answer(w.ask("p"), w.ask("q"))
            await w.drain()
            chunks = [w.ask(prompt_id) for prompt_id in ("q", "p", "q", "p", "p", "q")]
            await w.settle()
            await w.drain()
            assert w.sent[2:] == chunks

    asyncio.run(go())


def test_an_engine_remembers_a_bounded_number_of_prompts(monkeypatch):
    monkeypatch.setattr(module, "HELD_PROMPTS", 2)

    async def go():
        async with world(16, 16) as w:
            w.ask(None)  # engine 0 has more to do from now on: what nobody holds goes to engine 1
            await w.settle()
            await w.answer(w.ask("p"))
            await w.answer(w.ask("q"))
            await w.answer(w.ask("p"))  # now q is the oldest
            await w.answer(w.ask("r"))
            w.ask(None, n=3)
            await w.settle()
            p, q = w.ask("p"), w.ask("q")
            await w.settle()
            assert (p.engine, q.engine) == (1, 0)

    asyncio.run(go())


def test_without_hope_all_that_wait_are_told_until_an_engine_comes():
    async def go():
        async with world() as w:
            told = [w.ask("p"), w.ask(None), w.ask("p", avoid=1)]
            await asyncio.sleep(0)
            w.dispatcher.abandon(EngineError("all gone"))
            told.append(w.ask("p"))
            errors = await asyncio.gather(*(chunk.task for chunk in told), return_exceptions=True)
            assert [str(error) for error in errors] == ["all gone"] * 4
            w.chunks.clear()
            w.add(16)
            await w.answer(chunk := w.ask("p"))
            assert chunk.engine == 0

    asyncio.run(go())


def test_a_turn_ends_with_an_error_too():
    async def go():
        dispatcher = Dispatcher()
        dispatcher.add(0, 1)
        with pytest.raises(EngineError, match="broken"):
            async with dispatcher.turn("p", 1, 0, None):
                raise EngineError("broken")
        async with dispatcher.turn("p", 1, 0, None) as number:
            assert number == 0

    asyncio.run(go())


def test_while_paused_nothing_gets_its_turn_and_what_is_at_work_ends():
    async def go():
        async with world(4) as w:
            first = w.ask("p", 4)
            await w.settle()
            w.dispatcher.pause(True)
            w.ask("p", 4)
            await w.answer(first)
            w.ask("q", 1)
            w.add(4)
            await w.settle()
            assert w.sent == [first]
            w.dispatcher.pause(False)
            await w.settle()
            assert not w.waiting

    asyncio.run(go())
