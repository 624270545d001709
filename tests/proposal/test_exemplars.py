from lipo_e_ray.proposal.exemplars import ExemplarPool
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
    sets = [pool.random(draw) for _ in range(300)]
    assert {len(chosen) for chosen in sets} == {0, 1, 2, 3, 4}
    assert all(len(set(chosen)) == len(chosen) for chosen in sets)
    assert max(len(ExemplarPool(POOL[:2], 8).random(draw)) for _ in range(20)) == 2
