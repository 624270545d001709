"""``--address ray://...``: the whole driver runs on the cluster's head node, its lines and its results come back here.

A driver on a laptop would not do: the run folder, the ledger and Ray Tune belong beside the engines, and a connection
that breaks must not end a run halfway through a write. So one actor on the head starts ``python -m
lipo_e_ray.app.head``, the command line that ends, as on Ctrl-C, when its standard input closes: on request, and when
the actor dies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

import lipo_e_ray
from lipo_e_ray.config import RunConfig
from lipo_e_ray.config_tree import from_dict, to_dict
from lipo_e_ray.distributed.calls import result
from lipo_e_ray.distributed.session import signals_interrupt
from lipo_e_ray.inputs import read_instructions
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import EngineError, InputError

PROCESS = "lipo_e_ray.app.head"
POINTER = "remote.json"  # in the folder here: the cluster's address and the run's name there
RUNS = Path("lipo-e-ray-runs")  # in the home folder on the head node
COPIED = ("best_prompt.json", "report.html")
CONNECT_ATTEMPTS = 4
SILENCE_S = 300.0  # of a driver that says something every 30 s, once it has imported what it needs
EXIT_TIMEOUT_S = 60.0  # of a process that has closed its output


class Driver:
    """On the head node: the folder of one run and the process that works in it."""

    def __init__(self, name: str, version: str) -> None:
        if version != lipo_e_ray.__version__:
            raise InputError(f"expected lipo_e_ray {version} on the cluster as here, found {lipo_e_ray.__version__}")
        self._folder = Path.home() / RUNS / name

    def folder(self) -> str:
        return str(self._folder)

    def prepare(self, config: dict[str, Any], files: dict[str, bytes]) -> None:
        """Write the run's ``files``; make the folder that of ``config``, whose relative paths they are."""
        inputs = self._folder / "inputs"
        for name, content in files.items():
            (inputs / name).parent.mkdir(parents=True, exist_ok=True)
            (inputs / name).write_bytes(content)
        RunFolder(self._folder).claim(_rebased(from_dict(config), inputs, files)).close()

    def start(self, arguments: list[str]) -> None:
        """Start the command line with ``arguments`` on the cluster this actor belongs to."""
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONUNBUFFERED": "1"}
        for name in ("RAY_JOB_ID", "RAY_RAYLET_PID"):  # they mark a worker of Ray
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROCESS, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line the process prints; empty after the last."""
        output = cast(IO[str], self._process.stdout)
        return output.readline()

    def stop(self) -> None:
        """Let the process end as on Ctrl-C."""
        with contextlib.suppress(BrokenPipeError):
            cast(IO[str], self._process.stdin).close()

    def ended(self) -> tuple[int, dict[str, bytes]]:
        """The process's exit status, and the results that lie in the folder."""
        try:
            status = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return status, {name: file.read_bytes() for name in COPIED if (file := self._folder / name).exists()}


def run_remotely(address: str, folder: Path, command: str, options: list[str], config: RunConfig | None = None) -> int:
    """Run ``command`` on the run that ``folder`` stands for, on the cluster at ``address``; its exit status.

    ``config``: that of a new run, or of one that goes on. Raises ``InputError`` when the cluster cannot be used,
    ``EngineError`` when the driver there is lost or falls silent, and ``KeyboardInterrupt`` after it has ended.
    """
    files = shipped(config) if config else {}
    name = _name(folder, address, new=config is not None)
    with signals_interrupt(), _client(address):
        driver: Any = (
            ray.remote(Driver)
            .options(num_cpus=0, max_concurrency=2, resources={"node:__internal_head__": 0.001})
            .remote(name, lipo_e_ray.__version__)
        )
        try:
            there = result(driver.folder.remote(), "the driver on the head node")
            if config:
                result(driver.prepare.remote(to_dict(config), files), "the run's files on the head node")
            result(driver.start.remote([command, there, *options]), "the start on the head node")
            return _follow(driver, there, folder)
        except (RayError, EngineError) as error:
            raise EngineError(
                f"{address}: lost the driver: {str(error).strip().splitlines()[-1]}; continue with: "
                f"lipo-e-ray resume {folder}"
            ) from None


