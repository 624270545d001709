"""How to fit ``JointPromptGP``: botorch's L-BFGS against Adam (1000 steps, rate 0.01, patience 50).

``python -m benchmarks.costs.gp_fit`` prints, per number of prompts: CPU seconds of a cold fit and of a refit after 4
new prompts, the marginal log likelihood (with priors, per prompt), and on 200 held-out prompts the negative log
likelihood of the TRUE error rate and its correlation with the prediction. Error rates are drawn from a GP with the
same kind of covariance (2 active dimensions a half), counts are binomial at Hyperband's mixture of fidelities.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from gpytorch.mlls import ExactMarginalLogLikelihood

from lipo_e_ray.surrogate.gp import JointPromptGP, maximise_lbfgs

Maximise = Callable[[ExactMarginalLogLikelihood], None]

HELD_OUT = 200  # prompts that a fit is judged on
INST_DIM = 16


def maximise_adam(mll: ExactMarginalLogLikelihood) -> None:
    """Adam on the same objective, kept inside the parameters' lower bounds; ends on the best state it saw."""
    mll.train()
    bounded = [(p, c) for _, p, c in mll.named_parameters_and_constraints() if p.requires_grad]
    optimizer = torch.optim.Adam([parameter for parameter, _ in bounded], lr=0.01)
    best, state, waited = math.inf, mll.state_dict(), 0
    for _ in range(1000):
        optimizer.zero_grad()
        loss = -mll(mll.model(*mll.model.train_inputs), mll.model.train_targets)
        loss.backward()
        waited = 0 if loss.item() < best - 1e-5 else waited + 1
        if waited == 0:
            best, state = loss.item(), {name: value.clone() for name, value in mll.state_dict().items()}
        elif waited == 50:
            break
        optimizer.step()
        with torch.no_grad():
            for parameter, constraint in bounded:
                if constraint is not None:
                    parameter.clamp_(min=constraint.lower_bound.item())
    mll.load_state_dict(state)


def synthetic_prompts(m: int, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Latents (m, 32), true error rates (m,), errors (m,) and evaluated (m,)."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((m, 2 * INST_DIM))
    covariance = np.ones((m, m))
    for half in (z[:, :INST_DIM], z[:, INST_DIM:]):
        active = half[:, rng.choice(INST_DIM, 2, replace=False)] / 3.0
        r = math.sqrt(5) * np.linalg.norm(active[:, None] - active[None], axis=-1)
        covariance *= (1 + r + r**2 / 3) * np.exp(-r)
    f = np.linalg.cholesky(covariance + 1e-8 * np.eye(m)) @ rng.standard_normal(m)
    rate = 1 / (1 + np.exp(0.2 - 0.9 * f))
    evaluated = rng.choice([8, 16, 32, 64, 128], m, p=[0.5, 0.25, 0.13, 0.07, 0.05])
    return torch.from_numpy(z), rate, rng.binomial(evaluated, rate), evaluated


def measure(m: int, seed: int, maximise: Maximise) -> tuple[float, float, float, float, float]:
    """CPU seconds cold and warm, MLL, held-out negative log likelihood and correlation of one fit."""
    z, rate, errors, evaluated = synthetic_prompts(m + HELD_OUT, seed)
    gp, seconds = JointPromptGP(INST_DIM, maximise).fit(z[: m - 4], errors[: m - 4], evaluated[: m - 4]), []
    for model in (JointPromptGP(INST_DIM, maximise), gp):
        start = time.process_time()
        model.fit(z[:m], errors[:m], evaluated[:m])
        seconds.append(time.process_time() - start)
    with torch.no_grad():
        mean, std = (value.numpy() for value in gp.predict(z[m:]))
        gp.model.train()
        mll = ExactMarginalLogLikelihood(gp.model.likelihood, gp.model)
        fitted = mll(gp.model(*gp.model.train_inputs), gp.model.train_targets).item()
    true = rate[m:]
    nll = np.mean(0.5 * np.log(2 * np.pi * std**2) + 0.5 * ((true - mean) / std) ** 2)
    return *seconds, fitted, float(nll), float(np.corrcoef(true, mean)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 500])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'prompts':>7}  {'fit':6}  {'cold s':>7}  {'warm s':>7}  {'MLL':>8}  {'held-out NLL':>12}  {'corr':>5}")
    for m in arguments.sizes:
        for name, maximise in (("L-BFGS", maximise_lbfgs), ("Adam", maximise_adam)):
            runs = [measure(m, seed, maximise) for seed in range(arguments.seeds)]
            cold, warm, mll, nll, correlation = np.mean(runs, axis=0)
            print(f"{m:7d}  {name:6}  {cold:7.2f}  {warm:7.2f}  {mll:8.4f}  {nll:12.3f}  {correlation:5.2f}")


if __name__ == "__main__":
    main()
