import numpy as np
import torch

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.proposal import two_stage as module
from lipo_e_ray.proposal.acquisition import log_ei
from lipo_e_ray.proposal.two_stage import ExemplarPool, Knowledge, random_prompts, two_stage
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.types import Prompt
from tests.proposal.fakes import INST_DIM, KNOWN, OFFSET, POOL, SMALL, TEXTS, FakeSpace, random_observations

PAIRS = random_observations(40, 0, list(KNOWN))


def make_known(texts=tuple(KNOWN)) -> Knowledge:
    space, prompts = FakeSpace(), tuple(prompt for prompt, _ in PAIRS)
    z = space.encode(prompts)
    gp = JointPromptGP(INST_DIM).fit(z, [o.errors for _, o in PAIRS], [o.evaluated for _, o in PAIRS])
    return Knowledge(space, ExemplarPool(POOL, 4), texts, gp, prompts, z, gp.predict(z)[0].detach(), space.encode)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_one_gradient_search_moves_every_exemplar_latent_and_no_instruction(monkeypatch):
    searches = []
    original = module.ascend

    def spy(gp, start, *arguments):
        found, value = original(gp, start, *arguments)
        searches.append((start, found, value, log_ei(*gp.predict(start), arguments[-1])))
        return found, value

    monkeypatch.setattr(module, "ascend", spy)
    two_stage(make_known(), 6, ProposalConfig(instructions=20, restarts=5, steps=20), rng())
    ((start, found, value, before),) = searches  # one batch
    assert start.shape == (100, FakeSpace.dim)
    assert torch.equal(found[:, :INST_DIM], start[:, :INST_DIM])
    moved = (found - start)[:, INST_DIM:].abs().amax(1)
    assert (moved > 1e-3).float().mean() > 0.9 and (value >= before).all() and value.mean() > before.mean() + 0.05


def test_what_is_decoded_is_in_the_latents_own_coordinates():
    known = make_known()
    two_stage(known, 6, SMALL, rng())
    (decoded,) = known.space.decoded
    known_sets = known.space.encode([Prompt(TEXTS[0], ()), *known.prompts])
    assert (decoded[:, INST_DIM:].mean(0) - OFFSET).abs().max() < 1  # a normalised search would be round 0.5
    assert decoded[:, INST_DIM:].std() > 0.3 * known_sets[:, INST_DIM:].std()
    instruction = known.space.encode([Prompt(text) for text in KNOWN])[:, :INST_DIM]
    assert torch.cdist(decoded[:, :INST_DIM], instruction).amin(1).max() < 1e-6


def test_the_search_stays_in_the_box_of_known_sets(monkeypatch):
    boxes = []
    monkeypatch.setattr(module, "ascend", lambda gp, start, box, *rest: (boxes.append((start, box)), (start, None))[1])
    known = make_known()
    two_stage(known, 4, SMALL, rng())
    ((start, (lower, upper)),) = boxes
    latents = torch.cat([start, known.z])[:, INST_DIM:]
    assert torch.equal(lower[0, INST_DIM:], latents.amin(0)) and torch.equal(upper[-1, INST_DIM:], latents.amax(0))


def test_random_share():
    config = ProposalConfig(instructions=4, restarts=2, steps=1, random_fraction=1.0)
    everything_random = two_stage(make_known(), 12, config, rng())
    assert len({prompt.instruction for prompt in everything_random}) > 6
    counts = [int(0.1 * 4 + rng(seed).random()) for seed in range(500)]
    assert 0.3 < np.mean(counts) < 0.5


def test_taken_prompts_are_left_out():
    known = make_known()
    first = two_stage(known, 6, SMALL, rng())
    second = two_stage(known, 6, SMALL, rng(), taken=first)
    assert not {prompt.id for prompt in first} & {prompt.id for prompt in second}


def test_many_instructions_are_cut_to_good_and_random_ones():
    known = make_known(tuple(TEXTS))
    chosen = module._choose_instructions(known, 20, rng())
    assert len(set(chosen)) == 20
    beside = known.prompts[known.ranking()[0]].exemplars
    value = log_ei(*known.gp.predict(known.space.encode([Prompt(text, beside) for text in TEXTS])), known.best)
    top = {TEXTS[i] for i in torch.topk(value, 10).indices}
    assert set(chosen[:10]) == top and not set(chosen[10:]) & top
    assert chosen[10:] != module._choose_instructions(known, 20, rng(1))[10:]


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


def test_random_prompts_end_when_there_are_no_more():
    pool = ExemplarPool((), 8)
    assert {p.instruction for p in random_prompts(("a", "b"), pool, 5, rng(), ())} == {"a", "b"}
    assert random_prompts(("a",), pool, 1, rng(), {Prompt("a").id}) == []
