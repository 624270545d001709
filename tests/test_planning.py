"""What a plan promises: at the least limit, at small ones, at large ones, and without any."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lipo_e_ray.budget import TESTED, check_limit, divide, make_schedules
from lipo_e_ray.config import PROFILES, APEConfig, InvBOConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, load_inputs
from lipo_e_ray.latent.inversion import MAX_REQUESTS
from lipo_e_ray.planning import forecast, gains, make_plan, plan_items, summary, tokens_per_call
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.schedule import FixedSchedule, LimitedSchedule, full_schedule
from lipo_e_ray.types import InputError, Prompt

DEMO = PROFILES["demo"]
SPEC = EngineSpec(
    SimulatedEngine,
    SimulatedEngine().fingerprints,
    lambda messages: sum(len(m["content"].split()) for m in messages),
    on_gpu=False,
)
WHOLE = 5000  # calls that reach all that a limited run of the demo can reach


@pytest.fixture(scope="module")
def inputs():
    return load_inputs(DEMO, SPEC)


def limited(calls, config=DEMO):
    return replace(config, max_llm_calls=calls)


def least(config, inputs) -> int:
    """The least limit that is accepted, as the message about a smaller one names it."""
    with pytest.raises(InputError, match="raise --max-llm-calls") as caught:
        check_limit(limited(1, config), inputs)
    return int(re.search(r"expected (\d+)", str(caught.value))[1])


# ---- the plan and the limit ----


@pytest.mark.parametrize("calls", [200, 300, 600, 1000, 2000, 10_000])
def test_a_plan_spends_its_limit_and_no_more(calls, inputs):
    total = sum(item.calls for item in plan_items(limited(calls), inputs))
    assert 0.95 * calls <= total <= calls
    assert make_plan(limited(calls), inputs).calls == total


@pytest.mark.parametrize("ape", [True, False])
def test_no_limit_that_is_accepted_is_exceeded(ape, inputs):
    config = replace(DEMO, ape=replace(DEMO.ape, use=ape))
    start = least(config, inputs)
    for calls in (*range(start, start + 60, 7), 499, 777, 3210, 10_000):
        assert sum(item.calls for item in plan_items(limited(calls, config), inputs)) <= calls


@pytest.mark.parametrize("config", [DEMO, replace(DEMO, ape=APEConfig(use=False)), replace(DEMO, test_share=0.0)])
def test_a_limit_that_pays_for_no_race_is_refused_with_the_least_that_does(config, inputs):
    fewest = least(config, inputs)
    for calls in (1, 20, fewest - 1):
        with pytest.raises(InputError, match=rf"call budget: expected {fewest} calls or more.*got {calls};"):
            make_plan(limited(calls, config), inputs)
    names = [item.name for item in plan_items(limited(fewest, config), inputs)]
    assert any(name.startswith("Hyperband") for name in names), "a race of prompts"


def test_the_least_is_less_where_less_is_done_besides(inputs):
    assert least(replace(DEMO, ape=APEConfig(use=False), test_share=0.0), inputs) < least(DEMO, inputs) < 100


def test_no_limit_is_never_refused(inputs):
    check_limit(DEMO, inputs)


# ---- the lines of a plan ----


@pytest.mark.parametrize("calls", [100, 300, 1000, 0])
def test_a_plan_is_the_walk_that_the_run_makes(calls, inputs):
    """Its lines are the brackets of the run's own schedule, in order, between writing and test."""
    config = limited(calls)
    items = plan_items(config, inputs)
    names = [item.name for item in items]
    budget = divide(config, inputs)
    written = items[0].calls
    brackets = forecast(make_schedules(config, inputs, written), config)
    searched = [item for item in items if re.match("Hyperband|InvBO|race|finalists", item.name)]
    assert sum(item.calls for item in searched) == sum(cost for _, cost in brackets)
    assert names[0] == "APE" and names[1].startswith("Hyperband")
    assert items[-1 - bool(calls)] == replace(items[-1 - bool(calls)], name="test", calls=TESTED * budget.test)
    stages = [bracket.stage for bracket, _ in brackets]
    assert stages == sorted(stages, key=["hyperband", "invbo", "baseline", "final"].index) or calls
    assert stages.count("final") <= 1 and stages.count("baseline") <= 1


def test_without_a_limit_it_is_one_pass_then_invbo_then_the_last_races(inputs):
    items = {item.name: item for item in plan_items(DEMO, inputs)}
    assert [name for name in items if name.startswith("Hyperband")] == [f"Hyperband s={s}" for s in (4, 3, 2, 1, 0)]
    assert items["Hyperband s=4"].schedule == "16 x 8, 8 x 16, 4 x 32, 2 x 64, 1 x 128"
    assert items["InvBO, 3 iterations"].schedule == "each: 4 x 8, 2 x 16, 1 x 32, 1 x 64, 1 x 128"
    assert items["InvBO, 3 iterations"].calls == 3 * (4 * 8 + 2 * 8 + 16 + 32 + 64) + 3 * 4 * MAX_REQUESTS
    assert items["APE"].calls == 80 and items["test"].calls == 512
    assert "calls that fail, again" not in items


