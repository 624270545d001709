"""InvBO: new instructions from the latent space.

After Chu, Park, Lee and Kim 2024, "Inversion-based Latent Bayesian Optimization", NeurIPS (arXiv 2411.05330).

Inversion: the GP is fitted at latents z with decode(z) = the evaluated prompt, found by gradient on the frozen decoder,
so that a latent and the prompt it decodes to have the same error. Candidates are ranked at latents found the same way.
Potential-aware anchor selection: the trust region's centre is the observed prompt with the best sum of its own value
and of the best value that a posterior sample has inside its region.

Differences from the paper, each because evaluations are noisy and LLM calls dear: values are posterior means, not
measured errors; the acquisition is LogEI, not Thompson sampling; anchors are the 10 best prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipo_e_ray.config import RunConfig
from lipo_e_ray.latent.inversion import Inversion, Inverter
from lipo_e_ray.proposal.acquisition import ascend, comparable, greedy_batch, square_root
from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.surrogate.noise import BetaPrior, smoothed
from lipo_e_ray.types import Observation, Prompt, Request

INITIAL_LENGTH, MIN_LENGTH, MAX_LENGTH = 0.8, 0.5**7, 1.6  # of the range of the observed latents, as in TuRBO
SUCCESSES, FAILURES = 3, 4  # iterations in a row, after which the region's length is doubled or halved
ANCHORS = 10  # the best observed prompts, one of which is the region's centre
PROBES = 50  # points per anchor, at which the posterior sample is drawn
STARTS = 64  # points from which the gradient search starts
TEXTS = 3  # inversions used per target


@dataclass(frozen=True)
class Written:
    """A candidate of one iteration: from the trust region of that ``length`` round ``anchor``.

    ``target`` (d,) is the latent that it was decoded from. ``inversion`` is None when the instruction is the anchor's.
    """

    prompt: Prompt
    anchor: Prompt
    length: float
    target: Tensor
    inversion: Inversion | None

    def candidate(self) -> Candidate:
        info = {"target": rounded(self.target), "anchor": self.anchor.id, "length": self.length}
        return Candidate(self.prompt, self.inversion.cosine if self.inversion else None, info)


class InvBO:
    """Writes instructions for the targets of a trust region; proposes nothing while there is no posterior.

    ``given``: the instructions known before the search. ``inverter`` is called when a text is first to be written; if
    it gives ``None``, nothing can be written and nothing is proposed.
    """

    def __init__(self, config: RunConfig, given: Collection[str], inverter: Callable[[], Inverter | None]) -> None:
        self._config = config
        self._given = given
        self._inverter = inverter

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``; at least half of the candidates, those first, have a new text.

        Empty when the inverter writes nothing new.
        """
        posterior = state.posterior
        if posterior is None or (inverter := self._inverter()) is None:
            return []
        improved = improvements(state.request, posterior.gp.prior, self._given, self._config.invbo.q)
        length = trust_region_length(improved)
        return [written.candidate() for written in self.write(state, posterior, inverter, count, length, rng)]

    def write(
        self,
        state: SearchState,
        posterior: PromptPosterior,
        inverter: Inverter,
        count: int,
        length: float,
        rng: np.random.Generator,
    ) -> list[Written]:
        """Candidates from a trust region of that length.

        Each target in it gives: new texts with the decoded set, new texts with the anchor's set, the anchor's
        instruction with the decoded set.
        """
        centre = choose_anchor(posterior, length, rng)
        targets = self._targets(posterior, centre, length, count, rng)
        embeddings = posterior.space.decode_instruction(targets)
        texts = inverter.invert(embeddings, state.instructions, int(rng.integers(2**31)))
        sets = posterior.space.decode_exemplars(targets)
        anchor = posterior.prompts[centre]
        new, old = [], []
        for target, inversions, exemplars in zip(targets, texts, sets, strict=True):
            for inversion in inversions[:TEXTS]:
                for chosen in (exemplars, anchor.exemplars):
                    new.append(Written(Prompt(inversion.text, chosen), anchor, length, target, inversion))
            old.append(Written(Prompt(anchor.instruction, exemplars), anchor, length, target, None))
        new = _new(state, new)
        if not new:
            return []
        candidates = new + _new(state, old)
        return [candidates[i] for i in _choose(posterior, candidates, len(new), count)]

    def _targets(
        self, posterior: PromptPosterior, anchor: int, length: float, count: int, rng: np.random.Generator
    ) -> Tensor:
        """``count`` latents (count, d) in the anchor's trust region: LogEI raised from 64 starts, chosen greedily."""
        start = _spread(posterior, anchor, length, max(STARTS, 2 * count), rng)
        scale = posterior.z.std(0).clamp_min(1e-9) * length
        steps, rate = self._config.proposal.steps, self._config.proposal.learning_rate
        box = _box(posterior, anchor, length)
        z, _ = ascend(posterior.gp, start, box, scale, steps, rate, posterior.best)
        mean, covariance = posterior.gp.joint(z)
        return z[greedy_batch(mean, covariance, posterior.best, count)]


