"""LIPO-E on a grid of prompts, and LIPO-E without each of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel, ProductKernel
from torch import Tensor

from benchmarks.recorded.oracle import Oracle
from benchmarks.recorded.rivals import B_MIN, ETA, joint_embeddings
from benchmarks.recorded.tables import OutcomeTable, TableEncoder
from lipo_e_ray.config import PROFILES, HyperbandConfig, InvBOConfig, RunConfig
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.posterior import PromptSpace
from lipo_e_ray.proposal.proposer import MIN_OBSERVED, Proposer
from lipo_e_ray.proposal.sources import Grid
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import LimitedSchedule
from lipo_e_ray.surrogate.gp import Counts, HalfKernel, JointPromptGP
from lipo_e_ray.surrogate.noise import BetaPrior, Blocks, Measurements, NoiseShares, measure
from lipo_e_ray.types import Example, Prompt


def table_space(table: OutcomeTable, folder: Path) -> LatentSpace:
    """The demo's VAE on the table's own texts, kept in ``folder``."""
    return fit_latent(
        TableEncoder(table),
        table.grid.instructions,
        table.task.pool,
        PROFILES["demo"].vae,
        0,
        folder / table.grid.name,
        8,
    )


def product_alone(inst_dim: int, dim: int) -> ProductKernel:
    """The kernel without constants: two prompts are alike only where both halves are."""
    return ProductKernel(HalfKernel(range(inst_dim), None), HalfKernel(range(inst_dim, dim), None))


def one_kernel(inst_dim: int, dim: int) -> ProductKernel:
    """One Matern-5/2 over all of z, beside a half that tells no two prompts apart."""
    return ProductKernel(HalfKernel(range(dim)), ConstantHalf())


class ConstantHalf(Kernel):  # type: ignore[misc]  # gpytorch has no types
    """1 for every pair of prompts: a half of the kernel that looks at no dimension of z."""

    lengthscale = torch.empty(1, 0, dtype=torch.float64)
    common = torch.zeros((), dtype=torch.float64)

    def forward(self, x1: Tensor, x2: Tensor, **options: Any) -> Tensor:
        return torch.ones(len(x1), len(x2), dtype=x1.dtype)


def equal_noise(data: Blocks, prior: BetaPrior) -> Measurements:
    """Every measurement as noisy as the mean of them, whatever it was made on."""
    rate, variance, shared = map(torch.from_numpy, measure(data, prior))
    own, together = float(variance.mean()), float(shared.diagonal().mean())
    return Measurements(rate.numpy(), np.full_like(rate, own), np.full_like(shared, together))


class OneFidelityGP(JointPromptGP):
    """Fitted to the highest fidelity that enough prompts have reached, as in HbBoPs."""

    def fit(self, z: Tensor, errors: Counts, evaluated: Counts, prompt: Counts | None = None) -> JointPromptGP:
        errors, evaluated = np.asarray(errors), np.asarray(evaluated)
        rows = np.arange(len(errors)) if prompt is None else np.asarray(prompt)
        kept = evaluated == max(n for n in np.unique(evaluated) if (evaluated == n).sum() >= MIN_OBSERVED)
        return super().fit(z[rows[kept]], errors[kept], evaluated[kept])


class RawSpace:
    """The embeddings of instruction and exemplar set in the place of the VAE's latents; nothing decodes them."""

    def __init__(self, table: OutcomeTable) -> None:
        self._table, self._z = table, torch.from_numpy(joint_embeddings(table)).double()
        self.inst_dim = table.instruction_embeddings.shape[1]

    def encode(self, prompts: Sequence[Prompt]) -> Tensor:
        return self._z[[self._table.index(prompt) for prompt in prompts]]

    invert = encode

    def decode_instruction(self, z: Tensor) -> np.ndarray:
        raise NotImplementedError("a grid's prompts are chosen, not decoded")

    def decode_exemplars(self, z: Tensor) -> list[tuple[Example, ...]]:
        raise NotImplementedError("a grid's prompts are chosen, not decoded")


@dataclass(frozen=True)
class Variant:
    """What is other than in the package."""

    overlap: int = PROFILES["one-gpu"].hyperband.overlap
    chunks: int = PROFILES["one-gpu"].hyperband.chunks
    random: float = PROFILES["one-gpu"].proposal.random_fraction
    make_gp: Callable[[int], JointPromptGP] = JointPromptGP
    raw: bool = False


LIPO_E = "LIPO-E"
VARIANTS: dict[str, Variant] = {
    LIPO_E: Variant(),
    "equal noise": Variant(make_gp=partial(JointPromptGP, measure=equal_noise)),
    "no shared noise": Variant(make_gp=partial(JointPromptGP, shares=NoiseShares(0.0, 0.0))),
    "one fidelity": Variant(make_gp=OneFidelityGP),
    "product alone": Variant(make_gp=partial(JointPromptGP, make_kernel=product_alone)),
    "one kernel": Variant(make_gp=partial(JointPromptGP, make_kernel=one_kernel)),
    "raw embeddings": Variant(raw=True),
    "random proposals": Variant(random=1.0),
    "whole rungs": Variant(chunks=1),
    "overlap 0": Variant(overlap=0),
    "overlap 4": Variant(overlap=4),
}


def lipo_e(oracle: Oracle, seed: int, space: LatentSpace, variant: Variant) -> None:
    """The package's proposer and its walk within the oracle's budget; the prompts of the grid are all there is."""
    table = oracle.table
    config = RunConfig(
        seed=seed,
        hyperband=HyperbandConfig(b_min=B_MIN, eta=ETA, overlap=variant.overlap, chunks=variant.chunks),
        invbo=InvBOConfig(iterations=0),
    )
    used: PromptSpace = RawSpace(table) if variant.raw else space
    proposer = Proposer(
        table.task,
        config,
        dict.fromkeys(table.grid.instructions, "file"),
        lambda: (used, None),
        {"hyperband": [Grid(table.prompts, variant.random)]},
        variant.make_gp,
    )
    schedule = LimitedSchedule(config, oracle.budget, Ending((), oracle.n, 0, B_MIN))
    run_search(Hyperband(schedule, seed, variant.overlap), proposer.propose, oracle.evaluate)
