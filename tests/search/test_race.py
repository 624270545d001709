"""One bracket, step by step, and what its rungs say; whole walks are in test_hyperband.py."""

import pytest

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.race import History, Race
from lipo_e_ray.types import Evaluation, Observation, Prompt
from tests.search.walks import names, prompts


def evaluations(n, **errors):
    ids = {Prompt(name).id: count for name, count in errors.items()}
    return {prompt_id: Evaluation(Observation(prompt_id, count, n), 0, n) for prompt_id, count in ids.items()}


def race(entrants, incumbent=None, chunk=0):
    """A race of four prompts, of which ``entrants`` are proposed."""
    bracket = Bracket(0, "invbo", 2, (Rung(4, 10), Rung(2, 20), Rung(1, 40)), chunk)
    found = Race(bracket, 0, Prompt(incumbent) if incumbent else None)
    if entrants:
        found.enter(prompts(entrants))
    return found


def test_it_halves_by_errors_until_the_last_rung_is_complete():
    bracket = race("abcd")
    bracket.observe(evaluations(10, a=4, b=1, c=2, d=3), "seed")
    assert names(bracket.entrants) == ["b", "c"], "in the order of the proposal"
    bracket.observe(evaluations(20, b=5, c=4), "seed")
    assert names(bracket.entrants) == ["c"] and not bracket.over
    bracket.observe(evaluations(40, c=9), "seed")
    assert bracket.entrants == () and bracket.over
    assert [[(prompt.instruction, up) for prompt, _, up in rung] for rung in bracket.rungs] == [
        [("a", False), ("b", True), ("c", True), ("d", False)],
        [("b", False), ("c", True)],
        [("c", False)],
    ]


def test_the_first_rung_is_complete_when_its_last_chunk_is():
    bracket = race("ab", chunk=2)
    assert (bracket.wanted, names(bracket.entrants), bracket.steps) == (2, ["a", "b"], 0)
    bracket.enter(prompts("cd"))
    assert (bracket.wanted, names(bracket.entrants)) == (0, ["a", "b"]), "the oldest chunk without an answer"
    entries = bracket.observe(evaluations(10, a=4, b=3), "seed")
    assert [(prompt.instruction, up) for prompt, _, up in entries] == [("a", False), ("b", False)]
    assert (names(bracket.entrants), bracket.steps, bracket.rungs) == (["c", "d"], 1, [])
    entries = bracket.observe(evaluations(10, c=2, d=9), "seed")
    assert [(p.instruction, up) for p, _, up in entries] == [("a", False), ("b", True), ("c", True), ("d", False)]
    assert (names(bracket.entrants), bracket.steps) == (["b", "c"], 2)


def test_it_knows_who_ran_and_what_was_seen_when_some_steps_were_complete():
    bracket = race("ab", chunk=2)
    bracket.enter(prompts("cd"))
    bracket.observe(evaluations(10, a=4, b=1), "seed")
    bracket.observe(evaluations(10, c=2, d=3), "seed")
    bracket.observe(evaluations(20, b=5, c=4), "seed")
    running = [names(bracket.running_after(steps)) for steps in range(4)]
    assert running == [list("abcd"), list("abcd"), ["b", "c"], ["c"]]
    seen = [[(p.instruction, fidelity) for fidelity, p, _ in bracket.observed_after(steps)] for steps in range(4)]
    first = [("a", 10), ("b", 10), ("c", 10), ("d", 10)]
    assert seen == [[], first[:2], first, [*first, ("b", 20), ("c", 20)]]


@pytest.mark.parametrize("steps", range(7))
def test_a_race_that_is_further_on_shows_no_later_rung_early(steps):
    bracket = race("", chunk=1)
    for name in "abcd":
        bracket.enter(prompts(name))
        bracket.observe(evaluations(10, **{name: 1}), "seed")
    for n in (20, 40):
        bracket.observe(evaluations(n, **dict.fromkeys(names(bracket.entrants), 2)), "seed")
    assert bracket.over and bracket.steps == 6
    seen = [fidelity for fidelity, _, _ in bracket.observed_after(steps)]
    assert seen == [10, 10, 10, 10, 20, 20, 40][: steps if steps < 5 else steps + 1]


