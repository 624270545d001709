"""InvBO: new instructions from the latent space.

After Chu, Park, Lee and Kim 2024, "Inversion-based Latent Bayesian Optimization", NeurIPS (arXiv 2411.05330).

Inversion: the GP is fitted at latents z with decode(z) = the evaluated prompt,
found by gradient on the frozen decoder, so that a latent and what it decodes to carry the same error. Candidates are
ranked at latents found the same way. Potential-aware anchor selection: the trust region's centre
is the observed prompt with the best sum of its own value and of what a posterior sample promises inside its region.

Differences from the paper, each because evaluations are noisy and LLM calls dear: values are posterior means, not
measured errors; the acquisition is LogEI, not Thompson sampling; anchors are the 10 best prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.latent.inversion import Inversion, Inverter
from lipo_e_ray.proposal.acquisition import ascend, greedy_batch, square_root
from lipo_e_ray.proposal.two_stage import Knowledge
from lipo_e_ray.types import Prompt

INITIAL_LENGTH, MIN_LENGTH, MAX_LENGTH = 0.8, 0.5**7, 1.6  # of the range of the observed latents, as in TuRBO
SUCCESSES, FAILURES = 3, 4  # iterations in a row until the region doubles, halves
ANCHORS = 10
PROBES = 50  # points per anchor of the posterior sample
STARTS = 64  # of the gradient search
TEXTS = 3  # inversions used per target


@dataclass(frozen=True)
class Written:
    """A candidate of one iteration; ``target`` (d,) is what it was decoded from.

    ``inversion`` is None when the instruction was known.
    """

    prompt: Prompt
    anchor: Prompt
    length: float
    target: Tensor
    inversion: Inversion | None


def invbo(
    known: Knowledge, n: int, length: float, inverter: Inverter, config: ProposalConfig, rng: np.random.Generator
) -> list[Written]:
    """Up to n distinct prompts, none observed or running, at least half of them with a new text, those first.

    Empty when the inverter writes nothing new. Each target in the trust region gives: new texts with the decoded set,
    new texts with the anchor's set, the anchor's instruction with the decoded set.
    """
    anchor = choose_anchor(known, length, rng)
    targets = _targets(known, anchor, length, n, config, rng)
    embeddings = known.space.decode_instruction(targets)
    texts = inverter.invert(embeddings, known.instructions, int(rng.integers(2**31)))
    sets = known.space.decode_exemplars(targets)
    origin = known.prompts[anchor]
    new, old = [], []
    for target, inversions, exemplars in zip(targets, texts, sets, strict=True):
        for inversion in inversions[:TEXTS]:
            for chosen in (exemplars, origin.exemplars):
                new.append(Written(Prompt(inversion.text, chosen), origin, length, target, inversion))
        old.append(Written(Prompt(origin.instruction, exemplars), origin, length, target, None))
    seen = (*known.prompts, *known.running)
    new = _unseen(new, seen)
    if not new:
        return []
    candidates = new + _unseen(old, seen)
    return [candidates[i] for i in _choose(known, candidates, len(new), n)]


def trust_region_length(improved: Sequence[bool]) -> float:
    """Length after InvBO's iterations so far (True: it found a new best); TuRBO (Eriksson et al. 2019, section 2).

    It starts at 0.8, doubles after 3 successes in a row (up to 1.6), halves after 4 failures in a row, and starts anew
    under 0.5^7.
    """
    length, streak = INITIAL_LENGTH, 0
    for success in improved:
        streak = (max(streak, 0) + 1) if success else (min(streak, 0) - 1)
        if streak == SUCCESSES:
            length, streak = min(2 * length, MAX_LENGTH), 0
        elif streak == -FAILURES:
            length, streak = length / 2, 0
        if length < MIN_LENGTH:
            length, streak = INITIAL_LENGTH, 0
    return length


def history(errors: Sequence[float], settled: Sequence[bool], first: int, q: int) -> list[bool]:
    """Which iterations of q prompts, from index ``first`` on, beat the smoothed error of all prompts before.

    Iterations that are not ``settled``, with a prompt that is still being evaluated, are left out.
    """
    return [
        min(errors[at : at + q]) < min(errors[:at], default=math.inf)
        for at in range(first, len(errors), q)
        if all(settled[at : at + q])
    ]


def choose_anchor(known: Knowledge, length: float, rng: np.random.Generator) -> int:
    """Index of the anchor: the best of (own value + scaled potential) among the 10 lowest posterior means.

    Potential: the best value of ONE posterior sample inside each region, scaled to the spread of the anchors' own
    values.
    """
    anchors = known.ranking()[:ANCHORS]
    probes = torch.stack([_spread(known, anchor, length, PROBES, rng) for anchor in anchors])
    mean, covariance = known.gp.joint(probes.flatten(0, 1))
    sample = mean + square_root(covariance) @ torch.from_numpy(rng.standard_normal(len(mean)))
    potential = -sample.view(len(anchors), PROBES).amin(1)
    own = -known.mean[anchors]
    span = (potential.max() - potential.min()).clamp_min(1e-12)
    score = own + (potential - potential.min()) / span * (own.max() - own.min())
    return anchors[int(score.argmax())]


def _targets(
    known: Knowledge, anchor: int, length: float, n: int, config: ProposalConfig, rng: np.random.Generator
) -> Tensor:
    """n latents (n, d) in the anchor's trust region: LogEI raised from 64 starts at once, then chosen greedily."""
    start = _spread(known, anchor, length, max(STARTS, 2 * n), rng)
    scale = known.z.std(0).clamp_min(1e-9) * length
    z, _ = ascend(known.gp, start, _box(known, anchor, length), scale, config.steps, config.learning_rate, known.best)
    mean, covariance = known.gp.joint(z)
    return z[greedy_batch(mean, covariance, known.best, n)]


def _choose(known: Knowledge, candidates: Sequence[Written], new: int, n: int) -> list[int]:
    """Half of n (rounded up) among the first ``new`` candidates, the others among all, as ``greedy_batch`` has it."""
    prompts, half = [written.prompt for written in candidates], min(new, math.ceil(n / 2))
    first = known.rank(prompts[:new], half)
    rest = known.rank(prompts, n - half, chosen=first)
    return sorted(first + rest, key=lambda i: i >= new)  # stable: new texts first, else in the order of choice


def _box(known: Knowledge, anchor: int, length: float) -> tuple[Tensor, Tensor]:
    """The trust region: ``length`` of the observed range per dimension, round the anchor, within that range."""
    lower, upper = known.z.amin(0), known.z.amax(0)
    reach = length / 2 * (upper - lower)
    return torch.maximum(known.z[anchor] - reach, lower), torch.minimum(known.z[anchor] + reach, upper)


def _spread(known: Knowledge, anchor: int, length: float, count: int, rng: np.random.Generator) -> Tensor:
    """(count, d) points of the region, the anchor first; above 20 dimensions each keeps some coordinates (TuRBO)."""
    lower, upper = _box(known, anchor, length)
    d = known.z.shape[1]
    uniform = lower + (upper - lower) * torch.from_numpy(rng.random((count, d)))
    moved = torch.from_numpy(rng.random((count, d)) < min(20 / d, 1.0))
    moved[0] = False
    return torch.where(moved, uniform, known.z[anchor])


def _unseen(written: Iterable[Written], prompts: Sequence[Prompt]) -> list[Written]:
    seen = {prompt.id for prompt in prompts}
    return [one for one in written if not (one.prompt.id in seen or seen.add(one.prompt.id))]
