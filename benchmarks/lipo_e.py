"""LIPO-E on a grid of prompts, and LIPO-E without each of its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.oracle import Oracle
from benchmarks.rivals import B_MIN, ETA
from benchmarks.tables import OutcomeTable, TableEncoder
from lipo_e_ray.config import PROFILES, HyperbandConfig, ProposalConfig, RunConfig
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.search import Walk
from lipo_e_ray.tune.brackets import hyperband_brackets
from lipo_e_ray.tune.hyperband import Hyperband, Propose
from lipo_e_ray.types import Observation


def table_space(table: OutcomeTable, folder: Path) -> LatentSpace:
    """The demo's VAE on the table's own texts, kept in ``folder``."""
    return fit_latent(TableEncoder(table), table.grid.instructions, table.task.pool, PROFILES["demo"].vae, 0,
                      folder / table.grid.name, 8)


def lipo_e(oracle: Oracle, seed: int, space: LatentSpace, promotion: str = "errors", overlap: int = 0,
           b_min: int = B_MIN, aggressive: bool = False, random: float = 0.1) -> None:
    """The package's proposer and walk; the prompts of the grid are all there is."""
    table = oracle.table
    config = RunConfig(seed=seed, hyperband=HyperbandConfig(b_min=b_min, eta=ETA),
                       proposal=ProposalConfig(random_fraction=random))
    proposer = Proposer(table.task, config, dict.fromkeys(table.grid.instructions, "file"), lambda: (space, None),
                        grid=table.prompts)
    one = hyperband_brackets(oracle.n, b_min, ETA)
    if aggressive:
        brackets = [replace(one[0], index=i) for i in range(12)]
    else:
        brackets = [b for i in range(4) for b in hyperband_brackets(oracle.n, b_min, ETA, first_index=i * len(one))]
    walk = Walk(Hyperband(brackets, seed, overlap=overlap), lambda _: None)
    seen: dict[str, Observation] = {}
    while actions := walk.hyperband.actions():
        action = actions[0]
        if isinstance(action, Propose):
            walk.enter(action.bracket, proposer.propose(walk.request(action)))
            continue
        prompts = [walk.prompts[prompt_id] for prompt_id in action.prompt_ids]
        evaluations = [oracle.evaluate(prompt, action.fidelity) for prompt in prompts]
        for e in evaluations:
            before = seen.get(e.observation.prompt_id)
            if before is None or e.observation.evaluated > before.evaluated:
                seen[e.observation.prompt_id] = e.observation
        scores = None
        if promotion == "posterior" and len(seen) >= 4:
            observed = [(walk.prompts[prompt_id], observation) for prompt_id, observation in seen.items()]
            scores = dict(zip(action.prompt_ids, proposer.believed(prompts, observed), strict=True))
        walk.hyperband.observe(action.bracket.index, action.rung, evaluations, scores)


VARIANTS: dict[str, dict[str, object]] = {
    "LIPO-E": {}, "post": {"promotion": "posterior"},
    "post b5": {"promotion": "posterior", "b_min": 5}, "post b3": {"promotion": "posterior", "b_min": 3},
    "b3": {"b_min": 3},
    "post b3 agg": {"promotion": "posterior", "b_min": 3, "aggressive": True},
    "post b3 agg r0": {"promotion": "posterior", "b_min": 3, "aggressive": True, "random": 0.0},
    "post b6 agg": {"promotion": "posterior", "b_min": 6, "aggressive": True},
    "post b1 agg": {"promotion": "posterior", "b_min": 1, "aggressive": True}}
"""Name -> arguments of ``lipo_e``."""
