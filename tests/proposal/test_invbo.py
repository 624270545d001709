import pytest
import torch

from lipo_e_ray.config import RunConfig
from lipo_e_ray.proposal.invbo import InvBO, choose_anchor, improvements, trust_region_length
from lipo_e_ray.surrogate.noise import BetaPrior
from lipo_e_ray.types import Observation, Prompt, Request
from tests.proposal.fakes import GIVEN, SMALL, FakeInverter, make_state
from tests.proposal.source_contract import CandidateSourceContract, rng

SOURCE = InvBO(RunConfig(proposal=SMALL), GIVEN, FakeInverter)


def write(state, count, length=0.8, seed=0):
    return SOURCE.write(state, state.posterior, FakeInverter(), count, length, rng(seed))


class TestContract(CandidateSourceContract):
    stage = "invbo"

    @pytest.fixture
    def source(self):
        return SOURCE


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


def test_each_iteration_is_compared_with_all_before_it():
    def improved(errors, given, running=()):
        prompts = [Prompt(f"text {i}") for i in range(len(errors))]
        observed = [(p, Observation(p.id, 4, 8)) for p in prompts]  # narrower ones say nothing
        observed += [(p, Observation(p.id, round(100 * e), 100)) for p, e in zip(prompts, errors, strict=True)]
        request = Request("invbo", 9, 2, tuple(observed), tuple(prompts[i] for i in running))
        return improvements(request, BetaPrior(1, 1), {p.instruction for p in prompts[:given]}, q=2)

    errors = [0.5, 0.4, 0.6, 0.3, 0.3, 0.9, 0.2]
    assert improved(errors, given=2) == [True, False, True]
    assert improved(errors, given=2, running=[5]) == [True, True]
    assert improved([0.5, 0.4], given=2) == []
    assert improved([0.5, 0.4, 0.4], given=0) == [True, False]


def test_targets_lie_in_the_trust_region_of_the_anchor():
    state = make_state(stage="invbo")
    posterior = state.posterior
    span = posterior.z.amax(0) - posterior.z.amin(0)
    for length in (0.8, 0.1):
        for written in write(state, 6, length):
            anchor = posterior.z[posterior.prompts.index(written.anchor)]
            assert ((written.target - anchor).abs() <= length / 2 * span + 1e-9).all()
            assert written.length == length


def test_half_is_new_and_first_and_the_rest_competes():
    written = write(make_state(stage="invbo"), 7)
    new = [candidate.inversion is not None for candidate in written]
    assert len(written) == 7 and sum(new) >= 4 and new == sorted(new, reverse=True)
    assert all((c.prompt.instruction in GIVEN) == (c.inversion is None) for c in written)
    assert len({c.prompt.id for c in written}) == 7


def test_nothing_new_gives_nothing():
    for inverter in (FakeInverter(limit=0), None):
        source = InvBO(RunConfig(proposal=SMALL), GIVEN, lambda inverter=inverter: inverter)
        assert source.propose(make_state(stage="invbo"), 4, rng()) == []


def test_the_anchor_is_among_the_best_and_not_always_the_best():
    posterior = make_state().posterior
    anchors = [choose_anchor(posterior, 0.8, rng(seed)) for seed in range(30)]
    assert set(anchors) <= set(posterior.ranking()[:10])
    assert len(set(anchors)) > 1 and anchors.count(posterior.ranking()[0]) > 0


def test_potential_can_beat_value():
    """Two anchors of nearly the same value: the one whose region the sample promises more wins."""
    posterior = make_state().posterior
    order = posterior.ranking()
    best, other = order[0], order[1]
    posterior.mean[:] = 0.5
    posterior.mean[best], posterior.mean[other] = 0.4, 0.4001

    def joint(z):
        near = (z - posterior.z[other]).abs().amax(1) < (z - posterior.z[best]).abs().amax(1)
        return torch.where(near, 0.1, 0.6).double(), torch.zeros(len(z), len(z), dtype=torch.float64)

    posterior.gp.joint = joint
    assert choose_anchor(posterior, 0.05, rng()) == other


def test_new_texts_are_tried_with_the_anchor_s_exemplars_and_the_decoded_ones():
    state = make_state(stage="invbo")
    state.posterior.space.decode_exemplars = lambda z: [()] * len(z)
    sets = [
        (candidate.prompt.exemplars, candidate.anchor.exemplars)
        for seed in range(4)
        for candidate in write(state, 8, seed=seed)
        if candidate.inversion
    ]
    assert any(used == anchor != () for used, anchor in sets) and any(used == () != anchor for used, anchor in sets)
