from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest
import ray

from lipo_e_ray.distributed import slots as module
from lipo_e_ray.distributed.slots import MAX_DEATHS, START_ATTEMPTS, EngineActor, EngineSlot
from lipo_e_ray.types import EngineError, Fingerprints, InputError, Prompt

PRINTS = Fingerprints("fake-model", "fake-sampling", "fake-template")


class StubActor:
    """What a slot needs of an actor handle."""

    def __init__(self, error=None):
        self.ready = self
        self.__ray_ready__ = SimpleNamespace(remote=self.placed)
        self.error = error
        self.killed = False

    async def placed(self):
        """It has a process."""

    async def remote(self):
        if self.error:
            raise self.error
        return PRINTS


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(module, "START_BACKOFF_S", 0.001)
    monkeypatch.setattr(module.ray, "kill", lambda actor: setattr(actor, "killed", True))
    return []


def slot_with(made, errors, expected=PRINTS, changed=lambda slot: None):
    """A slot whose successive actors fail at start with ``errors``; then they start."""
    errors = iter(errors)

    def make_actor():
        made.append(StubActor(next(errors, None)))
        return made[-1]

    return EngineSlot(0, make_actor, expected, changed)


def test_a_start_that_fails_is_tried_again_with_a_new_actor(made):
    async def go():
        slot = slot_with(made, [ray.exceptions.ActorDiedError()] * (START_ATTEMPTS - 1))
        assert not slot.ready
        await slot.starting
        return slot

    slot = asyncio.run(go())
    assert slot.ready
    assert [actor.killed for actor in made] == [True] * (START_ATTEMPTS - 1) + [False]


def test_a_start_that_never_succeeds_is_an_engine_error(made):
    async def go():
        slot = slot_with(made, [ray.exceptions.ActorDiedError()] * START_ATTEMPTS)
        await slot.starting
        return slot

    slot = asyncio.run(go())
    assert not slot.ready
    assert isinstance(slot.lost, EngineError)
    assert all(actor.killed for actor in made)


def test_an_engine_with_other_fingerprints_is_refused(made):
    async def go():
        slot = slot_with(made, [], expected=Fingerprints("other-model", "fake-sampling", "fake-template"))
        await slot.starting
        return slot

    slot = asyncio.run(go())
    assert isinstance(slot.lost, InputError)
    assert "other-model" in str(slot.lost)
    assert made[0].killed


def test_an_engine_may_wait_for_its_resources_but_not_take_forever_to_start(made, monkeypatch):
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.01)

    async def go():
        resources = asyncio.Event()
        monkeypatch.setattr(StubActor, "placed", lambda self: resources.wait())
        slot = slot_with(made, [])
        await asyncio.sleep(0.1)
        assert not slot.starting.done() and not made[0].killed
        made[0].remote = partial(asyncio.sleep, 3600)
        resources.set()
        await slot.starting
        return slot

    assert asyncio.run(go()).ready
    assert [actor.killed for actor in made] == [True, False]


def test_who_is_told_what_becomes_of_it(made):
    async def go():
        told = []
        slot = slot_with(made, [], changed=lambda slot: told.append((slot.ready, slot.lost is not None)))
        for _ in range(MAX_DEATHS):
            await slot.starting
            await asyncio.sleep(0)
            slot.broke(slot.actor, "gone")
        return told

    assert asyncio.run(go()) == [(True, False), (False, False)] * (MAX_DEATHS - 1) + [(True, False), (False, True)]


def test_what_nobody_expected_of_a_start_is_told_too(made):
    async def go():
        slot = slot_with(made, [RuntimeError("a defect")])
        await asyncio.wait([slot.starting])
        await asyncio.sleep(0)
        return slot

    slot = asyncio.run(go())
    assert str(slot.lost) == "a defect" and not slot.ready


def test_several_failed_requests_are_one_death(made):
    async def go():
        slot = slot_with(made, [])
        await slot.starting
        first = slot.actor
        for _ in range(MAX_DEATHS):
            slot.broke(first, "gone")
        await slot.starting
        return slot

    slot = asyncio.run(go())
    assert slot.ready
    assert [actor.killed for actor in made] == [True, False]


def test_an_engine_that_only_breaks_is_given_up_and_an_answer_gives_it_new_credit(made):
    async def go():
        slot = slot_with(made, [])
        for death in range(2 * MAX_DEATHS - 2):
            await slot.starting
            if death == MAX_DEATHS - 2:
                slot.answered()
            assert slot.lost is None
            slot.broke(slot.actor, "out of memory")
        await slot.starting
        slot.broke(slot.actor, "out of memory")
        return slot

    slot = asyncio.run(go())
    assert isinstance(slot.lost, EngineError)
    assert "out of memory" in str(slot.lost)


def test_the_actor_maps_ids_to_examples_and_builds_its_engine_once(fake_engines, small_task):
    async def go():
        actor = EngineActor(fake_engines.factory(), small_task)
        await actor.close()
        assert not fake_engines.pids
        assert await actor.ready() == await actor.ready() == PRINTS
        examples = [small_task.test[7], small_task.validation[4]]
        outcomes = await actor.evaluate(Prompt("x"), [example.id for example in examples])
        assert [outcome.example_id for outcome in outcomes] == [example.id for example in examples]
        await actor.close()

    asyncio.run(go())
    assert len(fake_engines.pids) == 1
    assert (fake_engines.folder / "closed").exists()


def test_it_says_what_it_waits_for(made, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def go():
        resources, said = asyncio.Event(), []
        monkeypatch.setattr(StubActor, "placed", lambda self: resources.wait())
        slot = slot_with(made, [])
        model = asyncio.Event()
        await asyncio.sleep(0)

        async def load():
            await model.wait()
            return PRINTS

        made[0].remote = load
        for happens in (resources.set, model.set, lambda: None):
            now[0] += 65
            said.append(slot.waiting("0.9 GPU"))
            happens()
            await asyncio.sleep(0.01)
        return said

    assert asyncio.run(go()) == ["engine 0 waits for 0.9 GPU, for 65 s", "engine 0 waits for its model, for 130 s", ""]
