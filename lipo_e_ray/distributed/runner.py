"""One Ray Tune run over all brackets, and the BO actor beside it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.progress_reporter import TrialProgressCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lipo_e_ray.distributed.bo_actor import BOActor, BOSlot, Proposer
from lipo_e_ray.distributed.calls import slow_result
from lipo_e_ray.distributed.scheduler import TRIAL_CPUS, BracketScheduler
from lipo_e_ray.distributed.searcher import ProposalSearcher
from lipo_e_ray.distributed.trainable import BracketTrial
from lipo_e_ray.search.hyperband import Hyperband, Position
from lipo_e_ray.types import RungResult

TRIAL_DEATHS = 3  # times that a trial whose process died is started again
MAX_TRIALS = 1000  # at a time; in effect no limit, since the schedule has one
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box even at verbose=0; _Silent silences the old one
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's own swallows the first Ctrl-C and waits for running trials
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the ledger is the state of a run
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def start_bo_actor(
    make_proposer: Callable[[], Proposer], service: ActorHandle[Any], gpus: float = 0.0
) -> ActorHandle[Any]:
    """The ``BOActor`` on this node, where the run folder is; GPUs are hidden from it unless it is given a share."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # One thread: the matrices are small, and on a machine without a GPU the engine needs the other cores.
    environment = {"OMP_NUM_THREADS": "1"} | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
    actor_class: Any = ray.remote(BOActor)  # Ray's types take it for the class itself
    actor: ActorHandle[Any] = actor_class.options(
        num_cpus=0, num_gpus=gpus, scheduling_strategy=here, runtime_env={"env_vars": environment}
    ).remote(make_proposer, service)
    return actor


def tune_search(
    hyperband: Hyperband,
    service: ActorHandle[Any],
    bo: BOSlot,
    storage: Path,
    on_event: Callable[[Position], object] = lambda position: None,
    on_start: Callable[[Callable[[], str]], object] = lambda waiting: None,
    deadline: float = math.inf,
) -> None:
    """Walk ``hyperband`` to its end; whatever it waits for at the same time is evaluated side by side.

    ``storage``: the run folder; Tune's own files live in a temporary folder in it. ``on_event`` is called, in this
    thread, when proposals have come and when a rung is complete. ``on_start`` is called before all that, with a
    function that tells any thread what the search waits for besides engines. No rung begins after ``deadline``, in
    seconds of ``time.monotonic``; rungs under way are finished.

    Raises what an evaluation or the proposer raised (``EngineError``, ``InputError``), and ``KeyboardInterrupt``.
    """

    def on_rung(results: list[RungResult]) -> None:
        if results:
            slow_result([service.record_rung.remote(result) for result in results], service, "the record of a rung")
        on_event(hyperband.position())
        stop_in_time()

    def stop_in_time() -> None:
        if time.monotonic() > deadline:
            hyperband.stop()

    def failure() -> BaseException | None:
        stop_in_time()  # here as well, for a search that waits for proposals
        return scheduler.failed

    scheduler = BracketScheduler(hyperband, on_rung)
    searcher = ProposalSearcher(hyperband, bo, failure, on_rung)
    on_start(lambda: "; ".join(filter(None, (bo.waiting(), scheduler.waiting()))))
    trainable = tune.with_resources(tune.with_parameters(BracketTrial, service=service), {"cpu": TRIAL_CPUS})
    with _quiet(), tempfile.TemporaryDirectory(prefix=".tune-", dir=storage.absolute()) as folder:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=searcher,
                scheduler=scheduler,
                max_concurrent_trials=MAX_TRIALS,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                callbacks=[_Silent()],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=TRIAL_DEATHS),
            ),
        )
        tuner.fit()
    if scheduler.failed:
        raise scheduler.failed


class _Silent(TrialProgressCallback):
    """Tune's own prints a line for each trial stopped while paused, even at verbose=0."""

    def on_trial_complete(self, *args: object, **information: object) -> None:
        pass


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune's settings by environment, and no log lines: what goes wrong is raised."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(ENVIRONMENT)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
