"""``Proposer``: the prompts a bracket starts with, a function of the configuration and the request alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lipo_e_ray.config import RunConfig
from lipo_e_ray.latent.inversion import Inverter
from lipo_e_ray.proposal.invbo import Written, history, invbo, trust_region_length
from lipo_e_ray.proposal.two_stage import ExemplarPool, Knowledge, from_grid, random_prompts, sample, two_stage
from lipo_e_ray.surrogate.gp import JointPromptGP, SurrogateError
from lipo_e_ray.surrogate.noise import smoothed
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import InstructionSource, Observation, Origin, Prompt, Proposal, Request, Stage

if TYPE_CHECKING:
    from lipo_e_ray.latent.space import LatentSpace

logger = logging.getLogger(__name__)

Observed = Sequence[tuple[Prompt, Observation]]
MIN_OBSERVED = 4  # prompts, before a surrogate says more than chance; with exemplars, if the run may use any: after the
# seeds' race a GP has seen no exemplar, proposes none either, and Hyperband's widest bracket is lost


class Proposer:
    """Proposes whole batches; the GP is fitted anew in every call, so that a resumed run proposes the same.

    ``instructions``: every text known before the search with its source, in a fixed order. ``make_latent`` gives the
    trained latent space and its inverter, which takes a while: it is called by ``prepare``, or when they are needed.
    ``grid``: all prompts that Hyperband may propose, where the search is a choice among known ones (as in benchmarks);
    empty: any of the instructions with any set of the pool's exemplars. ``make_gp``: a surrogate, given z_inst's width.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        instructions: Mapping[str, InstructionSource],
        make_latent: Callable[[], tuple[LatentSpace, Inverter]],
        grid: Sequence[Prompt] = (),
        make_gp: Callable[[int], JointPromptGP] = JointPromptGP,
    ) -> None:
        if not instructions:
            raise ValueError("expected at least one instruction, got none; give seeds or a file")
        self._config = config
        self._sources = dict(instructions)
        self._make_latent = make_latent
        self._pool = ExemplarPool(task.pool, config.max_exemplars)
        self._grid = tuple(grid)
        self._make_gp = make_gp

    @cached_property
    def _latent(self) -> tuple[LatentSpace, Inverter]:
        return self._make_latent()

    @property
    def _space(self) -> LatentSpace:
        return self._latent[0]

    def prepare(self) -> None:
        """Train the latent space now, or load it; a second call does nothing. Seeds are proposed without it."""
        assert self._latent

    def propose(self, request: Request) -> list[Proposal]:
        """``request.count`` distinct prompts, none of them observed or running; fewer only when no more exist.

        Randomness depends on the seed of the configuration and on the bracket. An observation without evaluations only
        keeps its prompt from being proposed again.
        What is running counts as part of the batch (``greedy_batch``).
        """
        stage, bracket, n = request.stage, request.bracket, request.count
        rng = np.random.default_rng([self._config.seed, bracket])
        taken = {prompt.id for prompt in (*(prompt for prompt, _ in request.observed), *request.running)}
        rows = _highest_fidelity(request.observed)
        if stage == "seeds":
            seeds = [Prompt(text) for text, source in self._sources.items() if source in ("seed", "file")]
            proposals = [
                Proposal(seed, Origin(self._sources[seed.instruction], stage, bracket))
                for seed in seeds
                if seed.id not in taken
            ][:n]
        elif (known := self._known(rows, request)) is None:
            prompts = (
                sample(self._grid, n, rng, taken)
                if self._grid
                else random_prompts(tuple(self._sources), self._pool, n, rng, taken)
            )
            proposals = self._describe(prompts, stage, bracket)
        else:
            excluded = [prompt for prompt, observation in request.observed if not observation.evaluated]
            written = self._write(known, rows, n, rng) if stage == "invbo" else []
            written = [one for one in written if one.prompt.id not in taken]
            prompts = [one.prompt for one in written]
            if len(prompts) < n:
                search = partial(from_grid, grid=self._grid) if self._grid else two_stage
                prompts += search(
                    known, n - len(prompts), config=self._config.proposal, rng=rng, taken=(*prompts, *excluded)
                )
            proposals = self._describe(prompts, stage, bracket, known, written)
        if len(proposals) < n and stage != "seeds":
            logger.warning(
                "bracket %d: expected %d new prompts, found %d: the search space is exhausted",
                bracket,
                n,
                len(proposals),
            )
        return proposals

    def _known(self, rows: Observed, request: Request) -> Knowledge | None:
        """What the observations teach; None where there are too few of them, or none that a GP can be fitted on."""
        if sum(bool(prompt.exemplars) or not self._config.max_exemplars for prompt, _ in rows) < MIN_OBSERVED:
            return None
        try:
            return self._fit(request, self._space.invert if request.stage == "invbo" else self._space.encode)
        except SurrogateError as error:
            logger.warning("bracket %d: %s; its prompts are random", request.bracket, error)
            return None

    def _fit(self, request: Request, embed: Any) -> Knowledge:
        answered = [(prompt, o) for prompt, o in request.observed if o.evaluated]
        prompts = tuple(dict.fromkeys(prompt for prompt, _ in answered))
        row = {prompt.id: i for i, prompt in enumerate(prompts)}
        z = embed(prompts)
        gp = self._make_gp(self._space.inst_dim)
        gp.fit(
            z,
            [o.errors for _, o in answered],
            [o.evaluated for _, o in answered],
            [row[prompt.id] for prompt, _ in answered],
        )
        with torch.no_grad():
            mean = gp.predict(z)[0]
        texts = dict.fromkeys((*self._sources, *(prompt.instruction for prompt in prompts)))
        return Knowledge(self._space, self._pool, tuple(texts), gp, prompts, z, mean, embed, request.running)

    def _write(self, known: Knowledge, rows: Observed, n: int, rng: np.random.Generator) -> list[Written]:
        """InvBO's candidates, in a trust region whose length follows from ``rows``.

        Its earlier iterations begin there with the first text not known before the search: new texts come first in a
        batch. A batch that still runs has neither succeeded nor failed.
        """
        counts = [observation for _, observation in rows]
        errors, _ = smoothed([c.errors for c in counts], [c.evaluated for c in counts], known.gp.prior)
        new = (i for i, (prompt, _) in enumerate(rows) if prompt.instruction not in self._sources)
        running = {prompt.id for prompt in known.running}
        settled = [prompt.id not in running for prompt, _ in rows]
        improved = history(errors.tolist(), settled, next(new, len(rows)), self._config.invbo.q)
        return invbo(known, n, trust_region_length(improved), self._latent[1], self._config.proposal, rng)

    def _describe(
        self,
        prompts: Sequence[Prompt],
        stage: Stage,
        bracket: int,
        known: Knowledge | None = None,
        written: Sequence[Written] = (),
    ) -> list[Proposal]:
        if not prompts:
            return []
        z = known.embed(prompts) if known else self._space.encode(prompts)
        infos: list[dict[str, Any]] = [{"z": _rounded(row)} if row.isfinite().all() else {} for row in z]
        if known:
            with torch.no_grad():
                for info, mean, std in zip(infos, *known.gp.predict(z), strict=True):
                    info |= {"mean": round(float(mean), 6), "std": round(float(std), 6)}
        cosines = {}
        for info, one in zip(infos, written, strict=False):  # written prompts come first
            info |= {"target": _rounded(one.target), "anchor": one.anchor.id, "length": one.length}
            if one.inversion:
                cosines[one.prompt.id] = one.inversion.cosine
        return [
            Proposal(
                prompt,
                Origin(self._sources.get(prompt.instruction, "invbo"), stage, bracket, cosines.get(prompt.id)),
                info,
            )
            for prompt, info in zip(prompts, infos, strict=True)
        ]


def _highest_fidelity(observed: Observed) -> list[tuple[Prompt, Observation]]:
    rows: dict[str, tuple[Prompt, Observation]] = {}
    for prompt, observation in observed:
        kept = rows.get(prompt.id)
        if observation.evaluated > (kept[1].evaluated if kept else 0):
            rows[prompt.id] = (prompt, observation)
    return list(rows.values())


def _rounded(z: Tensor) -> list[float]:
    return [round(value, 5) for value in z.tolist()]
