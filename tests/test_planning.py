import re
from dataclasses import replace

import pytest

from lipo_e_ray.config import PROFILES, APEConfig, InvBOConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, load_inputs
from lipo_e_ray.planning import make_plan, plan_items, tokens_per_call
from lipo_e_ray.search.hyperband import cost, plan_brackets
from lipo_e_ray.types import InputError

DEMO = PROFILES["demo"]
SPEC = EngineSpec(
    SimulatedEngine,
    SimulatedEngine().fingerprints,
    lambda messages: sum(len(m["content"].split()) for m in messages),
    on_gpu=False,
)


def test_the_parts_add_up_to_the_schedule():
    items = plan_items(DEMO, load_inputs(DEMO, SPEC))
    calls = {item.name: item.calls for item in items}
    searched = cost(plan_brackets(DEMO, 128, 12))
    assert sum(calls.values()) - calls["APE"] - calls["InvBO's rewriting"] - calls["test"] == searched
    assert (calls["APE"], calls["test"]) == (80, 512)
    schedules = {item.name: item.schedule for item in items}
    assert schedules["Hyperband s=4"] == "16 x 8, 8 x 16, 4 x 32, 2 x 64, 1 x 128"


def test_what_is_switched_off_is_not_planned():
    config = replace(DEMO, ape=APEConfig(use=False), invbo=InvBOConfig(iterations=0))
    names = [item.name for item in plan_items(config, load_inputs(config, SPEC))]
    assert names == ["seeds", *(f"Hyperband s={s}" for s in (4, 3, 2, 1, 0)), "test"]


def test_tokens_count_exemplars():
    bare = replace(DEMO, max_exemplars=0)
    with_exemplars, without = (tokens_per_call(config, load_inputs(config, SPEC)) for config in (DEMO, bare))
    assert with_exemplars > 2 * without > 10


def test_tokens_that_nobody_counts():
    inputs = load_inputs(DEMO, replace(SPEC, count_tokens=None))
    assert tokens_per_call(DEMO, inputs) is None
    assert "tokens: unknown" in str(make_plan(DEMO, inputs))


def test_a_plan_as_text():
    config = replace(DEMO, max_llm_calls=1000)
    shown = str(make_plan(config, load_inputs(config, SPEC)))
    assert "Hyperband s=4" in shown
    assert "tokens: ~" in shown and "take ~2:05 with AMX (8 calls/s)" in shown
    config = replace(config, model=replace(config.model, dtype="float32"))
    assert "~6:40 with AVX2 (2.5 calls/s)" in str(make_plan(config, load_inputs(config, SPEC)))
    config = replace(config, model=replace(config.model, name="another"))
    assert "1:40 at 10 calls/s, 0:10 at 100 calls/s" in str(make_plan(config, load_inputs(config, SPEC)))


def test_the_limit_is_the_most():
    config = replace(DEMO, max_llm_calls=1000)
    assert make_plan(config, load_inputs(config, SPEC)).calls == 1000
    assert make_plan(DEMO, load_inputs(DEMO, SPEC)).calls == sum(
        i.calls for i in plan_items(DEMO, load_inputs(DEMO, SPEC))
    )


@pytest.mark.parametrize("ape", [True, False])
def test_a_limit_that_no_prompt_can_be_found_with_is_refused_before_anything_is_paid(ape):
    def limited(calls: int):
        config = replace(DEMO, max_llm_calls=calls, ape=replace(DEMO.ape, use=ape))
        return make_plan(config, load_inputs(config, SPEC))

    with pytest.raises(InputError, match="call budget: expected .* raise --max-llm-calls") as caught:
        limited(100)
    assert ("--ape-num-instructions" in str(caught.value)) == ape
    fewest = int(re.search(r"expected (\d+)", str(caught.value))[1])
    assert limited(fewest).calls == fewest
    with pytest.raises(InputError, match=f"got {fewest - 1};"):
        limited(fewest - 1)
