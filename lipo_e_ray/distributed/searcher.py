"""Tune's ``Searcher``: turns proposals into trials, one for each bracket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.search.hyperband import Evaluate, Hyperband
from lipo_e_ray.types import Request, RungResult


def trial_config(action: Evaluate) -> dict[str, Any]:
    """What a trial needs for one rung, see ``BracketTrial``: the fields of the action."""
    return vars(action) | {"prompts": list(action.prompts)}


class ProposalSearcher(Searcher):
    """Asks the BO actor for the next bracket's prompts while others run, and hands a bracket out once it has them.

    ``failure`` says why the search cannot go on, ``None`` as long as it can; ``on_proposals`` is called when proposals
    have come, with the results of the rung that they complete, if there were none left for its last chunk.
    """

    def __init__(
        self,
        hyperband: Hyperband,
        bo: BOSlot,
        failure: Callable[[], BaseException | None],
        on_proposals: Callable[[list[RungResult]], object],
    ) -> None:
        super().__init__()
        self._hyperband = hyperband
        self._bo = bo
        self._failure = failure
        self._on_proposals = on_proposals
        self._started: set[int] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """The next trial's config; ``None`` while there is nothing to start. Blocks Tune's loop for 10 ms at most.

        Raises what the BO actor or a trial raised: from here, unlike from elsewhere, it ends Tune's loop.
        """
        if failure := self._failure():
            raise failure
        if (actions := self._hyperband.actions()) and isinstance(actions[0], Request):
            self._take_proposals(actions[0])
        if not (actions := self._hyperband.actions()):
            return Searcher.FINISHED
        for action in actions:
            if isinstance(action, Evaluate) and action.bracket not in self._started:
                self._started.add(action.bracket)
                return trial_config(action)
        return None

    def _take_proposals(self, request: Request) -> None:
        batch = self._bo.propose(request)
        if batch is not None:
            prompts = [proposal.prompt for proposal in batch.proposals]
            self._on_proposals(self._hyperband.enter(request.bracket, prompts, batch.written))

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """True: no limit is needed. Tune's own limiter counts paused trials too, and deadlocks a rung."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: results reach the walk through the scheduler, the moment they arrive."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: ``Tuner`` pickles its searcher into a file for ``Tuner.restore``, which nobody calls."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is resumed by walking again, with the ledger answering."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see ``save``."""
