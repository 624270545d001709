"""The walk: every decision follows from counts and the seed, whatever order they come in."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.search.brackets import ticks
from lipo_e_ray.search.hyperband import Bracket, Hyperband, Rung, cost, hyperband_brackets
from lipo_e_ray.types import Evaluation, InputError, Observation, Prompt, Request, digest


def prompts(names):
    return [Prompt(name) for name in names]


def names(found):
    """Of prompts, in their order."""
    return [prompt.instruction for prompt in found]


def observation(name, errors, evaluated):
    return Observation(Prompt(name).id, errors, evaluated)


def evaluation(name, n, errors, failed=0):
    return Evaluation(observation(name, min(errors, n - failed), n - failed), failed, n)


def random_landscape(seed, failing=0.0):
    """Prefix-nested errors of a prompt by its name; a share of ``failing`` prompts has one failed call."""

    def evaluate(name, n):
        rng = random.Random(f"{seed} {name}")
        level, failed = rng.random(), rng.random() < failing
        return evaluation(name, n, sum(rng.random() < level for _ in range(n)), int(failed))

    return evaluate


def walk(hyperband, evaluate, rng=None, wanted=lambda count: count):
    """Walk to the end, the actions in random order if ``rng`` is given; the log of all proposals and results."""
    log = []
    while actions := hyperband.actions():
        action = rng.choice(actions) if rng else actions[0]
        if isinstance(action, Request):
            told = digest(*(f"{o}" for _, o in action.observed), "|", *(prompt.id for prompt in action.running))[:4]
            proposed = prompts(f"{action.bracket}.{i}.{told}" for i in range(wanted(action.count)))
            hyperband.enter(action.bracket, proposed)
            log.append(("proposed", action, proposed))
        else:
            log += observe(hyperband, action, evaluate)
    return log


def observe(hyperband, action, evaluate):
    """One rung; ``evaluate`` (prompt's name, examples), or the errors by name."""
    if isinstance(evaluate, dict):
        errors = evaluate

        def evaluate(name, n):
            return evaluation(name, n, errors[name])

    return hyperband.observe(
        action.bracket, action.rung, [evaluate(name, action.fidelity) for name in names(action.prompts)]
    )


def step(hyperband, evaluate):
    """The rung that is needed first."""
    return observe(hyperband, hyperband.actions()[0], evaluate)


def results(log):
    return [entry for entry in log if not isinstance(entry, tuple)]


def invbo(index, q=4):
    return Bracket(index, "invbo", 2, (Rung(q, 10), Rung(max(1, q // 2), 20), Rung(max(1, q // 4), 40)))


def small_run():
    return [Bracket(0, "seeds", 1, (Rung(6, 20), Rung(2, 40))), *hyperband_brackets(40, 10, 2, 1), invbo(4), invbo(5)]


def run_to_incumbent(errors=10, gated=None):
    """A walk that stands before its first gated bracket; the incumbent has ``errors`` of 40, 1/4 of them per 10."""
    hyperband = Hyperband([Bracket(0, "hyperband", 0, (Rung(1, 40),)), gated or invbo(1)], seed=0)
    hyperband.enter(0, prompts(["king"]))
    step(hyperband, {"king": errors})
    return hyperband


OVERLAPS = st.integers(0, 4)


# ---- promotion ----


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]), OVERLAPS)
def test_the_promoted_are_among_the_best_and_fidelities_only_grow(seed, failing, overlap):
    log = results(walk(Hyperband(small_run(), seed, overlap=overlap), random_landscape(seed, failing)))
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


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([0, 150, 400]), OVERLAPS)
def test_the_order_of_arrival_changes_nothing(seed, order, max_calls, overlap):
    """Neither what is proposed from which knowledge, nor what is promoted, nor the incumbent."""

    def log(rng):
        hyperband = Hyperband(small_run(), seed, max_calls, 0.3, overlap)
        entries = walk(hyperband, random_landscape(seed, 0.2), rng)
        proposed = [entry for entry in entries if isinstance(entry, tuple)]
        rows = sorted(
            (r.bracket, r.rung, r.observation.prompt_id, r.observation.errors, r.promoted) for r in results(entries)
        )
        return proposed, rows, hyperband.incumbent()

    assert log(random.Random(order)) == log(None)


def test_ties_are_broken_by_the_seed_and_not_by_position():
    bracket = Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(1, 40)))

    def winner(seed, ids):
        hyperband = Hyperband([bracket], seed)
        hyperband.enter(0, prompts(ids))
        step(hyperband, dict.fromkeys(ids, 3))
        return tuple(names(hyperband.actions()[0].prompts))

    winners = [winner(seed, ["a", "b", "c", "d"]) for seed in range(30)]
    assert winners == [winner(seed, ["d", "b", "a", "c"]) for seed in range(30)]
    assert set(winners) == {("a",), ("b",), ("c",), ("d",)}


