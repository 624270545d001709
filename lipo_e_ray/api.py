"""The Python interface: ``optimize`` a prompt, ``resume`` a run, ``evaluate``, ``plan``, and ``load`` what was found.

Nothing here prints; a ``callback`` is told what goes on (``callback=print`` shows it). What goes wrong on purpose is a
``LipoError``: ``InputError`` for what was given, ``EngineError`` for a model or a cluster that does not answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lipo_e_ray import job, settings
from lipo_e_ray.config import RunConfig
from lipo_e_ray.config_tree import leaves, to_dict
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.install_check import check_install
from lipo_e_ray.job import Given
from lipo_e_ray.planning import Plan, make_plan
from lipo_e_ray.progress import Listener
from lipo_e_ray.report.records import Records, ScoredPrompt, read_folder
from lipo_e_ray.report.statistics import Paired
from lipo_e_ray.store.run_folder import OWN_TASK, RunFolder
from lipo_e_ray.task.metrics import user_metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Evaluation, Fingerprints, InputError

OWN_ENGINE = "engine="
"""Begins the recorded ``model.name`` of a run whose engine was given from Python; its fingerprint follows."""

MetricFunction = Callable[[str, str], Any]
"""``function(output, reference)`` -> ``bool`` or ``Status``."""


@dataclass(frozen=True)
class Result:
    """What a run has found so far. ``best`` and ``baseline``: ``None`` before the first result.

    Of each prompt: ``messages(question)`` is the chat to send, ``test`` the accuracy on the test split with its 95%
    interval, ``accuracy`` that on validation.
    """

    folder: Path
    records: Records = field(repr=False)

    @property
    def best(self) -> ScoredPrompt | None:
        """The answer: the winner of the last race, or the baseline where that is not ahead of it."""
        return self.records.best

    @property
    def baseline(self) -> ScoredPrompt | None:
        """The user's first instruction, or else the best shipped one, without exemplars."""
        return self.records.baseline

    @property
    def paired(self) -> Paired | None:
        """Best against baseline on the test questions that both answered."""
        return self.records.paired

    @property
    def calls(self) -> int:
        """LLM calls paid for, in all."""
        return self.records.usage.calls

    @property
    def report(self) -> Path:
        """The report's page."""
        return RunFolder(self.folder).report_file


def optimize(
    task: Task | str | Path,
    model: str | None = None,
    *,
    max_llm_calls: int | None = None,
    output: str | Path | None = None,
    engine: EngineSpec | Callable[[], Engine] | None = None,
    metric: str | MetricFunction | None = None,
    profile: str | None = None,
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    address: str | None = None,
    callback: Listener | None = None,
) -> Result:
    """Search for the prompt with which ``model`` errs least; the same call again continues where it stopped.

    Args:
        task: rows (``Task.from_rows``), a folder, or the name of a built-in task.
        model: a Hugging Face id or a folder, served by vLLM; default: the profile's.
        max_llm_calls: hard limit for all calls that are sent to the model, test included; default none.
        output: the run folder; default ``runs/TASK-MODEL-seedN``.
        engine: instead of vLLM: an ``EngineSpec``, or what builds an ``Engine`` (in its own process: no lambda).
        metric: a metric's name, or ``function(output, reference) -> bool``; default: what fits the answers.
        config: further settings, ``{"model": {"max_tokens": 256}}`` or ``{"model.max_tokens": 256}``, a TOML or JSON
            file of them, or a whole ``RunConfig``.
        address: the Ray to run on: ``local``, ``auto`` or ``host:port``; default: ``RAY_ADDRESS``, else ``local``.
            ``ray://`` is for the command line only.
        callback: is given every ``progress.Event``, one at a time, also from other threads; it must not raise.

    Raises ``InputError`` before anything is paid, ``EngineError`` when no engine answers any more, and
    ``KeyboardInterrupt``; whatever was paid for by then is kept in the folder.
    """
    check_install()
    run_config, given = _assemble(task, model, max_llm_calls, engine, metric, profile, config)
    folder = RunFolder(Path(output) if output is not None else default_output(run_config, given.task))
    return Result(folder.path, job.search(run_config, folder, callback or _ignore, given, address))


def resume(
    folder: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    metric: str | MetricFunction | None = None,
    engine: EngineSpec | Callable[[], Engine] | None = None,
    address: str | None = None,
    callback: Listener | None = None,
) -> Result:
    """Continue a run; no call that was answered is made again.

    ``changes``: more to spend, by key: ``max_llm_calls``, ``invbo.iterations``, ``time_limit``, ``engines``. What
    would make it another run is refused. ``metric``: needed only where the run's own is a function or a
    ``module:function``, and then it must be the same. ``engine``: the run's own, where that is not vLLM. Raises as
    ``optimize`` does.
    """
    check_install()
    run_folder = RunFolder(Path(folder))
    run_config, given = _recorded(run_folder, metric, engine)
    run_config = run_folder.extended(run_config, changes or {})
    return Result(run_folder.path, job.search(run_config, run_folder, callback or _ignore, given, address))


def evaluate(
    folder: str | Path,
    split: Literal["validation", "test"] = "test",
    *,
    metric: str | MetricFunction | None = None,
    engine: EngineSpec | Callable[[], Engine] | None = None,
    address: str | None = None,
    callback: Listener | None = None,
) -> Evaluation:
    """Measure the best prompt of a run on a whole split; what was answered before is not asked again.

    ``metric`` and ``engine`` as for ``resume``. Raises as ``optimize`` does.
    """
    if split not in ("validation", "test"):
        raise InputError(f"split: expected validation or test, got {split!r:.60}")
    check_install()
    run_folder = RunFolder(Path(folder))
    run_config, given = _recorded(run_folder, metric, engine)
    return job.evaluate_best(run_config, run_folder, split, callback or _ignore, given, address)


