"""What overlapping brackets and chunks know: exactly what the schedule completes, whatever has arrived."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.search.brackets import Bracket, Rung, hyperband_brackets
from lipo_e_ray.types import Request
from tests.search.test_hyperband import CHUNKS, OVERLAPS, hyperband_of, small_run
from tests.search.walks import invbo, names, observe, prompts, random_landscape, results, step, walk


def test_a_bracket_opens_while_the_one_before_it_runs_and_knows_what_was_complete():
    hyperband = hyperband_of(hyperband_brackets(40, 10, 2), seed=0, overlap=2)  # of 3, 2, 1 rungs
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
    hyperband = hyperband_of(hyperband_brackets(40, 10, 2), seed=0, overlap=2)
    hyperband.enter(0, prompts("abcd"))
    step(hyperband, dict.fromkeys("abcd", 3))
    hyperband.enter(1, prompts("efg"))
    slow, quick = sorted(hyperband.actions(), key=lambda action: action.bracket)
    observe(hyperband, quick, dict.fromkeys("efg", 3))
    assert not any(isinstance(action, Request) for action in hyperband.actions())
    observe(hyperband, slow, dict.fromkeys(names(slow.prompts), 3))
    assert isinstance(hyperband.actions()[0], Request)


@settings(max_examples=30)
@given(st.integers(0, 10**6), OVERLAPS, CHUNKS)
def test_what_is_observed_and_what_is_running_is_all_there_is(seed, overlap, chunks):
    """Nothing that was proposed before is unknown to a proposal, so nothing is proposed twice."""
    entered = set()
    for entry in walk(hyperband_of(small_run(chunks), seed, overlap=overlap), random_landscape(seed, 0.2, 0.2)):
        if isinstance(entry, tuple):
            _, action, proposed = entry
            assert {prompt for prompt, _ in action.observed} | set(action.running) == entered
            entered |= set(proposed)


def test_the_critical_path_of_the_widest_overlap_is_one_bracket():
    """As many rounds of evaluations as the longest bracket has rungs: what 64 engines take the time of."""
    hyperband, rounds = hyperband_of(hyperband_brackets(1319, 10, 2), seed=0, overlap=8), 0
    while hyperband.actions():
        while isinstance(action := hyperband.actions()[0], Request):
            hyperband.enter(action.bracket, prompts(f"{action.bracket}.{i}" for i in range(action.count)))
        rounds += 1
        for action in hyperband.actions():
            observe(hyperband, action, random_landscape(0))
    assert rounds == 8


@settings(max_examples=40)
@given(st.integers(0, 10**6), OVERLAPS, CHUNKS)
def test_each_chunk_knows_exactly_the_steps_that_the_schedule_completes(seed, overlap, chunks):
    """Counted here from the log alone: a bracket opens when the one before it has ``overlap`` steps left and one is
    complete; its chunk j is proposed when all chunks before it but ``min(overlap, 1)`` are complete.
    """
    hyperband = hyperband_of(small_run(chunks), seed, overlap=overlap)
    log = walk(hyperband, random_landscape(seed), random.Random(seed))
    brackets, starts = hyperband.brackets, [0]
    for bracket in brackets:
        starts.append(starts[-1] + max(1, bracket.steps - overlap))
    at_rung = {}
    for r in results(log):
        at_rung.setdefault((r.bracket, r.rung), {})[r.observation.prompt_id] = r.observation
    entered = {bracket.index: [] for bracket in brackets}
    for _, request, proposed in (entry for entry in log if isinstance(entry, tuple)):
        own = brackets[request.bracket]
        j = request.first // (own.chunk or own.rungs[0].size)
        tick = starts[own.index] + max(0, j - min(overlap, 1))
        observed, running = set(), set()
        for bracket in brackets:
            complete = max(0, min(bracket.steps, tick - starts[bracket.index]))
            known = set(entered[bracket.index][: sum(bracket.chunks[:complete])])
            observed |= {o for key, o in at_rung[bracket.index, 0].items() if key in known}
            rungs = complete - len(bracket.chunks)
            for rung in range(1, rungs + 1):
                observed |= set(at_rung.get((bracket.index, rung), {}).values())
            if rungs < 0:
                running |= set(entered[bracket.index])
            else:
                running |= set(at_rung.get((bracket.index, rungs + 1), {}))
        assert {o for _, o in request.observed} == observed
        assert {prompt.id for prompt in request.running} == running
        entered[request.bracket] += [prompt.id for prompt in proposed]


def test_a_chunk_is_proposed_while_the_one_before_it_runs():
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(6, 10), Rung(1, 40)), chunk=2)], overlap=1)
    hyperband.enter(0, prompts("ab"))
    wanted, first = hyperband.actions()
    assert (wanted.first, wanted.count, wanted.observed, names(wanted.running)) == (2, 2, (), ["a", "b"])
    observe(hyperband, first, {"a": 1, "b": 2})
    assert hyperband.actions() == [wanted], "a result that came in since then is not told"
    hyperband.enter(0, prompts("cd"))
    wanted, second = hyperband.actions()
    assert (second.step, second.rung, second.fidelity, names(second.prompts)) == (1, 0, 10, ["c", "d"])
    assert (wanted.first, [o.evaluated for _, o in wanted.observed]) == (4, [10, 10])
    assert names(wanted.running) == list("abcd"), "any prompt of the first rung may still go up"


def test_without_overlap_a_chunk_knows_all_before_it():
    hyperband = hyperband_of([Bracket(0, "hyperband", 1, (Rung(4, 10), Rung(1, 40)), chunk=2)], overlap=0)
    hyperband.enter(0, prompts("ab"))
    step(hyperband, {"a": 1, "b": 2})
    [wanted] = hyperband.actions()
    assert [o.errors for _, o in wanted.observed] == [1, 2]


def test_only_the_first_rung_of_a_gated_bracket_is_one_chunk():
    assert invbo(0).chunks == (4,) and invbo(0).steps == 3
