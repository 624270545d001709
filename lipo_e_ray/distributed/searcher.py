"""Tune's ``Searcher``: turns the walk's proposals into trials, one bracket each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.search.hyperband import Evaluate, Propose
from lipo_e_ray.search.replay import Walk


def trial_config(walk: Walk, action: Evaluate) -> dict[str, Any]:
    """What a trial needs for one rung, see ``BracketTrial``."""
    return {
        "bracket": action.bracket.index,
        "rung": action.rung,
        "fidelity": action.fidelity,
        "wave": action.wave,
        "prompts": [walk.prompts[prompt_id] for prompt_id in action.prompt_ids],
    }


class ProposalSearcher(Searcher):
    """Asks the BO actor for the next bracket's prompts while others run, and hands a bracket out once it has them."""

    def __init__(self, walk: Walk, bo: BOSlot, on_proposals: Callable[[], object]) -> None:
        super().__init__()
        self._walk = walk
        self._bo = bo
        self._on_proposals = on_proposals
        self._started: set[int] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; ``None`` while there is nothing to start. Never blocks Tune's event loop.

        Raises what the BO actor or a trial raised: from here, unlike from elsewhere, it ends Tune's loop.
        """
        if self._walk.failed:
            raise self._walk.failed
        hyperband = self._walk.hyperband
        if (actions := hyperband.actions()) and isinstance(actions[0], Propose):
            self._take_proposals(actions[0])
        if not (actions := hyperband.actions()):
            return Searcher.FINISHED
        for action in actions:
            if isinstance(action, Evaluate) and action.bracket.index not in self._started:
                self._started.add(action.bracket.index)
                return trial_config(self._walk, action)
        return None

    def _take_proposals(self, action: Propose) -> None:
        proposals = self._bo.propose(lambda: self._walk.request(action))
        if proposals is not None:
            self._walk.enter(action.bracket, proposals)
            self._on_proposals()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """True: no limit is needed. Tune's own limiter counts paused trials too, and deadlocks a rung."""
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
