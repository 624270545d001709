"""LIPO-E on a grid of prompts, and LIPO-E without each of its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from botorch.models import SingleTaskGP
from torch import Tensor

from benchmarks.oracle import Oracle
from benchmarks.rivals import B_MIN, ETA, passes
from benchmarks.tables import OutcomeTable, TableEncoder
from lipo_e_ray.config import PROFILES, HyperbandConfig, RunConfig
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.search import run_search
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.surrogate.noise import NoiseShares
from lipo_e_ray.tune.hyperband import Hyperband


def table_space(table: OutcomeTable, folder: Path) -> LatentSpace:
    """The demo's VAE on the table's own texts, kept in ``folder``."""
    return fit_latent(TableEncoder(table), table.grid.instructions, table.task.pool, PROFILES["demo"].vae, 0,
                      folder / table.grid.name, 8)


class ProductGP(JointPromptGP):
    """The kernel without constants: two prompts are alike only where both halves are."""

    def _build(self, *arguments: Tensor) -> SingleTaskGP:
        model = super()._build(*arguments)
        for half in model.covar_module.base_kernel.kernels:
            half.common.data.zero_()
            half.common.requires_grad_(False)
        return model


@dataclass(frozen=True)
class Variant:
    """What is other than in the package."""

    b_min: int = B_MIN
    overlap: int = 0
    make_gp: Callable[[int], JointPromptGP] = JointPromptGP


VARIANTS: dict[str, Variant] = {
    "LIPO-E": Variant(),
    "LIPO-E, no shared noise": Variant(make_gp=partial(JointPromptGP, shares=NoiseShares(0.0, 0.0))),
    "LIPO-E, product alone": Variant(make_gp=ProductGP),
    "LIPO-E, overlap 4": Variant(overlap=4),
    "LIPO-E, from 3 examples": Variant(b_min=3),
}


def lipo_e(oracle: Oracle, seed: int, space: LatentSpace, variant: Variant) -> None:
    """The package's proposer and walk, pass after pass; the prompts of the grid are all there is."""
    table = oracle.table
    config = RunConfig(seed=seed, hyperband=HyperbandConfig(b_min=variant.b_min, eta=ETA))
    proposer = Proposer(table.task, config, dict.fromkeys(table.grid.instructions, "file"), lambda: (space, None),
                        table.prompts, variant.make_gp)
    run_search(Hyperband(passes(oracle.n, variant.b_min), seed, overlap=variant.overlap), proposer.propose,
               oracle.evaluate, lambda *_: None, lambda _: None)
