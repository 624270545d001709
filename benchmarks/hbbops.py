"""HbBoPs (Schneider et al. 2025, "Hyperband-based Bayesian Optimization for Black-box Prompt Selection", ICML).

Hyperband whose prompts are proposed one by one, by EI under a GP with a structural-aware deep kernel: instruction and
exemplars have a feed-forward network each, a third one joins them in 10 dimensions, a Matern-5/2 kernel compares there.
The GP is fitted to the highest fidelity with enough observations, a tenth of the proposals is random.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.oracle import Oracle
from benchmarks.rivals import joint_embeddings, passes
from lipo_e_ray.proposal.acquisition import log_ei
from lipo_e_ray.search import run_search
from lipo_e_ray.tune.hyperband import Hyperband
from lipo_e_ray.types import Evaluation, Origin, Prompt, Proposal, Request

MIN_OBSERVED = 4  # at one fidelity, before a GP is fitted to it
RANDOM = 0.1
EPOCHS, PATIENCE, RATE = 3000, 10, 0.01  # AdamW; epochs without a lower loss


class _DeepKernelGP(nn.Module):
    """Constant mean, scaled Matern-5/2 with ARD on the joined embedding; parameters start as gpytorch's do.

    In plain torch: a fit takes thousands of steps on a few dozen points, and gpytorch spends most of each on itself.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inst, self.ex = (nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
                              for _ in range(2))
        self.join = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.mean, self.scale, self.noise = (nn.Parameter(torch.zeros(())) for _ in range(3))
        self.lengthscale = nn.Parameter(torch.zeros(10))
        self.double()

    def embed(self, x: Tensor) -> Tensor:
        inst, ex = x.chunk(2, 1)
        return self.join(torch.cat([self.inst(inst), self.ex(ex)], 1)) / softplus(self.lengthscale)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        distance = ((a[:, None] - b).square().sum(-1) + 1e-12).sqrt() * 5**0.5
        return softplus(self.scale) * (1 + distance + distance.square() / 3) * torch.exp(-distance)

    def cholesky(self, z: Tensor) -> Tensor:
        return torch.linalg.cholesky(self.kernel(z, z) + (softplus(self.noise) + 1e-4) * torch.eye(len(z)).double())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the log evidence of y (m,) per observation, without its constant."""
        factor = self.cholesky(self.embed(x))
        white = torch.linalg.solve_triangular(factor, (y - self.mean)[:, None], upper=False)
        return (white.square().sum() / 2 + factor.diagonal().log().sum()) / len(y)

    def predict(self, x: Tensor, seen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (b,) at x, given y at ``seen``."""
        z = self.embed(seen)
        factor = self.cholesky(z)
        cross = torch.linalg.solve_triangular(factor, self.kernel(z, self.embed(x)), upper=False)
        white = torch.linalg.solve_triangular(factor, (y - self.mean)[:, None], upper=False)
        variance = softplus(self.scale) - cross.square().sum(0)
        return self.mean + (cross * white).sum(0), variance.clamp_min(1e-12).sqrt()


def _log_ei(x: Tensor, rows: list[int], errors: list[float]) -> Tensor:
    """Log EI of every candidate in ``x`` (b, 2e), by a GP on ``rows`` of it."""
    y = torch.tensor(errors).double()
    low, high = x[rows].amin(0), x[rows].amax(0)
    x = (x - low) / (high - low).clamp_min(1e-6)
    y = (y - y.mean()) / y.std().clamp_min(1e-6)
    gp, seen = _DeepKernelGP(x.shape[1] // 2), x[rows]
    optimiser = torch.optim.AdamW(gp.parameters(), lr=RATE, fused=True)
    best, since = math.inf, 0
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss = gp.loss(seen, y)
        loss.backward()
        optimiser.step()
        best, since = (loss.item(), 0) if loss.item() < best else (best, since + 1)
        if since == PATIENCE:
            break
    with torch.no_grad():
        return log_ei(*gp.predict(x, seen, y), float(y.min()))


def hbbops(oracle: Oracle, seed: int) -> None:
    """Propose, evaluate at the bracket's lowest fidelity, and only then propose the next."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(joint_embeddings(oracle.table)).double()
    observed: dict[int, dict[int, float]] = defaultdict(dict)  # fidelity -> prompt -> error
    fitted: dict[tuple[int, int], Tensor] = {}  # level and observations there: the same data gives the same GP

    def propose_one(taken: set[int]) -> int:
        levels = [n for n, of_level in observed.items() if len(of_level) >= MIN_OBSERVED]
        free = [i for i in range(len(x)) if i not in taken]
        if not levels or rng.random() < RANDOM:
            return int(rng.choice(free))
        level = max(levels)
        key = (level, len(observed[level]))
        if key not in fitted:
            fitted[key] = _log_ei(x, list(observed[level]), list(observed[level].values()))
        return max(free, key=lambda i: float(fitted[key][i]))

    def propose(request: Request) -> list[Proposal]:
        taken = {oracle.table.index(prompt) for prompt, _ in request.observed}
        proposals = []
        fidelity = ladder[request.bracket]
        for _ in range(min(request.count, len(x) - len(taken))):
            chosen = propose_one(taken)
            taken.add(chosen)
            observed[fidelity][chosen] = oracle.errors(chosen, fidelity) / fidelity
            proposals.append(Proposal(oracle.table.prompts[chosen], Origin("seed", request.stage, request.bracket)))
        return proposals

    def evaluate(prompt: Prompt, n: int) -> Evaluation:
        evaluation = oracle.evaluate(prompt, n)
        observed[n][oracle.table.index(prompt)] = evaluation.observation.error
        return evaluation

    brackets = passes(oracle.n)
    ladder = {bracket.index: bracket.rungs[0].fidelity for bracket in brackets}
    run_search(Hyperband(brackets, seed, overlap=0), propose, evaluate, lambda *_: None, lambda _: None)