def test_a_prompt_with_failed_calls_is_out_and_the_bracket_goes_on():
    hyperband = Hyperband([Bracket(0, "hyperband", 1, (Rung(3, 10), Rung(2, 40)))], seed=0)
    hyperband.enter(0, prompts(["a", "b", "c"]))
    first = {"a": (0, 1), "b": (9, 0), "c": (10, 0)}
    rows = step(hyperband, lambda name, n: evaluation(name, n, *first[name]))
    assert [(r.observation.prompt_id, r.promoted) for r in rows] == [
        (Prompt("a").id, False),
        (Prompt("b").id, True),
        (Prompt("c").id, True),
    ]
    second = {"b": (1, 2), "c": (20, 0)}
    step(hyperband, lambda name, n: evaluation(name, n, *second[name]))
    assert hyperband.actions() == []
    assert hyperband.incumbent() == observation("c", 20, 40)


def test_a_bracket_in_which_all_fail_ends():
    hyperband = Hyperband([Bracket(i, "hyperband", 1, (Rung(2, 10), Rung(1, 40))) for i in (0, 1)], seed=0)
    hyperband.enter(0, prompts(["a", "b"]))
    failed = {"a": 10, "b": 1}
    step(hyperband, lambda name, n: evaluation(name, n, 0, failed[name]))
    [action] = hyperband.actions()
    assert isinstance(action, Request) and action.bracket == 1
    assert action.observed == ((Prompt("b"), observation("b", 0, 9)),)
    assert action.running == ()
    assert hyperband.incumbent() is None


def test_the_incumbent_comes_from_the_highest_fidelity_only():
    hyperband = Hyperband(
        [Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40))), Bracket(1, "hyperband", 0, (Rung(1, 40),))],
        seed=0,
        overlap=0,
    )
    hyperband.enter(0, prompts(["lucky", "other"]))
    step(hyperband, {"lucky": 0, "other": 1})
    assert hyperband.incumbent() is None
    step(hyperband, {"lucky": 30})
    hyperband.enter(1, prompts(["steady"]))
    step(hyperband, {"steady": 29})
    assert hyperband.incumbent() == observation("steady", 29, 40)


# ---- overlapping brackets ----


def test_ticks_count_the_rungs_before_a_bracket_opens():
    brackets = hyperband_brackets(80, 10, 2)  # of 4, 3, 2, 1 rungs
    assert ticks(brackets, 0) == (0, 4, 7, 9)
    assert ticks(brackets, 1) == (0, 3, 5, 6)
    assert ticks(brackets, 4) == (0, 1, 2, 3)  # never two at once


