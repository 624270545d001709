"""The schedule: published numbers, exact powers, costs by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.config import PROFILES, HyperbandConfig, InvBOConfig, RunConfig
from lipo_e_ray.search.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets, plan_brackets
from lipo_e_ray.types import InputError


def test_one_pass_over_gsm8k():
    brackets = hyperband_brackets(1319, 10, 2)
    assert [bracket.s for bracket in brackets] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [bracket.rungs[0].size for bracket in brackets] == [128, 74, 43, 26, 16, 11, 8, 8]
    assert sum(bracket.rungs[0].size for bracket in brackets) == 314
    assert sum(rung.size * rung.fidelity for bracket in brackets for rung in bracket.rungs) == 80_474
    assert cost(brackets) == 54_661
    assert [rung.fidelity for rung in brackets[0].rungs] == [10, 20, 41, 82, 164, 329, 659, 1319]


@pytest.mark.parametrize(
    ("n", "b_min", "eta", "rungs"),
    [
        (243, 1, 3, 6),
        (242, 1, 3, 5),
        (125, 1, 5, 4),
        (1000, 1, 10, 4),
        (1000, 10, 10, 3),
        (2**29, 1, 2, 30),
        (8, 8, 2, 1),
        (16, 8, 2, 2),
        (15, 8, 2, 1),
        (1319, 10, 2, 8),
    ],
)
def test_exact_powers_keep_their_rung(n, b_min, eta, rungs):
    assert len(fidelities(n, b_min, eta)) == rungs
    assert len(hyperband_brackets(n, b_min, eta)) == rungs


@given(st.integers(1, 5000), st.integers(1, 50), st.integers(2, 5))
def test_the_ladder_is_nested_and_complete(n, b_min, eta):
    if n < b_min:
        with pytest.raises(InputError, match=f"expected {b_min} examples or more .* got {n}"):
            fidelities(n, b_min, eta)
        return
    ladder = fidelities(n, b_min, eta)
    assert ladder[-1] == n
    assert all(below == above // eta for below, above in pairwise(ladder))
    assert b_min <= ladder[0] < b_min * eta
    for bracket in hyperband_brackets(n, b_min, eta):
        assert tuple(rung.fidelity for rung in bracket.rungs) == ladder[-bracket.s - 1 :]
        sizes = [rung.size for rung in bracket.rungs]
        assert min(sizes) >= 1
        assert sizes == sorted(sizes, reverse=True)


def test_cost_counts_only_new_examples():
    bracket = Bracket(0, "hyperband", 2, (Rung(9, 10), Rung(3, 30), Rung(1, 90)))
    assert bracket.cost() == 9 * 10 + 3 * 20 + 1 * 60
    assert bracket.cost(1) == 3 * 20 + 1 * 60
    assert cost([bracket, bracket]) == 2 * bracket.cost()


def test_narrowed_is_the_widest_that_can_be_paid():
    bracket = hyperband_brackets(1319, 10, 2)[0]
    assert bracket.narrowed(bracket.cost()) == bracket
    assert bracket.narrowed(1318) is None
    assert bracket.narrowed(1319).rungs[0].size == 1
    narrow = bracket.narrowed(3000)
    assert narrow.cost() <= 3000 < bracket.resized(narrow.rungs[0].size + 1).cost()
    assert [rung.fidelity for rung in narrow.rungs] == [rung.fidelity for rung in bracket.rungs]
    assert min(rung.size for rung in narrow.rungs) == 1


def test_the_plan_of_the_demo():
    config = PROFILES["demo"]
    seeds, *passes = plan_brackets(config, validation=128, seeds=12)
    assert seeds == Bracket(0, "seeds", 1, (Rung(12, 64), Rung(6, 128)))
    assert [bracket.index for bracket in passes] == list(range(1, len(passes) + 1))
    assert [bracket.stage for bracket in passes] == ["hyperband"] * 5 + ["invbo"] * config.invbo.iterations
    assert passes[-1].rungs == (Rung(4, 8), Rung(2, 16), Rung(1, 32), Rung(1, 64), Rung(1, 128))


@given(st.integers(1, 40), st.integers(10, 400), st.integers(0, 5000))
def test_the_seeds_race_is_fair_and_within_its_budget(seeds, validation, calls):
    bracket = plan_brackets(RunConfig(max_llm_calls=calls), validation, seeds)[0]
    assert bracket.rungs[0].size == seeds
    assert bracket.rungs[-1].fidelity == validation
    assert bracket.rungs[-1].size >= min(2, seeds)
    ladder = fidelities(validation, 10, 2)
    lowest = bracket.rungs[0].fidelity == ladder[0]
    assert lowest or bracket.cost() <= min(2 * len(ladder) * validation, calls / 4 if calls else math.inf)


def test_a_call_budget_starts_the_seeds_lower_and_no_invbo_means_none():
    config = replace(PROFILES["one-gpu"], invbo=InvBOConfig(iterations=0))
    free = plan_brackets(config, 1319, 12)
    tight = plan_brackets(replace(config, max_llm_calls=8000), 1319, 12)
    assert free[0].rungs[0].fidelity == 164
    assert tight[0].rungs[0].fidelity == 10
    assert plan_brackets(config, 1319, 500)[0].rungs[0].fidelity == 10
    assert tight[1:] == free[1:] == hyperband_brackets(1319, 10, 2, first_index=1)


def test_eta_of_the_config_is_used():
    config = replace(PROFILES["demo"], hyperband=HyperbandConfig(b_min=3, eta=3))
    assert [rung.fidelity for rung in plan_brackets(config, 81, 12)[1].rungs] == [3, 9, 27, 81]
