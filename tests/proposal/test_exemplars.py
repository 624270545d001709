from collections import Counter

import pytest

from lipo_e_ray.proposal.exemplars import SMALL_SETS, ExemplarPool
from tests.proposal.fakes import POOL
from tests.proposal.source_contract import rng


def test_edits_differ_by_one_move_and_stay_sets():
    pool, draw, kinds = ExemplarPool(POOL, 4), rng(), set()
    for start in ((), POOL[:2], POOL[:4]):
        for _ in range(60):
            edited = pool.edit(start, draw)
            gone, come = set(start) - set(edited), set(edited) - set(start)
            kinds.add((len(start), len(gone), len(come)))
            assert len(edited) == len(set(edited)) <= 4 and list(edited) == sorted(edited, key=POOL.index)
    assert kinds == {(0, 0, 1), (2, 0, 1), (2, 1, 0), (2, 1, 1), (4, 1, 0), (4, 1, 1)}
    assert ExemplarPool(POOL, 0).edit((), draw) == ()


def test_random_sets_have_every_size():
    pool, draw = ExemplarPool(POOL, 4), rng()
    sets = [pool.random(draw) for _ in range(600)]
    assert {len(chosen) for chosen in sets} == {0, 1, 2, 3, 4}
    assert all(len(set(chosen)) == len(chosen) for chosen in sets)
    assert max(len(ExemplarPool(POOL[:2], 8).random(draw)) for _ in range(20)) == 2


def test_most_random_sets_are_near_the_largest():
    """Of at most 8, those of 6 to 8 are the most, evenly; the smaller ones are rare, evenly too; 0 stays possible."""
    pool, draw = ExemplarPool(POOL, 8), rng()
    sizes = Counter(len(pool.random(draw)) for _ in range(4000))
    small = sum(sizes[size] for size in range(6)) / 4000
    assert abs(small - SMALL_SETS) < 0.03
    assert all(abs(sizes[size] / 4000 - SMALL_SETS / 6) < 0.015 for size in range(6))
    assert all(abs(sizes[size] / 4000 - (1 - SMALL_SETS) / 3) < 0.04 for size in (6, 7, 8))


@pytest.mark.parametrize(("most", "size"), [(0, {0}), (1, {0, 1}), (2, {0, 1, 2}), (3, {0, 1, 2, 3})])
def test_small_limits_leave_every_size_possible(most, size):
    assert {len(ExemplarPool(POOL, most).random(rng(seed))) for seed in range(200)} == size
