"""The whole limit: the walk over brackets, the service and its ledger together, killed and resumed."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.config import HyperbandConfig, InvBOConfig, RunConfig
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.schedule import LimitedSchedule
from lipo_e_ray.service import service as module
from lipo_e_ray.service.service import CHUNK, EvaluationService
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Batch, Origin, Outcome, Prompt, Proposal, Request, Sampling, SpentError, Status, digest
from tests.service.test_limit import PRINTS, DicePool, World

TEXTS = 3  # that the model writes for each iteration of InvBO


class ProfilePool(DicePool):
    """Answers by prompt and example, the same in every process: wrong as often as the prompt is bad."""

    async def evaluate(self, prompt, example_ids, avoid, wave, before_send):
        number, outcomes = await super().evaluate(prompt, example_ids, avoid, wave, before_send)
        return number, [self.judged(o) if o.status is Status.CORRECT else o for o in outcomes]

    @staticmethod
    def judged(outcome):
        level = int(digest("level", outcome.prompt_id)[:4], 16)
        wrong = int(digest(outcome.prompt_id, outcome.example_id)[:4], 16) < level
        return Outcome(outcome.prompt_id, outcome.example_id, Status.WRONG if wrong else Status.CORRECT)


class Killed(Exception):
    """The process ends here."""


class Run:
    """One process's search: it proposes what the request says alone, records batches, and may be killed."""

    def __init__(self, service, hyperband, kill_after, overlapping):
        self.service = service
        self.hyperband = hyperband
        self.left = kill_after  # actions until it is killed; None: never
        self.overlapping = overlapping
        self.log = []

    async def walk(self):
        tasks = {}
        try:
            while actions := self.hyperband.actions():
                if isinstance(actions[0], Request):
                    self.tick()
                    await self.propose(actions[0])
                    continue
                for action in actions if self.overlapping else actions[:1]:
                    key = (action.bracket, action.step)
                    if key not in tasks:
                        tasks[key] = asyncio.create_task(self.evaluate(action))
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                for key in [key for key, task in tasks.items() if task.done()]:
                    self.tick()
                    for result in self.hyperband.observe(*key, tasks.pop(key).result()):
                        await self.service.record_rung(result)
        finally:
            for task in tasks.values():
                task.cancel()

    def tick(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    async def propose(self, request):
        batch = await self.service.recorded_batch(request.bracket, request.first)
        if batch is None:
            written = 0
            if request.stage == "invbo":
                texts = [[{"role": "user", "content": f"{request.bracket} {i}"}] for i in range(TEXTS)]
                await self.service.generate(texts, [Sampling()] * TEXTS, f"bracket {request.bracket}")
                written = TEXTS
            told = digest(*(f"{o}" for _, o in request.observed), "|", *(p.id for p in request.running))[:6]
            prompts = (Prompt(f"{request.bracket}.{request.first + i}.{told}") for i in range(request.count))
            origin = Origin("seed", request.stage, request.bracket)
            batch = Batch(tuple(Proposal(prompt, origin) for prompt in prompts), written)
            await self.service.record_batch(request.bracket, request.first, batch)
        self.hyperband.enter(request.bracket, [p.prompt for p in batch.proposals], batch.written)

    async def evaluate(self, action):
        return list(
            await asyncio.gather(
                *(self.service.evaluate(p, "validation", action.fidelity, action.wave) for p in action.prompts)
            )
        )


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)


def process(world, task, config, limit, reserve, kill_after, overlapping):
    """One process on the ledger; its walk, unless it was killed."""
    ending = Ending((Prompt("plain"),), len(task.validation), len(task.reserve), config.hyperband.b_min, 0.1 * limit)

    async def go():
        service = EvaluationService(world.path, task, PRINTS, lambda: ProfilePool(world), limit + reserve, reserve)
        await service.start()
        schedule = LimitedSchedule(config, limit, ending, TEXTS)
        hyperband = Hyperband(schedule, config.seed, config.hyperband.overlap)
        try:
            await Run(service, hyperband, kill_after, overlapping).walk()
        except Killed:
            return service, None
        except SpentError:  # kills lost more calls than the reserve pays for
            assert (await service.spent()).left < CHUNK
        await service.close()
        return service, hyperband

    service, hyperband = asyncio.run(go())  # which cancels what a killed process was doing
    service._ledger.close()
    return hyperband


@st.composite
def searches(draw):
    hyperband = HyperbandConfig(
        draw(st.sampled_from([4, 8])), draw(st.integers(2, 3)), draw(st.integers(0, 3)), draw(st.sampled_from([1, 8]))
    )
    return RunConfig(
        seed=draw(st.integers(0, 99)), hyperband=hyperband, invbo=InvBOConfig(draw(st.sampled_from([0, 3])))
    )


@pytest.mark.slow
@settings(max_examples=20)
@given(
    searches(),
    st.integers(100, 600),
    st.sampled_from([0.0, 0.0, 0.05, 0.5]),
    st.lists(st.integers(0, 25), max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_calls_stay_within_the_limit_and_most_of_it_is_spent(
    small_task, config, limit, failing, kills, overlapping, dice
):
    """Whatever fails and whenever it is killed: no more calls than the limit, none of them paid twice."""
    task = replace(small_task, reserve=tuple(replace(e, question=f"fresh {e.question}") for e in small_task.test))
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "ledger.sqlite", dice, failing)
        reserve, hyperband = max(2, limit // 20), None
        for kill_after in (*kills, None):
            hyperband = process(world, task, config, limit, reserve, kill_after, overlapping) or hyperband
            with Ledger(world.path) as ledger:
                assert world.reached.total() <= ledger.calls() <= limit + reserve
                assert ledger.asked() <= limit, "what is asked for is the search's; retries come out of the reserve"
                assert world.retries <= reserve
        if not failing:
            walked = hyperband.position().done
            assert walked <= limit and hyperband.incumbent()
            lost = world.reached.total() - len(world.reached)
            assert world.reached.total() >= 0.95 * limit - (CHUNK if lost else 0)
            assert lost == 0 or kills


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(small_task, tmp_path, overlap):
    config = RunConfig(hyperband=HyperbandConfig(8, 2, overlap, 8), invbo=InvBOConfig(3))

    def run(name, *kills):
        world = World(tmp_path / name / "ledger.sqlite")
        for kill_after in (*kills, None):
            hyperband = process(world, small_task, config, 500, 100, kill_after, overlapping=bool(kills))
        with Ledger(world.path) as ledger:
            return hyperband.incumbent(), [p for _, p in ledger.proposals()], sorted(ledger.rungs(), key=str)

    whole = run("whole")
    assert whole == run("killed", 3, 9, 14)
    assert len(whole[1]) > 12


def test_a_search_without_money_for_its_retries_still_ends(small_task, tmp_path):
    """Every call fails: what is asked for once is all that is sent."""
    world = World(tmp_path / "ledger.sqlite", failing=1.0)
    config = RunConfig(hyperband=HyperbandConfig(8), invbo=InvBOConfig(0))
    hyperband = process(world, small_task, config, 300, 0, None, overlapping=False)
    assert hyperband.actions() == [] and hyperband.incumbent() is None
    assert world.reached.total() == len(world.reached) <= 300
