"""The actor that owns GP and VAE: proposes a bracket's prompts, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ray.actor import ActorHandle

from lipo_e_ray.engine.pool import result
from lipo_e_ray.types import Proposal, Request


class Proposer(Protocol):
    """What proposes; its answer depends on its arguments and its seed only."""

    def propose(self, request: Request) -> list[Proposal]:
        """``request.count`` distinct prompts, none of them observed or running."""
        ...


class BOActor:
    """A ``Proposer`` behind the ledger. It is built when the first unrecorded bracket comes, or by ``setup``."""

    def __init__(self, make_proposer: Callable[[], Proposer], service: ActorHandle) -> None:
        self._make_proposer = make_proposer
        self._service = service
        self._proposer: Proposer | None = None

    def setup(self) -> None:
        """Build the proposer now (it trains the VAE or loads it); a second call does nothing."""
        if self._proposer is None:
            self._proposer = self._make_proposer()

    def propose(self, request: Request) -> list[Proposal]:
        """The recorded proposals of an earlier walk, else new ones, recorded before they are returned."""
        recorded = result(self._service.recorded_proposals.remote(request.bracket))
        if recorded is not None:
            return recorded
        self.setup()
        proposals = self._proposer.propose(request)
        result(self._service.record_proposals.remote(request.bracket, proposals))
        return proposals
