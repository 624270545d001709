"""The schedule: published numbers, exact powers, costs by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.search.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets
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


@given(st.integers(1, 60), st.integers(0, 20), st.integers(0, 30))
def test_what_is_left_to_pay_after_each_step(size, chunk, fewer):
    """The steps are the chunks, then the rungs; each costs what the ones after it do not."""
    bracket = Bracket(0, "hyperband", 2, (Rung(size, 10), Rung(max(1, size // 2), 20), Rung(1, 50)), chunk)
    assert sum(bracket.chunks) == size and all(n == bracket.chunks[0] for n in bracket.chunks[:-1])
    assert bracket.steps == len(bracket.chunks) + 2
    costs = [bracket.cost(step) for step in range(bracket.steps + 1)]
    paid = [before - after for before, after in pairwise(costs)]
    assert paid == [*(10 * n for n in bracket.chunks), 10 * max(1, size // 2), 30]
    assert costs[-1] == 0
    narrow = bracket.resized(max(1, size - fewer))
    assert narrow.chunk == chunk and sum(narrow.chunks) == max(1, size - fewer)
    assert [rung.fidelity for rung in narrow.rungs] == [10, 20, 50]
