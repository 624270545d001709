"""The sources that need no search of their own: given seeds, random prompts, a fixed grid of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.types import Prompt

ATTEMPTS = 100  # random draws for each prompt wanted; when they find no new one, the space counts as exhausted


class Seeds:
    """Instructions without exemplars, in the order given."""

    def __init__(self, instructions: Iterable[str]) -> None:
        self._prompts = [Prompt(text) for text in instructions]

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``."""
        return [Candidate(prompt) for prompt in state.new(self._prompts)[:count]]


class RandomPrompts:
    """Any known instruction, with a random set of the pool's exemplars."""

    def __init__(self, pool: ExemplarPool) -> None:
        self._pool = pool

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``; fewer than ``count`` only when the space is exhausted."""
        prompts = random_prompts(state.instructions, self._pool, count, rng, state.accepts)
        return [Candidate(prompt) for prompt in prompts]


class Grid:
    """A choice among given prompts, as in benchmarks on recorded answers.

    The posterior, where there is one, chooses by ``greedy_batch``; ``random_fraction`` of a batch is random.
    """

    def __init__(self, prompts: Sequence[Prompt], random_fraction: float) -> None:
        self._prompts = tuple(prompts)
        self._random_fraction = random_fraction

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``; fewer than ``count`` only when no more prompts are left."""
        left, chosen = state.new(self._prompts), list[int]()
        if state.posterior is not None:
            random = random_share(self._random_fraction, count, rng)
            chosen = state.posterior.choose_batch(left, count - random)
        others = [i for i in range(len(left)) if i not in chosen]
        chosen += [others[i] for i in rng.permutation(len(others))[: count - len(chosen)]]
        return [Candidate(left[i]) for i in chosen]


def random_share(fraction: float, count: int, rng: np.random.Generator) -> int:
    """How many of ``count`` are random: rounded up or down at random, so that small batches get their share."""
    return min(count, int(fraction * count + rng.random()))


def random_prompts(
    instructions: Sequence[str],
    pool: ExemplarPool,
    n: int,
    rng: np.random.Generator,
    accepts: Callable[[Prompt], bool] = lambda prompt: True,
) -> list[Prompt]:
    """n distinct prompts that ``accepts`` takes: a uniform instruction, a random set. Fewer if none are found."""
    found: dict[str, Prompt] = {}
    for _ in range(ATTEMPTS * n):
        if len(found) == n:
            break
        prompt = Prompt(instructions[int(rng.integers(len(instructions)))], pool.random(rng))
        if prompt.id not in found and accepts(prompt):
            found[prompt.id] = prompt
    return list(found.values())