def test_what_is_switched_off_is_not_planned(inputs):
    config = replace(DEMO, ape=APEConfig(use=False), invbo=InvBOConfig(iterations=0), test_share=0.0)
    names = [item.name for item in plan_items(config, inputs)]
    assert all(name.startswith(("Hyperband", "race for the baseline", "finalists")) for name in names)


def test_a_forecast_charges_written_texts_and_examples_once():
    config = replace(DEMO, invbo=InvBOConfig(iterations=1, q=2))
    ending = Ending((Prompt("Plain."),), 32, 8, 8)
    schedule = full_schedule(config, ending)
    brackets = dict(enumerate(calls for _, calls in forecast([schedule], config)))
    opened = [bracket for bracket, _ in forecast([schedule], config)]
    assert [bracket.stage for bracket in opened] == ["hyperband"] * 3 + ["invbo", "baseline", "final"]
    for bracket in opened[:3]:
        assert brackets[bracket.index] == bracket.cost()
    assert brackets[3] == opened[3].cost() + 2 * MAX_REQUESTS
    assert brackets[4] == 32
    assert brackets[5] == opened[5].rungs[0].size * 8, "finalists are charged what they had not seen"
    assert isinstance(schedule, FixedSchedule)


# ---- what a limit does not reach ----


def test_gains_are_reached_at_the_limits_that_are_named(inputs):
    lines = gains(limited(300), inputs)
    assert len(lines) == 3 and all(line.startswith("not reached: ") for line in lines)
    for line in lines:
        words, calls = re.fullmatch(r"not reached: (.*) \(from about ([\d,]+) calls on\)", line).groups()
        there = limited(int(calls.replace(",", "")))
        assert not any(words in still for still in gains(there, inputs))
        assert any(words in still for still in gains(limited(int(there.max_llm_calls / 1.3)), inputs))


def test_whatever_the_limit_what_it_does_not_reach_is_reached_from_the_same_limit_on(inputs):
    """InvBO can be paid at 1,200 calls but not at 1,500, where the races are longer."""
    told = {line for limit in range(100, 5000, 100) for line in gains(limited(limit), inputs)}
    assert len(told) == 3


def test_a_large_limit_and_none_lack_nothing(inputs):
    assert gains(limited(WHOLE), inputs) == gains(DEMO, inputs) == []
    [schedule] = make_schedules(limited(WHOLE), inputs, 80)
    assert isinstance(schedule, LimitedSchedule)
    assert schedule.ladder[-1] == len(inputs.task.validation) and schedule.iterations == DEMO.invbo.iterations


def test_a_summary_tells_the_parts_and_what_is_not_reached(inputs):
    said, budget = summary(limited(300), inputs), divide(limited(300), inputs)
    for number in (300, budget.writing, budget.for_search(budget.writing), TESTED * budget.test, budget.reserve):
        assert re.search(rf"\b{number}\b", said[0])
    assert said[1:] == gains(limited(300), inputs)
    assert summary(DEMO, inputs) == []


def test_a_summary_tells_how_many_of_the_user_s_instructions_are_tried(inputs):
    own = {f"Instruction {i}.": "file" for i in range(9)}
    many = replace(inputs, instructions=own | inputs.instructions)
    [line] = [line for line in summary(limited(300), many) if "of your 9 instructions" in line]
    tried = int(re.match(r"\d+", line)[0])
    assert 1 <= tried < 9
    few = replace(inputs, instructions={"Instruction 0.": "file"} | inputs.instructions)
    assert not any("instructions are tried" in line for line in summary(limited(300), few))


# ---- the plan as a whole ----


def test_tokens_count_exemplars():
    bare = replace(DEMO, max_exemplars=0)
    with_exemplars, without = (tokens_per_call(config, load_inputs(config, SPEC)) for config in (DEMO, bare))
    assert with_exemplars > 2 * without > 10


def test_tokens_that_nobody_counts():
    inputs = load_inputs(DEMO, replace(SPEC, count_tokens=None))
    assert tokens_per_call(DEMO, inputs) is None
    assert "tokens: unknown" in str(make_plan(DEMO, inputs))


@pytest.mark.parametrize("calls", [100, 300, 1000, 0])
def test_a_plan_as_text(calls, inputs):
    config = limited(calls)
    plan = make_plan(config, inputs)
    lines = str(plan).splitlines()
    for line, item in zip(lines[1:], plan.items, strict=False):
        assert line.startswith(item.name) and line.endswith(f" {item.calls:,}")
    assert lines[1 + len(plan.items)].split() == ["all", f"{plan.calls:,}"]
    assert all(gain in lines for gain in gains(config, inputs))


def test_a_plan_tells_the_time_of_what_was_measured(inputs):
    config = limited(1000)
    assert "tokens: ~" in str(make_plan(config, inputs))
    assert "take ~2:05 with AMX (8 calls/s)" in str(make_plan(config, inputs))
    config = replace(config, model=replace(config.model, dtype="float32"))
    assert "~6:40 with AVX2 (2.5 calls/s)" in str(make_plan(config, inputs))
    config = replace(config, model=replace(config.model, name="another"))
    assert "1:40 at 10 calls/s, 0:10 at 100 calls/s" in str(make_plan(config, inputs))
