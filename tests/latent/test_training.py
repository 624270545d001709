import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent import training
from lipo_e_ray.latent.training import fit_latent, load_vae, train_vae
from lipo_e_ray.types import Example, InputError, Prompt

WIDTH = 16
CONFIG = VAEConfig(
    inst_dim=4, ex_dim=4, hidden=16, heads=2, inducing=2, max_epochs=3, patience=5, batch_size=16, training_sets=64
)
INSTRUCTIONS = ["solve it", "answer it", "think first", "be brief"]
POOL = [Example(f"what is {i}?", f"#### {i}") for i in range(12)]


class RandomEncoder:
    """A fixed random unit vector for every text."""

    width = WIDTH
    fingerprint = "random"

    def encode(self, texts):
        rows = [np.random.default_rng(list(text.encode())).standard_normal(WIDTH) + 1 for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32).reshape(-1, WIDTH)


@pytest.fixture
def embeddings():
    encode = RandomEncoder().encode
    return torch.from_numpy(encode(INSTRUCTIONS)), torch.from_numpy(encode([example.question for example in POOL]))


def train(embeddings, max_exemplars=8, seed=0, **changes):
    return train_vae(*embeddings, max_exemplars, replace(CONFIG, **changes), seed)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_training_lowers_the_validation_loss(embeddings):
    _, curve = train(embeddings, max_epochs=25)
    assert len(curve.train) == len(curve.validation) == 25
    assert min(curve.validation) < 0.8 * curve.validation[0]
    assert curve.stopped == "max_epochs"


