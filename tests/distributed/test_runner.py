"""The walk under Ray Tune: the same as without Ray, quiet, prompt to end, and cheap."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from lipo_e_ray.distributed import runner
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.session import signals_interrupt
from lipo_e_ray.search.brackets import Bracket, Rung, hyperband_brackets
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Batch, EngineError, Evaluation, InputError, Observation, Origin, Prompt, Proposal, digest

N = 16


class SpyPrompt(Prompt):
    """Each process that sends it on notes whether it has imported torch."""

    def __reduce__(self):
        return _spy, (self.instruction, [*self.__dict__.get("trail", []), "torch" in sys.modules])


def _spy(instruction: str, trail: list[bool]) -> SpyPrompt:
    prompt = SpyPrompt(instruction)
    prompt.__dict__["trail"] = trail
    return prompt


def evaluate(prompt: Prompt, n: int) -> Evaluation:
    """A landscape made of hashes; every seventh prompt has a call that fails for good."""
    level = int(prompt.id[:4], 16) / 0x10000
    errors = sum(int(digest(prompt.id, str(i))[:4], 16) / 0x10000 < level for i in range(n))
    failed = int(int(prompt.id[-4:], 16) % 7 == 0)
    return Evaluation(Observation(prompt.id, min(errors, n - failed), n - failed), failed, n)


class HashProposer:
    """New prompts that depend on all that was observed, and on the order it is given in."""

    def prepare(self):
        pass

    def propose(self, request):
        seen = digest(
            *(f"{prompt.id} {o.errors}/{o.evaluated}" for prompt, o in request.observed),
            *(prompt.id for prompt in request.running),
        )
        origin = Origin("ape", request.stage, request.bracket)
        texts = (f"{request.bracket}.{request.first + i} after {seen}" for i in range(request.count))
        return Batch(tuple(Proposal(SpyPrompt(text), origin) for text in texts))


class FakeService:
    """The part of ``EvaluationService`` that the search uses. ``behaviour``: what a prompt with "0.1" in it meets."""

    def __init__(self, behaviour: str = "answer", batches=None) -> None:
        self.behaviour = behaviour
        self.batches = batches or {}
        self.rungs = []
        self.torch_in_trials = set()
        self.under_way = self.most = 0

    async def evaluate(self, prompt, split, n, wave):
        assert split == "validation"
        self.torch_in_trials.add(prompt.trail[-1])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        # Another order of arrival than of departure.
        await asyncio.sleep(0.01 + int(prompt.id[:2], 16) / 0x100 * 0.02)
        if prompt.instruction.startswith("0.1 ") and self.behaviour == "raise":
            raise EngineError("the engines are gone")
        if prompt.instruction.startswith("0.1 ") and self.behaviour == "hang":
            await asyncio.sleep(3600)
        self.under_way -= 1
        return evaluate(prompt, n)

    async def recorded_batch(self, bracket, first):
        return self.batches.get((bracket, first))

    async def record_batch(self, bracket, first, batch):
        self.batches[bracket, first] = batch

    async def record_rung(self, result):
        self.rungs.append(result)

    async def seen(self):
        return self.batches, self.rungs, self.torch_in_trials, self.most


PLAIN = tuple(SpyPrompt(f"plain {i}") for i in range(3))


def schedule() -> FixedSchedule:
    """Brackets in one part and in chunks, InvBO's, then the races for the baseline and for the answer."""
    ladder = tuple(Rung(size, fidelity) for size, fidelity in ((4, 4), (2, 8), (1, 16)))
    middle = hyperband_brackets(N, 4, 2, first_index=1)
    brackets = (
        Bracket(0, "hyperband", 1, (Rung(6, 8), Rung(2, N))),
        *(replace(bracket, chunk=2) for bracket in middle),
        *(Bracket(1 + len(middle) + i, "invbo", 2, ladder) for i in range(3)),
    )
    return FixedSchedule(brackets, 0, Ending(PLAIN, N, 4, 4))


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


SERVICES = []


def service(behaviour="answer", batches=None):
    SERVICES.append(ray.remote(FakeService).options(num_cpus=0, max_concurrency=100).remote(behaviour, batches))
    return SERVICES[-1]


@pytest.fixture(autouse=True)
def _services_end():
    """Each that stays takes a hundredth of a core as long as the tests' Ray lives."""
    yield
    while SERVICES:
        ray.kill(SERVICES.pop())


def search(hyperband, handle, tmp_path, make_proposer=HashProposer, on_event=lambda position: None, deadline=math.inf):
    bo = BOSlot(partial(runner.start_bo_actor, make_proposer, handle))
    runner.tune_search(hyperband, handle, bo, tmp_path, on_event, deadline=deadline)


def same(rungs):
    """Without ``calls``, which go by the order of arrival."""
    return sorted((replace(r, calls=0) for r in rungs), key=str)


def no_proposer():
    raise InputError("nobody should be asked")


