"""Two-stage proposals for Hyperband: choose instructions, then search an exemplar set for each by gradient on LogEI.

All latents are those of ``LatentSpace``, refined and un-normalised: what the GP is fitted on, what is optimised and
what is decoded are the same coordinates. The GP's own scaling stays inside the GP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.proposal.acquisition import ascend, greedy_batch, log_ei
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.types import Example, Prompt

if TYPE_CHECKING:
    from lipo_e_ray.latent.space import LatentSpace

GOOD_SETS = 10  # best observed exemplar sets that restarts begin at and that recombinations use
EDITED = 5  # best observed prompts whose sets are edited
EDITS = 8  # edits of each
RECOMBINED = 8  # instructions paired with the best sets, 5 each
ATTEMPTS = 100  # random draws per prompt wanted, before the space counts as exhausted


@dataclass(frozen=True)
class ExemplarPool:
    """Exemplar sets as this package writes them: without repeats, in pool order, at most ``max_exemplars``."""

    examples: tuple[Example, ...]
    max_exemplars: int

    @cached_property
    def _index(self) -> dict[Example, int]:
        return {example: i for i, example in enumerate(self.examples)}

    def random(self, rng: np.random.Generator) -> tuple[Example, ...]:
        """A set of uniform size 0..max_exemplars."""
        size = int(rng.integers(min(self.max_exemplars, len(self.examples)) + 1))
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


@dataclass(frozen=True)
class Knowledge:
    """What a batch is proposed from: the m observed prompts and the surrogate of their errors.

    ``gp`` is fitted on ``z`` (m, d) = ``embed(prompts)`` and ``mean`` (m,) is its posterior there. ``embed`` is
    ``space.encode``, or ``space.invert`` in InvBO (gradient steps: for what is fitted and ranked only, points to start
    a search from are encoded). ``instructions`` are all texts known, InvBO's too. ``running``: prompts whose next
    evaluation is under way, observed before or not.
    """

    space: LatentSpace
    pool: ExemplarPool
    instructions: tuple[str, ...]
    gp: JointPromptGP
    prompts: tuple[Prompt, ...]
    z: Tensor
    mean: Tensor
    embed: Callable[[Sequence[Prompt]], Tensor]
    running: tuple[Prompt, ...] = ()

    @property
    def best(self) -> float:
        """Lowest posterior mean over the observed prompts."""
        return float(self.mean.min())

    def ranking(self) -> list[int]:
        """Observed prompts, lowest posterior mean first."""
        return torch.argsort(self.mean, stable=True).tolist()

    def rank(self, candidates: Sequence[Prompt], q: int, chosen: Sequence[int] = ()) -> list[int]:
        """Up to q of ``candidates`` by ``greedy_batch`` at their own latents, not at those they were decoded from.

        Those of the indices ``chosen``, and the prompts that are running, are pending and not chosen again.
        """
        if not candidates:
            return []
        mean, covariance = self.gp.joint(self.embed([*candidates, *self.running]))
        pending = [*chosen, *range(len(candidates), len(mean))]
        return greedy_batch(mean, covariance, self.best, q, pending)


def two_stage(
    known: Knowledge, n: int, config: ProposalConfig, rng: np.random.Generator, taken: Iterable[Prompt] = ()
) -> list[Prompt]:
    """n distinct prompts, none observed, running or in ``taken``; fewer only if no more exist.

    ``config.random_fraction`` of them are random (rounded up or down at random, so that small batches get their share).
    """
    excluded = {prompt.id for prompt in (*known.prompts, *known.running, *taken)}
    random = min(n, int(config.random_fraction * n + rng.random()))
    candidates = _distinct(_candidates(known, config, rng), excluded)
    chosen = [candidates[i] for i in known.rank(candidates, n - random)]
    excluded |= {prompt.id for prompt in chosen}
    return chosen + random_prompts(known.instructions, known.pool, n - len(chosen), rng, excluded)


def from_grid(
    known: Knowledge,
    n: int,
    grid: Sequence[Prompt],
    config: ProposalConfig,
    rng: np.random.Generator,
    taken: Iterable[Prompt] = (),
) -> list[Prompt]:
    """The same where ``grid`` holds all prompts there are: ``greedy_batch`` of those left, a share at random."""
    excluded = {prompt.id for prompt in (*known.prompts, *known.running, *taken)}
    left = _distinct(grid, excluded)
    random = min(n, int(config.random_fraction * n + rng.random()))
    chosen = [left[i] for i in known.rank(left, n - random)]
    return chosen + sample(grid, n - len(chosen), rng, excluded | {prompt.id for prompt in chosen})


def sample(grid: Sequence[Prompt], n: int, rng: np.random.Generator, excluded: Iterable[str]) -> list[Prompt]:
    """n prompts of ``grid`` with ids not in ``excluded``, at random; all there are if fewer."""
    left = _distinct(grid, excluded)
    return [left[i] for i in rng.permutation(len(left))[:n]]


def random_prompts(
    instructions: Sequence[str], pool: ExemplarPool, n: int, rng: np.random.Generator, excluded: Iterable[str]
) -> list[Prompt]:
    """n distinct prompts with ids not in ``excluded``: a uniform instruction, a random set. Fewer if none are found."""
    seen, found = set(excluded), []
    for _ in range(ATTEMPTS * n):
        if len(found) == n:
            break
        prompt = Prompt(instructions[int(rng.integers(len(instructions)))], pool.random(rng))
        if prompt.id not in seen:
            seen.add(prompt.id)
            found.append(prompt)
    return found


def _candidates(known: Knowledge, config: ProposalConfig, rng: np.random.Generator) -> list[Prompt]:
    """Decoded sets of the gradient search (``instructions x restarts``), and a modest share found without the decoder.

    The decoder is lossy: a set one exemplar away from the best may be no decoding of anything. So up to 40 edits of
    the best prompts' sets and up to 40 pairings of good instructions with good sets compete with the 250, in the
    same batch choice.
    """
    instructions = _choose_instructions(known, config.instructions, rng)
    start = _starts(known, instructions, config.restarts, rng)
    z = _optimise_exemplars(known, known.space.encode(start), config)
    decoded = [
        Prompt(prompt.instruction, exemplars)
        for prompt, exemplars in zip(start, known.space.decode_exemplars(z), strict=True)
    ]
    best = [known.prompts[i] for i in known.ranking()]
    edited = [
        Prompt(prompt.instruction, known.pool.edit(prompt.exemplars, rng))
        for prompt in best[:EDITED]
        for _ in range(EDITS)
    ]
    sets = _good_sets(known)[:5]
    recombined = [Prompt(instruction, exemplars) for instruction in instructions[:RECOMBINED] for exemplars in sets]
    return decoded + edited + recombined


def _good_sets(known: Knowledge) -> list[tuple[Example, ...]]:
    """Distinct exemplar sets of the observed prompts, best prompt first."""
    return list(dict.fromkeys(known.prompts[i].exemplars for i in known.ranking()))[:GOOD_SETS]


def _choose_instructions(known: Knowledge, count: int, rng: np.random.Generator) -> list[str]:
    """All instructions if they are few, best first; else half by LogEI beside the best set, half at random."""
    beside = _good_sets(known)[0]
    with torch.no_grad():
        z = known.space.encode([Prompt(text, beside) for text in known.instructions])
        value = log_ei(*known.gp.predict(z), known.best)
    order = torch.argsort(value, descending=True, stable=True).tolist()
    top = order[: count if len(order) <= count else (count + 1) // 2]
    rest = rng.permutation(sorted(set(order) - set(top)))[: count - len(top)]
    return [known.instructions[i] for i in (*top, *rest)]


def _starts(known: Knowledge, instructions: Sequence[str], restarts: int, rng: np.random.Generator) -> list[Prompt]:
    """``restarts`` prompts per instruction: half of them (rounded down) with good observed sets, the others random."""
    good = _good_sets(known)
    return [
        Prompt(text, good[int(rng.integers(len(good)))] if restart < restarts // 2 else known.pool.random(rng))
        for text in instructions
        for restart in range(restarts)
    ]


def _optimise_exemplars(known: Knowledge, start: Tensor, config: ProposalConfig) -> Tensor:
    """Move z_ex of all starts (b, d) up LogEI in one batch; z_inst is held, z_ex stays in the box of known sets."""
    latents = torch.cat([known.z, start])
    lower, upper = start.clone(), start.clone()
    exemplar = slice(known.space.inst_dim, None)
    lower[:, exemplar], upper[:, exemplar] = latents.amin(0)[exemplar], latents.amax(0)[exemplar]
    scale = latents.std(0).clamp_min(1e-9)
    return ascend(known.gp, start, (lower, upper), scale, config.steps, config.learning_rate, known.best)[0]


def _distinct(prompts: Iterable[Prompt], excluded: Iterable[str]) -> list[Prompt]:
    seen = set(excluded)
    return [prompt for prompt in prompts if not (prompt.id in seen or seen.add(prompt.id))]