def test_with_fewer_prompts_than_wanted_it_shrinks():
    fewer = race("abc")
    assert [rung.size for rung in fewer.bracket.rungs] == [3, 1, 1] and fewer.wanted == 0
    none = race("")
    none.enter([])
    assert none.over and none.entrants == () and list(none.observed_after(5)) == []


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_an_empty_last_chunk_completes_the_first_rung(evaluated_before):
    bracket = race("ab", chunk=2)
    if evaluated_before:
        bracket.observe(evaluations(10, a=4, b=1), "seed")
        assert not bracket.over and bracket.entrants == ()
    assert bool(bracket.enter([])) is evaluated_before
    if not evaluated_before:
        bracket.observe(evaluations(10, a=4, b=1), "seed")
    assert [rung.size for rung in bracket.bracket.rungs] == [2, 1, 1]
    assert names(bracket.entrants) == ["b"]


@pytest.mark.parametrize("errors", [10, 9])
def test_a_prompt_that_errs_on_everything_does_not_go_up(errors):
    bracket = race("abcd")
    bracket.observe(evaluations(10, a=10, b=10, c=errors, d=10), "seed")
    assert names(bracket.entrants) == (["c"] if errors < 10 else [])
    assert bracket.over is (errors == 10)


@pytest.mark.parametrize(("errors", "passes"), [(3, True), (2, False)])
def test_the_gate_is_one_standard_error_over_the_incumbent(errors, passes):
    """sqrt(3 * 7 / 10) = 1.45, sqrt(2 * 8 / 10) = 1.26: four errors are one, and two, more."""
    bracket = race("a", "king")
    assert names(bracket.to_evaluate()) == ["a", "king"]
    bracket.observe(evaluations(10, a=4, king=errors), "seed")
    assert bool(bracket.entrants) is passes


def test_the_incumbent_is_not_evaluated_in_the_last_rung_nor_twice():
    bracket = race("a", "king")
    bracket.observe(evaluations(10, a=0, king=0), "seed")
    bracket.observe(evaluations(20, a=0, king=0), "seed")
    assert names(bracket.to_evaluate()) == ["a"]
    assert names(race(["a", "king"], "king").to_evaluate()) == ["a", "king"]


# ---- what a set of rungs says ----


def told(*entries):
    """A history of (name, fidelity, errors, failed)."""
    history = History("seed")
    for name, fidelity, errors, failed in entries:
        prompt = Prompt(name)
        history.add(fidelity, prompt, Evaluation(Observation(prompt.id, errors, fidelity - failed), failed, 0))
    return history


def test_a_history_keeps_what_each_rung_adds_and_charges_what_is_new():
    a, b, c = map(Prompt, "abc")
    history = told(("a", 10, 2, 0), ("a", 40, 10, 0), ("a", 20, 5, 0), ("b", 40, 0, 1), ("c", 10, 0, 10))
    assert history.calls == 40 + 40 + 10
    assert [history.charged(prompt) for prompt in (a, b, c, Prompt("d"))] == [40, 40, 10, 0]
    assert list(history.observed()) == [
        (a, Observation(a.id, 2, 10)),
        (a, Observation(a.id, 10, 40)),
        (b, Observation(b.id, 0, 39)),
    ]
    assert history.incumbent() == (a, Observation(a.id, 10, 40)), "a failed call is no complete score"


def test_leaders_have_seen_most_and_then_err_least():
    history = told(
        ("lucky", 10, 0, 0), ("b", 40, 9, 0), ("a", 10, 1, 0), ("a", 40, 3, 0), ("out", 10, 0, 0), ("out", 40, 1, 1)
    )
    assert names(prompt for prompt, _ in history.leaders()) == ["a", "b", "lucky"], "nor one that failed on its way"
    assert History("seed").leaders() == [] and History("seed").incumbent() is None


def test_prompts_are_rated_by_their_error_at_the_highest_fidelity():
    history = told(("a", 10, 5, 0), ("a", 40, 4, 0), ("b", 20, 2, 0), ("c", 10, 1, 0))
    assert names(sorted(prompts(["new", "c", "a", "b"]), key=history.rate)) == ["a", "b", "c", "new"]
