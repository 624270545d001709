"""The rivals on a grid of prompts, each as its paper or its library has it. All see the same tables, budgets and seeds.

A method is a function of an ``Oracle`` and a seed that searches until the budget is spent (``SpentError``).
"""

from __future__ import annotations

import math
import warnings
from itertools import count

import numpy as np
import torch
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Normalize, Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood

from benchmarks.recorded.oracle import Oracle
from benchmarks.recorded.tables import OutcomeTable
from lipo_e_ray.search.brackets import Bracket, hyperband_brackets
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Batch, Origin, Proposal, Request

B_MIN, ETA = 10, 2  # of Hyperband, as in HbBoPs
PASSES = 3  # of Hyperband: more than any budget pays for
INITIAL = 8  # random prompts before a GP


def random_search(oracle: Oracle, seed: int) -> None:
    """Prompts in random order, each on all examples."""
    for prompt in np.random.default_rng(seed).permutation(len(oracle.table.prompts)):
        oracle.errors(int(prompt), oracle.n)


def successive_halving(oracle: Oracle, seed: int) -> None:
    """TRIPLE-SH (Shi et al. 2024, section 3): halve the pool log2(size) times, an equal share of the budget each time.

    Where the budget is too small for one example per prompt and round, the pool is a random part of all prompts. What
    is left at the end goes into a full evaluation of the last survivors.
    """
    size = next(
        k for k in range(len(oracle.table.prompts), 0, -1) if k == 1 or k * math.ceil(math.log2(k)) <= oracle.budget
    )
    alive = [int(i) for i in np.random.default_rng(seed).permutation(len(oracle.table.prompts))[:size]]
    rounds, seen = max(1, math.ceil(math.log2(size))), 0
    for _ in range(rounds):
        seen = min(oracle.n, seen + max(1, oracle.budget // rounds // len(alive)))
        alive.sort(key=lambda prompt: oracle.errors(prompt, seen))  # stable: ties in random order
        alive = alive[: max(1, len(alive) // 2)]
    oracle.errors(alive[0], oracle.n)


def passes(n: int) -> tuple[Bracket, ...]:
    """Hyperband again and again."""
    length = len(hyperband_brackets(n, B_MIN, ETA))
    return tuple(
        bracket for i in range(PASSES) for bracket in hyperband_brackets(n, B_MIN, ETA, first_index=i * length)
    )


def hyperband_random(oracle: Oracle, seed: int) -> None:
    """Hyperband (Li et al. 2018) with random proposals, each prompt once."""
    order = iter(np.random.default_rng(seed).permutation(len(oracle.table.prompts)))

    def propose(request: Request) -> Batch:
        return Batch(
            tuple(
                Proposal(oracle.table.prompts[i], Origin("seed", request.stage, request.bracket))
                for i, _ in zip(order, range(request.count), strict=False)
            )
        )

    run_search(Hyperband(FixedSchedule(passes(oracle.n)), seed, overlap=0), propose, oracle.evaluate)


def tpe(oracle: Oracle, seed: int) -> None:
    """Optuna's TPE over instruction and exemplar set as two categories, at full fidelity: MIPROv2's search."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    grid = oracle.table.grid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # MIPROv2 uses it all the same
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        instruction = trial.suggest_categorical("instruction", range(len(grid.instructions)))
        exemplars = trial.suggest_categorical("exemplars", range(len(grid.exemplar_sets)))
        return oracle.errors(instruction * len(grid.exemplar_sets) + exemplars, oracle.n) / oracle.n

    study.optimize(objective, n_trials=10 * len(oracle.table.prompts))


def hdbo(oracle: Oracle, seed: int) -> None:
    """A plain GP with dimension-scaled priors (Hvarfner et al. 2024) on raw embeddings, EI at full fidelity.

    botorch's ``SingleTaskGP`` has those priors by default. Its input is [instruction || exemplar set's text].
    """
    torch.manual_seed(seed)
    x = torch.from_numpy(joint_embeddings(oracle.table)).double()
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(x))]
    asked, errors = list[int](), list[float]()
    for step in count():
        if step < INITIAL:
            chosen = order[step]
        else:
            y = -torch.tensor(errors, dtype=torch.float64)[:, None]  # botorch maximises
            model = SingleTaskGP(
                x[asked], y, input_transform=Normalize(x.shape[1], bounds=_bounds(x)), outcome_transform=Standardize(1)
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            with torch.no_grad():
                value = LogExpectedImprovement(model, best_f=y.max())(x[:, None])
            value[asked] = -torch.inf
            chosen = int(value.argmax())
        errors.append(oracle.errors(chosen, oracle.n) / oracle.n)
        asked.append(chosen)


def _bounds(x: torch.Tensor) -> torch.Tensor:
    """Of all candidates, not of the observed ones: with few of those a coordinate may be constant."""
    return torch.stack([x.amin(0), x.amax(0).maximum(x.amin(0) + 1e-6)])


def joint_embeddings(table: OutcomeTable) -> np.ndarray:
    """(i * s, 2e): instruction and exemplar set of every prompt, in the order of ``table.prompts``."""
    i, s = len(table.grid.instructions), len(table.grid.exemplar_sets)
    return np.concatenate([np.repeat(table.instruction_embeddings, s, 0), np.tile(table.set_embeddings, (i, 1))], 1)