def test_a_bracket_opens_while_the_one_before_it_runs_and_knows_what_was_complete():
    hyperband = Hyperband(hyperband_brackets(40, 10, 2), seed=0, overlap=2)  # of 3, 2, 1 rungs
    hyperband.enter(0, prompts("abcd"))
    [first] = hyperband.actions()
    rows = observe(hyperband, first, {"a": 1, "b": 2, "c": 3, "d": 4})
    wanted, second = hyperband.actions()
    assert (second.rung, names(second.prompts), second.wave) == (1, ["a", "b"], 1)
    assert wanted.observed == tuple(zip(prompts("abcd"), (r.observation for r in rows), strict=True))
    assert names(wanted.running) == ["a", "b"]
    observe(hyperband, second, {"a": 5, "b": 5})
    assert hyperband.actions()[0] == wanted, "a result that came in since then is not told"
    hyperband.enter(1, prompts("efg"))
    assert {(a.bracket, a.rung, a.wave) for a in hyperband.actions()} == {(0, 2, 2), (1, 0, 1)}
    step(hyperband, dict.fromkeys("efg", 9))
    wanted = hyperband.actions()[0]
    assert wanted.bracket == 2
    assert [o.evaluated for prompt, o in wanted.observed if prompt.instruction in "ab"] == [10, 20, 10, 20]
    assert len(wanted.running) == 2  # the last one of each bracket


def test_a_bracket_waits_for_a_slow_rung_of_an_earlier_one():
    hyperband = Hyperband(hyperband_brackets(40, 10, 2), seed=0, overlap=2)
    hyperband.enter(0, prompts("abcd"))
    step(hyperband, dict.fromkeys("abcd", 3))
    hyperband.enter(1, prompts("efg"))
    slow, quick = sorted(hyperband.actions(), key=lambda action: action.bracket)
    observe(hyperband, quick, dict.fromkeys("efg", 3))
    assert not any(isinstance(action, Request) for action in hyperband.actions())
    observe(hyperband, slow, dict.fromkeys(names(slow.prompts), 3))
    assert isinstance(hyperband.actions()[0], Request)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), OVERLAPS)
def test_what_is_observed_and_what_is_running_is_all_there_is(seed, overlap):
    """Nothing that was proposed before is unknown to a proposal, so nothing is proposed twice."""
    entered = set()
    for entry in walk(Hyperband(small_run(), seed, overlap=overlap), random_landscape(seed)):
        if isinstance(entry, tuple):
            _, action, proposed = entry
            assert {prompt for prompt, _ in action.observed} | set(action.running) == entered
            entered |= set(proposed)


def test_the_critical_path_of_the_widest_overlap_is_one_bracket():
    """As many rounds of evaluations as the longest bracket has rungs: what 64 engines take the time of."""
    hyperband, rounds = Hyperband(hyperband_brackets(1319, 10, 2), seed=0, overlap=8), 0
    while hyperband.actions():
        while isinstance(action := hyperband.actions()[0], Request):
            hyperband.enter(action.bracket, prompts(f"{action.bracket}.{i}" for i in range(action.count)))
        rounds += 1
        for action in hyperband.actions():
            observe(hyperband, action, random_landscape(0))
    assert rounds == 8


# ---- the gate ----


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
        (10, 10, True),
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
    hyperband = Hyperband([invbo(0, q=1)], seed=0)
    hyperband.enter(0, prompts(["a"]))
    [row] = step(hyperband, {"a": 10})
    assert row.promoted


# ---- the budget ----


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(40, 900), st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.0, 0.3]), OVERLAPS
)
def test_the_budget_is_never_exceeded(seed, max_calls, share, failing, overlap):
    hyperband = Hyperband(small_run(), seed, max_calls, share, overlap)
    widest, log = {}, walk(hyperband, random_landscape(seed, failing), random.Random(seed))
    for r in results(log):
        prompt_id = r.observation.prompt_id
        widest[prompt_id] = max(widest.get(prompt_id, 0), r.fidelity)
        assert r.calls == sum(widest.values())
    before = {r.observation.prompt_id for r in results(log) if r.stage != "invbo"}
    assert sum(widest[prompt_id] for prompt_id in before) <= max(40, int(max_calls * (1 - share)))
    assert sum(widest.values()) == hyperband.position().done <= max_calls


