"""Clusters of one head node, as ``ray start --head`` makes it, and what users run on them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.task_files import write_task

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
)
START_S = 120
RUN = (
    "run",
    "--profile",
    "demo",
    "--task",
    "task",
    "--model",
    "simulated",
    "--no-use-ape",
    "--iterations",
    "0",
    "--qa-pool-size",
    "24",
    "--max-llm-calls",
    "300",
)


@dataclass(frozen=True)
class Head:
    """``folder`` holds the token, the home folder of all that runs there, and ``work`` with a task in it."""

    folder: Path
    ports: dict[str, int]
    pid: int = 0  # of ``ray start``, once it runs: all that the cluster starts on its node is below

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['port']}"

    @property
    def client(self) -> str:
        return f"ray://127.0.0.1:{self.ports['ray-client-server-port']}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    @property
    def environment(self) -> dict[str, str]:
        """That of a user with the token; his drivers have the formula."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": f"{ROOT / 'tests' / 'cluster' / 'simulated'}{os.pathsep}{ROOT}",
            "PYTHONWARNINGS": "ignore",
            "CUDA_VISIBLE_DEVICES": "",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
        }

    def token(self, content: str, mode: int = 0o600) -> dict[str, str]:
        """The environment with another token."""
        path = self.folder / f"token-{secrets.token_hex(4)}"
        path.touch(mode=0o600)
        path.write_text(content)
        path.chmod(mode)
        return self.environment | {"RAY_AUTH_TOKEN_PATH": str(path)}

    def start(self, *command: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """A user's command in ``work``, in a process group of its own as a terminal starts it.

        With Ctrl-C as a terminal has it: where tests run in the background of a shell they inherit that it is ignored,
        and a shell script cannot change that.
        """
        return subprocess.Popen(
            ["env", "--default-signal=INT", *command],
            env=environment or self.environment,
            cwd=self.folder / "work",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *command: str | Path, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Its exit status, output and errors."""
        process = self.start(*command, environment=environment)
        with contained(process):
            out, err = process.communicate(timeout=180)
        return process.returncode, out, err


def outcomes(folder: Path) -> list[tuple]:
    """What a run has paid for, in order."""
    try:
        with sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True) as db:
            return db.execute("SELECT seq, prompt_id, example_id, at FROM outcomes ORDER BY seq").fetchall()
    except sqlite3.OperationalError:  # not there yet
        return []


def interrupt(head: Head, command: Sequence[str | Path], folder: Callable[[], Path]) -> tuple[int, str, str, list]:
    """Ctrl-C in the middle of a run in ``folder``: exit status, output, errors, and what is paid for by then."""
    gate = head.folder / "home" / "gate"
    gate.touch()
    process = head.start(*command)
    with contained(process):
        deadline = time.monotonic() + 150
        while not outcomes(folder()):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=90)
    gate.unlink()
    return process.returncode, out, err, outcomes(folder())


@contextlib.contextmanager
def contained(process: subprocess.Popen) -> Iterator[None]:
    """Nothing of the process's group outlives the block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def new_head() -> Head:
    """Folder, token and free ports for one; not started."""
    folder = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))  # short: Ray's sockets lie below, 107 bytes at most
    (folder / "home").mkdir()
    write_task(folder / "work" / "task", sizes=(24, 32, 16))
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32))
    return Head(folder, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))


@contextlib.contextmanager
def ray_start(head: Head, *arguments: str) -> Iterator[subprocess.Popen]:
    """``ray start --block``, once it is up; it ends with the block, and so do the processes it started."""
    # gRPC's fork handlers crash every third server that Ray Client starts (ray 2.60): cluster/ switches them off too.
    environment = head.environment | {"GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_gcs_server_port_wait_time_s": str(START_S)}
    command = [
        BIN / "ray",
        "start",
        "--block",
        "--node-ip-address",
        "127.0.0.1",
        "--num-gpus",
        "0",
        "--object-store-memory",
        str(100 * 2**20),
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
        "--include-log-monitor",  # it sends the workers' output to drivers, which do not want it
        "false",
        *arguments,
    ]
    path = head.folder / f"log-{secrets.token_hex(4)}"
    with path.open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while "--block" not in path.read_text():
                assert process.poll() is None and time.monotonic() < deadline, path.read_text()
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            with contained(process):
                pass


def ray_head(head: Head, cpus: int = 2, dashboard: bool = True) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """The head node itself; one that ended may be started again. ``dashboard``: it takes jobs; ten processes more."""
    ports = [word for name, port in head.ports.items() for word in (f"--{name}", str(port))]
    return ray_start(
        head,
        "--head",
        "--include-dashboard",
        str(dashboard),
        "--dashboard-host",
        "127.0.0.1",
        "--num-cpus",
        str(cpus),
        "--temp-dir",
        str(head.folder),
        *ports,
    )
