"""Two-stage proposals for Hyperband: choose instructions, then search an exemplar set for each by gradient on LogEI.

All latents are those of ``LatentSpace``, refined and un-normalised: the GP is fitted, the search moves and the decoder
reads in the same coordinates. The GP's own scaling stays inside the GP.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.proposal.acquisition import ascend, comparable, log_ei
from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.proposal.sources import random_share
from lipo_e_ray.types import Example, Prompt

GOOD_SETS = 10  # the best observed exemplar sets, at which restarts begin
RECOMBINED = 8  # instructions that are paired with the best sets
RECOMBINED_SETS = 5  # the best sets, that they are paired with
CLIMBED = 10  # prompts whose sets are edited: first the best observed ones, then the best of what came of that
EDITS = 100  # edits of each of these sets; all of them are ranked by LogEI, which costs no call
CLIMBS = 3  # rounds of edits
KEPT = 40  # edited prompts that compete in the batch, by LogEI: the joint posterior of thousands would take minutes


class TwoStage:
    """Searches exemplar sets for good instructions; proposes nothing while there is no posterior.

    It leaves ``random_fraction`` of a batch to the source after it, which should be ``RandomPrompts``.
    """

    def __init__(self, pool: ExemplarPool, config: ProposalConfig, random_fraction: float) -> None:
        self._pool = pool
        self._config = config
        self._random_fraction = random_fraction

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``."""
        posterior = state.posterior
        if posterior is None:
            return []
        random = random_share(self._random_fraction, count, rng)
        found = self._prompts(posterior, state, rng)
        ways = {prompt.id: way for way, prompts in reversed(found.items()) for prompt in prompts}
        prompts = state.new(prompt for group in found.values() for prompt in group)
        chosen = [prompts[i] for i in posterior.choose_batch(prompts, count - random)]
        return [Candidate(prompt, info={"way": ways[prompt.id]}) for prompt in chosen]

    def _prompts(
        self, posterior: PromptPosterior, state: SearchState, rng: np.random.Generator
    ) -> dict[str, list[Prompt]]:
        """By the way they came about: decoded sets of the gradient search (``instructions x restarts``); good sets
        edited again and again; good instructions paired with good sets.

        The decoder is lossy: a set one exemplar away from the best may be no decoding of anything. So all three compete
        in the same batch choice.
        """
        instructions = choose_instructions(posterior, state.instructions, self._config.instructions, rng)
        start = self._starts(posterior, instructions, rng)
        z = self._optimise_exemplars(posterior, posterior.space.encode(start))
        decoded = [
            Prompt(prompt.instruction, exemplars)
            for prompt, exemplars in zip(start, posterior.space.decode_exemplars(z), strict=True)
        ]
        sets = _good_sets(posterior)[:RECOMBINED_SETS]
        paired = [Prompt(text, exemplars) for text in instructions[:RECOMBINED] for exemplars in sets]
        return {"decoded": decoded, "edited": self._edited(posterior, state, rng), "paired": paired}

    def _edited(self, posterior: PromptPosterior, state: SearchState, rng: np.random.Generator) -> list[Prompt]:
        """Up to ``KEPT`` prompts, the highest LogEI first, found by a climb over sets that differ by one exemplar."""
        start = [posterior.prompts[i] for i in posterior.ranking()[:CLIMBED]]
        best: list[Prompt] = []
        for _ in range(CLIMBS):
            edits = [
                Prompt(prompt.instruction, self._pool.edit(prompt.exemplars, rng))
                for prompt in start
                for _ in range(EDITS)
            ]
            candidates = state.new([*best, *edits])
            if not candidates:
                break
            with torch.no_grad():
                value = log_ei(*posterior.gp.predict(posterior.space.encode(candidates)), posterior.best)
            order = torch.argsort(comparable(value), descending=True, stable=True)[:KEPT].tolist()
            best = [candidates[i] for i in order]
            start = best[:CLIMBED]
        return best

    def _starts(
        self, posterior: PromptPosterior, instructions: Sequence[str], rng: np.random.Generator
    ) -> list[Prompt]:
        """``restarts`` prompts per instruction: half of them (rounded down) with good observed sets, others random."""
        good, restarts = _good_sets(posterior), self._config.restarts
        return [
            Prompt(text, good[int(rng.integers(len(good)))] if restart < restarts // 2 else self._pool.random(rng))
            for text in instructions
            for restart in range(restarts)
        ]

    def _optimise_exemplars(self, posterior: PromptPosterior, start: Tensor) -> Tensor:
        """Move z_ex of all starts (b, d) up LogEI in one batch; z_inst is held, z_ex stays in the box of known sets."""
        latents = torch.cat([posterior.z, start])
        lower, upper = start.clone(), start.clone()
        exemplar = slice(posterior.space.inst_dim, None)
        lower[:, exemplar], upper[:, exemplar] = latents.amin(0)[exemplar], latents.amax(0)[exemplar]
        scale = latents.std(0).clamp_min(1e-9)
        steps, rate = self._config.steps, self._config.learning_rate
        return ascend(posterior.gp, start, (lower, upper), scale, steps, rate, posterior.best)[0]


def choose_instructions(
    posterior: PromptPosterior, instructions: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
    """All instructions if they are few, best first; else half by LogEI beside the best set, half at random."""
    beside = _good_sets(posterior)[0]
    with torch.no_grad():
        z = posterior.space.encode([Prompt(text, beside) for text in instructions])
        value = log_ei(*posterior.gp.predict(z), posterior.best)
    order = torch.argsort(comparable(value), descending=True, stable=True).tolist()
    top = order[: count if len(order) <= count else (count + 1) // 2]
    rest = rng.permutation(sorted(set(order) - set(top)))[: count - len(top)]
    return [instructions[i] for i in (*top, *rest)]


def _good_sets(posterior: PromptPosterior) -> list[tuple[Example, ...]]:
    """Distinct exemplar sets of the observed prompts, best prompt first."""
    return list(dict.fromkeys(posterior.prompts[i].exemplars for i in posterior.ranking()))[:GOOD_SETS]
