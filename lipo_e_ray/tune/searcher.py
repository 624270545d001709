"""Tune's ``Searcher``: turns the walk's proposals into trials, one prompt each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from lipo_e_ray.engine.pool import result
from lipo_e_ray.search import Walk
from lipo_e_ray.tune.hyperband import Done, Propose


def active(trials: dict[str, Trial]) -> int:
    """Trials that hold an actor or wait for one. Tune's own limiter counts paused trials too, and deadlocks a rung."""
    return sum(trial.status in (Trial.PENDING, Trial.RUNNING) for trial in trials.values())


class ProposalSearcher(Searcher):
    """Asks the BO actor for a bracket's prompts and hands them out while fewer than ``concurrency`` trials are active.

    ``trials`` (prompt id -> trial of the open bracket) is shared with the scheduler, which fills it.
    """

    def __init__(self, walk: Walk, bo_actor: ActorHandle, trials: dict[str, Trial], concurrency: int,
                 on_proposals: Callable[[], object]) -> None:
        super().__init__()
        self._walk = walk
        self._bo_actor = bo_actor
        self._trials = trials
        self._concurrency = concurrency
        self._on_proposals = on_proposals
        self._pending: ray.ObjectRef | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; ``None`` while there is nothing to start. Never blocks Tune's event loop.

        Raises what the BO actor raised.
        """
        action = self._walk.hyperband.next_action()
        if isinstance(action, Propose) and self._proposals_are_in(action):
            action = self._walk.hyperband.next_action()
        if isinstance(action, Done):
            return Searcher.FINISHED
        if isinstance(action, Propose) or active(self._trials) >= self._concurrency:
            return None
        for prompt_id in action.prompt_ids:
            trial = self._trials.get(prompt_id)
            if trial is None or trial.config["bracket"] != action.bracket.index:
                return {"prompt": self._walk.prompts[prompt_id], "bracket": action.bracket.index,
                        "fidelity": action.fidelity}
        return None

    def _proposals_are_in(self, action: Propose) -> bool:
        if self._pending is None:
            self._pending = self._bo_actor.propose.remote(action.bracket, action.count, self._walk.observed())
        if not ray.wait([self._pending], timeout=0)[0]:
            return False
        proposals = result(self._pending)
        self._pending = None
        self._walk.enter(action.bracket, proposals)
        self._on_proposals()
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """True: ``suggest`` keeps to the limit itself."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: results reach the walk through the scheduler, the moment they arrive."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: ``Tuner`` pickles its searcher into a file for ``Tuner.restore``, which nobody calls."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is resumed by walking again, with the ledger answering."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see ``save``."""
