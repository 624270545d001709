import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent.vae import CONCENTRATION, SLOTS, StructureAwareVAE, kl_divergence, match

WIDTH = 24
CONFIG = VAEConfig(inst_dim=4, ex_dim=6, hidden=16, heads=2, inducing=2)


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(n, WIDTH, generator=generator) + 1, dim=-1) for n in (10, 30)]


@pytest.fixture
def vae(embeddings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = StructureAwareVAE(WIDTH, CONFIG)
        torch.nn.init.normal_(vae.refinement[-1].weight, std=0.1)  # as trained: no longer the identity
    vae.calibrate(*embeddings)
    return vae.double()


@pytest.fixture
def chosen():
    return torch.tensor([[4, 2, 9, -1], [7, -1, -1, -1], [-1] * 4, [0, 1, 2, 3]])


@pytest.fixture
def batch(vae, embeddings, chosen):
    instructions, pool = (group.double() for group in embeddings)
    return instructions[:4], chosen, vae.features(pool)


def posterior(vae, batch):
    instructions, chosen, pool = batch
    return vae.posterior(instructions, pool[chosen.clamp_min(0)], chosen >= 0)


def test_default_dimensions_are_the_design_s():
    vae = StructureAwareVAE(768, VAEConfig())
    layers = [tuple(layer.weight.shape) for layer in vae.encode_inst if hasattr(layer, "weight")]
    assert layers == [(256, 768), (128, 256), (32, 128)]
    assert (vae.inst_dim, vae.dim, SLOTS) == (16, 32, 8)


def test_shapes(vae, batch):
    mean, log_variance = posterior(vae, batch)
    z = vae.refine(mean)
    slots, presence = vae.decode_slots(z)
    assert mean.shape == log_variance.shape == z.shape == (4, 10)
    assert vae.decode_instruction(z).shape == (4, WIDTH)
    assert slots.shape == (4, SLOTS, WIDTH)  # features: 64, or the width where that is smaller
    assert presence.shape == (4, SLOTS)
    for unit in (vae.decode_instruction(z), slots):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1], dtype=unit.dtype))


def test_the_posterior_ignores_the_order_of_the_set(vae, batch):
    instructions, chosen, pool = batch
    for before, after in zip(posterior(vae, batch), posterior(vae, (instructions, chosen.flip(1), pool)), strict=True):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_each_decoder_reads_its_own_half_of_the_refined_latent(vae, batch):
    z = vae.refine(posterior(vae, batch)[0]).detach()
    other_set, other_instruction = z.clone(), z.clone()
    other_set[:, vae.inst_dim :] += 1
    other_instruction[:, : vae.inst_dim] += 1
    assert torch.equal(vae.decode_instruction(z), vae.decode_instruction(other_set))
    assert not torch.allclose(vae.decode_instruction(z), vae.decode_instruction(other_instruction))
    assert torch.equal(vae.decode_slots(z)[0], vae.decode_slots(other_instruction)[0])
    assert not torch.allclose(vae.decode_slots(z)[0], vae.decode_slots(other_set)[0])


def test_refinement_is_the_identity_before_training():
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(StructureAwareVAE(WIDTH, CONFIG).refine(z), z)


def test_features_are_the_pool_s_half_whitened_principal_components(vae, embeddings):
    pool = embeddings[1].double()
    _, spread, directions = torch.linalg.svd(pool - pool.mean(0), full_matrices=False)
    expected = F.normalize((pool - pool.mean(0)) @ directions.T / spread.sqrt(), dim=-1)
    torch.testing.assert_close(vae.features(pool) @ vae.features(pool).T, expected @ expected.T, atol=1e-5, rtol=0)


def test_a_pool_of_one_example_has_finite_features(embeddings):
    vae = StructureAwareVAE(WIDTH, CONFIG)
    vae.calibrate(embeddings[0], embeddings[1][:1])
    assert vae.features(embeddings[1][:1]).isfinite().all()


def test_decoded_instructions_invert_the_view_from_the_mean(vae, embeddings):
    targets = embeddings[0].double()
    vae.decode_inst = torch.nn.Identity()
    vae.inst_dim = WIDTH
    torch.testing.assert_close(vae.decode_instruction(3 * (targets - vae.inst_centre)), targets)


def test_kl_divergence_by_hand():
    mean, log_variance = torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(4)], [0.0, 0.0]])
    # 1/2 (1 + 1 - 1 - 0) + 1/2 (4 + 4 - 1 - log 4)
    torch.testing.assert_close(kl_divergence(mean, log_variance), torch.tensor([0.5 + 3.5 - math.log(2), 0.0]))


def test_kl_divergence_against_torch():
    mean, log_variance = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_match_finds_the_cheapest_assignment_of_all():
    cost = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, True], [False] * 3] * 2)
    slot_of = match(cost, mask)
    for one, real, slots in zip(cost, mask, slot_of, strict=True):
        assert len(set(slots.tolist())) == 3
        elements = real.nonzero().flatten().tolist()
        price = sum(one[slots[element], element].item() for element in elements)
        best = min(
            sum(one[s, e].item() for s, e in zip(slots, elements, strict=True))
            for slots in itertools.permutations(range(5), len(elements))
        )
        assert price == pytest.approx(best)


def test_reconstruction_by_hand(vae, batch):
    """Slots and presence put in by hand: slot 5 aims at exemplar 1 and is present, all others aim at exemplar 0."""
    instructions, _, pool = batch
    slots = pool[:1].repeat(SLOTS, 1)[None].clone()
    slots[0, 5] = pool[1]
    presence = torch.full((1, SLOTS), -3.0, dtype=pool.dtype)
    presence[0, 5] = 2.0
    vae.decode_slots = lambda z: (slots, presence)
    vae.decode_instruction = lambda z: instructions[1:2]
    z = torch.zeros(1, vae.dim, dtype=pool.dtype)
    got = vae.reconstruction(z, instructions[:1], torch.tensor([[1, -1]]), pool)
    centred = F.normalize(instructions[:2] - vae.inst_centre, dim=-1)
    logits = 10 * pool[1] @ pool.T
    assert got.instruction.item() == pytest.approx(CONCENTRATION * (1 - (centred[0] @ centred[1]).item()))
    assert got.exemplars.item() == pytest.approx((logits.logsumexp(0) - logits[1]).item())
    assert got.presence.item() == pytest.approx(math.log1p(math.exp(-2)) + 7 * math.log1p(math.exp(-3)))
    assert got.total.item() == pytest.approx(sum(part.item() for part in got))


def test_reconstruction_ignores_the_order_and_the_padding(vae, batch):
    instructions, chosen, pool = batch
    z = vae.refine(posterior(vae, batch)[0])
    expected = vae.reconstruction(z, instructions, chosen, pool).total
    torch.testing.assert_close(vae.reconstruction(z, instructions, chosen.flip(1), pool).total, expected)
    longer = torch.cat([chosen, torch.full((4, 4), -1)], dim=1)
    torch.testing.assert_close(vae.reconstruction(z, instructions, longer, pool).total, expected)


def test_an_empty_set_costs_no_exemplars_and_every_parameter_gets_a_gradient(vae, batch):
    mean, log_variance = posterior(vae, batch)
    parts = vae.reconstruction(vae.refine(mean + log_variance), *batch)
    assert parts.exemplars[2] == 0
    parts.total.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
