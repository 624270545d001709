"""The run folder: its files, its one config, and the lock that keeps a second driver out."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lipo_e_ray.config import RunConfig, from_dict, to_dict
from lipo_e_ray.task.metrics import is_user_metric
from lipo_e_ray.types import InputError

MAY_CHANGE = {"engines"}  # these change how fast a run is, not what it finds


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
    def best_prompt_file(self) -> Path:
        return self.path / "best_prompt.json"

    @property
    def latent_folder(self) -> Path:
        return self.path / "latent"

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
        return from_dict(data)

    def config_to_run(self, metric: str | None) -> RunConfig:
        """``load_config``, after a check of ``--metric``, which must name the run's metric if that is the user's code.

        Raises ``InputError`` where it differs: a folder may come from somebody else, so the folder alone must not
        decide which code is imported.
        """
        config = self.load_config()
        own = config.task.metric
        if metric != own and (metric is not None or is_user_metric(own)):
            raise InputError(
                f"{self.path}: expected --metric {own}, the run's own (code is imported only where the "
                f"command names it), got {metric or 'none'}"
            )
        return config

    def claim(self, config: RunConfig) -> IO[str]:
        """Make this the folder of ``config`` and lock it; keep the returned file open for as long as the run lasts.

        Raises ``InputError`` when another driver holds the lock, or when the folder belongs to a run with another
        config: outcomes of two settings never share a folder.
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
        if self.config_file.exists():
            try:
                self._check_same(config)
            except InputError:
                lock.close()
                raise
        else:
            draft = self.config_file.with_suffix(".tmp")
            draft.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
            draft.rename(self.config_file)
        return lock

    def _check_same(self, config: RunConfig) -> None:
        there, here = _leaves(to_dict(self.load_config())), _leaves(to_dict(config))
        changed = [key for key in here if here[key] != there[key] and key not in MAY_CHANGE]
        if changed:
            key = changed[0]
            raise InputError(
                f"{self.path}: this folder holds a run with another config ({key}: {there[key]!r}, now "
                f"{here[key]!r}); give another --output, or `resume` it as it is"
            )


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
