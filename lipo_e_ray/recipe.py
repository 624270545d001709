"""How the BO actor builds its proposer: encoder, VAE, GP and inverter.

This module imports torch, botorch and the encoder only when the recipe is called, in the actor: the driver, which makes
the recipe, starts seconds faster without them. And it is no part of the driver's module, so that the actor does not
import what the driver needs (Tune, matplotlib).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.actor import ActorHandle

from lipo_e_ray.config import RunConfig
from lipo_e_ray.distributed.calls import slow_result
from lipo_e_ray.engine.embedded import resolve_encoder
from lipo_e_ray.inputs import Inputs
from lipo_e_ray.latent.encoder import TextEncoder
from lipo_e_ray.latent.inverters import make_inverter
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import Completion, InstructionSource, Message, Sampling

if TYPE_CHECKING:
    from lipo_e_ray.latent.inversion import Inverter
    from lipo_e_ray.latent.space import LatentSpace
    from lipo_e_ray.proposal.proposer import Proposer

WARNINGS = "warnings.log"  # in the run folder; there is none while nothing went wrong


class ProposerRecipe:
    """Call it in the process that proposes: it gives the ``Proposer``. ``make_encoder``: from a folder or id."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        instructions: dict[str, InstructionSource],
        folder: RunFolder,
        service: ActorHandle[Any],
        make_encoder: Callable[[str], TextEncoder] = TextEncoder,
    ) -> None:
        self._config = config
        self._task = inputs.task
        self._fits = inputs.context.fits
        self._instructions = instructions
        self._folder = folder.latent_folder.absolute()
        self._service = service
        self._make_encoder = make_encoder
        self._written = 0  # calls of the inverter, those that the ledger answered included

    def __call__(self) -> Proposer:
        from lipo_e_ray.proposal.proposer import Proposer

        # Ray keeps an actor's log lines in a folder of its own; warnings belong beside the results.
        log = logging.FileHandler(self._folder.parent / WARNINGS, delay=True, encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("lipo_e_ray").addHandler(log)
        return Proposer(
            self._task, self._config, self._instructions, self._latent, fits=self._fits, written=lambda: self._written
        )

    def _latent(self) -> tuple[LatentSpace, Inverter]:
        from lipo_e_ray.latent.training import fit_latent

        config = self._config
        encoder = self._make_encoder(resolve_encoder(config.encoder.name))
        space = fit_latent(
            encoder,
            list(self._instructions),
            self._task.pool,
            config.vae,
            config.seed,
            self._folder,
            config.max_exemplars,
        )

        def generate(chats: Sequence[Sequence[Message]], samplings: Sequence[Sampling]) -> list[Completion]:
            self._written += len(chats)
            request: Any = self._service.generate.remote(chats, samplings, "rewriting")
            completions: list[Completion] = slow_result(request, self._service, "rewritten instructions")
            return completions

        return space, make_inverter(config.encoder.name, encoder, generate)