def test_a_narrowed_bracket_still_brings_one_prompt_to_the_top():
    brackets = hyperband_brackets(1319, 10, 2)
    hyperband = Hyperband(brackets, seed=0, max_calls=2500)
    assert 1 < hyperband.actions()[0].count < 128
    log = results(walk(hyperband, random_landscape(1)))
    assert [r.fidelity for r in log if r.bracket == 0][-1] == 1319
    assert max(r.calls for r in log) <= 2500


def test_invbo_has_what_hyperband_leaves_and_stops_when_a_race_cannot_be_paid():
    brackets = [*hyperband_brackets(40, 10, 2), *(invbo(i) for i in range(3, 20))]
    hyperband = Hyperband(brackets, seed=0, max_calls=400, invbo_share=0.5)
    log = results(walk(hyperband, lambda name, n: evaluation(name, n, n // 2)))
    assert max(r.calls for r in log if r.stage == "hyperband") <= 200
    assert 400 - 40 < max(r.calls for r in log) <= 400


def test_a_prompt_proposed_again_pays_only_for_what_is_new():
    hyperband = Hyperband([Bracket(0, "hyperband", 0, (Rung(1, 10),)), Bracket(1, "hyperband", 0, (Rung(1, 40),))], 0)
    for index, n in ((0, 10), (1, 40)):
        hyperband.enter(index, prompts(["again"]))
        [row] = step(hyperband, {"again": 1})
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


def test_more_recorded_proposals_than_the_bracket_asks_for_are_cut():
    hyperband = Hyperband([Bracket(0, "hyperband", 0, (Rung(2, 4),))], seed=0)
    hyperband.enter(0, prompts("abc"))
    assert names(hyperband.actions()[0].prompts) == ["a", "b"]


def test_what_the_walk_does_not_wait_for_is_refused():
    hyperband = Hyperband([Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40)))], seed=0)
    for index, proposed in ((1, "a"), (0, "aa")):
        with pytest.raises(ValueError, match="expected"):
            hyperband.enter(index, prompts(proposed))
    hyperband.enter(0, prompts(["a", "b"]))
    with pytest.raises(ValueError, match="expected proposals"):
        hyperband.enter(0, prompts(["c"]))
    wrong = ((1, 0, "ab", 10), (0, 1, "ab", 10), (0, 0, "ac", 10), (0, 0, "a", 10), (0, 0, "ab", 40))
    for index, rung, evaluated, n in wrong:
        with pytest.raises(ValueError, match="expected"):
            hyperband.observe(index, rung, [evaluation(name, n, 1) for name in evaluated])
    step(hyperband, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="expected one of"):
        hyperband.observe(0, 0, [evaluation(name, 10, 1) for name in "ab"])


def test_the_position_counts_up_to_what_was_planned():
    brackets = small_run()
    hyperband = Hyperband(brackets, seed=0, overlap=1)
    first = hyperband.position()
    assert (first.done, first.planned, first.bracket, first.rung, first.incumbent) == (0, cost(brackets), 0, 0, None)
    hyperband.enter(0, prompts("abcdef"))
    assert hyperband.position().open == 1
    step(hyperband, dict.fromkeys("abcdef", 2))
    second = hyperband.position()
    assert (second.done, second.planned, second.rung, second.open) == (120, cost(brackets), 1, 2)
    walk(hyperband, random_landscape(0))
    last = hyperband.position()
    assert last.done == last.planned <= cost(brackets)
    assert (last.bracket, last.rung, last.open, last.incumbent) == (5, 2, 0, hyperband.incumbent())


def test_a_stopped_walk_begins_nothing_and_takes_what_was_under_way():
    hyperband, landscape = Hyperband(small_run(), seed=0), random_landscape(0)
    hyperband.enter(0, prompts("abcdef"))
    under_way = hyperband.actions()[0]
    hyperband.stop()
    assert hyperband.actions() == []
    assert observe(hyperband, under_way, landscape)
    assert hyperband.actions() == []
