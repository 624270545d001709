"""The simplest rival: random prompts, raced by successive halving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lipo_e_ray.engine.base import Engine
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.statistics import Rate
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, LipoError, Prompt, Status

FIDELITIES = (8, 16, 32, 64, 128)
EXEMPLARS = 8
INSTRUCTIONS = SEED_INSTRUCTIONS[1:4]
"""Three shipped ones that suit any task: "Solve the problem." and two forms of "Answer the question."."""


@dataclass(frozen=True)
class Found:
    """The prompt that a search ended with, its validation accuracy, and the answers that the search asked for."""

    prompt: Prompt
    validation: Rate
    calls: int


async def accuracy(engine: Engine, prompt: Prompt, examples: Sequence[Example]) -> Rate:
    """How many are right. Raises ``LipoError`` for a failed answer: methods are compared on the same examples."""
    outcomes = await engine.evaluate(prompt, examples)
    if failed := [outcome.error for outcome in outcomes if outcome.status is Status.FAILED]:
        raise LipoError(f"{len(failed)} answers failed, the first: {failed[0]}; run the same command again")
    return Rate(sum(outcome.status is Status.CORRECT for outcome in outcomes), len(examples))


def rungs(count: int, fidelities: Sequence[int]) -> list[tuple[int, int]]:
    """(prompts, examples new to each of them) of each rung when ``count`` prompts begin."""
    new = np.diff([0, *fidelities]).tolist()
    return [(max(1, count >> rung), examples) for rung, examples in enumerate(new)]


def affordable(limit: int, fidelities: Sequence[int]) -> int:
    """The most prompts whose race costs no more calls than ``limit``. Raises ``InputError`` where there is none."""
    count = 0
    while sum(prompts * new for prompts, new in rungs(count + 1, fidelities)) <= limit:
        count += 1
    if not count:
        raise InputError(f"--limits: expected {fidelities[-1]} calls or more, as one prompt costs, got {limit}")
    return count


async def random_halved(task: Task, engine: Engine, limit: int, seed: int) -> Found:
    """Random prompts with eight exemplars, raced by successive halving; what is left of the limit buys nothing."""
    fidelities = sorted({min(n, len(task.validation)) for n in FIDELITIES})
    count, rng = affordable(limit, fidelities), np.random.default_rng(seed)
    sets = [rng.choice(len(task.pool), EXEMPLARS, replace=False) for _ in range(count)]
    prompts = [
        Prompt(INSTRUCTIONS[i % len(INSTRUCTIONS)], tuple(task.pool[j] for j in chosen))
        for i, chosen in enumerate(sets)
    ]
    right, seen, calls = dict.fromkeys(prompts, 0), 0, 0
    for alive, new in rungs(count, fidelities):
        prompts = sorted(prompts, key=lambda prompt: -right[prompt])[:alive]  # stable: of equals the first one
        examples = task.validation[seen : seen + new]
        rates = await asyncio.gather(*(accuracy(engine, prompt, examples) for prompt in prompts))
        for prompt, rate in zip(prompts, rates, strict=True):
            right[prompt] += rate.correct
        seen, calls = seen + new, calls + alive * new
    best = max(prompts, key=lambda prompt: right[prompt])
    return Found(best, Rate(right[best], seen), calls)
