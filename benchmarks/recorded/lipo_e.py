"""LIPO-E on a grid of prompts, and LIPO-E without each of its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from botorch.models import SingleTaskGP
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.recorded.oracle import Oracle
from benchmarks.recorded.rivals import B_MIN, ETA, joint_embeddings, passes
from benchmarks.recorded.tables import OutcomeTable, TableEncoder
from lipo_e_ray.config import PROFILES, HyperbandConfig, RunConfig
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.proposer import MIN_OBSERVED, Proposer
from lipo_e_ray.proposal.sources import Grid
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.surrogate.noise import NoiseShares
from lipo_e_ray.types import Prompt


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


class ProductGP(JointPromptGP):
    """The kernel without constants: two prompts are alike only where both halves are."""

    def _build(self, *arguments: Tensor) -> SingleTaskGP:
        model = super()._build(*arguments)
        for half in model.covar_module.base_kernel.kernels:
            half.common.data.zero_()
            half.common.requires_grad_(False)
        return model


class OneKernelGP(JointPromptGP):
    """One Matern-5/2 over all of z: its second half is a column of zeros, where all prompts are alike."""

    def fit(self, z: Tensor, *counts: Sequence[int]) -> JointPromptGP:
        self.inst_dim = z.shape[1]
        return super().fit(pad(z, (0, 1)), *counts)

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return super().predict(pad(z, (0, self.inst_dim + 1 - z.shape[1])))  # ``fit`` asks with the column

    def joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return super().joint(pad(z, (0, 1)))


class EqualNoiseGP(JointPromptGP):
    """Every measurement as noisy as the mean of them, whatever it was made on."""

    def _build(self, z: Tensor, mean: Tensor, variance: Tensor, shared: Tensor) -> SingleTaskGP:
        return super()._build(
            z,
            mean,
            torch.full_like(variance, float(variance.mean())),
            torch.full_like(shared, float(shared.diagonal().mean())),
        )


class OneFidelityGP(JointPromptGP):
    """Fitted to the highest fidelity that enough prompts have reached, as in HbBoPs."""

    def fit(self, z: Tensor, *counts: Sequence[int]) -> JointPromptGP:
        errors, evaluated, prompt = map(np.asarray, counts)
        reached = [n for n in np.unique(evaluated) if (evaluated == n).sum() >= MIN_OBSERVED]
        kept = evaluated == max(reached)
        return super().fit(z[prompt[kept]], errors[kept], evaluated[kept])


class RawSpace:
    """The embeddings of instruction and exemplar set in the place of the VAE's latents."""

    def __init__(self, table: OutcomeTable) -> None:
        self._table, self._z = table, torch.from_numpy(joint_embeddings(table)).double()
        self.inst_dim = table.instruction_embeddings.shape[1]

    def encode(self, prompts: Sequence[Prompt]) -> Tensor:
        return self._z[[self._table.index(prompt) for prompt in prompts]]


@dataclass(frozen=True)
class Variant:
    """What is other than in the package."""

    overlap: int = PROFILES["one-gpu"].hyperband.overlap
    random: float = PROFILES["one-gpu"].proposal.random_fraction
    make_gp: Callable[[int], JointPromptGP] = JointPromptGP
    raw: bool = False


LIPO_E = "LIPO-E"
VARIANTS: dict[str, Variant] = {
    LIPO_E: Variant(),
    "equal noise": Variant(make_gp=EqualNoiseGP),
    "no shared noise": Variant(make_gp=partial(JointPromptGP, shares=NoiseShares(0.0, 0.0))),
    "one fidelity": Variant(make_gp=OneFidelityGP),
    "product alone": Variant(make_gp=ProductGP),
    "one kernel": Variant(make_gp=OneKernelGP),
    "raw embeddings": Variant(raw=True),
    "random proposals": Variant(random=1.0),
    "overlap 0": Variant(overlap=0),
    "overlap 4": Variant(overlap=4),
}


def lipo_e(oracle: Oracle, seed: int, space: LatentSpace, variant: Variant) -> None:
    """The package's proposer and walk, pass after pass; the prompts of the grid are all there is."""
    table = oracle.table
    config = RunConfig(seed=seed, hyperband=HyperbandConfig(b_min=B_MIN, eta=ETA))
    used = RawSpace(table) if variant.raw else space
    proposer = Proposer(
        table.task,
        config,
        dict.fromkeys(table.grid.instructions, "file"),
        lambda: (used, None),
        {"hyperband": [Grid(table.prompts, variant.random)]},
        variant.make_gp,
    )
    run_search(Hyperband(passes(oracle.n), seed, overlap=variant.overlap), proposer.propose, oracle.evaluate)
