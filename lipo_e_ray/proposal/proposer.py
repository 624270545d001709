"""``Proposer``: the prompts a bracket starts with, a function of the configuration and the request alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lipo_e_ray.config import RunConfig
from lipo_e_ray.latent.inversion import Inverter
from lipo_e_ray.proposal.candidates import Candidate, CandidateSource, SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.invbo import InvBO, rounded
from lipo_e_ray.proposal.posterior import PromptPosterior, PromptSpace
from lipo_e_ray.proposal.sources import Plain, RandomPrompts
from lipo_e_ray.proposal.two_stage import TwoStage
from lipo_e_ray.surrogate.gp import JointPromptGP, SurrogateError
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Batch, InstructionSource, Origin, Prompt, Proposal, Request, Stage

logger = logging.getLogger(__name__)

Latent = tuple[PromptSpace, Inverter | None]  # None: no text can be written
Sources = Mapping[Stage, Sequence[CandidateSource]]

MIN_OBSERVED = 4
"""Observed prompts that a surrogate needs to say more than chance. If the run may use exemplars, only prompts with some
count: a GP fitted to the seeds alone has seen no exemplar, would propose none, and waste Hyperband's widest bracket."""


def lipo_e_sources(
    task: Task,
    config: RunConfig,
    instructions: Mapping[str, InstructionSource],
    inverter: Callable[[], Inverter | None],
) -> Sources:
    """LIPO-E's own: in each stage the first source fills the batch as far as it can, then the next one."""
    pool = ExemplarPool(task.pool, config.max_exemplars)
    own, shipped = ([text for text, source in instructions.items() if source == kind] for kind in ("file", "seed"))
    random_fraction = config.proposal.random_fraction
    return {
        "hyperband": (
            Plain(own, shipped),
            TwoStage(pool, config.proposal, random_fraction),
            RandomPrompts(pool, [*own, *shipped]),
        ),
        "invbo": (InvBO(config, instructions.keys(), inverter), TwoStage(pool, config.proposal, 0.0)),
    }


class Proposer:
    """Proposes whole batches; the GP is fitted anew in every call, so that a resumed run proposes the same.

    ``instructions``: every text known before the search with its source, in a fixed order. ``make_latent`` gives the
    trained latent space and its inverter, which takes a while: it is called by ``prepare``, or when they are needed.
    ``sources``: where candidates come from in each stage, by default ``lipo_e_sources``. ``make_gp``: a surrogate,
    given z_inst's width. ``fits``: whether the model's context holds a prompt. ``written``: how many LLM calls the
    inverter has made so far.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        instructions: Mapping[str, InstructionSource],
        make_latent: Callable[[], Latent],
        sources: Sources | None = None,
        make_gp: Callable[[int], JointPromptGP] = JointPromptGP,
        fits: Callable[[Prompt], bool] = lambda prompt: True,
        written: Callable[[], int] = int,
    ) -> None:
        if not instructions:
            raise ValueError("expected at least one instruction, got none; give seeds or a file")
        self._config = config
        self._given = dict(instructions)
        self._make_latent = make_latent
        self._latent: Latent | None = None
        self._sources = sources or lipo_e_sources(task, config, self._given, lambda: self._trained()[1])
        self._make_gp = make_gp
        self._fits = fits
        self._written = written

    def prepare(self) -> None:
        """Train the latent space now, or load it; a second call does nothing. The first prompts do not need it."""
        self._trained()

    def propose(self, request: Request) -> Batch:
        """``request.count`` distinct prompts, none of them observed or running; fewer only when no more exist.

        Randomness depends on the seed of the configuration, the bracket and the chunk. An observation without
        evaluations only keeps its prompt from being proposed again. Running prompts count as part of the batch
        (``greedy_batch``).
        """
        rng = np.random.default_rng([self._config.seed, request.bracket, request.first])
        written = self._written()
        state, batch = self._state(request), list[Candidate]()
        for source in self._sources[request.stage]:
            if len(batch) < request.count:
                batch += source.propose(state.after(batch), request.count - len(batch), rng)
        if len(batch) < request.count:
            logger.warning(
                "bracket %d: expected %d new prompts, found %d: its sources have no more",
                request.bracket,
                request.count,
                len(batch),
            )
        proposals = tuple(
            Proposal(candidate.prompt, self._origin(candidate, request), info | candidate.info)
            for candidate, info in zip(batch, self._predictions(state, batch), strict=True)
        )
        return Batch(proposals, self._written() - written)

    def _trained(self) -> Latent:
        if self._latent is None:
            self._latent = self._make_latent()
        return self._latent

    def _state(self, request: Request) -> SearchState:
        observed = [prompt for prompt, _ in request.observed]
        excluded = frozenset(prompt.id for prompt in (*observed, *request.running))
        posterior = self._posterior(request)
        texts = dict.fromkeys(
            (*self._given, *(prompt.instruction for prompt in (posterior.prompts if posterior else ())))
        )
        return SearchState(request, tuple(texts), excluded, posterior, self._fits)

    def _posterior(self, request: Request) -> PromptPosterior | None:
        """None where too few prompts are observed, and where no GP can be fitted to them."""
        answered = {prompt.id: prompt for prompt, observation in request.observed if observation.evaluated}
        informative = [prompt for prompt in answered.values() if prompt.exemplars or not self._config.max_exemplars]
        if len(informative) < MIN_OBSERVED:
            return None
        space, _ = self._trained()
        try:
            return PromptPosterior.fit(self._make_gp(space.inst_dim), space, request)
        except SurrogateError as error:
            logger.warning("bracket %d: %s; no prompt of it is chosen by a surrogate", request.bracket, error)
            return None

    def _origin(self, candidate: Candidate, request: Request) -> Origin:
        source = self._given.get(candidate.prompt.instruction, "invbo")
        return Origin(source, request.stage, request.bracket, candidate.cosine)

    def _predictions(self, state: SearchState, batch: Sequence[Candidate]) -> list[dict[str, Any]]:
        """For the report, each candidate's latent and predicted error, as far as there are any."""
        posterior = state.posterior
        if not batch or posterior is None:
            return [{} for _ in batch]
        z = posterior.embed([candidate.prompt for candidate in batch])
        infos: list[dict[str, Any]] = [{"z": rounded(row)} if row.isfinite().all() else {} for row in z]
        with torch.no_grad():
            for info, mean, std in zip(infos, *posterior.gp.predict(z), strict=True):
                info |= {"mean": round(float(mean), 6), "std": round(float(std), 6)}
        return infos
