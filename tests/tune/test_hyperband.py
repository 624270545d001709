"""The walk: every decision follows from counts and the seed, whatever order they come in."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.tune.hyperband import Bracket, Done, Evaluate, Hyperband, Propose, Rung, cost, hyperband_brackets
from lipo_e_ray.types import Evaluation, InputError, Observation, digest


def evaluation(prompt_id, n, errors, failed=0):
    return Evaluation(Observation(prompt_id, min(errors, n - failed), n - failed), failed, n)


def random_landscape(seed, failing=0.0):
    """Prefix-nested errors of any prompt id; a share of ``failing`` prompts has one failed call."""
    def evaluate(prompt_id, n):
        rng = random.Random(f"{seed} {prompt_id}")
        level, failed = rng.random(), rng.random() < failing
        return evaluation(prompt_id, n, sum(rng.random() < level for _ in range(n)), int(failed))
    return evaluate


def walk(hyperband, evaluate, rng=None, wanted=lambda count: count):
    """Walk to the end, within a rung in random order if ``rng`` is given; the log of all proposals and results."""
    log = []
    while not isinstance(action := hyperband.next_action(), Done):
        if isinstance(action, Propose):
            known = digest(*(f"{o}" for o in hyperband.observations()))[:4]
            ids = [f"{action.bracket.index}.{i}.{known}" for i in range(wanted(action.count))]
            hyperband.proposed(action.bracket.index, ids)
            log.append(("proposed", action.bracket, ids))
            continue
        prompt_id = rng.choice(action.prompt_ids) if rng else action.prompt_ids[0]
        log += hyperband.observe(action.bracket.index, prompt_id, evaluate(prompt_id, action.fidelity))
    return log


def results(log):
    return [entry for entry in log if not isinstance(entry, tuple)]


def invbo(index, q=4):
    return Bracket(index, "invbo", 2, (Rung(q, 10), Rung(max(1, q // 2), 20), Rung(max(1, q // 4), 40)))


def small_run():
    return [Bracket(0, "seeds", 1, (Rung(6, 20), Rung(2, 40))), *hyperband_brackets(40, 10, 2, 1), invbo(4), invbo(5)]


def run_to_incumbent(errors=10, gated=None):
    """A walk that stands before its first gated bracket; the incumbent has ``errors`` of 40, 1/4 of them per 10."""
    hyperband = Hyperband([Bracket(0, "hyperband", 0, (Rung(1, 40),)), gated or invbo(1)], seed=0)
    hyperband.proposed(0, ["king"])
    hyperband.observe(0, "king", evaluation("king", 40, errors))
    return hyperband


# ---- promotion ----

@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]))
def test_the_promoted_are_among_the_best_and_fidelities_only_grow(seed, failing):
    log = results(walk(Hyperband(small_run(), seed), random_landscape(seed, failing)))
    rungs = {}
    for r in log:
        rungs.setdefault((r.bracket, r.rung), []).append(r)
    for (bracket, rung), entries in rungs.items():
        up = [r.observation.errors for r in entries if r.promoted]
        out = [r.observation.errors for r in entries if not r.promoted and r.observation.evaluated == r.fidelity]
        assert all(r.observation.evaluated == r.fidelity for r in entries if r.promoted)
        assert not up or not out or max(up) <= min(out)
        above = rungs.get((bracket, rung + 1), [])
        assert [r.observation.prompt_id for r in above] == [r.observation.prompt_id for r in entries if r.promoted]
        assert all(r.fidelity > entries[0].fidelity for r in above)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([0, 150]))
def test_the_order_within_a_rung_changes_nothing(seed, order, max_calls):
    def log(rng):
        hyperband = Hyperband(small_run(), seed, max_calls, 0.3)
        return walk(hyperband, random_landscape(seed, 0.2), rng), hyperband.incumbent(), hyperband.observations()
    assert log(random.Random(order)) == log(None)


def test_ties_are_broken_by_the_seed_and_not_by_position():
    bracket = Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(1, 40)))

    def winner(seed, ids):
        hyperband = Hyperband([bracket], seed)
        hyperband.proposed(0, ids)
        for prompt_id in ids:
            hyperband.observe(0, prompt_id, evaluation(prompt_id, 10, 3))
        return hyperband.next_action().prompt_ids
    winners = [winner(seed, ["a", "b", "c", "d"]) for seed in range(30)]
    assert winners == [winner(seed, ["d", "b", "a", "c"]) for seed in range(30)]
    assert set(winners) == {("a",), ("b",), ("c",), ("d",)}


def test_a_prompt_with_failed_calls_is_out_and_the_bracket_goes_on():
    hyperband = Hyperband([Bracket(0, "hyperband", 1, (Rung(3, 10), Rung(2, 40)))], seed=0)
    hyperband.proposed(0, ["a", "b", "c"])
    hyperband.observe(0, "a", evaluation("a", 10, 0, failed=1))
    hyperband.observe(0, "b", evaluation("b", 10, 9))
    rows = hyperband.observe(0, "c", evaluation("c", 10, 10))
    assert [(r.observation.prompt_id, r.promoted) for r in rows] == [("a", False), ("b", True), ("c", True)]
    hyperband.observe(0, "b", evaluation("b", 40, 1, failed=2))
    hyperband.observe(0, "c", evaluation("c", 40, 20))
    assert hyperband.next_action() == Done()
    assert hyperband.incumbent() == Observation("c", 20, 40)
    assert hyperband.observations() == [Observation("a", 0, 9), Observation("b", 1, 38), Observation("c", 20, 40)]


def test_a_bracket_in_which_all_fail_ends():
    hyperband = Hyperband([Bracket(i, "hyperband", 1, (Rung(2, 10), Rung(1, 40))) for i in (0, 1)], seed=0)
    hyperband.proposed(0, ["a", "b"])
    hyperband.observe(0, "a", evaluation("a", 10, 0, failed=10))
    hyperband.observe(0, "b", evaluation("b", 10, 0, failed=1))
    assert isinstance(hyperband.next_action(), Propose)
    assert hyperband.next_action().bracket.index == 1
    assert hyperband.observations() == [Observation("b", 0, 9)]
    assert hyperband.incumbent() is None


def test_the_incumbent_comes_from_the_highest_fidelity_only():
    hyperband = Hyperband([Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40))),
                           Bracket(1, "hyperband", 0, (Rung(1, 40),))], seed=0)
    hyperband.proposed(0, ["lucky", "other"])
    hyperband.observe(0, "lucky", evaluation("lucky", 10, 0))
    assert hyperband.incumbent() is None
    hyperband.observe(0, "other", evaluation("other", 10, 1))
    assert hyperband.incumbent() is None
    hyperband.observe(0, "lucky", evaluation("lucky", 40, 30))
    hyperband.proposed(1, ["steady"])
    hyperband.observe(1, "steady", evaluation("steady", 40, 29))
    assert hyperband.incumbent() == Observation("steady", 29, 40)


# ---- the gate ----

@pytest.mark.parametrize(("king", "candidate", "passes"), [
    (0, 0, True), (0, 1, False),  # no error, no slack
    (3, 4, True), (3, 5, False),  # sqrt(3 * 7 / 10) = 1.45
    (5, 6, True), (5, 7, False),  # sqrt(5 * 5 / 10) = 1.58
    (2, 0, True), (10, 10, True),
])
def test_the_gate_allows_one_standard_error_over_the_incumbent(king, candidate, passes):
    hyperband = run_to_incumbent(gated=invbo(1, q=1))
    hyperband.proposed(1, ["new"])
    assert hyperband.next_action().prompt_ids == ("new", "king")
    assert hyperband.observe(1, "king", evaluation("king", 10, king)) == []
    [row] = hyperband.observe(1, "new", evaluation("new", 10, candidate))
    assert row.promoted is passes
    assert isinstance(hyperband.next_action(), Evaluate) is passes


def test_the_incumbent_runs_along_at_no_charge_and_not_to_the_top():
    hyperband = run_to_incumbent()
    before = hyperband.snapshot().done
    hyperband.proposed(1, ["a", "b", "c", "d"])
    asked = []
    while isinstance(action := hyperband.next_action(), Evaluate):
        asked.append((action.fidelity, set(action.prompt_ids)))
        for prompt_id in action.prompt_ids:
            errors = action.fidelity // 4 + (prompt_id not in ("king", "a"))
            rows = hyperband.observe(1, prompt_id, evaluation(prompt_id, action.fidelity, errors))
        assert "king" not in [r.observation.prompt_id for r in rows]
    assert [("king" in ids, fidelity) for fidelity, ids in asked] == [(True, 10), (True, 20), (False, 40)]
    assert hyperband.snapshot().done - before == 4 * 10 + 2 * 10 + 1 * 20


def test_gated_brackets_halve_within_q_even_when_all_pass():
    hyperband = run_to_incumbent()
    hyperband.proposed(1, ["a", "b", "c", "d"])
    for prompt_id, errors in {"a": 4, "b": 3, "c": 2, "d": 1, "king": 5}.items():
        hyperband.observe(1, prompt_id, evaluation(prompt_id, 10, errors))
    assert hyperband.next_action().prompt_ids == ("c", "d", "king")


def test_without_an_incumbent_nothing_is_gated():
    hyperband = Hyperband([invbo(0, q=1)], seed=0)
    hyperband.proposed(0, ["a"])
    [row] = hyperband.observe(0, "a", evaluation("a", 10, 10))
    assert row.promoted


# ---- the budget ----

@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(40, 900), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.0, 0.3]))
def test_the_budget_is_never_exceeded(seed, max_calls, share, failing):
    hyperband = Hyperband(small_run(), seed, max_calls, share)
    widest, log = {}, walk(hyperband, random_landscape(seed, failing))
    for r in results(log):
        prompt_id = r.observation.prompt_id
        widest[prompt_id] = max(widest.get(prompt_id, 0), r.fidelity)
        assert r.calls == sum(widest.values())
        if r.stage != "invbo":
            assert r.calls <= max(40, int(max_calls * (1 - share)))
    assert sum(widest.values()) == hyperband.snapshot().done <= max_calls


def test_a_narrowed_bracket_still_brings_one_prompt_to_the_top():
    brackets = hyperband_brackets(1319, 10, 2)
    hyperband = Hyperband(brackets, seed=0, max_calls=2500)
    assert 1 < hyperband.next_action().count < 128
    log = results(walk(hyperband, random_landscape(1)))
    assert [r.fidelity for r in log if r.bracket == 0][-1] == 1319
    assert max(r.calls for r in log) <= 2500


def test_invbo_has_what_hyperband_leaves_and_stops_when_a_race_cannot_be_paid():
    brackets = [*hyperband_brackets(40, 10, 2), *(invbo(i) for i in range(3, 20))]
    hyperband = Hyperband(brackets, seed=0, max_calls=400, invbo_share=0.5)
    log = results(walk(hyperband, lambda prompt_id, n: evaluation(prompt_id, n, n // 2)))
    assert max(r.calls for r in log if r.stage == "hyperband") <= 200
    assert 400 - 40 < max(r.calls for r in log) <= 400


def test_a_prompt_proposed_again_pays_only_for_what_is_new():
    hyperband = Hyperband([Bracket(0, "hyperband", 0, (Rung(1, 10),)), Bracket(1, "hyperband", 0, (Rung(1, 40),))], 0)
    for index, n in ((0, 10), (1, 40)):
        hyperband.proposed(index, ["again"])
        [row] = hyperband.observe(index, "again", evaluation("again", n, 1))
        assert row.calls == n


def test_a_budget_below_one_full_evaluation_is_refused():
    with pytest.raises(InputError, match="expected 40 evaluations or more .* got 39"):
        Hyperband(small_run(), seed=0, max_calls=39)


# ---- what the walk is told ----

def test_fewer_proposals_shrink_the_bracket_and_none_end_it():
    hyperband = Hyperband(hyperband_brackets(40, 10, 2), seed=0)
    wanted = iter([2, 0, 0])
    log = walk(hyperband, random_landscape(0), wanted=lambda count: next(wanted))
    assert list(wanted) == []
    assert [r.fidelity for r in results(log)] == [10, 10, 20, 40]


def test_what_the_walk_does_not_wait_for_is_refused():
    hyperband = Hyperband([Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40)))], seed=0)
    for index, ids in ((1, ["a"]), (0, ["a", "a"]), (0, ["a", "b", "c"])):
        with pytest.raises(ValueError, match="expected"):
            hyperband.proposed(index, ids)
    hyperband.proposed(0, ["a", "b"])
    with pytest.raises(ValueError, match="expected proposals"):
        hyperband.proposed(0, ["c"])
    for index, prompt_id, n in ((1, "a", 10), (0, "c", 10), (0, "a", 40)):
        with pytest.raises(ValueError, match="expected"):
            hyperband.observe(index, prompt_id, evaluation(prompt_id, n, 1))
    hyperband.observe(0, "a", evaluation("a", 10, 1))
    with pytest.raises(ValueError, match="expected an evaluation"):
        hyperband.observe(0, "a", evaluation("a", 10, 1))


def test_the_snapshot_counts_up_to_what_was_planned():
    brackets = small_run()
    hyperband = Hyperband(brackets, seed=0)
    first = hyperband.snapshot()
    assert (first.done, first.planned, first.bracket, first.rung, first.incumbent) == (0, cost(brackets), 0, 0, None)
    hyperband.proposed(0, list("abcdef"))
    hyperband.observe(0, "c", evaluation("c", 20, 1))
    assert (hyperband.snapshot().done, hyperband.snapshot().planned) == (20, cost(brackets))
    for prompt_id in "abdef":
        hyperband.observe(0, prompt_id, evaluation(prompt_id, 20, 2))
    assert hyperband.snapshot().rung == 1
    walk(hyperband, random_landscape(0))
    last = hyperband.snapshot()
    assert last.done == last.planned <= cost(brackets)
    assert (last.bracket, last.rung, last.incumbent) == (5, 2, hyperband.incumbent())
