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
from lipo_e_ray.proposal.acquisition import ascend, log_ei
from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.proposal.sources import random_share
from lipo_e_ray.types import Example, Prompt

GOOD_SETS = 10  # the best observed exemplar sets, at which restarts begin
EDITED = 5  # the best observed prompts, whose sets are edited
EDITS = 8  # edits of each of these sets
RECOMBINED = 8  # instructions that are paired with the best sets
RECOMBINED_SETS = 5  # the best sets, that they are paired with


class TwoStage:
    """Searches exemplar sets for good instructions; proposes nothing while there is no posterior.

    It leaves ``config.random_fraction`` of a batch to the source after it, which should be ``RandomPrompts``.
    """

    def __init__(self, pool: ExemplarPool, config: ProposalConfig) -> None:
        self._pool = pool
        self._config = config

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """See ``CandidateSource``."""
        posterior = state.posterior
        if posterior is None:
            return []
        random = random_share(self._config.random_fraction, count, rng)
        prompts = state.new(self._prompts(posterior, state.instructions, rng))
        return [Candidate(prompts[i]) for i in posterior.choose_batch(prompts, count - random)]

    def _prompts(
        self, posterior: PromptPosterior, known_texts: Sequence[str], rng: np.random.Generator
    ) -> list[Prompt]:
        """Decoded sets of the gradient search (``instructions x restarts``), and a modest share found without it.

        The decoder is lossy: a set one exemplar away from the best may be no decoding of anything. So up to 40 edits of
        the best prompts' sets and up to 40 pairings of good instructions with good sets compete with the 250, in the
        same batch choice.
        """
        instructions = choose_instructions(posterior, known_texts, self._config.instructions, rng)
        start = self._starts(posterior, instructions, rng)
        z = self._optimise_exemplars(posterior, posterior.space.encode(start))
        decoded = [
            Prompt(prompt.instruction, exemplars)
            for prompt, exemplars in zip(start, posterior.space.decode_exemplars(z), strict=True)
        ]
        best = [posterior.prompts[i] for i in posterior.ranking()]
        edited = [
            Prompt(prompt.instruction, self._pool.edit(prompt.exemplars, rng))
            for prompt in best[:EDITED]
            for _ in range(EDITS)
        ]
        sets = _good_sets(posterior)[:RECOMBINED_SETS]
        recombined = [Prompt(text, exemplars) for text in instructions[:RECOMBINED] for exemplars in sets]
        return decoded + edited + recombined

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
    order = torch.argsort(value, descending=True, stable=True).tolist()
    top = order[: count if len(order) <= count else (count + 1) // 2]
    rest = rng.permutation(sorted(set(order) - set(top)))[: count - len(top)]
    return [instructions[i] for i in (*top, *rest)]


def _good_sets(posterior: PromptPosterior) -> list[tuple[Example, ...]]:
    """Distinct exemplar sets of the observed prompts, best prompt first."""
    return list(dict.fromkeys(posterior.prompts[i].exemplars for i in posterior.ranking()))[:GOOD_SETS]
