import pytest
import torch

from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.types import Observation, Request
from tests.proposal.fakes import GIVEN, INST_DIM, OBSERVED, FakeSpace, make_state, random_prompt
from tests.proposal.source_contract import rng

CANDIDATES = list(dict.fromkeys(random_prompt(rng(seed), list(GIVEN)) for seed in range(30)))


def test_prompts_without_an_answer_are_not_fitted():
    observed = [*OBSERVED[:10], *((prompt, Observation(prompt.id, 0, 0)) for prompt, _ in OBSERVED[10:])]
    posterior = make_state(observed=observed).posterior
    assert posterior.prompts == tuple(prompt for prompt, _ in OBSERVED[:10])


def test_a_prompt_observed_at_several_rungs_is_one_prompt():
    wider = [(prompt, Observation(prompt.id, o.errors + 1, o.evaluated + 8)) for prompt, o in OBSERVED]
    posterior = make_state(observed=[pair for pairs in zip(OBSERVED, wider, strict=True) for pair in pairs]).posterior
    assert len(posterior.z) == len(posterior.mean) == len(OBSERVED)


@pytest.mark.parametrize(("stage", "inverted"), [("hyperband", 0), ("invbo", len(OBSERVED))])
def test_in_invbo_it_is_fitted_where_decoding_gives_the_prompt_back(stage, inverted):
    space = FakeSpace()
    PromptPosterior.fit(JointPromptGP(INST_DIM), space, Request(stage, 3, 6, tuple(OBSERVED)))
    assert space.inverted == inverted


def test_the_ranking_is_by_posterior_mean():
    posterior = make_state().posterior
    assert posterior.mean[posterior.ranking()].tolist() == sorted(posterior.mean.tolist())
    assert posterior.best == posterior.mean.min()


def test_running_and_chosen_candidates_are_part_of_the_batch_and_not_chosen():
    posterior = make_state().posterior
    first = posterior.choose_batch(CANDIDATES, 4)
    assert posterior.choose_batch(CANDIDATES, 2, chosen=first[:2]) == first[2:]
    running = make_state(running=[CANDIDATES[i] for i in first[:2]]).posterior
    others = [prompt for i, prompt in enumerate(CANDIDATES) if i not in first[:2]]
    assert [others[i] for i in running.choose_batch(others, 2)] == [CANDIDATES[i] for i in first[2:]]
    assert posterior.choose_batch([], 3) == []
    assert torch.equal(posterior.z, running.z)
