"""The walk: every decision follows from counts and the seed, whatever order they come in."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.search.brackets import Bracket, Rung, cost, hyperband_brackets
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.race import History
from lipo_e_ray.search.schedule import FixedSchedule, chunked
from lipo_e_ray.types import Prompt, Request
from tests.search.walks import (
    evaluation,
    half_right,
    invbo,
    names,
    observation,
    observe,
    prompts,
    random_landscape,
    requests,
    results,
    step,
    walk,
)


def hyperband_of(brackets, seed=0, limit=0, overlap=1, ending=None):
    return Hyperband(FixedSchedule(tuple(brackets), limit, ending), seed, overlap)


def small_run(chunks=1):
    """A bracket for the first prompts, one pass, two iterations of InvBO."""
    brackets = [Bracket(0, "hyperband", 1, (Rung(6, 20), Rung(2, 40))), *hyperband_brackets(40, 10, 2, 1)]
    return [*(chunked(bracket, chunks) for bracket in brackets), invbo(4), invbo(5)]


ENDING = Ending(tuple(prompts(f"plain {i}" for i in range(3))), 40, 20, 10)


OVERLAPS, CHUNKS, LIMITS = st.integers(0, 4), st.sampled_from([1, 2, 8]), st.sampled_from([0, 150, 400])


# ---- promotion ----


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.3]), OVERLAPS, CHUNKS)
def test_the_promoted_are_among_the_best_and_fidelities_only_grow(seed, failing, hopeless, overlap, chunks):
    hyperband = hyperband_of(small_run(chunks), seed, overlap=overlap)
    log = results(walk(hyperband, random_landscape(seed, failing, hopeless)))
    rungs = {}
    for r in log:  # when its last chunk is in, all of a rung is told again
        rungs.setdefault((r.bracket, r.rung), {})[r.observation.prompt_id] = r
    for (bracket, rung), found in rungs.items():
        entries = found.values()
        up = [r.observation.errors for r in entries if r.promoted]
        out = [r.observation.errors for r in entries if not r.promoted and r.observation.evaluated == r.fidelity]
        assert all(r.observation.evaluated == r.fidelity > r.observation.errors for r in entries if r.promoted)
        assert not up or not out or max(up) <= min(out)
        above = rungs.get((bracket, rung + 1), {})
        assert list(above) == [r.observation.prompt_id for r in entries if r.promoted]
        fidelity = max(r.fidelity for r in entries)
        assert all(r.fidelity > fidelity for r in above.values())


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 10**6), LIMITS, OVERLAPS, CHUNKS, st.sampled_from([0, 7]))
def test_the_order_of_arrival_changes_nothing(seed, order, limit, overlap, chunks, most):
    """Neither what is proposed from which knowledge, nor what is promoted, nor the incumbent, nor what follows."""

    def wanted(request):
        """Where ``most``: no more than so many prompts exist for a bracket."""
        return min(request.count, max(0, most - request.first)) if most else request.count

    def log(rng):
        hyperband = hyperband_of(small_run(chunks), seed, limit, overlap, ENDING)
        entries = walk(hyperband, random_landscape(seed, 0.2, 0.2), rng, wanted)
        proposed = [entry for entry in entries if isinstance(entry, tuple)]
        promoted = {}
        for r in results(entries):
            key = (r.bracket, r.rung, r.observation.prompt_id, r.observation.errors)
            promoted[key] = promoted.get(key, False) or r.promoted
        return proposed, promoted, hyperband.incumbent(), hyperband.brackets, hyperband.position()

    assert log(random.Random(order)) == log(None)


def test_ties_are_broken_by_the_seed_and_not_by_position():
    bracket = Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(1, 40)))

    def winner(seed, ids):
        hyperband = hyperband_of([bracket], seed)
        hyperband.enter(0, prompts(ids))
        step(hyperband, dict.fromkeys(ids, 3))
        return tuple(names(hyperband.actions()[0].prompts))

    winners = [winner(seed, ["a", "b", "c", "d"]) for seed in range(30)]
    assert winners == [winner(seed, ["d", "b", "a", "c"]) for seed in range(30)]
    assert set(winners) == {("a",), ("b",), ("c",), ("d",)}


def test_a_prompt_with_failed_calls_is_out_and_the_bracket_goes_on():
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(3, 10), Rung(2, 40)))], seed=0)
    hyperband.enter(0, prompts(["a", "b", "c"]))
    first = {"a": (0, 1), "b": (8, 0), "c": (9, 0)}
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
    hyperband = hyperband_of([Bracket(i, "hyperband", 1, (Rung(2, 10), Rung(1, 40))) for i in (0, 1)], seed=0)
    hyperband.enter(0, prompts(["a", "b"]))
    failed = {"a": 10, "b": 1}
    step(hyperband, lambda name, n: evaluation(name, n, 0, failed[name]))
    [action] = hyperband.actions()
    assert isinstance(action, Request) and action.bracket == 1
    assert action.observed == ((Prompt("b"), observation("b", 0, 9)),)
    assert action.running == ()
    assert hyperband.incumbent() is None


def test_the_incumbent_comes_from_the_highest_fidelity_only():
    hyperband = hyperband_of(
        [Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40))), Bracket(1, "hyperband", 0, (Rung(1, 40),))],
        seed=0,
        overlap=0,
    )
    hyperband.enter(0, prompts(["lucky", "other"]))
    step(hyperband, {"lucky": 0, "other": 1})
    assert hyperband.incumbent() == observation("lucky", 0, 10)
    step(hyperband, {"lucky": 30})
    hyperband.enter(1, prompts(["steady"]))
    step(hyperband, {"steady": 29})
    assert hyperband.incumbent() == observation("steady", 29, 40)


# ---- the budget ----


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(40, 900), st.sampled_from([0.0, 0.3]), OVERLAPS, CHUNKS, st.integers(0, 20))
def test_the_limit_is_never_exceeded(seed, limit, failing, overlap, chunks, written):
    hyperband = hyperband_of(small_run(chunks), seed, limit, overlap, ENDING)
    rng = random.Random(seed)
    widest, log = {}, walk(hyperband, random_landscape(seed, failing, 0.2), rng, written=written)
    for r in results(log):
        prompt_id = r.observation.prompt_id
        widest[prompt_id] = max(widest.get(prompt_id, 0), r.fidelity)
    assert sum(widest.values()) == hyperband.position().done
    texts = written * sum(request.stage == "invbo" for request in requests(log))
    last = [r for r in results(log) if r.stage in ("baseline", "final")]
    # A fixed list does not know what the texts of its last iteration take; see LimitedSchedule for that.
    assert sum(widest.values()) + (texts if last else texts - written * bool(texts)) <= limit


def test_a_narrowed_bracket_still_brings_one_prompt_to_the_top():
    brackets = hyperband_brackets(1319, 10, 2)
    hyperband = hyperband_of(brackets, limit=2500)
    assert 1 < hyperband.actions()[0].count < 128
    log = results(walk(hyperband, random_landscape(1)))
    assert [r.fidelity for r in log if r.bracket == 0][-1] == 1319
    assert max(r.calls for r in log) <= 2500


def test_what_was_written_counts_and_a_bracket_that_cannot_be_paid_is_left_out():
    """An iteration costs 4 x 10 + 2 x 10 + 1 x 20."""
    for written, iterations in ((0, 5), (20, 4), (100, 2)):
        hyperband = hyperband_of([invbo(i) for i in range(9)], limit=400)
        log = walk(hyperband, half_right, written=written)
        full = [bracket for bracket in hyperband.brackets if bracket.cost() == 80]
        assert len(full) == iterations
        assert max(r.calls for r in results(log)) + written * len(requests(log)) <= 400 + written


def test_a_prompt_proposed_again_pays_only_for_what_is_new():
    hyperband = hyperband_of(Bracket(i, "hyperband", 0, (Rung(1, n),)) for i, n in ((0, 10), (1, 40)))
    for index, n in ((0, 10), (1, 40)):
        hyperband.enter(index, prompts(["again"]))
        [row] = step(hyperband, {"again": 1})
        assert row.calls == n


def test_what_a_bracket_did_not_cost_pays_for_another_one():
    """All of the first one err on everything, so its upper rungs cost nothing. That is known when it is over."""
    brackets = [Bracket(i, "hyperband", 1, (Rung(4, 10), Rung(2, 40))) for i in (0, 1)]
    for right, widths in ((0, [4, 3]), (5, [4])):
        hyperband = hyperband_of(brackets, limit=120)
        walk(hyperband, lambda name, n, right=right: evaluation(name, n, n if name[0] == "0" and not right else n // 2))
        assert [bracket.rungs[0].size for bracket in hyperband.brackets] == widths


# ---- what the walk is told ----


def test_fewer_proposals_shrink_the_bracket_and_none_end_it():
    hyperband = hyperband_of(hyperband_brackets(40, 10, 2))
    wanted = iter([2, 0, 0])
    log = walk(hyperband, half_right, wanted=lambda request: next(wanted))
    assert list(wanted) == []
    assert [r.fidelity for r in results(log)] == [10, 10, 20, 40]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 5), max_size=12), OVERLAPS, CHUNKS)
def test_in_any_chunk_prompts_may_run_out(seed, given_counts, overlap, chunks):
    """Those that exist race on, in a bracket of their number; the walk ends, and waits for nothing twice."""
    counts, asked = iter(given_counts), []

    def wanted(request):
        asked.append((request.bracket, request.first))
        return min(request.count, next(counts, 0))

    hyperband = hyperband_of(small_run(chunks), seed, overlap=overlap, ending=ENDING)
    log = walk(hyperband, random_landscape(seed), random.Random(seed), wanted)
    assert hyperband.actions() == [] and len(set(asked)) == len(asked)
    entered = {}
    for _, request, proposed in (entry for entry in log if isinstance(entry, tuple)):
        assert request.first == len(entered.get(request.bracket, []))
        entered.setdefault(request.bracket, []).extend(prompt.id for prompt in proposed)
    for bracket in hyperband.brackets:
        if bracket.index in entered:
            first = [r for r in results(log) if (r.bracket, r.rung) == (bracket.index, 0)]
            assert {r.observation.prompt_id for r in first} == set(entered[bracket.index])
            assert bracket.rungs[0].size == max(1, len(entered[bracket.index]))
            assert hyperband.is_over(bracket.index)


def test_prompts_that_run_out_after_their_chunk_is_in_complete_the_rung():
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(2, 40)), chunk=2)], overlap=0)
    hyperband.enter(0, prompts("ab"))
    rows = step(hyperband, {"a": 3, "b": 2})
    assert [r.promoted for r in rows] == [False, False]
    rows = hyperband.enter(0, [])
    assert [(r.observation, r.promoted) for r in rows] == [
        (observation("a", 3, 10), False),
        (observation("b", 2, 10), True),
    ]
    assert names(hyperband.actions()[0].prompts) == ["b"]


def test_prompts_that_err_on_everything_do_not_go_up():
    hyperband = hyperband_of([Bracket(0, "hyperband", 2, (Rung(3, 10), Rung(2, 20), Rung(1, 40)))])
    hyperband.enter(0, prompts("abc"))
    rows = step(hyperband, {"a": 10, "b": 9, "c": 10})
    assert [r.promoted for r in rows] == [False, True, False]
    step(hyperband, {"b": 20})
    assert hyperband.actions() == [] and hyperband.is_over(0)


def test_too_many_proposals_are_refused():
    hyperband = hyperband_of([Bracket(0, "hyperband", 0, (Rung(2, 4),))])
    with pytest.raises(ValueError, match="expected up to 2 distinct prompts"):
        hyperband.enter(0, prompts("abc"))


# ---- known prompts, at the end ----


def test_the_races_for_baseline_and_answer_come_when_all_others_are_over():
    hyperband = hyperband_of(hyperband_brackets(40, 10, 2), overlap=2, ending=ENDING)
    stages = []
    while actions := hyperband.actions():
        stages.append({hyperband.brackets[action.bracket].stage for action in actions})
        if isinstance(action := actions[0], Request):
            hyperband.enter(action.bracket, prompts(f"{action.bracket}.{i}" for i in range(action.count)))
        else:
            observe(hyperband, action, random_landscape(0))
    ending = stages.index({"baseline"})
    assert set(map(tuple, stages[:ending])) == {("hyperband",)}
    assert stages[ending:] in ([{"baseline"}, {"baseline"}, {"final"}], [{"baseline"}, {"final"}])
    baseline, final = hyperband.brackets[-2:]
    assert baseline.rungs == (Rung(3, 40),) and final.rungs == (Rung(4, 60),)
    assert hyperband.incumbent().evaluated == 60


def test_the_finalists_are_the_best_at_the_top_and_pay_for_fresh_examples_only():
    ending = Ending((), 40, 20, 10)
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(3, 40)))], ending=ending)
    hyperband.enter(0, prompts("abcd"))
    step(hyperband, {"a": 1, "b": 2, "c": 3, "d": 4})
    step(hyperband, {"a": 9, "b": 8, "c": 7})
    before, [action] = hyperband.position().done, hyperband.actions()
    assert (action.fidelity, names(action.prompts)) == (60, ["c", "b", "a", "d"])
    assert hyperband.position().stage == "final"
    rows = step(hyperband, {"c": 9, "b": 8, "a": 20, "d": 9})
    assert {(r.stage, r.fidelity, r.promoted) for r in rows} == {("final", 60, False)}
    assert hyperband.position().done - before == 3 * 20 + 50
    assert hyperband.incumbent() == observation("b", 8, 60) and hyperband.actions() == []


def test_what_the_walk_does_not_wait_for_is_refused():
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(2, 10), Rung(1, 40)))], seed=0)
    for index, proposed in ((1, "a"), (0, "aa")):
        with pytest.raises(ValueError, match="expected"):
            hyperband.enter(index, prompts(proposed))
    hyperband.enter(0, prompts(["a", "b"]))
    with pytest.raises(ValueError, match="expected proposals"):
        hyperband.enter(0, prompts(["c"]))
    wrong = ((1, 0, "ab", 10), (0, 1, "ab", 10), (0, 0, "ac", 10), (0, 0, "a", 10), (0, 0, "ab", 40))
    for index, at, evaluated, n in wrong:
        with pytest.raises(ValueError, match="expected"):
            hyperband.observe(index, at, [evaluation(name, n, 1) for name in evaluated])
    step(hyperband, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="expected "):
        hyperband.observe(0, 0, [evaluation(name, 10, 1) for name in "ab"])


def test_the_position_counts_up_to_what_was_planned():
    brackets = small_run()
    hyperband = hyperband_of(brackets, seed=0, overlap=1)
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
    assert (last.bracket, last.open, last.incumbent) == (5, 0, hyperband.incumbent())


@pytest.mark.parametrize("seed", range(5))
def test_what_is_planned_has_the_last_races_in_it_from_the_start(seed):
    hyperband, planned = hyperband_of(small_run(), ending=ENDING), []
    landscape = random_landscape(seed)

    def evaluate(name, n):
        planned.append(hyperband.position().planned)
        return landscape(name, n)

    walk(hyperband, evaluate)
    assert [bracket.stage for bracket in hyperband.brackets][-2:] == ["baseline", "final"]
    last = hyperband.position()
    assert last.done == last.planned <= min(planned)
    assert planned[0] == cost(small_run()) + ENDING.most(History(""))


def test_the_baseline_is_no_incumbent_for_having_raced_further():
    last = Ending(tuple(prompts(["plain"])), 40, 0, 10)
    hyperband = hyperband_of([Bracket(0, "hyperband", 0, (Rung(2, 10),))], ending=last)
    hyperband.enter(0, prompts("ab"))
    step(hyperband, {"a": 1, "b": 2})
    assert hyperband.brackets[-1].stage == "baseline"
    step(hyperband, {"plain": 39})
    assert (hyperband.position().stage, hyperband.incumbent()) == ("final", observation("a", 1, 10))
    walk(hyperband, {"a": 4, "b": 8, "plain": 39})
    assert hyperband.incumbent() == observation("a", 4, 40)


def test_a_stopped_walk_begins_nothing_and_takes_what_was_under_way():
    hyperband, landscape = hyperband_of(small_run(2), overlap=1, ending=ENDING), random_landscape(0)
    hyperband.enter(0, prompts(f"{i}" for i in range(hyperband.actions()[0].count)))
    under_way = hyperband.actions()[-1]
    assert not hyperband.is_over(0) and not hyperband.stopped
    hyperband.stop()
    assert hyperband.actions() == [] and hyperband.is_over(0) and hyperband.stopped
    assert observe(hyperband, under_way, landscape)
    assert hyperband.actions() == [] and hyperband.incumbent() is not None


def test_a_walk_that_is_at_its_end_is_not_stopped():
    hyperband = hyperband_of(small_run())
    walk(hyperband, half_right)
    hyperband.stop()
    assert not hyperband.stopped and all(hyperband.is_over(i) for i in range(6))


def test_a_bracket_is_over_when_nothing_of_it_is_left():
    hyperband = hyperband_of([Bracket(i, "hyperband", 1, (Rung(2, 10), Rung(1, 40))) for i in (0, 1)], overlap=0)
    assert not hyperband.is_over(0)
    hyperband.enter(0, prompts("ab"))
    step(hyperband, {"a": 1, "b": 2})
    assert not hyperband.is_over(0)
    step(hyperband, {"a": 1})
    assert hyperband.is_over(0) and not hyperband.is_over(1)
