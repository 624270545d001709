"""How a limit is divided, and what becomes of a run whose limit is raised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lipo_e_ray.budget import TESTED, divide, first_budget, make_schedules, plain_prompts
from lipo_e_ray.config import PROFILES, APEConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, load_inputs
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.store.run_folder import Spending
from lipo_e_ray.types import Batch, Evaluation, Observation, Origin, Prompt, Proposal

DEMO = PROFILES["demo"]
SPEC = EngineSpec(SimulatedEngine, SimulatedEngine().fingerprints, len, on_gpu=False)


@pytest.fixture(scope="module")
def inputs():
    return load_inputs(DEMO, SPEC)


def limited(calls, config=DEMO):
    return replace(config, max_llm_calls=calls)


@pytest.mark.parametrize("calls", [90, 100, 300, 1000, 10_000])
def test_the_parts_of_a_limit_leave_it_whole(calls, inputs):
    budget = divide(limited(calls), inputs)
    searched = budget.for_search(budget.writing)
    assert budget.writing + searched + TESTED * budget.test + budget.reserve == calls
    assert TESTED * budget.test <= 0.2 * calls and budget.writing <= 0.1 * calls and searched >= 0.6 * calls
    assert budget.for_search(0) == searched + budget.writing, "what the writing does not need, the search gets"


def test_without_a_limit_everything_is_wanted_whole(inputs):
    budget = divide(DEMO, inputs)
    assert (budget.limit, budget.for_search(50), budget.reserve) == (0, 0, 0)
    assert budget.test == len(inputs.task.test)
    assert divide(replace(DEMO, test_share=0.0), inputs).test == 0


def test_what_is_switched_off_gets_nothing(inputs):
    budget = divide(limited(300, replace(DEMO, ape=APEConfig(use=False), test_share=0.0)), inputs)
    assert (budget.writing, budget.test) == (0, 0)


def test_the_baseline_is_found_among_the_shipped_ones_or_is_the_user_s_first(inputs):
    shipped = tuple(prompt.instruction for prompt in plain_prompts(inputs))
    assert shipped == tuple(inputs.instructions)
    own = replace(inputs, instructions={"Mine.": "file", "Mine too.": "file"} | inputs.instructions)
    assert plain_prompts(own) == (Prompt("Mine."),)


def evaluate(prompt, n):
    errors = sum(int(prompt.id[i : i + 2], 16) > 100 for i in range(7)) * n // 7
    return Evaluation(Observation(prompt.id, min(errors, n - 1), n), 0, n)


def walk(calls, inputs, recorded, earlier=()):
    """The search of a run with that limit, whose proposals may be recorded; the calls it was charged, and its limit."""
    config = limited(calls)
    schedules = make_schedules(config, inputs, first_budget(config, inputs, earlier).writing, earlier)
    hyperband = Hyperband(schedules, config.seed, config.hyperband.overlap)

    def propose(request):
        origin = Origin("seed", request.stage, request.bracket)
        texts = [f"{calls}.{request.bracket}.{request.first + i}" for i in range(request.count)]
        new = Batch(tuple(Proposal(Prompt(text), origin) for text in texts))
        return recorded.setdefault((request.bracket, request.first), new)

    run_search(hyperband, propose, evaluate)
    return hyperband.position().done, schedules[-1].limit


@pytest.mark.parametrize("calls", [200, 300, 600, 1000, 2000])
def test_the_search_spends_what_it_has(calls, inputs):
    done, limit = walk(calls, inputs, {})
    assert 0.95 * limit <= done <= limit


@pytest.mark.parametrize(("before", "after"), [(300, 600), (600, 1000), (1000, 0)])
def test_a_run_goes_on_with_a_higher_limit(before, after, inputs):
    """As the message about a limit that is spent says."""
    recorded = {}
    first, _ = walk(before, inputs, recorded)
    done, limit = walk(after, inputs, recorded, [Spending(before, DEMO.invbo.iterations)])
    assert done > 1.5 * first
    assert not limit or 0.95 * limit <= done <= limit


def test_a_run_goes_on_with_more_iterations(inputs):
    more = replace(DEMO, invbo=replace(DEMO.invbo, iterations=5))
    [whole] = make_schedules(DEMO, inputs, 0)
    again, further = make_schedules(more, inputs, 0, [Spending(0, 3)])
    assert again == whole
    assert [bracket.stage for bracket in further.list] == ["invbo"] * 2
