"""Inputs as large as a real search's, made in seconds: instructions, a pool, an encoder, prompts with counts."""

from __future__ import annotations

from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.workload import random_prompts
from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.types import Example, Observation, Prompt, digest

Observed = tuple[tuple[Prompt, Observation], ...]

_PARTS = (
    ("Solve", "Read", "Work through", "Answer", "Study", "Compute", "Take", "Check", "Consider", "Finish"),
    ("the problem", "the question", "each sentence", "the story", "every number", "the task"),
    ("step by step", "with care", "in a few short lines", "one quantity at a time", "from left to right", "slowly"),
    ("and write the calculation", "and say what you do", "and keep every step", "and name each result",
     "and show your work", "and be exact"),
    ("before you give the answer.", "and end with the number alone.", "then check the sum.", "without other words."),
)  # fmt: skip


def instruction_texts(count: int) -> tuple[str, ...]:
    """Up to 8640 distinct instructions, those next to each other unlike."""
    texts = [" ".join(parts) for parts in islice(product(*_PARTS), 8640)]
    return tuple(texts[i * 1009 % len(texts)] for i in range(count))  # 1009 has no divisor in common with 8640


class HashEncoder:
    """Unit vectors (b, e) from the hash of a text: as many as you like at no cost, and no two texts are alike."""

    width = 384
    fingerprint = "hash"

    def encode(self, texts: Any) -> np.ndarray:
        return np.stack([_hashed(text, self.width) for text in texts])


@cache
def _hashed(text: str, width: int) -> np.ndarray:
    row = np.random.default_rng(int(digest(text), 16)).standard_normal(width)
    return (row / np.linalg.norm(row)).astype(np.float32)


def latent_space(
    encoder: Any, instructions: tuple[str, ...], pool: tuple[Example, ...], epochs: int, folder: Path
) -> LatentSpace:
    """A latent space of full size whose VAE was trained for ``epochs``: what it costs to use is the same as after
    thousands."""
    return fit_latent(encoder, instructions, pool, VAEConfig(max_epochs=epochs), 0, folder, 8)


def observations(space: LatentSpace, instructions: tuple[str, ...], pool: tuple[Example, ...], m: int) -> Observed:
    """m random prompts with counts at Hyperband's mixture of fidelities; their error rates follow the latents."""
    rng = np.random.default_rng(0)
    prompts = random_prompts(instructions, ExemplarPool(pool, 8), m, rng)
    z = space.encode(prompts)
    slope = torch.from_numpy(rng.standard_normal(z.shape[1])) / z.shape[1] ** 0.5
    rates = torch.sigmoid((z - z.mean(0)) / z.std(0) @ slope).numpy()
    evaluated = rng.choice([8, 16, 32, 64, 128], m, p=[0.5, 0.25, 0.13, 0.07, 0.05])
    errors = rng.binomial(evaluated, rates)
    return tuple(
        (prompt, Observation(prompt.id, int(k), int(b)))
        for prompt, k, b in zip(prompts, errors, evaluated, strict=True)
    )
