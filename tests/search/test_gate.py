"""InvBO's gate: who goes up beside the incumbent, and what that costs."""

import pytest

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.types import Prompt
from tests.search.test_hyperband import hyperband_of
from tests.search.walks import invbo, names, observe, prompts, step


def run_to_incumbent(errors=10, gated=None):
    """A walk that stands before its first gated bracket; the incumbent has ``errors`` of 40, 1/4 of them per 10."""
    hyperband = hyperband_of([Bracket(0, "hyperband", 0, (Rung(1, 40),)), gated or invbo(1)])
    hyperband.enter(0, prompts(["king"]))
    step(hyperband, {"king": errors})
    return hyperband


@pytest.mark.parametrize(
    ("king", "candidate", "passes"),
    [
        (0, 0, True),
        (0, 1, False),  # no error, no slack
        (3, 4, True),
        (3, 5, False),  # sqrt(3 * 7 / 10) = 1.45
        (5, 6, True),
        (5, 7, False),  # sqrt(5 * 5 / 10) = 1.58
        (2, 0, True),
        (10, 9, True),
        (10, 10, False),  # right on nothing
    ],
)
def test_the_gate_allows_one_standard_error_over_the_incumbent(king, candidate, passes):
    hyperband = run_to_incumbent(gated=invbo(1, q=1))
    hyperband.enter(1, prompts(["new"]))
    assert names(hyperband.actions()[0].prompts) == ["new", "king"]
    [row] = step(hyperband, {"king": king, "new": candidate})
    assert row.promoted is passes
    assert bool(hyperband.actions()) is passes


def test_the_incumbent_runs_along_at_no_charge_and_not_to_the_top():
    hyperband = run_to_incumbent()
    before = hyperband.position().done
    hyperband.enter(1, prompts(["a", "b", "c", "d"]))
    asked = []
    while actions := hyperband.actions():
        [action] = actions
        asked.append((action.fidelity, names(action.prompts)))
        rows = observe(
            hyperband,
            action,
            {name: action.fidelity // 4 + (name not in ("king", "a")) for name in names(action.prompts)},
        )
        assert Prompt("king").id not in [r.observation.prompt_id for r in rows]
    assert [("king" in evaluated, fidelity) for fidelity, evaluated in asked] == [(True, 10), (True, 20), (False, 40)]
    assert hyperband.position().done - before == 4 * 10 + 2 * 10 + 1 * 20


def test_gated_brackets_halve_within_q_even_when_all_pass():
    hyperband = run_to_incumbent()
    hyperband.enter(1, prompts(["a", "b", "c", "d"]))
    step(hyperband, {"a": 4, "b": 3, "c": 2, "d": 1, "king": 5})
    assert names(hyperband.actions()[0].prompts) == ["c", "d", "king"]


def test_without_an_incumbent_nothing_is_gated():
    hyperband = hyperband_of([invbo(0, q=1)])
    hyperband.enter(0, prompts(["a"]))
    [row] = step(hyperband, {"a": 9})
    assert row.promoted
