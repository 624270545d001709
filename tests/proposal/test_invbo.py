import pytest
import torch

from lipo_e_ray.proposal.invbo import choose_anchor, history, invbo, trust_region_length
from tests.proposal.fakes import KNOWN, SMALL, FakeInverter
from tests.proposal.test_two_stage import make_known, rng


@pytest.mark.parametrize(
    ("improved", "length"),
    [
        ([], 0.8),
        ([False] * 3, 0.8),
        ([False] * 4, 0.4),
        ([False] * 8, 0.2),
        ([False] * 3 + [True] + [False] * 3, 0.8),
        ([True] * 2, 0.8),
        ([True] * 3, 1.6),
        ([True] * 6, 1.6),
        ([False] * 24, 0.8 * 0.5**6),
        ([False] * 28, 0.8),  # under 0.5^7: anew
    ],
)
def test_trust_region_length(improved, length):
    assert trust_region_length(improved) == pytest.approx(length)


def test_history_compares_each_iteration_with_all_before_it():
    errors = [0.5, 0.4, 0.6, 0.3, 0.3, 0.9, 0.2]
    assert history(errors, [True] * 7, first=2, q=2) == [True, False, True]
    assert history(errors, [True] * 5 + [False, True], first=2, q=2) == [True, True]
    assert history([0.5, 0.4], [True] * 2, first=2, q=2) == []
    assert history([0.5, 0.4, 0.4], [True] * 3, first=0, q=2) == [True, False]


def test_targets_lie_in_the_trust_region_of_the_anchor():
    known = make_known()
    span = known.z.amax(0) - known.z.amin(0)
    for length in (0.8, 0.1):
        for written in invbo(known, 6, length, FakeInverter(), SMALL, rng()):
            anchor = known.z[known.prompts.index(written.anchor)]
            assert ((written.target - anchor).abs() <= length / 2 * span + 1e-9).all()
            assert written.length == length


def test_half_is_new_and_first_and_the_rest_competes():
    written = invbo(make_known(), 7, 0.8, FakeInverter(), SMALL, rng())
    new = [one.inversion is not None for one in written]
    assert len(written) == 7 and sum(new) >= 4 and new == sorted(new, reverse=True)
    assert all((one.prompt.instruction in KNOWN) == (one.inversion is None) for one in written)
    assert len({one.prompt.id for one in written}) == 7


def test_nothing_new_gives_nothing():
    assert invbo(make_known(), 4, 0.8, FakeInverter(limit=0), SMALL, rng()) == []


def test_the_anchor_is_among_the_best_and_not_always_the_best():
    known = make_known()
    anchors = [choose_anchor(known, 0.8, rng(seed)) for seed in range(30)]
    assert set(anchors) <= set(known.ranking()[:10])
    assert len(set(anchors)) > 1 and anchors.count(known.ranking()[0]) > 0


def test_potential_can_beat_value():
    """Two anchors of nearly the same value: the one whose region the sample promises more wins."""
    known = make_known()
    order = known.ranking()
    best, other = order[0], order[1]
    known.mean[:] = 0.5
    known.mean[best], known.mean[other] = 0.4, 0.4001

    def joint(z):
        near = (z - known.z[other]).abs().amax(1) < (z - known.z[best]).abs().amax(1)
        return torch.where(near, 0.1, 0.6).double(), torch.zeros(len(z), len(z), dtype=torch.float64)

    known.gp.joint = joint
    assert choose_anchor(known, 0.05, rng()) == other


def test_new_texts_are_tried_with_the_anchor_s_exemplars_and_the_decoded_ones():
    known = make_known()
    known.space.decode_exemplars = lambda z: [()] * len(z)
    sets = [
        (one.prompt.exemplars, one.anchor.exemplars)
        for seed in range(4)
        for one in invbo(known, 8, 0.8, FakeInverter(), SMALL, rng(seed))
        if one.inversion
    ]
    assert any(used == anchor != () for used, anchor in sets) and any(used == () != anchor for used, anchor in sets)
