"""``BOActor`` owns GP and VAE and proposes each bracket's prompts, once; ``BOSlot`` replaces it when it breaks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from lipo_e_ray.distributed.calls import cause_of, reason_of, result, slow_result
from lipo_e_ray.types import Batch, EngineError, Request

MAX_DEATHS = 3  # of actors with no answer in between; then the run ends
POLL_S = 0.01  # Tune's loop would else spin while it waits for proposals, at half a core that an engine could use
PROPOSAL_TIMEOUT_S = 3600.0  # of one batch; the first one may wait for the VAE's training


class Proposer(Protocol):
    """What proposes; its answer depends on its arguments and its seed only."""

    def propose(self, request: Request) -> Batch:
        """``request.count`` distinct prompts, none of them observed or running."""
        ...

    def prepare(self) -> None:
        """Do now what takes long before the first proposals that depend on observations."""
        ...


class BOActor:
    """A ``Proposer`` behind the ledger. It is built when the first unrecorded bracket comes, or by ``prepare``."""

    def __init__(self, make_proposer: Callable[[], Proposer], service: ActorHandle[Any]) -> None:
        os.nice(19)  # where an engine computes on the same cores, each of its threads waits for the slowest
        self._make_proposer = make_proposer
        self._service = service
        self._proposer: Proposer | None = None

    def prepare(self) -> None:
        """Build the proposer and prepare it (it trains the VAE or loads it); a second call does nothing."""
        self._build().prepare()

    def propose(self, request: Request) -> Batch:
        """The recorded batch of an earlier walk, or a new one, recorded before it is returned."""
        lookup: Any = self._service.recorded_batch.remote(request.bracket, request.first)
        recorded: Batch | None = result(lookup, "the recorded proposals")
        if recorded is not None:
            return recorded
        batch = self._build().propose(request)
        recording = self._service.record_batch.remote(request.bracket, request.first, batch)
        slow_result(recording, self._service, "the record of proposals")
        if not request.observed:  # the first prompts are evaluated meanwhile, and the next proposals need the VAE
            ray.get_runtime_context().current_actor.prepare.remote()
        return batch

    def _build(self) -> Proposer:
        if self._proposer is None:
            self._proposer = self._make_proposer()
        return self._proposer


class BOSlot:
    """Holds a BO actor, and starts another one when it dies or hangs, as ``EngineSlot`` does for an engine.

    The new actor is asked the same and answers the same: proposals are a function of the seed and the observations.
    """

    def __init__(self, make_actor: Callable[[], ActorHandle[Any]]) -> None:
        self._make_actor = make_actor
        self.actor: ActorHandle[Any] | None = make_actor()  # it imports while the search starts
        self._pending: ray.ObjectRef[Any] | None = None
        self._asked = 0.0
        self._deaths = 0

    def propose(self, request: Request) -> Batch | None:
        """The answer to ``request``, or ``None`` while there is none: ask the same again. Blocks for 10 ms at most.

        Raises what the proposer raised, and ``EngineError`` when actor after actor breaks.
        """
        if self._pending is None:
            self.actor = self.actor or self._make_actor()
            self._pending, self._asked = self.actor.propose.remote(request), time.monotonic()
        if not ray.wait([self._pending], timeout=POLL_S)[0]:
            if time.monotonic() - self._asked > PROPOSAL_TIMEOUT_S:
                self._broke(f"no answer within {PROPOSAL_TIMEOUT_S:.0f} s")
            return None
        try:
            batch: Batch = ray.get(self._pending, timeout=0)
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError as error:
            self._broke(reason_of(error))
            return None
        self._pending, self._deaths = None, 0
        return batch

    def prepare(self) -> None:
        """Have the actor prepare its proposer, and wait until it has: in benchmarks, whose clock starts after it."""
        self.actor = self.actor or self._make_actor()
        ray.get(self.actor.prepare.remote())

    def waiting(self) -> str:
        """What the search may be waiting for, in words; empty when nothing was asked."""
        return f"proposals asked for {time.monotonic() - self._asked:.0f} s ago" if self._pending else ""

    def close(self) -> None:
        """End the actor's process, if there is one."""
        if self.actor is not None:
            ray.kill(self.actor)
        self.actor = self._pending = None

    def _broke(self, reason: str) -> None:
        self.close()
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise EngineError(
                f"the BO actor broke {MAX_DEATHS} times without an answer in between, last: {reason}; "
                "nothing is lost: remove the cause (memory?) and resume"
            )
