from dataclasses import replace

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
        return TwoStage(EXEMPLARS, SMALL, 0.1)


def propose(state, count, config=SMALL, random_fraction=0.1):
    source = TwoStage(EXEMPLARS, config, random_fraction)
    return [candidate.prompt for candidate in source.propose(state, count, rng())]


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
    counts = [len(propose(make_state(), 12, ProposalConfig(4, 2, 1), share)) for share in (0.0, 0.5, 1.0)]
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


def test_each_candidate_says_in_which_way_it_came_about():
    state = make_state()
    best = [state.posterior.prompts[i] for i in state.posterior.ranking()]
    by_way = {}
    for candidate in TwoStage(EXEMPLARS, SMALL, 0.0).propose(state, 40, rng()):
        by_way.setdefault(candidate.info["way"], []).append(candidate.prompt)
    assert by_way.keys() == {"decoded", "edited", "paired"}
    sets = list(dict.fromkeys(prompt.exemplars for prompt in best))[: module.RECOMBINED_SETS]
    assert all(prompt.exemplars in sets for prompt in by_way["paired"])


def test_edited_prompts_are_better_for_the_surrogate_than_what_they_came_from():
    """Their instructions are those of the best prompts; after ``CLIMBS`` rounds a set is up to so many edits away."""
    state = make_state()
    posterior = state.posterior
    found = TwoStage(EXEMPLARS, SMALL, 0.0)._edited(posterior, state, rng())
    start = [posterior.prompts[i] for i in posterior.ranking()[: module.CLIMBED]]
    assert 0 < len(found) <= module.KEPT and len({prompt.id for prompt in found}) == len(found)
    assert {prompt.instruction for prompt in found} <= {prompt.instruction for prompt in start}

    def value(prompts):
        return log_ei(*posterior.gp.predict(posterior.space.encode(prompts)), posterior.best)

    with torch.no_grad():
        assert value(found).mean() > value(start).mean()
        assert (value(found).diff() <= 1e-9).all(), "the highest first"
    for prompt in found:
        moves = [len(set(prompt.exemplars) ^ set(known.exemplars)) for known in start]
        assert min(moves) <= 2 * module.CLIMBS


def test_nothing_is_edited_where_nothing_else_fits():
    state = replace(make_state(), fits=lambda prompt: False)
    assert TwoStage(EXEMPLARS, SMALL, 0.0).propose(state, 6, rng()) == []
