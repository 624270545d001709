from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent.encoder import example_text
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import train_vae
from lipo_e_ray.types import Example, Prompt

WIDTH, TOPICS = 24, 6
CONFIG = VAEConfig(
    inst_dim=8, ex_dim=8, hidden=32, heads=2, inducing=4, max_epochs=40, patience=40, batch_size=64, training_sets=512
)
INSTRUCTIONS = [f"instruction {i}" for i in range(18)]
HELD_OUT = [f"instruction {i}" for i in range(18, 30)]
POOL = tuple(Example(f"question {i}", f"#### {i}") for i in range(24))


class ClusteredEncoder:
    """Texts of one topic (their number modulo 6) lie together, and all texts lie on one side, as sentences do."""

    width, fingerprint = WIDTH, "clustered"

    def encode(self, texts):
        return np.stack([self._one(text) for text in texts]) if texts else np.empty((0, WIDTH), np.float32)

    def _one(self, text):
        kind, number = text.split("\n")[0].split()
        topic = np.random.default_rng([len(kind), int(number) % TOPICS]).standard_normal(WIDTH)
        own = np.random.default_rng([len(kind), 1000 + int(number)]).standard_normal(WIDTH)
        row = topic + 0.8 * own + 2
        return (row / np.linalg.norm(row)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    encode = ClusteredEncoder().encode
    embeddings = [torch.from_numpy(encode(texts)) for texts in (INSTRUCTIONS, [example_text(e) for e in POOL])]
    return train_vae(*embeddings, 8, CONFIG, 0)[0]


@pytest.fixture(scope="module")
def space(trained):
    return LatentSpace(ClusteredEncoder(), trained, POOL, 8)


def random_prompts(instructions, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Prompt(instructions[rng.integers(len(instructions))], tuple(POOL[i] for i in rng.permutation(24)[:k]))
        for k in sizes
    ]


@pytest.fixture(scope="module")
def prompts():
    return random_prompts(INSTRUCTIONS, [*range(9)] * 10)


def test_latents_are_float64_of_the_configured_width(space, prompts):
    z = space.encode(prompts)
    assert (space.inst_dim, space.dim) == (8, 16)
    assert z.shape == (len(prompts), 16)
    assert z.dtype == torch.float64
    assert not z.requires_grad
    assert space.encode([]).shape == space.invert([]).shape == (0, 16)


def test_the_order_of_exemplars_does_not_matter(space, prompts):
    reordered = [Prompt(prompt.instruction, prompt.exemplars[::-1]) for prompt in prompts]
    torch.testing.assert_close(space.encode(prompts), space.encode(reordered), atol=1e-5, rtol=0)


def test_a_latent_does_not_depend_on_its_batch(space, prompts):
    torch.testing.assert_close(space.encode(prompts)[7:8], space.encode(prompts[7:8]), atol=1e-10, rtol=0)


def test_encode_and_decode_are_the_vae_s_own_on_its_own_scale(space, trained, prompts):
    """Nothing is normalised on the way: the refined mean goes out, and goes back into the decoder as it is."""
    vae, encode = trained.double(), ClusteredEncoder().encode
    try:
        prompt = prompts[5]
        instruction = torch.from_numpy(encode([prompt.instruction])).double()
        exemplars = vae.features(torch.from_numpy(encode([example_text(e) for e in prompt.exemplars])).double())
        mean, _ = vae.posterior(instruction, exemplars[None], torch.ones(1, len(exemplars), dtype=torch.bool))
        z = space.encode([prompt])
        torch.testing.assert_close(z, vae.refine(mean).detach(), atol=1e-6, rtol=0)
        decoded = space.decode_instruction(z)
        np.testing.assert_allclose(decoded, vae.decode_instruction(z).detach().numpy())
        np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1)
    finally:
        trained.float()


def test_instructions_survive_the_round_trip(space, prompts):
    decoded = space.decode_instruction(space.encode(prompts))
    nearest = (decoded @ ClusteredEncoder().encode(INSTRUCTIONS).T).argmax(1)
    recovered = np.mean([INSTRUCTIONS[i] == prompt.instruction for i, prompt in zip(nearest, prompts, strict=True)])
    assert recovered > 0.9  # chance: 1/18


def shared(found, prompts):
    """Mean share of a prompt's exemplars that its decoded set has."""
    return np.mean(
        [
            len(set(one) & set(prompt.exemplars)) / len(prompt.exemplars)
            for one, prompt in zip(found, prompts, strict=True)
            if prompt.exemplars
        ]
    )