def plan(
    task: Task | str | Path,
    model: str | None = None,
    *,
    max_llm_calls: int | None = None,
    engine: EngineSpec | Callable[[], Engine] | None = None,
    metric: str | MetricFunction | None = None,
    profile: str | None = None,
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
) -> Plan:
    """The schedule of ``optimize`` with the same arguments, and what it costs; nothing is paid or written."""
    check_install()
    run_config, given = _assemble(task, model, max_llm_calls, engine, metric, profile, config)
    return make_plan(run_config, job.prepare(run_config, RunFolder(Path()), given))


def load(folder: str | Path) -> Result:
    """What the run in ``folder`` has found so far, finished or not. Raises ``InputError``."""
    run_folder = RunFolder(Path(folder))
    run_folder.load_config()
    return Result(run_folder.path, read_folder(run_folder))


def default_output(config: RunConfig, task: Task | None = None) -> Path:
    """One folder per task, model and seed, so that the same command again continues the same run."""
    names = [task.name if task else Path(config.task.name).name, Path(config.model.name).name]
    return Path("runs") / f"{'-'.join(names)}-seed{config.seed}"


def _assemble(
    task: Task | str | Path,
    model: str | None,
    max_llm_calls: int | None,
    engine: EngineSpec | Callable[[], Engine] | None,
    metric: str | MetricFunction | None,
    profile: str | None,
    config: RunConfig | Mapping[str, Any] | str | Path | None,
) -> tuple[RunConfig, Given]:
    """The whole configuration, and what stands beside it."""
    if not isinstance(task, (Task, str, Path)):
        raise InputError(
            f"task: expected a Task, a folder or a built-in task's name, got {type(task).__name__}; make a Task of "
            "rows with Task.from_rows(train=..., test=...)"
        )
    layers = []
    if isinstance(config, RunConfig):
        layers.append(settings.Layer("config", leaves(to_dict(config))))
    elif isinstance(config, (str, Path)):
        layers.append(settings.read_file(Path(config)))
    elif config is not None:
        layers.append(settings.from_mapping(config, "config"))
    named = None if metric is None else metric if isinstance(metric, str) else _name_of(metric)
    chosen = {
        "task.name": None if isinstance(task, Task) else str(task),
        "model.name": model,
        "max_llm_calls": max_llm_calls,
        "task.metric": named,
    }
    layers.append(settings.Layer("arguments", {key: value for key, value in chosen.items() if value is not None}))
    given = Given(task if isinstance(task, Task) else None, _wrapped(metric), _spec(engine))
    if given.engine is not None and model is None:
        layers.append(settings.Layer("engine", {"model.name": OWN_ENGINE + given.engine.fingerprints.model}))
    resolved = settings.resolve(layers, profile).config
    if given.task is not None:
        own = named or (given.task.metric if resolved.task.metric == "auto" else resolved.task.metric)
        resolved = replace(resolved, task=replace(resolved.task, name=OWN_TASK, metric=own))
    return resolved, given


def _recorded(
    folder: RunFolder, metric: str | MetricFunction | None, engine: EngineSpec | Callable[[], Engine] | None
) -> tuple[RunConfig, Given]:
    """The configuration of the run in ``folder``, after a check that its own metric and engine are given again."""
    name = metric if metric is None or isinstance(metric, str) else _name_of(metric)
    config = folder.config_to_run(name)
    if engine is None and config.model.name.startswith(OWN_ENGINE):
        raise InputError(
            f"{folder.path}: expected this run's own engine, which was given from Python ({config.model.name}), got "
            "none; go on in Python, with resume(..., engine=) or evaluate(..., engine=) of lipo_e_ray"
        )
    return config, Given(None, _wrapped(metric), _spec(engine))


def _name_of(function: MetricFunction) -> str:
    if not callable(function):
        raise InputError(f"metric: expected a metric's name or a function, got {type(function).__name__}")
    module = getattr(function, "__module__", None) or "builtins"  # a method of a built-in type has none
    return f"{module}:{getattr(function, '__qualname__', type(function).__name__)}"


def _wrapped(metric: str | MetricFunction | None) -> Any:
    return None if metric is None or isinstance(metric, str) else user_metric(metric, _name_of(metric))


def _spec(engine: EngineSpec | Callable[[], Engine] | None) -> EngineSpec | None:
    """Only an engine knows its fingerprints, so one is built here, asked for them and closed again."""
    if engine is None or isinstance(engine, EngineSpec):
        return engine
    if not callable(engine):
        raise InputError(
            f"engine: expected an EngineSpec or what builds an engine (a class or function without arguments), got "
            f"{type(engine).__name__}"
        )
    built = engine()
    fingerprints: Fingerprints | None = getattr(built, "fingerprints", None)
    if not isinstance(fingerprints, Fingerprints):
        raise InputError(
            f"engine: expected an Engine, whose fingerprints are Fingerprints, got {type(built).__name__} with "
            f"{fingerprints!r:.60}"
        )
    closing = threading.Thread(target=lambda: asyncio.run(built.close()))  # there may be an event loop in this thread
    closing.start()
    closing.join()
    return EngineSpec(engine, fingerprints)


def _ignore(event: object) -> None:
    """The callback where none was given."""
