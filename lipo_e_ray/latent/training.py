"""Training the VAE on random prompts, and keeping it: a safetensors checkpoint and the loss curve beside it."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent.encoder import Encoder, example_text
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.vae import SLOTS, StructureAwareVAE, kl_divergence
from lipo_e_ray.types import Example, InputError, digest

logger = logging.getLogger(__name__)

VERSION = "1"  # of model and training: raise it when an old checkpoint must not be used any more
VALIDATION_SETS = 128  # pairs that the validation loss is measured on
CHOICES = 1024  # exemplars of the pool that a batch draws its sets from and its slots choose among
MIXED, NOISE = 0.7, 0.3  # share of mixed instructions; length of the noise on them, in unit embeddings
MIN_GAIN = 2e-3  # relative: what the validation loss must fall by to count as better
WARM_UP = 50  # steps until the learning rate is full: attention before a LayerNorm diverges when it starts with that
MAX_NORM = 1.0  # to which the gradient is clipped


@dataclass
class LossCurve:
    """Mean loss per epoch in nats, and why training ended: ``patience``, ``max_epochs`` or ``not finite``.

    ``best_epoch`` counts from 1; 0 means that the weights are the initial ones.
    """

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = "max_epochs"


@dataclass(frozen=True)
class _Source:
    """Draws training pairs: instruction embeddings (n, e), the pool's features (p, f), and one random generator."""

    instructions: Tensor
    features: Tensor
    max_exemplars: int
    generator: torch.Generator

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Instructions (count, e), most of them mixtures of two; sets (count, 8) of indices into features (c, f).

        Mixtures with some noise teach the space between the instructions, where InvBO's new texts will lie.
        """
        first, second = (self.instructions[self._integers(len(self.instructions), count)] for _ in range(2))
        mixed = (self._uniform(count, 1) < MIXED).float()
        noise = torch.randn(first.shape, generator=self.generator) * NOISE / first.shape[1] ** 0.5
        instructions = F.normalize(first + mixed * (self._uniform(count, 1) * (second - first) + noise), dim=-1)
        features = self.features[torch.randperm(len(self.features), generator=self.generator)[:CHOICES]]
        most = min(self.max_exemplars, len(features))
        sizes = self._integers(most + 1, count)
        chosen = torch.full((count, SLOTS), -1)
        if most:
            chosen[:, :most] = self._uniform(count, len(features)).topk(most).indices
        return instructions, chosen.masked_fill(torch.arange(SLOTS) >= sizes[:, None], -1), features

    def noise(self, count: int, width: int) -> Tensor:
        return torch.randn(count, width, generator=self.generator)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)


def train_vae(
    instructions: Tensor, pool: Tensor, max_exemplars: int, config: VAEConfig, seed: int
) -> tuple[StructureAwareVAE, LossCurve]:
    """Fit a VAE to embeddings (n, e) and (p, e), float32; gives the weights with the lowest validation loss.

    An epoch is ``training_sets`` fresh random pairs of an instruction and a set of 0..max_exemplars of the pool.
    Validation pairs are drawn once, from a seed of their own; no instruction is held back, for each is a start of the
    search. The same arguments give the same weights; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        vae = StructureAwareVAE(pool.shape[1], config)
    vae.calibrate(instructions, pool)
    source, held_out = (
        _Source(instructions, vae.features(pool), max_exemplars, torch.Generator().manual_seed(s))
        for s in (2 * seed, 2 * seed + 1)
    )
    validation = (*held_out.draw(VALIDATION_SETS), held_out.noise(VALIDATION_SETS, vae.dim))
    curve = LossCurve()
    best, lowest = copy.deepcopy(vae.state_dict()), math.inf
    for epoch, loss in enumerate(_epochs(vae, source, config), 1):
        with torch.no_grad():
            held_out_loss = _loss(vae, *validation, config.beta).item()
        if not (math.isfinite(loss) and math.isfinite(held_out_loss)):
            curve.stopped = "not finite"
            logger.warning(
                "VAE: expected a finite loss, got none in epoch %d; keeping the weights of epoch %d;"
                " a lower rate trains longer: --set vae.learning_rate=0.001",
                epoch,
                curve.best_epoch,
            )
            break
        curve.train.append(loss)
        curve.validation.append(held_out_loss)
        if held_out_loss < lowest * (1 - MIN_GAIN):
            best, lowest, curve.best_epoch = copy.deepcopy(vae.state_dict()), held_out_loss, epoch
        elif epoch - curve.best_epoch >= config.patience:
            curve.stopped = "patience"
            break
    vae.load_state_dict(best)
    return vae.eval(), curve


