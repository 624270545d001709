"""What a limit buys: never more than it pays for, nearly all of it, and an ending that fits."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.config import PROFILES, HyperbandConfig, InvBOConfig, RunConfig
from lipo_e_ray.search.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets
from lipo_e_ray.search.ending import FINALISTS
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.race import History
from lipo_e_ray.search.schedule import (
    LEAST_WIDTH,
    MIN_CHUNK,
    FixedSchedule,
    LimitedSchedule,
    chunked,
    full_schedule,
    rising,
)
from tests.search.walks import ending, half_right, history, random_landscape, requests, results, walk

REWRITING = 12  # calls for an iteration's texts


def limited(config, limit, top, fresh=0, count=1):
    last = ending(top, fresh, count, config.hyperband.b_min, 0.1 * limit)
    return LimitedSchedule(config, limit, last, REWRITING)


def charged(hyperband, log):
    written = REWRITING * sum(request.stage == "invbo" for request in requests(log))
    return hyperband.position().done + written


@st.composite
def limits(draw):
    """A configuration, a limit, and the sizes of a task: from one that hardly pays for anything to one for all."""
    b_min = draw(st.integers(1, 16))
    hyperband = HyperbandConfig(
        b_min, draw(st.integers(2, 4)), draw(st.integers(0, 4)), draw(st.sampled_from([1, 4, 8]))
    )
    config = RunConfig(hyperband=hyperband, invbo=InvBOConfig(draw(st.sampled_from([0, 3, 50])), 4))
    top = b_min + draw(st.integers(0, 8) | st.integers(0, 1300))
    limit = draw(st.integers(1, 150) | st.integers(150, 4000))
    return limited(config, limit, top, draw(st.integers(0, 1) | st.integers(0, top)), draw(st.sampled_from([0, 1, 12])))


# ---- a limit ----


@settings(max_examples=60)
@given(limits())
def test_the_worst_case_never_exceeds_the_limit(schedule):
    """Every rung full, every prompt new, as many calls for writing as there can be."""
    hyperband = Hyperband(schedule, 0, schedule.config.hyperband.overlap)
    log = walk(hyperband, half_right, written=REWRITING)
    proposing = [bracket for bracket in hyperband.brackets if bracket.stage in ("hyperband", "invbo")]
    if proposing:
        written = REWRITING * sum(bracket.stage == "invbo" for bracket in proposing)
        assert cost(proposing) + written <= charged(hyperband, log) <= schedule.limit
    stages = [bracket.stage for bracket in hyperband.brackets]
    assert stages.count("baseline") <= 1 and stages.count("final") <= 1
    assert stages[len(proposing) :] == sorted(stages[len(proposing) :]), "the baseline's race, then the finalists"
    assert [bracket.index for bracket in hyperband.brackets] == list(range(len(stages)))
    assert all(b.rungs[0].size >= LEAST_WIDTH for b in proposing if b.stage == "hyperband")
    assert all(rung.fidelity <= schedule.ending.top for b in proposing for rung in b.rungs)


@settings(max_examples=60)
@given(limits(), st.integers(0, 10**6), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.3, 1.0]))
def test_whatever_the_answers_the_limit_holds(schedule, seed, failing, hopeless):
    hyperband = Hyperband(schedule, seed, schedule.config.hyperband.overlap)
    log = walk(hyperband, random_landscape(seed, failing, hopeless), written=REWRITING)
    widest = {}
    for r in results(log):
        prompt_id = r.observation.prompt_id
        widest[prompt_id] = max(widest.get(prompt_id, 0), r.fidelity)
    written = REWRITING * sum(request.stage == "invbo" for request in requests(log))
    assert sum(widest.values()) + written <= schedule.limit


@pytest.mark.parametrize(("top", "fresh", "profile"), [(1319, 659, "one-gpu"), (128, 51, "demo"), (300, 100, "demo")])
@pytest.mark.parametrize("limit", [136, 204, 408, 680, 1360, 6800])
@pytest.mark.parametrize("count", [1, 12])
def test_what_a_limit_pays_for_is_nearly_all_spent(top, fresh, profile, limit, count):
    schedule = limited(PROFILES[profile], limit, top, fresh, count)
    hyperband = Hyperband(schedule, 0, 1)
    log = walk(hyperband, half_right, written=REWRITING)
    assert 0.95 * limit <= charged(hyperband, log) <= limit


@pytest.mark.parametrize("limit", [200, 1000, 5000])
def test_most_of_a_limit_is_spent_where_answers_differ(limit):
    for seed in range(4):
        hyperband = Hyperband(limited(PROFILES["one-gpu"], limit, 1319, 659), seed, 1)
        log = walk(hyperband, random_landscape(seed), written=REWRITING)
        assert 0.95 * limit <= charged(hyperband, log) <= limit


@pytest.mark.parametrize("seed", range(3))
def test_what_was_lost_is_missing_to_the_last_races_alone(seed):
    def walked(lost):
        schedule = replace(limited(PROFILES["demo"], 1000, 128, 51, 12), lost=lost)
        hyperband = Hyperband(schedule, seed)
        log = walk(hyperband, random_landscape(seed), written=REWRITING)
        return charged(hyperband, log), [b for b in hyperband.brackets if b.stage not in ("baseline", "final")], log

    (all_calls, brackets, _), (fewer, same, log) = walked(0), walked(60)
    assert same == brackets and fewer <= 1000 - 60 < all_calls
    assert [r for r in results(log) if r.stage == "final"]


def test_a_limit_that_pays_for_nothing_gives_no_bracket():
    schedule = limited(PROFILES["one-gpu"], 20, 1319)
    assert schedule.following([], 20, False) is None
    assert Hyperband(schedule, 0).actions() == []


def test_the_brackets_begin_at_each_rung_in_turn_and_the_limit_picks_the_top_one():
    config = replace(PROFILES["one-gpu"], invbo=InvBOConfig(0))
    ladders = {limit: limited(config, limit, 1319, 659).ladder for limit in (200, 1000, 10_000, 10**6)}
    assert [len(ladder) for ladder in ladders.values()] == sorted(len(ladder) for ladder in ladders.values())
    assert ladders[200][:2] == (5, 10) and ladders[10**6][-1] == 1319
    schedule = limited(config, 20_000, 1319, 659)
    hyperband = Hyperband(schedule, 0)
    walk(hyperband, half_right)
    first = [bracket.rungs[0].fidelity for bracket in hyperband.brackets if bracket.stage == "hyperband"]
    assert 1 < schedule.races <= len(first) and first[: schedule.races] == list(schedule.ladder[: schedule.races])


def test_a_small_limit_has_few_wide_races():
    schedule = limited(replace(PROFILES["demo"], invbo=InvBOConfig(0)), 200, 128)
    hyperband = Hyperband(schedule, 0)
    walk(hyperband, half_right)
    [*races, final] = hyperband.brackets
    assert schedule.races <= 2 and final.stage == "final"
    assert races[0].rungs[0].size >= 8 and len(races[0].rungs) > 2


def test_invbo_has_its_iterations_or_none():
    def iterations(limit):
        hyperband = Hyperband(limited(PROFILES["one-gpu"], limit, 128), 0)
        walk(hyperband, half_right, written=REWRITING)
        return sum(bracket.stage == "invbo" for bracket in hyperband.brackets)

    found = [iterations(limit) for limit in (200, 1000, 3000, 6000)]
    assert found[0] == 0 and found == sorted(found) and found[-1] >= 3
    assert not set(found) & {1, 2}, "one or two are better spent on races"


def test_when_no_prompt_is_left_nothing_more_is_asked_for():
    schedule = limited(PROFILES["one-gpu"], 1000, 128)
    assert schedule.following([], 1000, False) is not None
    assert schedule.following([], 1000, True) is None


def test_where_invbo_has_no_prompt_the_limit_goes_elsewhere():
    limit = 6000
    hyperband = Hyperband(limited(PROFILES["demo"], limit, 128, 51), 0)
    log = walk(hyperband, half_right, wanted=lambda request: 0 if request.stage == "invbo" else request.count)
    assert any(request.stage == "invbo" for request in requests(log))
    assert hyperband.position().done >= 0.95 * limit


def test_a_limit_extended_beyond_everything_ends():
    """No prompt is left, so what remains of the limit buys nothing."""
    hyperband = Hyperband(limited(PROFILES["demo"], 10**6, 128, 51), 0)
    left = 40

    def wanted(request):
        nonlocal left
        given, left = min(left, request.count), max(0, left - request.count)
        return given

    log = walk(hyperband, random_landscape(0), wanted=wanted, written=REWRITING)
    assert hyperband.actions() == [] and charged(hyperband, log) <= 41 * (128 + 51) + 100 * REWRITING
    final = [r for r in results(log) if r.stage == "final"]
    assert {r.fidelity for r in final} == {128 + 51} and len(final) == FINALISTS


def test_what_is_kept_for_the_ending_falls_once_the_finalists_are_far():
    last = ending(128, 51, 0)
    assert last.most(History("")) == FINALISTS * 179
    far = history(a=(128, 1), b=(128, 2), c=(128, 3), d=(64, 4), e=(32, 5))
    assert last.most(far) == 3 * 51 + (179 - 64)
    entry = last.closing([Bracket(0, "hyperband", 0, (Rung(5, 128),))], 10**6, far)
    assert last.most(far) == entry[0].cost() - sum(far.charged(prompt) for prompt in entry[1])
    schedule = LimitedSchedule(PROFILES["demo"], 2000, ending(128, 51, 0, 8))
    opened = [Bracket(i, "hyperband", 0, (Rung(4, 8),)) for i in range(9)]
    assert schedule.following(opened, 400 + 30, False) is None
    assert schedule.following(opened, 400 + 30, False, far) is not None


# ---- no limit ----


def test_without_a_limit_the_schedule_is_one_pass_and_invbos_iterations():
    for profile, top, in_full in (("one-gpu", 1319, 54_661), ("demo", 128, None)):
        config = PROFILES[profile]
        schedule = full_schedule(config, ending(top))
        assert schedule.limit == 0 and schedule.brackets == len(schedule.list)
        passes = [replace(bracket, chunk=0) for bracket in schedule.list if bracket.stage == "hyperband"]
        assert passes == hyperband_brackets(top, config.hyperband.b_min, 2)
        assert in_full in (None, cost(passes))
        assert [b.stage for b in schedule.list[len(passes) :]] == ["invbo"] * config.invbo.iterations
        assert [bracket.index for bracket in schedule.list] == list(range(len(schedule.list)))
    assert schedule.list[-1].rungs == (Rung(4, 8), Rung(2, 16), Rung(1, 32), Rung(1, 64), Rung(1, 128))
    ahead = 3 * schedule.list[-1].cost()
    assert schedule.cost_after(passes, History("")) == ahead + schedule.ending.most(History(""))


def test_eta_of_the_config_is_used():
    config = replace(PROFILES["demo"], hyperband=HyperbandConfig(b_min=3, eta=3))
    assert [rung.fidelity for rung in full_schedule(config, ending(81)).list[0].rungs] == [3, 9, 27, 81]


def test_a_fixed_list_is_as_wide_as_its_limit_pays_for_and_skips_what_it_does_not():
    schedule = FixedSchedule(tuple(hyperband_brackets(40, 10, 2)), 100)
    assert schedule.following([], 1000, False) == schedule.list[0]
    assert schedule.following([], 60, False) == schedule.list[0].narrowed(60)
    assert schedule.following([schedule.list[0]], 39, False) is None
    assert schedule.closing(schedule.list, 1000, history(a=(40, 1))) is None


# ---- ladders and chunks ----


@given(st.integers(1, 5000), st.integers(1, 50), st.integers(2, 5))
def test_a_rising_ladder_begins_at_the_least_and_ends_with_all(n, b_min, eta):
    n = max(n, b_min)
    ladder = rising(n, b_min, eta)
    assert (ladder[0], ladder[-1]) == (b_min, n)
    assert list(ladder) == sorted(set(ladder))
    assert all(above == eta * below for below, above in pairwise(ladder[:-1]))
    assert len(ladder) <= 1 + len(fidelities(n, b_min, eta))


@given(st.integers(1, 200), st.integers(1, 12))
def test_chunks_are_of_equal_size_and_not_too_small(size, chunks):
    bracket = chunked(Bracket(0, "hyperband", 1, (Rung(size, 10), Rung(1, 20))), chunks)
    assert sum(bracket.chunks) == size and len(bracket.chunks) <= chunks
    assert len(set(bracket.chunks[:-1])) <= 1 and max(bracket.chunks) == bracket.chunks[0]
    assert bracket.chunks[0] >= min(size, MIN_CHUNK)


def hard(fidelity, count, right=0):
    """``count`` prompts that have the first ``fidelity`` examples wrong, all but one of them."""
    return {f"p{i}": (fidelity, fidelity - (right if i == 0 else 0)) for i in range(count)}


@pytest.mark.parametrize(
    ("known", "first"),
    [
        (hard(4, 7), 4),
        (hard(4, 8), 8),
        (hard(4, 8, right=1), 4),
        (hard(4, 8) | {"leader": (32, 20)}, 8),  # what it had right lies beyond the first four
    ],
)
def test_brackets_begin_above_a_rung_whose_examples_nobody_has_right(known, first):
    schedule = limited(PROFILES["demo"], 2000, 128)
    opened = [Bracket(i, "hyperband", 0, (Rung(4, 4),)) for i in range(schedule.races)]
    invbo = schedule.following(opened, 1500, False, history(**known))
    assert (invbo.stage, invbo.rungs[0].fidelity) == ("invbo", first)
    opened += [Bracket(i, "invbo", 0, (Rung(4, 4),)) for i in range(schedule.iterations)]
    opened += [Bracket(9, "hyperband", 0, (Rung(4, 4),))] * (-len(opened) % (len(schedule.ladder) - 1))
    assert schedule.following(opened, 1500, False, history(**known)).rungs[0].fidelity >= first


@pytest.mark.parametrize("further", [False, True])
def test_where_that_cannot_be_paid_a_race_begins_lower_and_no_further_bracket_opens(further):
    schedule = limited(PROFILES["demo"], 2000, 128)
    opened = [Bracket(i, "hyperband", 0, (Rung(4, 4),)) for i in range(schedule.races if further else 1)]
    opened += [Bracket(9, "invbo", 0, (Rung(4, 4),))] * schedule.iterations
    known = history(**hard(4, 8))
    kept = int(min(schedule.kept, schedule.ending.most(known)))
    firsts = {
        found.rungs[0].fidelity
        for left in range(400)
        if (found := schedule.following(opened, kept + left, False, known))
    }
    assert (4 in firsts) != further and max(firsts) > 4