def test_the_seed_decides_everything_and_global_randomness_is_left_alone(embeddings):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    vae, curve = train(embeddings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, curve_again = train(embeddings)
    other, _ = train(embeddings, seed=1)
    assert same(vae, again)
    assert curve == curve_again
    assert not same(vae, other)


def test_early_stopping_gives_back_the_best_weights(embeddings, monkeypatch):
    """A rate far too high: the loss jumps about and soon gets no better."""
    seen = []
    real = training._loss

    def spy(vae, *batch):
        loss = real(vae, *batch)
        if not torch.is_grad_enabled():  # validation
            seen.append((loss.item(), {name: value.clone() for name, value in vae.state_dict().items()}))
        return loss

    monkeypatch.setattr(training, "_loss", spy)
    vae, curve = train(embeddings, learning_rate=0.3, max_epochs=200, patience=3)
    assert curve.stopped == "patience"
    assert len(curve.validation) == curve.best_epoch + 3 < 200
    loss, weights = seen[curve.best_epoch - 1]
    assert loss == curve.validation[curve.best_epoch - 1] <= min(curve.validation) / (1 - training.MIN_GAIN)
    assert all(torch.equal(weights[name], value) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("good_epochs", [0, 2])
def test_a_loss_that_is_not_finite_ends_with_the_last_good_weights(embeddings, monkeypatch, caplog, good_epochs):
    real, calls = training._loss, []

    def fails_later(*batch):
        calls.append(1)
        loss = real(*batch)
        return loss if len(calls) <= good_epochs * 5 else loss * math.nan  # an epoch: 4 batches, 1 validation

    monkeypatch.setattr(training, "_loss", fails_later)
    with caplog.at_level(logging.WARNING):
        vae, curve = train(embeddings, max_epochs=10)
    assert curve.stopped == "not finite"
    assert curve.best_epoch == len(curve.validation) == good_epochs
    assert f"got none in epoch {good_epochs + 1}" in caplog.text
    assert all(value.isfinite().all() for value in vae.state_dict().values())


@pytest.mark.parametrize("lost", [slice(0, 2), slice(None)])
def test_embeddings_of_zeros_which_stand_for_broken_ones_train_a_finite_vae(embeddings, lost):
    instructions, pool = (part.clone() for part in embeddings)
    instructions[lost] = pool[lost] = 0
    vae, curve = train((instructions, pool), max_epochs=2)
    assert curve.stopped == "max_epochs" and all(map(math.isfinite, curve.train + curve.validation))
    assert all(value.isfinite().all() for value in vae.state_dict().values())
    assert vae.features(pool).isfinite().all()
    assert vae.inst_posterior(instructions)[0].isfinite().all()


@pytest.mark.parametrize("max_exemplars", [0, 1, 3, 8])
def test_training_sets_have_every_size_up_to_the_most_and_no_repeats(embeddings, max_exemplars):
    source = training._Source(*embeddings, max_exemplars, torch.Generator().manual_seed(0))
    _, chosen, features = source.draw(500)
    sizes = (chosen >= 0).sum(1)
    assert set(sizes.tolist()) == set(range(max_exemplars + 1))
    assert all(len(set(row[row >= 0].tolist())) == size for row, size in zip(chosen, sizes, strict=True))
    assert chosen.max() < len(features) == len(POOL)


def test_a_pool_smaller_than_a_set_is_used_as_it_is(embeddings):
    instructions, pool = embeddings
    vae, curve = train((instructions, pool[:2]))
    assert math.isfinite(curve.validation[-1])
    source = training._Source(instructions, vae.features(pool[:2]), 8, torch.Generator())
    assert (source.draw(100)[1] >= 0).sum(1).max() == 2


def test_large_pools_are_sampled(embeddings, monkeypatch):
    monkeypatch.setattr(training, "CHOICES", 9)
    source = training._Source(*embeddings, 8, torch.Generator().manual_seed(0))
    seen = set()
    for _ in range(10):
        _, chosen, features = source.draw(50)
        assert features.shape == (9, WIDTH)
        assert chosen.max() < 9
        seen |= {tuple(row.tolist()) for row in features}
    assert len(seen) == len(POOL)


class TestFitLatent:
    def fit(self, folder, instructions=INSTRUCTIONS, config=CONFIG, seed=0, most=8, encoder=None, pool=POOL):
        return fit_latent(encoder or RandomEncoder(), instructions, pool, config, seed, folder, most)

    @pytest.fixture
    def trainings(self, monkeypatch):
        runs = []
        monkeypatch.setattr(training, "train_vae", lambda *args: runs.append(args) or train_vae(*args))
        return runs

    def test_the_second_time_it_loads_the_same_space(self, tmp_path, trainings):
        prompts = [Prompt("solve it", (POOL[3], POOL[1])), Prompt("be brief")]
        first = self.fit(tmp_path / "latent").encode(prompts)
        second = self.fit(tmp_path / "latent").encode(prompts)
        assert torch.equal(first, second)
        assert len(trainings) == 1

    def test_anything_that_differs_trains_anew(self, tmp_path, trainings):
        other = RandomEncoder()
        other.fingerprint = "other"
        self.fit(tmp_path)
        for n, change in enumerate(
            [
                {"instructions": INSTRUCTIONS[:3]},
                {"pool": POOL[:11]},
                {"seed": 1},
                {"most": 7},
                {"config": replace(CONFIG, beta=0.01)},
                {"encoder": other},
            ],
            2,
        ):
            self.fit(tmp_path, **change)
            assert len(trainings) == n

    def test_the_folder_holds_checkpoint_and_loss_curve(self, tmp_path):
        self.fit(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"vae.safetensors", "vae_loss.json"}
        curve = json.loads((tmp_path / "vae_loss.json").read_text())
        assert len(curve["train"]) == len(curve["validation"]) == 3
        assert curve["stopped"] == "max_epochs"
        with safe_open(tmp_path / "vae.safetensors", framework="pt") as file:
            assert len(file.metadata()["fingerprint"]) == 16

    def test_a_broken_checkpoint_is_said_and_trained_anew(self, tmp_path, trainings, caplog):
        self.fit(tmp_path)
        (tmp_path / "vae.safetensors").write_bytes(b"cut off")
        with caplog.at_level(logging.WARNING):
            self.fit(tmp_path)
        assert "expected a safetensors file" in caplog.text
        assert len(trainings) == 2

    def test_nothing_to_train_on_is_an_input_error(self, tmp_path):
        with pytest.raises(InputError, match="expected instructions and a pool, got 0 and 12"):
            self.fit(tmp_path, instructions=[])
        with pytest.raises(InputError, match="got 4 and 0"):
            self.fit(tmp_path, pool=[])


def test_no_checkpoint_loads_as_none(tmp_path):
    assert load_vae(tmp_path / "vae.safetensors", WIDTH, CONFIG, "f") is None
