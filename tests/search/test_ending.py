"""The last races: the longest that their budget pays for, and all that is compared on the same examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.ending import FINALISTS
from lipo_e_ray.search.race import History
from lipo_e_ray.types import Prompt
from tests.search.walks import ending, history, prompts

RACED = [Bracket(0, "hyperband", 0, (Rung(4, 10),))]


@pytest.mark.parametrize(
    ("count", "budget", "rungs"),
    [
        (12, 10**6, [(12, 64), (2, 128)]),
        (12, 600, [(12, 20), (4, 64), (2, 128)]),
        (12, 300, [(12, 10), (2, 64)]),
        (12, 200, [(2, 64)]),
        (12, 100, [(1, 64)]),
        (12, 63, None),
        (1, 10**6, [(1, 64), (1, 128)]),
        (1, 100, [(1, 10), (1, 64)]),
        (0, 10**6, None),
    ],
)
def test_the_baselines_race_is_the_longest_that_its_budget_pays_for(count, budget, rungs):
    entry = ending(128, 51, count, baseline=budget).closing(RACED, 10**6, History(""))
    found = entry and [(rung.size, rung.fidelity) for rung in entry[0].rungs]
    assert found == rungs
    if entry:
        assert (entry[0].stage, entry[0].index, len(entry[1])) == ("baseline", 1, rungs[0][0])
        assert entry[0].cost() <= budget
        short = ending(128, 51, count).closing(RACED, budget, History(""))
        assert short == entry, "what is left of the limit bounds it just so"


def test_the_baselines_race_begins_with_the_best_plain_prompts_and_pays_only_for_what_is_new():
    known = history(plain_3=(10, 1), plain_7=(10, 2), plain_1=(10, 9))
    entry = ending(128, 0, 12, baseline=2 * (64 - 10)).closing(RACED, 10**6, known)
    assert [prompt.instruction for prompt in entry[1]] == ["plain 3", "plain 7"]
    assert entry[0].rungs == (Rung(2, 64),)


def test_after_the_baselines_race_come_the_finalists_and_then_nothing():
    known = history(a=(20, 1), b=(20, 2), c=(10, 0), d=(10, 1), e=(10, 2))
    last = ending(40, 20, 1)
    baseline, _ = last.closing(RACED, 10**6, known)
    final, entrants = last.closing([*RACED, baseline], 10**6, known)
    assert (baseline.stage, final.stage, final.index) == ("baseline", "final", 2)
    assert (final.rungs, entrants) == ((Rung(4, 60),), prompts("abcd"))
    assert last.closing([*RACED, baseline, final], 10**6, known) is None
    assert last.closing([*RACED, final], 10**6, known) is None, "no race for a baseline once finalists ran"


def test_without_anything_observed_nothing_is_final():
    assert ending(128, 51, 0).closing([], 10**6, History("")) is None


@given(
    st.lists(st.tuples(st.sampled_from([10, 20, 40, 80]), st.integers(0, 10)), min_size=1, max_size=6),
    st.integers(0, 600),
    st.integers(0, 60),
)
def test_the_finalists_cost_what_is_left_at_most_and_all_see_the_same(found, left, fresh):
    known = history(**{f"p{i}": pair for i, pair in enumerate(found)})
    entry = ending(80, fresh, 0).closing(RACED, left, known)
    if entry is None:
        paid = [known.charged(prompt) for prompt, _ in known.leaders()][:FINALISTS]
        catching_up = [sum(paid[0] - before for before in paid[:count]) for count in range(len(paid) + 1)]
        assert left == 0 or paid[0] == 80 + fresh, "the leader alone could have seen more"
        assert all(price == 0 or price > left for price in catching_up)
        return
    [rung] = entry[0].rungs
    paid = [known.charged(prompt) for prompt in entry[1]]
    assert rung.size == len(entry[1]) <= FINALISTS
    assert max(paid) <= rung.fidelity <= 80 + fresh and min(paid) < rung.fidelity
    assert sum(rung.fidelity - before for before in paid) <= left
    assert entry[1] == [prompt for prompt, _ in known.leaders()][: rung.size]


def test_fewer_finalists_where_the_limit_does_not_pay_for_a_quarter_more():
    known = history(a=(40, 1), b=(40, 2), c=(40, 3), d=(40, 4))

    def final(left):
        entry = ending(80, 0, 0).closing(RACED, left, known)
        return entry and (entry[0].rungs[0].size, entry[0].rungs[0].fidelity)

    assert [final(left) for left in (1000, 40, 39, 30, 29, 2, 1, 0)] == [
        (4, 80),
        (4, 50),
        (3, 53),
        (3, 50),
        (2, 54),
        (2, 41),
        (1, 41),
        None,
    ]


@pytest.mark.parametrize("left", [40, 24, 10**6])
def test_a_baseline_that_went_higher_is_not_the_answer_for_that_alone(left):
    """It is at 64 examples, the best prompt of the search at 40: the finalists' race brings both to the same."""
    known = history(plain_0=(64, 50), a=(40, 0), b=(40, 1))
    entry = ending(64, 0, 1).closing([*RACED, Bracket(1, "baseline", 0, (Rung(1, 64),))], left, known)
    assert Prompt("a") in entry[1] and entry[0].rungs[0].fidelity == 64


def test_the_baseline_is_among_the_finalists_so_that_it_is_compared_with_the_answer_on_the_same_examples():
    known = history(plain_0=(4, 4), plain_1=(4, 3), a=(16, 10), b=(16, 11), c=(16, 12), d=(16, 13))
    [rung], entrants = (entry := ending(64, 0, 2, baseline=0).closing(RACED, 60, known))[0].rungs, entry[1]
    assert entrants == [Prompt("a"), Prompt("b"), Prompt("c"), Prompt("plain 1")]
    assert rung == Rung(4, (60 + 3 * 16 + 4) // 4)


def test_what_the_baselines_race_pays_is_not_kept_for_the_finalists_once_more():
    known = history(plain_0=(4, 3), a=(24, 1), b=(24, 2), c=(24, 3))
    assert ending(24, 0, 1, b_min=4).most(known) == 24 - 4
