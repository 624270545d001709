import pytest
import torch

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.proposal import two_stage as module
from lipo_e_ray.proposal.acquisition import log_ei
from lipo_e_ray.proposal.two_stage import TwoStage, choose_instructions
from lipo_e_ray.types import Prompt
from tests.proposal.fakes import EXEMPLARS, GIVEN, INST_DIM, OFFSET, SMALL, TEXTS, FakeSpace, make_state
from tests.proposal.source_contract import CandidateSourceContract, rng


class TestContract(CandidateSourceContract):
    @pytest.fixture
    def source(self):
        return TwoStage(EXEMPLARS, SMALL)


def propose(state, count, config=SMALL, seed=0):
    return [candidate.prompt for candidate in TwoStage(EXEMPLARS, config).propose(state, count, rng(seed))]


def test_one_gradient_search_moves_every_exemplar_latent_and_no_instruction(monkeypatch):
    searches = []
    original = module.ascend

    def spy(gp, start, *arguments):
        found, value = original(gp, start, *arguments)
        searches.append((start, found, value, log_ei(*gp.predict(start), arguments[-1])))
        return found, value

    monkeypatch.setattr(module, "ascend", spy)
    propose(make_state(), 6, ProposalConfig(instructions=20, restarts=5, steps=20))
    ((start, found, value, before),) = searches  # one batch
    assert start.shape == (100, FakeSpace.dim)
    assert torch.equal(found[:, :INST_DIM], start[:, :INST_DIM])
    distance = (found - start)[:, INST_DIM:].abs().amax(1)
    assert (distance > 1e-3).float().mean() > 0.9 and (value >= before).all() and value.mean() > before.mean() + 0.05


def test_what_is_decoded_is_in_the_latents_own_coordinates():
    state = make_state()
    propose(state, 6)
    space = state.posterior.space
    (decoded,) = space.decoded
    known_sets = space.encode([Prompt(TEXTS[0], ()), *state.posterior.prompts])
    assert (decoded[:, INST_DIM:].mean(0) - OFFSET).abs().max() < 1  # a normalised search would be round 0.5
    assert decoded[:, INST_DIM:].std() > 0.3 * known_sets[:, INST_DIM:].std()
    instruction = space.encode([Prompt(text) for text in GIVEN])[:, :INST_DIM]
    assert torch.cdist(decoded[:, :INST_DIM], instruction).amin(1).max() < 1e-6


def test_the_search_stays_in_the_box_of_known_sets(monkeypatch):
    boxes = []
    monkeypatch.setattr(module, "ascend", lambda gp, start, box, *rest: (boxes.append((start, box)), (start, None))[1])
    state = make_state()
    propose(state, 4)
    ((start, (lower, upper)),) = boxes
    latents = torch.cat([start, state.posterior.z])[:, INST_DIM:]
    assert torch.equal(lower[0, INST_DIM:], latents.amin(0)) and torch.equal(upper[-1, INST_DIM:], latents.amax(0))


def test_the_random_share_is_left_to_another_source():
    counts = [len(propose(make_state(), 12, ProposalConfig(4, 2, 1, random_fraction=f))) for f in (0.0, 0.5, 1.0)]
    assert counts == [12, 6, 0]


def test_many_instructions_are_cut_to_good_and_random_ones():
    posterior = make_state().posterior
    chosen = choose_instructions(posterior, TEXTS, 20, rng())
    assert len(set(chosen)) == 20
    beside = posterior.prompts[posterior.ranking()[0]].exemplars
    z = posterior.space.encode([Prompt(text, beside) for text in TEXTS])
    value = log_ei(*posterior.gp.predict(z), posterior.best)
    top = {TEXTS[i] for i in torch.topk(value, 10).indices}
    assert set(chosen[:10]) == top and not set(chosen[10:]) & top
    assert chosen[10:] != choose_instructions(posterior, TEXTS, 20, rng(1))[10:]
