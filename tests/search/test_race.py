"""One bracket, rung by rung, and what its rungs say; whole walks are in test_hyperband.py."""

import pytest

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.race import History, Race
from lipo_e_ray.types import Evaluation, Observation, Prompt


def evaluations(n, **errors):
    ids = {Prompt(name).id: count for name, count in errors.items()}
    return {prompt_id: Evaluation(Observation(prompt_id, count, n), 0, n) for prompt_id, count in ids.items()}


def race(entrants, incumbent=None):
    bracket = Bracket(0, "invbo", 2, (Rung(4, 10), Rung(2, 20), Rung(1, 40)))
    return Race(bracket, tuple(map(Prompt, entrants)), Prompt(incumbent) if incumbent else None)


def names(prompts):
    return [prompt.instruction for prompt in prompts]


def test_it_halves_by_errors_until_the_last_rung_is_complete():
    bracket = race("abcd")
    bracket.close(evaluations(10, a=4, b=1, c=2, d=3), "seed")
    assert names(bracket.entrants) == ["b", "c"], "in the order of the proposal"
    bracket.close(evaluations(20, b=5, c=4), "seed")
    assert names(bracket.entrants) == ["c"]
    bracket.close(evaluations(40, c=9), "seed")
    assert bracket.entrants == ()
    assert [[(prompt.instruction, up) for prompt, _, up in rung] for rung in bracket.rungs] == [
        [("a", False), ("b", True), ("c", True), ("d", False)],
        [("b", False), ("c", True)],
        [("c", False)],
    ]


def test_it_knows_who_ran_when_some_rungs_were_complete():
    bracket = race("abcd")
    assert names(bracket.running_after(0)) == list("abcd")
    bracket.close(evaluations(10, a=4, b=1, c=2, d=3), "seed")
    bracket.close(evaluations(20, b=5, c=4), "seed")
    assert [names(bracket.running_after(rungs)) for rungs in (0, 1, 2)] == [list("abcd"), ["b", "c"], ["c"]]


@pytest.mark.parametrize(("errors", "passes"), [(3, True), (2, False)])
def test_the_gate_is_one_standard_error_over_the_incumbent(errors, passes):
    """sqrt(3 * 7 / 10) = 1.45, sqrt(2 * 8 / 10) = 1.26: four errors are one, and two, more."""
    bracket = race("a", "king")
    assert names(bracket.to_evaluate()) == ["a", "king"]
    bracket.close(evaluations(10, a=4, king=errors), "seed")
    assert bool(bracket.entrants) is passes


def test_the_incumbent_is_not_evaluated_in_the_last_rung_nor_twice():
    bracket = race("a", "king")
    bracket.close(evaluations(10, a=0, king=0), "seed")
    bracket.close(evaluations(20, a=0, king=0), "seed")
    assert names(bracket.to_evaluate()) == ["a"]
    assert names(race(["a", "king"], "king").to_evaluate()) == ["a", "king"]


def test_a_history_keeps_what_each_rung_adds_and_charges_what_is_new():
    history, (a, b, c) = History("seed", top=40), map(Prompt, "abc")
    for fidelity in (10, 40, 20):
        history.add(fidelity, a, Evaluation(Observation(a.id, fidelity // 4, fidelity), 0, 0))
    history.add(40, b, Evaluation(Observation(b.id, 0, 39), 1, 0))
    history.add(10, c, Evaluation(Observation(c.id, 0, 0), 10, 0))
    assert history.calls == 40 + 40 + 10
    assert list(history.observed()) == [
        (a, Observation(a.id, 2, 10)),
        (a, Observation(a.id, 10, 40)),
        (b, Observation(b.id, 0, 39)),
    ]
    assert history.incumbent() == (a, Observation(a.id, 10, 40)), "a failed call is no complete score"