def improvements(request: Request, prior: BetaPrior, given: Collection[str], q: int) -> list[bool]:
    """For each of InvBO's iterations so far, of q prompts each, whether it beat the smoothed error of all before it.

    The first iteration begins with the first prompt whose text is not among those ``given``: new texts come first in a
    batch. An iteration with a prompt that is still being evaluated is left out; it has neither succeeded nor failed.
    """
    rows = _highest_fidelity(request)
    counts = [observation for _, observation in rows]
    errors, _ = smoothed([count.errors for count in counts], [count.evaluated for count in counts], prior)
    running = {prompt.id for prompt in request.running}
    settled = [prompt.id not in running for prompt, _ in rows]
    first = next((i for i, (prompt, _) in enumerate(rows) if prompt.instruction not in given), len(rows))
    return [
        min(errors[start : start + q]) < min(errors[:start], default=math.inf)
        for start in range(first, len(rows), q)
        if all(settled[start : start + q])
    ]


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


def choose_anchor(posterior: PromptPosterior, length: float, rng: np.random.Generator) -> int:
    """Index of the anchor: the best of (own value + scaled potential) among the 10 lowest posterior means.

    Potential: the best value of ONE posterior sample inside each region, scaled to the spread of the anchors' own
    values.
    """
    anchors = posterior.ranking()[:ANCHORS]
    probes = torch.stack([_spread(posterior, anchor, length, PROBES, rng) for anchor in anchors])
    mean, covariance = posterior.gp.joint(probes.flatten(0, 1))
    sample = mean + square_root(covariance) @ torch.from_numpy(rng.standard_normal(len(mean)))
    potential = -sample.view(len(anchors), PROBES).amin(1)
    own = -posterior.mean[anchors]
    span = (potential.max() - potential.min()).clamp_min(1e-12)
    score = own + (potential - potential.min()) / span * (own.max() - own.min())
    return anchors[int(comparable(score).argmax())]


def rounded(z: Tensor) -> list[float]:
    """A latent (d,) as it is recorded."""
    return [round(value, 5) for value in z.tolist()]


def _choose(posterior: PromptPosterior, candidates: Sequence[Written], new: int, count: int) -> list[int]:
    """Half of ``count`` (rounded up) among the first ``new`` candidates, the others among all, by ``greedy_batch``."""
    prompts, half = [written.prompt for written in candidates], min(new, math.ceil(count / 2))
    first = posterior.choose_batch(prompts[:new], half)
    rest = posterior.choose_batch(prompts, count - half, chosen=first)
    return sorted(first + rest, key=lambda i: i >= new)  # stable: new texts first, else in the order of choice


def _box(posterior: PromptPosterior, anchor: int, length: float) -> tuple[Tensor, Tensor]:
    """The trust region: ``length`` of the observed range per dimension, round the anchor, within that range."""
    lower, upper = posterior.z.amin(0), posterior.z.amax(0)
    reach = length / 2 * (upper - lower)
    return torch.maximum(posterior.z[anchor] - reach, lower), torch.minimum(posterior.z[anchor] + reach, upper)


def _spread(posterior: PromptPosterior, anchor: int, length: float, count: int, rng: np.random.Generator) -> Tensor:
    """(count, d) points of the region, the anchor first; above 20 dimensions each keeps some coordinates (TuRBO)."""
    lower, upper = _box(posterior, anchor, length)
    d = posterior.z.shape[1]
    uniform = lower + (upper - lower) * torch.from_numpy(rng.random((count, d)))
    resampled = torch.from_numpy(rng.random((count, d)) < min(20 / d, 1.0))
    resampled[0] = False
    return torch.where(resampled, uniform, posterior.z[anchor])


def _new(state: SearchState, written: Iterable[Written]) -> list[Written]:
    by_id: dict[str, Written] = {}
    for candidate in written:
        by_id.setdefault(candidate.prompt.id, candidate)
    return [by_id[prompt.id] for prompt in state.new(candidate.prompt for candidate in by_id.values())]


def _highest_fidelity(request: Request) -> list[tuple[Prompt, Observation]]:
    """Each observed prompt with its widest observation, in the order of proposal."""
    rows: dict[str, tuple[Prompt, Observation]] = {}
    for prompt, observation in request.observed:
        widest = rows[prompt.id][1].evaluated if prompt.id in rows else 0
        if observation.evaluated > widest:
            rows[prompt.id] = (prompt, observation)
    return list(rows.values())
