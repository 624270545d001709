"""Tune's ``TrialScheduler``: carries results to the walk, and the walk's decisions to the trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lipo_e_ray.search import Walk
from lipo_e_ray.tune.hyperband import Done, Evaluate
from lipo_e_ray.tune.searcher import active
from lipo_e_ray.tune.trainable import evaluation_of

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class BracketScheduler(TrialScheduler):
    """A trial is paused after each rung, then resumed at the next fidelity or stopped.

    ``trials`` (prompt id -> trial of the open bracket) is shared with the searcher. Two facts of Tune 2.60 are reached
    through its controller's private parts, for want of a setting: which cached actors it keeps, and which pending trial
    has been given one. Together they cost about a second per trial without this, and 15 ms with it.
    """

    def __init__(self, walk: Walk, trials: dict[str, Trial], concurrency: int) -> None:
        super().__init__()
        self._walk = walk
        self._trials = trials
        self._concurrency = concurrency
        self._actors_kept = False
        self._finished: list[Trial] = []

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Register the trial, and let go of what was kept of the bracket before."""
        bracket = trial.config["bracket"]
        self._stop(tune_controller, [t for t in self._trials.values() if t.config["bracket"] != bracket])
        self._trials[trial.config["prompt"].id] = trial
        if not self._actors_kept:
            # Tune ends cached actors that no trial waits for, so all but one at each end of a rung: claim them all.
            cache = tune_controller._tune_controller._actor_cache
            cache.increase_max(trial.placement_group_factory, self._concurrency)
            self._actors_kept = True

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Tell the walk; pause the trial without a checkpoint; stop those the walk has no more use for."""
        prompt_id = trial.config["prompt"].id
        self._walk.observe(trial.config["bracket"], prompt_id, evaluation_of(prompt_id, result))
        action = self._walk.hyperband.next_action()
        if isinstance(action, Done):
            self._stop(tune_controller, [t for t in self._trials.values() if t is not trial])
            return TrialScheduler.STOP
        self._finished.append(trial)
        self._pause_finished(tune_controller)
        if isinstance(action, Evaluate):
            self._stop(tune_controller, [t for t in self._trials.values() if self._has_lost(t, action)])
        # When the bracket is over, its last trials stay paused until the next one's come: without any live trial Tune
        # looks for proposals only once a second.
        return TrialScheduler.NOOP

    def _pause_finished(self, tune_controller: TuneController) -> None:
        """Pause what has its result, unless an actor is starting: Tune would kill it and use the freed one."""
        resetting = tune_controller._tune_controller._resetting_trials
        if any(trial.status == Trial.PENDING and trial not in resetting for trial in self._trials.values()):
            return
        for trial in self._finished:
            tune_controller.pause_trial(trial, should_checkpoint=False)
        self._finished = []

    def _has_lost(self, trial: Trial, action: Evaluate) -> bool:
        return trial.config["fidelity"] < action.fidelity and trial.config["prompt"].id not in action.prompt_ids

    def _stop(self, tune_controller: TuneController, trials: list[Trial]) -> None:
        for trial in trials:
            del self._trials[trial.config["prompt"].id]
            tune_controller.stop_trial(trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial that went up, with its next fidelity; never a pending one (Tune kills starting actors)."""
        self._pause_finished(tune_controller)
        action = self._walk.hyperband.next_action()
        if not isinstance(action, Evaluate) or active(self._trials) >= self._concurrency:
            return None
        for prompt_id in action.prompt_ids:
            trial = self._trials.get(prompt_id)
            if trial is not None and trial.status == Trial.PAUSED and trial.config["bracket"] == action.bracket.index:
                trial.set_config({**trial.config, "fidelity": action.fidelity})
                return trial
        return None

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing: the run ends with the trial's error (fail fast)."""

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing: the walk has the result already."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing: called by our own ``stop_trial``."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, see ``ProposalSearcher.__getstate__``."""
        return {}

    def debug_string(self) -> str:
        return f"BracketScheduler at {self._walk.hyperband.next_action()}"
