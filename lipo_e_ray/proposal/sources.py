"""The sources that need no search of their own: plain instructions, random prompts, a fixed grid of prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.search.schedule import OWN_SHARE, SHIPPED_SHARE
from lipo_e_ray.types import Prompt

ATTEMPTS = 100  # random draws for each prompt wanted; when they find no new one, the space counts as exhausted


class Plain:
    """Instructions without exemplars: the user's own, then the shipped ones.

    They are a part of each chunk of the run's first bracket: up to ``OWN_SHARE`` of it while there are own ones, then
    up to ``SHIPPED_SHARE``. Where two were seen and all that were seen erred on every example, there are no more:
    the task cannot be done so.
    """

    def __init__(self, own: Iterable[str], shipped: Iterable[str]) -> None:
        self._own = [Prompt(text) for text in own]
        self._shipped = [Prompt(text) for text in shipped]

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``."""
        if state.request.bracket or self._is_hopeless(state):
            return []
        own = state.new(self._own)[: math.ceil(OWN_SHARE * count)]
        shipped = state.new(self._shipped)[: max(0, math.ceil(SHIPPED_SHARE * count) - len(own))]
        return [Candidate(prompt, info={"way": "plain"}) for prompt in (*own, *shipped)]

    def _is_hopeless(self, state: SearchState) -> bool:
        seen = [o for prompt, o in state.request.observed if not prompt.exemplars and o.evaluated]
        return len(seen) > 1 and all(o.errors == o.evaluated for o in seen)


class RandomPrompts:
    """A random instruction, with a random set of the pool's exemplars.

    Half of the instructions are of the ``trusted`` ones, which people wrote; the others are any that are known.
    """

    def __init__(self, pool: ExemplarPool, trusted: Iterable[str] = ()) -> None:
        self._pool = pool
        self._trusted = tuple(trusted)

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``; fewer than ``count`` only when the space is exhausted."""
        found: dict[str, Prompt] = {}
        for _ in range(ATTEMPTS * count):
            if len(found) == count:
                break
            texts = self._trusted if self._trusted and rng.random() < 0.5 else state.instructions
            prompt = Prompt(texts[int(rng.integers(len(texts)))], self._pool.random(rng))
            if prompt.id not in found and state.accepts(prompt):
                found[prompt.id] = prompt
        return [Candidate(prompt, info={"way": "random"}) for prompt in found.values()]


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