def _epochs(vae: StructureAwareVAE, source: _Source, config: VAEConfig) -> Iterator[float]:
    """Train for up to ``max_epochs``; yields each epoch's mean loss. NaN ends the epoch at once."""
    batches = math.ceil(config.training_sets / config.batch_size)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, fused=True)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / (batches * config.max_epochs)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for _ in range(config.max_epochs):
        total = 0.0
        for _ in range(batches):
            batch = (*source.draw(config.batch_size), source.noise(config.batch_size, vae.dim))
            loss = _loss(vae, *batch, config.beta)
            total += loss.item()
            if not math.isfinite(total):
                break
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), MAX_NORM)
            optimiser.step()
            schedule.step()
        yield total / batches


def _loss(
    vae: StructureAwareVAE, instructions: Tensor, chosen: Tensor, features: Tensor, noise: Tensor, beta: float
) -> Tensor:
    """Reconstruction of both halves + beta * KL, the mean over the batch; ``noise`` (b, d) samples the posterior."""
    mean, log_variance = vae.posterior(instructions, features[chosen.clamp_min(0)], chosen >= 0)
    z = vae.refine(mean + noise * (0.5 * log_variance).exp())
    reconstruction = vae.reconstruction(z, instructions, chosen, features).total
    return (reconstruction + beta * kl_divergence(mean, log_variance)).mean()


def fit_latent(
    encoder: Encoder,
    instructions: Sequence[str],
    pool: Sequence[Example],
    config: VAEConfig,
    seed: int,
    folder: Path,
    max_exemplars: int,
) -> LatentSpace:
    """The latent space of these texts, trained once and kept in ``folder``.

    It is loaded from ``vae.safetensors`` if that was trained on the same texts with the same encoder, configuration,
    seed and ``max_exemplars``. The loss curve is in ``vae_loss.json``. Raises ``InputError`` when there is no
    instruction or no pool.
    """
    if not instructions or not pool:
        raise InputError(
            f"latent space: expected instructions and a pool, got {len(instructions)} and {len(pool)}; give both"
        )
    texts = [example_text(example) for example in pool]
    fingerprint = digest(
        "vae",
        VERSION,
        encoder.fingerprint,
        json.dumps(asdict(config), sort_keys=True),
        str(seed),
        str(max_exemplars),
        *instructions,
        "pool",
        *texts,
    )
    vae = load_vae(folder / "vae.safetensors", encoder.width, config, fingerprint)
    if vae is None:
        embeddings, pool_embeddings = (torch.from_numpy(encoder.encode(group)) for group in (instructions, texts))
        vae, curve = train_vae(embeddings, pool_embeddings, max_exemplars, config, seed)
        save_vae(vae, curve, folder, fingerprint)
    return LatentSpace(encoder, vae, pool, max_exemplars)


def save_vae(vae: StructureAwareVAE, curve: LossCurve, folder: Path, fingerprint: str) -> None:
    """Write ``vae_loss.json``, then, whole or not at all, ``vae.safetensors`` with the fingerprint in its header."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vae_loss.json").write_text(json.dumps(asdict(curve)), encoding="utf-8")
    part = folder / "vae.safetensors.part"
    save_file(vae.state_dict(), part, metadata={"fingerprint": fingerprint})
    os.replace(part, folder / "vae.safetensors")


def load_vae(path: Path, width: int, config: VAEConfig, fingerprint: str) -> StructureAwareVAE | None:
    """The VAE at ``path``; None when there is none, it can't be read, or its fingerprint is another."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        logger.warning("%s: expected a safetensors file, got %s; training anew", path, error)
        return None
    vae = StructureAwareVAE(width, config)
    vae.load_state_dict(state)
    return vae.eval()
