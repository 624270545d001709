"""The actor that owns GP and VAE: proposes a bracket's prompts, once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import ray
from ray.actor import ActorHandle

from lipo_e_ray.engine.pool import result
from lipo_e_ray.types import Proposal, Request


class Proposer(Protocol):
    """What proposes; its answer depends on its arguments and its seed only."""

    def propose(self, request: Request) -> list[Proposal]:
        """``request.count`` distinct prompts, none of them observed or running."""
        ...

    def prepare(self) -> None:
        """Do now what takes long before the first proposals that depend on observations."""
        ...


class BOActor:
    """A ``Proposer`` behind the ledger. It is built when the first unrecorded bracket comes, or by ``prepare``."""

    def __init__(self, make_proposer: Callable[[], Proposer], service: ActorHandle) -> None:
        os.nice(19)  # where an engine computes on the same cores, each of its threads waits for the slowest
        self._make_proposer = make_proposer
        self._service = service
        self._proposer: Proposer | None = None

    def prepare(self) -> None:
        """Build the proposer and prepare it (it trains the VAE or loads it); a second call does nothing."""
        self._build().prepare()

    def propose(self, request: Request) -> list[Proposal]:
        """The recorded proposals of an earlier walk, else new ones, recorded before they are returned."""
        recorded = result(self._service.recorded_proposals.remote(request.bracket))
        if recorded is not None:
            return recorded
        proposals = self._build().propose(request)
        result(self._service.record_proposals.remote(request.bracket, proposals))
        if request.stage == "seeds":  # while they race there is time
            ray.get_runtime_context().current_actor.prepare.remote()
        return proposals

    def _build(self) -> Proposer:
        if self._proposer is None:
            self._proposer = self._make_proposer()
        return self._proposer
