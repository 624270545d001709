"""The run folder: its files, its one config, and the lock that keeps a second driver out."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from lipo_e_ray.config import RunConfig
from lipo_e_ray.config_tree import from_dict, leaves, to_dict, tree, unknown_key
from lipo_e_ray.task.metrics import is_user_metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError

OWN_TASK = "./task"  # rows given from Python, kept in the run folder; "./" is the run folder in a recorded config
FREE = {"engines", "time_limit"}  # how fast a run goes and when it pauses, not what it finds
GROWING = {"max_llm_calls", "invbo.iterations"}  # more of these only adds to what a run has found


@dataclass(frozen=True)
class Spending:
    """What a run was to spend: ``max_llm_calls`` and ``iterations`` of its configuration."""

    max_llm_calls: int
    iterations: int

    @classmethod
    def of(cls, config: RunConfig) -> Spending:
        """Of a configuration."""
        return cls(config.max_llm_calls, config.invbo.iterations)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Creating the object touches nothing; ``claim`` does."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def spending_file(self) -> Path:
        return self.path / "spending.json"

    @property
    def best_prompt_file(self) -> Path:
        return self.path / "best_prompt.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def latent_folder(self) -> Path:
        return self.path / "latent"

    def with_its_paths(self, config: RunConfig) -> RunConfig:
        """``config`` with the task's rows, if they are kept in this folder, under the path they have now."""
        if config.task.name != OWN_TASK:
            return config
        return replace(config, task=replace(config.task, name=str((self.path / OWN_TASK).resolve())))

    def load_config(self) -> RunConfig:
        """Raises ``InputError`` when the folder is not a run's or its config cannot be read."""
        try:
            data = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.path}: expected a run folder with config.json, found none; "
                "give the folder that `run --output` wrote"
            ) from None
        except (OSError, ValueError, RecursionError) as error:  # no file, not UTF-8, not JSON, or endlessly nested
            raise InputError(
                f"{self.config_file}: expected JSON, got {error}; restore the file or start a new run in another folder"
            ) from None
        config: RunConfig = from_dict(data)
        return config

    def config_to_run(self, metric: str | None) -> RunConfig:
        """``load_config``, after a check of ``--metric``, which must name the run's metric if that is the user's code.

        Raises ``InputError`` where it differs: a folder may come from somebody else, so the folder alone must not
        decide which code is imported.
        """
        config = self.load_config()
        own = config.task.metric
        if metric != own and (metric is not None or is_user_metric(own)):
            script = " (a function of a script: go on from that script)" if own.startswith("__main__:") else ""
            raise InputError(
                f"{self.path}: expected --metric {own}, the run's own{script} (code is imported only where the "
                f"command names it), got {metric or 'none'}"
            )
        return config

    def extended(self, config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
        """``config`` with ``changes``, by key, that let the run go on with more. Raises ``InputError`` for others."""
        known = leaves(to_dict(config))
        for key in changes:
            if key not in known:
                raise unknown_key(key)
        extended: RunConfig = from_dict(tree(known | dict(changes)))
        self._check_extends(config, extended)
        return extended

    def claim(self, config: RunConfig, task: Task | None = None) -> IO[str]:
        """Make this the folder of ``config`` and lock it; keep the returned file open for as long as the run lasts.

        ``task``: rows to be kept in the folder. Raises ``InputError`` when another driver holds the lock, or when the
        folder belongs to a run with other settings or rows: outcomes of two settings never share a folder. A run may
        go on with more calls, iterations, time or engines.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise InputError(
                f"{self.path}: expected a folder to write the run to, got: {error.strerror}; give another --output"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InputError(
                f"{self.path}: another process is running in this folder; wait for it, or give another --output"
            ) from None
        try:
            if self.config_file.exists():
                recorded = self.load_config()
                self._check_extends(recorded, config)
                self._remember(recorded, config)
            self._keep(task)
        except InputError:
            lock.close()
            raise
        _write_json(self.config_file, to_dict(config))
        return lock

    def earlier_spending(self) -> list[Spending]:
        """What the run was to spend each time before it was given more, the first time first."""
        if not self.spending_file.exists():
            return []
        try:
            return [Spending(**entry) for entry in json.loads(self.spending_file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.spending_file}: expected a list of limits, got {error}; restore the file or start a new run in "
                "another folder"
            ) from None

    def _remember(self, recorded: RunConfig, wanted: RunConfig) -> None:
        """Where the run gets more to spend: with how much it was walked so far, so that it is walked so again."""
        was, will = Spending.of(recorded), Spending.of(wanted)
        earlier = self.earlier_spending()
        if was != will and earlier[-1:] != [was]:
            _write_json(self.spending_file, [asdict(entry) for entry in (*earlier, was)])

    def _keep(self, task: Task | None) -> None:
        folder = self.path / OWN_TASK
        if task is None:
            return
        if not folder.exists():
            draft = self.path / "task.tmp"
            shutil.rmtree(draft, ignore_errors=True)  # left by a process that was killed
            task.save(draft)
            draft.rename(folder)
        elif _rows(task) != _rows(Task.from_folder(folder)):
            raise InputError(f"{self.path}: this folder holds a run on other rows; give another output")

    def _check_extends(self, recorded: RunConfig, wanted: RunConfig) -> None:
        there, here = leaves(to_dict(recorded)), leaves(to_dict(wanted))
        for key in here:
            if here[key] == there[key] or key in FREE:
                continue
            if key in GROWING and _amount(key, here[key]) > _amount(key, there[key]):
                continue
            why = "a run goes on with more of it, not with less" if key in GROWING else "that would be another run"
            raise InputError(
                f"{self.path}: this folder holds a run with another config ({key}: {there[key]!r}, now "
                f"{here[key]!r}): {why}; give another --output, or `resume` it without a change"
            )


def _write_json(path: Path, content: Any) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.rename(path)


def _rows(task: Task) -> tuple[tuple[Example, ...], ...]:
    return task.pool, task.validation, task.test


def _amount(key: str, value: float) -> float:
    """0 calls mean no limit."""
    return math.inf if key == "max_llm_calls" and not value else value
