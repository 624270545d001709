"""HbBoPs (Schneider et al. 2025, "Hyperband-based Bayesian Optimization for Black-box Prompt Selection", ICML).

Hyperband whose prompts are proposed one by one, by EI under a GP with a structural-aware deep kernel: instruction and
exemplars have a feed-forward network each, a third one joins them in 10 dimensions, a Matern-5/2 kernel compares there.
The GP is fitted to the highest fidelity with enough observations, a tenth of the proposals is random.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from benchmarks.recorded.deep_kernel import DeepKernelGP
from benchmarks.recorded.oracle import Oracle
from benchmarks.recorded.rivals import joint_embeddings, passes
from lipo_e_ray.proposal.acquisition import log_ei
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Batch, Evaluation, Origin, Prompt, Proposal, Request

MIN_OBSERVED = 4  # at one fidelity, before a GP is fitted to it
RANDOM = 0.1  # share of proposals


def _log_ei(x: np.ndarray, rows: list[int], errors: list[float], rng: np.random.Generator) -> np.ndarray:
    """Log EI of every candidate in ``x`` (b, 2e), by a GP on ``rows`` of it."""
    y = np.array(errors)
    low, high = x[rows].min(0), x[rows].max(0)
    x = (x - low) / np.maximum(high - low, 1e-6)
    y = (y - y.mean()) / max(y.std(ddof=1), 1e-6)
    gp = DeepKernelGP(x.shape[1] // 2, rng)
    gp.fit(x[rows], y)
    mean, std = map(torch.from_numpy, gp.predict(x, x[rows], y))
    return log_ei(mean, std, float(y.min())).numpy()


def hbbops(oracle: Oracle, seed: int) -> None:
    """Propose, evaluate at the bracket's lowest fidelity, and only then propose the next."""
    rng = np.random.default_rng(seed)
    x = joint_embeddings(oracle.table).astype(float)
    observed: dict[int, dict[int, float]] = defaultdict(dict)  # fidelity -> prompt -> error
    fitted: dict[tuple[int, int], np.ndarray] = {}  # level and observations there: the same data gives the same GP

    def propose_one(taken: set[int]) -> int:
        levels = [n for n, errors in observed.items() if len(errors) >= MIN_OBSERVED]
        free = [i for i in range(len(x)) if i not in taken]
        if not levels or rng.random() < RANDOM:
            return int(rng.choice(free))
        level = max(levels)
        key = (level, len(observed[level]))
        if key not in fitted:
            fitted[key] = _log_ei(x, list(observed[level]), list(observed[level].values()), rng)
        return max(free, key=lambda i: fitted[key][i])

    def propose(request: Request) -> Batch:
        taken = {oracle.table.index(prompt) for prompt, _ in request.observed}
        proposals = []
        fidelity = ladder[request.bracket]
        for _ in range(min(request.count, len(x) - len(taken))):
            chosen = propose_one(taken)
            taken.add(chosen)
            observed[fidelity][chosen] = oracle.errors(chosen, fidelity) / fidelity
            proposals.append(Proposal(oracle.table.prompts[chosen], Origin("seed", request.stage, request.bracket)))
        return Batch(tuple(proposals))

    def evaluate(prompt: Prompt, n: int) -> Evaluation:
        evaluation = oracle.evaluate(prompt, n)
        observed[n][oracle.table.index(prompt)] = evaluation.observation.error
        return evaluation

    brackets = passes(oracle.n)
    ladder = {bracket.index: bracket.rungs[0].fidelity for bracket in brackets}
    run_search(Hyperband(FixedSchedule(brackets), seed, overlap=0), propose, evaluate)