def remote_address(folder: Path) -> str | None:
    """The cluster on which the run that ``folder`` stands for was started, if it was."""
    return _pointer(folder).get("address")


def shipped(config: RunConfig) -> dict[str, bytes]:
    """The user's own files that the run needs, by the name they get there. Raises ``InputError``."""
    files = {}
    if config.instructions_file:
        read_instructions(Path(config.instructions_file))
        files["instructions.txt"] = Path(config.instructions_file).read_bytes()
    task = Path(config.task.name)
    if task.is_dir():
        files |= {f"{task.resolve().name}/{file.name}": file.read_bytes() for file in sorted(task.glob("*.jsonl"))}
    return files


def _rebased(config: RunConfig, inputs: Path, files: dict[str, bytes]) -> RunConfig:
    """``config`` with the paths that the ``shipped`` files have in ``inputs``."""
    folders = {Path(name).parent for name in files} - {Path()}
    task = replace(config.task, name=str(inputs / folders.pop())) if folders else config.task
    own = str(inputs / "instructions.txt") if config.instructions_file else ""
    return replace(config, task=task, instructions_file=own)


def _pointer(folder: Path) -> dict[str, str]:
    try:
        pointer = json.loads((folder / POINTER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / POINTER}: expected the JSON that `run` wrote, got: {error}; restore the file"
        ) from None
    if not (isinstance(pointer, dict) and all(isinstance(pointer.get(key), str) for key in ("address", "name"))):
        raise InputError(
            f"{folder / POINTER}: expected address and name, as `run` wrote them, got {pointer!r:.60}; restore the file"
        )
    return pointer


def _name(folder: Path, address: str, new: bool) -> str:
    """The run's name on the cluster, from the pointer in ``folder``; one is written for a new run."""
    name = _pointer(folder).get("name")
    if name is None:
        if not new:
            raise InputError(
                f"{folder}: expected the folder of a run on a cluster ({POINTER}), found none; start it "
                "with `run --address ray://... --output`"
            )
        if RunFolder(folder).config_file.exists():
            raise InputError(f"{folder}: this folder holds a run on this machine; give another --output")
        name = f"{folder.resolve().name}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / POINTER).write_text(json.dumps({"address": address, "name": name}) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, got: {error.strerror}; give another --output"
        ) from None
    return name


@contextlib.contextmanager
def _client(address: str) -> Iterator[None]:
    """A connection of Ray Client. Its server on the head dies at the start now and then (ray 2.60): try again."""
    for attempt in range(CONNECT_ATTEMPTS):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except (ConnectionError, RuntimeError) as error:
            if attempt + 1 == CONNECT_ATTEMPTS or not isinstance(error, ConnectionAbortedError):
                raise InputError(
                    f"--address {address}: cannot connect: {str(error).strip().splitlines()[-1]}; "
                    "cluster/submit.sh does without Ray Client"
                ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _follow(driver: ActorHandle[Any], there: str, folder: Path) -> int:
    """Print what the driver prints, under the names that things have here; fetch its results; its exit status."""
    interrupted = told = False
    line: Any = driver.line.remote()
    while True:
        try:
            if not (text := result(line, "the driver on the head node", SILENCE_S)):
                break
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            driver.stop.remote()
            continue
        told |= "lipo-e-ray resume" in text
        # Errors of the command line stay errors.
        print(
            text.replace(there, str(folder)),
            end="",
            flush=True,
            file=sys.stderr if text.startswith("lipo-e-ray: ") else sys.stdout,
        )
        line = driver.line.remote()
    status, results = result(driver.ended.remote(), "the results on the head node")
    for name, content in results.items():
        (folder / name).write_bytes(content)
    if interrupted:
        if not told:
            print(f"interrupted; continue with: lipo-e-ray resume {folder}")
        raise KeyboardInterrupt
    return status
