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
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.models import ExactGP
from torch import Tensor, nn

from benchmarks.oracle import Oracle
from benchmarks.rivals import joint_embeddings, passes
from lipo_e_ray.search import run_search
from lipo_e_ray.tune.hyperband import Hyperband
from lipo_e_ray.types import Evaluation, Origin, Prompt, Proposal, Request

MIN_OBSERVED = 4  # at one fidelity, before a GP is fitted to it
RANDOM = 0.1
EPOCHS, PATIENCE, RATE = 3000, 10, 0.01  # AdamW; epochs without a lower loss


class _DeepKernelGP(ExactGP):
    def __init__(self, x: Tensor, y: Tensor, likelihood: GaussianLikelihood) -> None:
        super().__init__(x, y, likelihood)
        width = x.shape[1] // 2
        self.inst, self.ex = (nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
                              for _ in range(2))
        self.join = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.mean_module = ConstantMean()
        self.covar_module = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=10))

    def forward(self, x: Tensor) -> MultivariateNormal:
        width = x.shape[1] // 2
        z = self.join(torch.cat([self.inst(x[:, :width]), self.ex(x[:, width:])], 1))
        return MultivariateNormal(self.mean_module(z), self.covar_module(z))


def _expected_improvement(x: Tensor, rows: list[int], errors: list[float]) -> Tensor:
    """EI of every candidate in ``x`` (b, 2e), by a GP on ``rows`` of it."""
    seen, y = x[rows], torch.tensor(errors)
    low, high = seen.amin(0), seen.amax(0)
    x = (x - low) / (high - low).clamp_min(1e-6)
    spread = y.std().clamp_min(1e-6)
    y = (y - y.mean()) / spread
    likelihood = GaussianLikelihood()
    gp = _DeepKernelGP(x[rows], y, likelihood)
    evidence = ExactMarginalLogLikelihood(likelihood, gp)
    optimiser = torch.optim.AdamW(gp.parameters(), lr=RATE)
    gp.train()
    best, since = math.inf, 0
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss = -evidence(gp(x[rows]), y)
        loss.backward()
        optimiser.step()
        best, since = (loss.item(), 0) if loss.item() < best else (best, since + 1)
        if since == PATIENCE:
            break
    gp.eval()
    with torch.no_grad():
        posterior = gp(x)
        std = posterior.variance.clamp_min(1e-12).sqrt()
        u = (y.min() - posterior.mean) / std
        return std * (torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi) + u * torch.special.ndtr(u))


def hbbops(oracle: Oracle, seed: int) -> None:
    """Propose, evaluate at the bracket's lowest fidelity, and only then propose the next."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(joint_embeddings(oracle))
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
            fitted[key] = _expected_improvement(x, list(observed[level]), list(observed[level].values()))
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