def test_tune_walks_as_without_ray_and_again_from_its_record(cluster, tmp_path, capfd):
    batches, rungs = {}, []

    def record(request, batch):
        batches[request.bracket, request.first] = batch

    alone = Hyperband(schedule(), seed=3, overlap=2)
    run_search(alone, HashProposer().propose, evaluate, record, rungs.extend)
    assert any(r.observation.evaluated < r.fidelity for r in rungs), "the landscape should have failing prompts"

    tuned, handle, events, before = Hyperband(schedule(), seed=3, overlap=2), service(), [], dict(os.environ)
    search(tuned, handle, tmp_path, on_event=lambda position: events.append((time.perf_counter(), position)))
    recorded, tuned_rungs, torch_in_trials, most = ray.get(handle.seen.remote())

    assert recorded == batches
    assert {r.stage for r in rungs} == {"hyperband", "invbo", "baseline", "final"}
    assert same(tuned_rungs) == same(rungs)
    assert tuned.incumbent() == alone.incumbent() is not None
    assert events[-1][1] == alone.position()
    assert torch_in_trials == {False}
    assert most >= 6, "the first bracket's whole rung is under way at a time"
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
    # After the first rung, in which the trial processes start.
    first = next(i for i, (_, position) in enumerate(events) if position.bracket == 1)
    later = sum(r.bracket > 0 for r in rungs)
    assert (events[-1][0] - events[first][0]) / later < 0.25, "s per prompt and rung; 0.01 on an idle machine"

    again, resumed = service(batches=recorded), Hyperband(schedule(), seed=3, overlap=2)
    search(resumed, again, tmp_path, make_proposer=no_proposer)
    assert same(ray.get(again.seen.remote())[1]) == same(rungs)


@pytest.mark.parametrize("last", [-1, 0, 5])
def test_no_rung_begins_after_the_deadline(cluster, tmp_path, monkeypatch, last):
    """The time is up with event number ``last``; -1: before the first."""
    now, events = [10.0 * (last < 0)], []
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def on_event(position):
        events.append(position)
        now[0] = 10.0 * (len(events) > last)

    hyperband, handle = Hyperband(schedule(), seed=3, overlap=2), service()
    search(hyperband, handle, tmp_path, on_event=on_event, deadline=5.0)
    recorded, rungs, _, _ = ray.get(handle.seen.remote())
    assert hyperband.actions() == []
    assert len(events) <= last + 1 + 3, "rungs under way, and proposals that had come, are all that follows"
    assert (not rungs) == (last < 1)

    whole = []
    run_search(Hyperband(schedule(), seed=3, overlap=2), HashProposer().propose, evaluate, on_rung=whole.extend)
    assert set(map(str, same(rungs))) < set(map(str, same(whole)))
    again = service(batches=recorded)
    search(Hyperband(schedule(), seed=3, overlap=2), again, tmp_path)
    assert same(ray.get(again.seen.remote())[1]) == same(whole)


def test_an_evaluation_that_raises_ends_the_run_with_its_error(cluster, tmp_path, capfd):
    with pytest.raises(EngineError, match="^the engines are gone$"):
        search(Hyperband(schedule(), seed=3), service("raise"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_proposer_that_raises_ends_the_run_with_its_error(cluster, tmp_path):
    with pytest.raises(InputError, match="^nobody should be asked$"):
        search(Hyperband(schedule(), seed=3), service(), tmp_path, make_proposer=no_proposer)


def test_on_a_full_cluster_the_brackets_that_wait_are_named(cluster, tmp_path):
    """And start when there is room."""
    taken = placement_group([{"CPU": 2}])
    assert taken.wait(60)
    said = []

    def watch(waiting) -> None:
        def poll() -> None:
            deadline = time.monotonic() + 60
            while "bracket 1 waits for 0.001 CPU" not in (text := waiting()) and time.monotonic() < deadline:
                time.sleep(0.05)
            said.append(text)
            time.sleep(1)  # long enough for a trial to start, if there were room
            said.append(waiting())
            remove_placement_group(taken)

        threading.Thread(target=poll).start()

    handle = service()
    bo = BOSlot(partial(runner.start_bo_actor, HashProposer, handle))
    runner.tune_search(Hyperband(schedule(), seed=3), handle, bo, tmp_path, on_start=watch)
    assert said == ["bracket 1 waits for 0.001 CPU"] * 2
    assert ray.get(handle.seen.remote())[1]


def test_ctrl_c_ends_the_run_at_once(cluster, tmp_path):
    interrupted = []

    def interrupt() -> None:
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(1.0, interrupt)

    def on_event(position) -> None:
        with suppress(RuntimeError):  # started already
            timer.start()

    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        search(Hyperband(schedule(), seed=3), service("hang"), tmp_path, on_event=on_event)
    assert time.monotonic() - interrupted[0] < 5
    assert list(tmp_path.iterdir()) == []
