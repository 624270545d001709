"""Exemplar sets: how they are written, drawn at random and edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lipo_e_ray.types import Example

SMALL_SETS = 0.2
"""Share of random sets with fewer than three quarters of the exemplars that a prompt may have, 0 included. Of the best
prompts of every task so far almost all had 6 to 8 of 8 exemplars (docs/log.md)."""


@dataclass(frozen=True)
class ExemplarPool:
    """Exemplar sets as this package writes them: without repeats, in pool order, at most ``max_exemplars``."""

    examples: tuple[Example, ...]
    max_exemplars: int

    @cached_property
    def _index(self) -> dict[Example, int]:
        return {example: i for i, example in enumerate(self.examples)}

    def random(self, rng: np.random.Generator) -> tuple[Example, ...]:
        """A set of random size: mostly near ``max_exemplars``, see ``SMALL_SETS``; uniform within either part."""
        most = min(self.max_exemplars, len(self.examples))
        large = -(-3 * most // 4)
        size = int(rng.integers(large) if large and rng.random() < SMALL_SETS else rng.integers(large, most + 1))
        return tuple(self.examples[i] for i in sorted(rng.choice(len(self.examples), size, replace=False)))

    def edit(self, exemplars: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
        """The set with one exemplar swapped, dropped or added, whichever is possible."""
        inside = sorted(self._index[example] for example in exemplars if example in self._index)
        outside = sorted(set(range(len(self.examples))) - set(inside))
        can_add, can_drop = bool(outside) and len(inside) < self.max_exemplars, bool(inside)
        moves = ["add"] * can_add + ["drop"] * can_drop + ["swap"] * (can_drop and bool(outside))
        move = moves[int(rng.integers(len(moves)))] if moves else ""
        if move in ("drop", "swap"):
            inside.pop(int(rng.integers(len(inside))))
        if move in ("add", "swap"):
            inside.append(outside[int(rng.integers(len(outside)))])
        return tuple(self.examples[i] for i in sorted(inside))
