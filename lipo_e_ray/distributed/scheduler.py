"""Tune's ``TrialScheduler``: carries a rung's results to the walk, and the walk's next rung to the trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lipo_e_ray.distributed.calls import cause_of, reason_of
from lipo_e_ray.distributed.ray_private import keep_idle_actors
from lipo_e_ray.distributed.searcher import trial_config
from lipo_e_ray.search.hyperband import Evaluate, Hyperband
from lipo_e_ray.types import EngineError, RungResult

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

TRIAL_CPUS = 0.001  # a trial only waits; Tune refuses 0
ACTORS_KEPT = 16  # trial processes, once started: about as many brackets as are ever open at once


class BracketScheduler(TrialScheduler):
    """A trial is paused after each step, then resumed with its next chunk or rung, or stopped when its bracket is over.

    ``on_rung`` is called with what came of each complete rung. ``failed`` says why the search cannot go on.
    """

    def __init__(self, hyperband: Hyperband, on_rung: Callable[[list[RungResult]], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Tune's has no types
        self.failed: BaseException | None = None
        self._hyperband = hyperband
        self._on_rung = on_rung
        self._trials: dict[int, Trial] = {}  # by bracket, those that go on
        self._over: list[Trial] = []  # paused for good, to be stopped
        self._actors_kept = False

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Register the trial, and stop the one that was kept alive until it came."""
        self._trials[trial.config["bracket"]] = trial
        self._stop_over(tune_controller)
        if not self._actors_kept:
            keep_idle_actors(tune_controller, trial, ACTORS_KEPT)
            self._actors_kept = True

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """Tell ``Hyperband``; pause the trial without a checkpoint, or stop it when its bracket is over."""
        if error := result.get("error"):
            self.failed = error
            return TrialScheduler.STOP
        bracket = trial.config["bracket"]
        self._on_rung(self._hyperband.observe(bracket, trial.config["step"], result["evaluations"]))
        if not self._hyperband.actions():
            self._stop_over(tune_controller)
            return TrialScheduler.STOP
        if self._hyperband.is_over(bracket):
            del self._trials[bracket]
            if self._trials:
                return TrialScheduler.STOP
            # Without any live trial Tune looks for proposals only once a second: this one stays until one comes.
            self._over.append(trial)
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return TrialScheduler.NOOP

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial, with its next rung; never a pending one (Tune kills starting actors).

        When the search is over or stopped, a trial that is paused has no next rung and ends.
        """
        if not self._hyperband.actions():
            self._over += [trial for trial in self._trials.values() if trial.status == Trial.PAUSED]
            self._stop_over(tune_controller)
            return None
        for bracket, action in self._rungs().items():
            trial = self._trials.get(bracket)
            if trial is not None and trial.status == Trial.PAUSED:
                trial.set_config(trial_config(action))
                return trial
        return None

    def waiting(self) -> str:
        """In words, the trials that Tune has no process for yet; empty when all have one. For any thread."""
        return "; ".join(
            f"bracket {bracket + 1} waits for {TRIAL_CPUS} CPU"
            for bracket, trial in list(self._trials.items())
            if trial.status == Trial.PENDING
        )

    def _rungs(self) -> dict[int, Evaluate]:
        return {action.bracket: action for action in self._hyperband.actions() if isinstance(action, Evaluate)}

    def _stop_over(self, tune_controller: TuneController) -> None:
        over, self._over = self._over, []
        for trial in over:
            tune_controller.stop_trial(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A process that died with its node, or for want of memory, is started again with its rung; the ledger answers
        for what was paid. The run ends when that does not help."""
        if not trial.should_recover():
            error = cause_of(trial.get_pickled_error() or EngineError("no reason given"))
            self.failed = (
                error
                if not isinstance(error, RayError)
                else EngineError(
                    f"the trial of bracket {trial.config['bracket'] + 1} broke {trial.num_failures} times, last: "
                    f"{reason_of(error)}; nothing is lost: remove the cause and resume"
                )
            )

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing: the walk has the result already."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Nothing: called by our own ``stop_trial``."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, see ``ProposalSearcher.__getstate__``."""
        return {}

    def debug_string(self) -> str:
        return f"BracketScheduler at {self._hyperband.position()}"
