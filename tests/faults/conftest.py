"""Runs that are disturbed, and the one that is not: what came of each, and what was paid for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from lipo_e_ray.config import (
    PROFILES,
    APEConfig,
    HyperbandConfig,
    InvBOConfig,
    ProposalConfig,
    RunConfig,
    TaskConfig,
    VAEConfig,
)
from lipo_e_ray.config_tree import to_dict
from tests.conftest import DTYPE, ROW
from tests.heads import Head

JOB = Path(__file__).with_name("job.py")
CONFIG = replace(
    PROFILES["demo"],
    task=TaskConfig("arithmetic", pool_size=24, validation_size=64, test_size=16),
    model=replace(PROFILES["demo"].model, max_num_seqs=8, dtype=DTYPE),  # 16 are in flight
    ape=APEConfig(num_instructions=6),
    vae=VAEConfig(training_sets=32, max_epochs=5, batch_size=32),
    hyperband=HyperbandConfig(b_min=32),  # two brackets: each is a process for every driver
    proposal=ProposalConfig(instructions=6, restarts=1, steps=3),
    invbo=InvBOConfig(iterations=0),  # its inversion takes longer than all the rest
)
IN_FLIGHT = 2 * 16  # examples that an engine has at a time: its last chunk may go over the 16 of ``CONFIG``
LIFE_S = 240  # one life of a driver, on a machine that is busy with other things

Rows = list[tuple]


class Driver(subprocess.Popen):
    """A process in a group of its own, with Ctrl-C as a terminal has it; what it says goes into ``log``."""

    started: ClassVar[list[Driver]] = []  # by the present test

    def __init__(self, command: Sequence[str | Path], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("w") as file:
            super().__init__(
                ["env", "--default-signal=INT", *command],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(self)

    @property
    def said(self) -> str:
        return self.log.read_text()


@dataclass
class Run:
    """A run folder; in ``notes`` the engines note what they are asked (``job.py``), and the drivers what they say.

    ``cluster``: where its drivers run; without one each starts a private Ray.
    """

    folder: Path
    notes: Path
    cluster: Head | None = None
    config: RunConfig = CONFIG
    in_flight: Counter[str] = field(default_factory=Counter)  # at each death of a driver: asked, not in the ledger

    @property
    def paid_file(self) -> Path:
        return self.notes / "asked.paid"

    @property
    def command(self) -> list[str]:
        return [
            sys.executable,
            "-W",
            "ignore",
            str(JOB),
            json.dumps(to_dict(self.config)),
            str(self.folder),
            str(self.paid_file),
        ]

    def start(self, **variables: str) -> Driver:
        """``variables``: of its environment, besides the cluster's."""
        log = self.notes / f"driver-{len(list(self.notes.glob('driver-*')))}.log"
        if self.cluster is None:
            return Driver(self.command, log)
        return Driver([*self.command, self.cluster.address], log, self.cluster.environment | variables)

    def under_way(self, recorded: int = 60, **variables: str) -> Driver:
        """A driver that has brought the ledger to more than so many answers, and has an engine at work.

        An engine has just been asked and takes 0.2 s. What is asked and not in the ledger yet may be answered: after
        the last chunk of a rung the engine has nothing, and a fault at that moment costs no call.
        """
        driver = self.start(**variables)
        until(lambda: len(self.recorded()) > recorded, driver)
        asked = len(self._lines())
        until(lambda: len(self._lines()) > asked, driver)
        return driver

    def finish(self) -> str:
        """A driver to its end: what it said."""
        return finish(self.start())

    def processes(self, title: str) -> list[int]:
        """Those on its cluster that Ray gave a title with this start."""
        return processes(self.cluster.pid, title)

    def rows(self, sql: str) -> Rows:
        """Nothing where the ledger is not there yet."""
        try:
            with sqlite3.connect(f"file:{self.folder / 'ledger.sqlite'}?mode=ro", uri=True) as db:
                return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def paid(self) -> Counter[str]:
        """``prompt-id example-id`` or a generation's key -> how often an engine was asked it."""
        return Counter(line.partition(" ")[2] for line in self._lines())

    def pids(self) -> list[int]:
        """The engines' processes, oldest first."""
        return list(dict.fromkeys(int(line.partition(" ")[0]) for line in self._lines()))

    def _lines(self) -> list[str]:
        return self.paid_file.read_text().splitlines() if self.paid_file.exists() else []

    def recorded(self) -> dict[str, str]:
        """``prompt-id example-id`` or a generation's key -> its status or text."""
        return dict(
            self.rows(
                "SELECT prompt_id || ' ' || example_id, status FROM outcomes UNION ALL "
                "SELECT key, text FROM generations"
            )
        )

    def kill(self, driver: Driver) -> None:
        """SIGKILL for the driver, which takes all that it started with it; see ``ended``."""
        driver.send_signal(signal.SIGKILL)
        end(driver)
        self.ended()

    def ended(self) -> None:
        """Once all that a driver started is gone: what was asked and is not in the ledger may be asked again."""
        deadline = time.monotonic() + 60
        while any(map(alive, self.pids())) or self._ledger_in_use():
            assert time.monotonic() < deadline, "an engine or the service outlived its driver by a minute"
            time.sleep(0.1)
        self.in_flight.update(self.paid().keys() - self.recorded().keys())

    def _ledger_in_use(self) -> bool:
        with (self.folder / "ledger.lock").open("a") if self.folder.exists() else contextlib.nullcontext() as lock:
            try:
                return bool(lock and fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                return True

    def result(self) -> dict[str, object]:
        """What must not depend on any fault: all but the calls, to which those belong that failed or were lost."""
        best = json.loads((self.folder / "best_prompt.json").read_text())
        sent = best.pop("llm_calls")
        answered = len(self.rows("SELECT seq FROM outcomes")) + len(self.rows("SELECT seq FROM generations"))
        assert sent >= answered + len(self.rows("SELECT seq FROM failures")), "a call came that was not counted as sent"
        return {
            "best prompt": best,
            "calls answered": answered,
            "rungs": sorted(
                self.rows(
                    "SELECT bracket, stage, s, rung, fidelity, prompt_id, errors, evaluated, "
                    "unparseable, promoted FROM rungs"
                )
            ),
            "proposals": self.rows(
                "SELECT bracket, position, prompt_id, source, stage, cosine FROM proposals ORDER BY bracket, position"
            ),
            "outcomes": self.recorded(),
        }


@dataclass(frozen=True)
class Harm:
    """``lost``: in the undisturbed run's ledger, not in this one's; ``repeated``: asked once more than needed."""

    lost: int
    repeated: int


def harm(run: Run, undisturbed: Run) -> Harm:
    """What a fault cost a run that has ended, after a check that it changed nothing else.

    A call may be repeated only if an attempt failed, or once for each death of a driver that it was in flight at.
    """
    here, there = run.result(), undisturbed.result()
    lost = len(there["outcomes"].keys() - here["outcomes"].keys())
    failed = Counter(
        f"{prompt} {example}".strip() for prompt, example in run.rows("SELECT prompt_id, example_id FROM failures")
    )
    repeated = run.paid() - Counter(set(run.paid()))
    unexplained = repeated - failed - run.in_flight
    for part in here:
        assert here[part] == there[part], f"another result: {part}"
    assert not unexplained, f"paid twice though answered, or not known to have failed: {unexplained}"
    assert run.paid().keys() == here["outcomes"].keys(), "the engines were asked other things than the ledger has"
    return Harm(lost, repeated.total())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def processes(ancestor: int, title: str) -> list[int]:
    """Those below ``ancestor`` that Ray gave a title with this start."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process.pid)
    return found


def until(condition: Callable[[], object], driver: Driver, seconds: float = LIFE_S) -> None:
    """Wait while the driver lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            status = driver.poll()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            raise AssertionError(f"the driver ended with {status}, or {seconds} s were not enough: {driver.said}")
        time.sleep(0.02)


def end(driver: Driver, number: int | None = None, seconds: float = LIFE_S) -> str:
    """Send the signal, wait for the end, and return what the driver said. A driver that hangs is killed."""
    if number is not None:
        driver.send_signal(number)
    try:
        driver.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        raise
    return driver.said


def finish(driver: Driver, seconds: float = LIFE_S) -> str:
    """Wait for an end without an error: what the driver said."""
    said = end(driver, seconds=seconds)
    assert driver.returncode == 0 and "Traceback" not in said, said
    return said


@pytest.fixture(autouse=True)
def no_driver_is_left() -> Iterator[None]:
    """Where a test fails: one that still runs takes the processors from all tests after it."""
    yield
    for driver in Driver.started:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    Driver.started.clear()


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Callable[[Harm], None]:
    """Notes what came of a fault; a lost outcome fails the test."""
    began = time.monotonic()

    def row(harm: Harm) -> None:
        record_property(ROW, f"{harm.lost} lost, {harm.repeated} repeated, {time.monotonic() - began:.0f} s")
        assert harm.lost == 0

    return row


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, head) -> Run:
    notes = tmp_path_factory.mktemp("undisturbed")
    run = Run(notes / "run", notes, head)
    run.finish()
    return run


@pytest.fixture
def run(tmp_path, head) -> Run:
    """On the cluster that stays."""
    return Run(tmp_path / "run", tmp_path, head)


@pytest.fixture
def private_run(tmp_path) -> Run:
    """Whose drivers start a private Ray each."""
    return Run(tmp_path / "run", tmp_path)