def test_exemplar_sets_survive_the_round_trip(space, prompts):
    found = space.decode_exemplars(space.encode(prompts))
    sizes = [abs(len(one) - len(prompt.exemplars)) for one, prompt in zip(found, prompts, strict=True)]
    assert np.mean(sizes) < 1.3  # chance: 3
    assert shared(found, prompts) > 2 * shared(found, random_prompts(INSTRUCTIONS, [*range(9)] * 10, seed=1))
    assert Counter(map(len, found))[0] >= 9  # the empty set is found again


@settings(max_examples=50)
@given(st.lists(st.floats(-50, 50), min_size=16, max_size=16), st.integers(0, 8))
def test_any_latent_decodes_to_a_legal_set(trained, values, most):
    space = LatentSpace(ClusteredEncoder(), trained, POOL, most)
    (exemplars,) = space.decode_exemplars(torch.tensor([values], dtype=torch.float64))
    assert len(exemplars) <= most
    assert exemplars == tuple(sorted(set(exemplars), key=POOL.index))


def test_slots_that_agree_still_choose_different_exemplars(trained):
    """All eight slots aim at the same exemplar, and the pool has equal embeddings in it."""
    encoder = ClusteredEncoder()
    encoder.encode = lambda texts: ClusteredEncoder().encode(["question 1"] * len(texts))
    space = LatentSpace(encoder, trained, POOL[:10], 8)
    slots = torch.ones(1, 8, WIDTH, dtype=torch.float64)
    space._vae.decode_slots = lambda z: (slots, torch.ones(1, 8, dtype=torch.float64))
    (exemplars,) = space.decode_exemplars(torch.zeros(1, 16, dtype=torch.float64))
    assert len(set(exemplars)) == 8


def test_a_set_is_never_larger_than_the_pool(trained):
    space = LatentSpace(ClusteredEncoder(), trained, POOL[:3], 8)
    z = torch.randn(50, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert max(map(len, space.decode_exemplars(z))) <= 3


def test_what_cannot_be_encoded_is_refused(space, trained):
    with pytest.raises(ValueError, match="expected exemplars of the pool, got 'elsewhere'"):
        space.encode([Prompt("instruction 1", (Example("elsewhere", "1"),))])
    with pytest.raises(ValueError, match="expected 8 exemplars or fewer, got 9"):
        space.encode([Prompt("instruction 1", POOL[:9])])
    with pytest.raises(ValueError, match=r"max_exemplars: expected 0\.\.8, got 9"):
        LatentSpace(ClusteredEncoder(), trained, POOL, 9)


@pytest.fixture(scope="module")
def held_out():
    return random_prompts(HELD_OUT, [*range(9)] * 3, seed=2)


class TestInvert:
    def test_it_lowers_the_distance_on_held_out_prompts(self, space, held_out):
        before = space.distance(space.encode(held_out), held_out)
        after = space.distance(space.invert(held_out), held_out)
        assert (after <= before).all()
        assert after.mean() < 0.9 * before.mean()

    def test_what_it_finds_decodes_to_more_of_the_prompt(self, space, held_out):
        z, inverted = space.encode(held_out), space.invert(held_out)
        targets = ClusteredEncoder().encode([prompt.instruction for prompt in held_out])
        cosine = [(space.decode_instruction(one) * targets).sum(1).mean() for one in (z, inverted)]
        assert 1 - cosine[1] < 0.9 * (1 - cosine[0])
        assert shared(space.decode_exemplars(inverted), held_out) > shared(space.decode_exemplars(z), held_out)

    def test_no_steps_are_encode(self, space, held_out):
        assert torch.equal(space.invert(held_out, steps=0), space.encode(held_out))

    def test_the_best_iterate_is_kept(self, space, held_out, monkeypatch):
        """A rate far too high: most steps lead away, and none of those may be the answer."""
        monkeypatch.setattr("lipo_e_ray.latent.space.INVERSION_RATE", 20.0)
        z = space.invert(held_out, steps=5)
        assert (space.distance(z, held_out) <= space.distance(space.encode(held_out), held_out)).all()

    def test_it_is_the_same_every_time_and_leaves_randomness_and_decoder_alone(self, trained, held_out):
        space, fresh = (LatentSpace(ClusteredEncoder(), trained, POOL, 8) for _ in range(2))
        state = torch.get_rng_state()
        weights = [value.clone() for value in space._vae.state_dict().values()]
        with torch.no_grad():  # callers that only predict do not switch the search off
            z = space.invert(held_out)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(a, b) for a, b in zip(weights, space._vae.state_dict().values(), strict=True))
        assert torch.equal(z, fresh.invert(held_out))
        assert torch.equal(space.invert(held_out[3:5] * 2), z[3:5].repeat(2, 1))
        assert not z.requires_grad

    def test_a_prompt_is_inverted_once(self, space, held_out, monkeypatch):
        space.invert(held_out)
        monkeypatch.delattr(space._vae.__class__, "reconstruction")
        assert space.invert(held_out[::-1]).shape == (len(held_out), 16)
