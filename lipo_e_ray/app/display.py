"""What a user sees while a run goes on: a live panel in a terminal, plain lines where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lipo_e_ray.progress import Event, Message, Snapshot, Waiting, clock

HEARTBEAT_S = 15.0  # half of the 30 s that `remote.SILENCE_S` counts on: a busy machine wakes threads late


class Display:
    """Shows a run's events: a ``Listener``, and a context manager. Calls may come from any thread.

    Without a terminal it writes a line for every sentence and every change of stage, bracket or rung, and repeats the
    last state when nothing was written for ``heartbeat`` seconds, so that a log never looks dead.
    """

    def __init__(
        self, console: Console | None = None, heartbeat: float = HEARTBEAT_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console()
        self._heartbeat = heartbeat
        self._now = now
        self._began = self._last_line = now()
        self._snapshot: Snapshot | None = None
        self._said = "starting"
        self._newest: Snapshot | str = self._said
        self._waiting = ""
        self._lock = threading.RLock()  # a signal handler may speak while its own thread is writing
        self._stopped = threading.Event()
        self._live: Live | None = None
        self._beats: threading.Thread | None = None

    def __enter__(self) -> Display:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Show the panel, or begin the heartbeat."""
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._beats = threading.Thread(target=self._beat, name="display-heartbeat", daemon=True)
            self._beats.start()

    def stop(self) -> None:
        """Take the panel away, or end the heartbeat; a second call does nothing."""
        self._stopped.set()
        if self._live is not None:
            self._live.stop()
        if self._beats is not None:
            self._beats.join()

    def __call__(self, event: Event) -> None:
        """Show ``event``: a message as a line of its own, the rest in the panel, or a line where the place is new."""
        with self._lock:
            if isinstance(event, Message):
                self._said = self._newest = _one_line(event.text)
                self._write(self._said)
            elif isinstance(event, Waiting):
                self._waiting = _one_line(event.text)
            else:
                before, self._snapshot, self._newest = self._snapshot, event, event
                if self._live is None and (before is None or before.place != event.place):
                    self._write(str(event))

    def _write(self, line: str) -> None:
        self._last_line = self._now()
        elapsed = clock(self._last_line - self._began)
        self._console.print(f"[{elapsed:>5}] {line}", markup=False, highlight=False, soft_wrap=True, emoji=False)

    def _beat(self) -> None:
        while not self._stopped.wait(self.beat()):
            pass

    def beat(self) -> float:
        """Write a line if none was written for ``heartbeat`` seconds; the seconds until the next one may be due."""
        with self._lock:
            wait = self._last_line + self._heartbeat - self._now()
            if wait > 0:
                return wait
            self._write(f"still: {self._newest}" + (f" | {self._waiting}" if self._waiting else ""))
            return self._heartbeat

    def _panel(self) -> Panel:
        grid = Table.grid(padding=(0, 2))
        if (snapshot := self._snapshot) is not None:
            grid.add_row(Text("search", style="dim"), Text(snapshot.place))
            grid.add_row(
                Text("progress", style="dim"),
                ProgressBar(total=max(snapshot.position.planned, 1), completed=snapshot.evaluations, width=40),
            )
            for name, value in snapshot.facts().items():
                grid.add_row(Text(name, style="dim"), Text(value, style="bold" if name == "best" else ""))
        if self._waiting:
            grid.add_row(Text("waiting", style="dim"), Text(self._waiting))
        grid.add_row(Text("last", style="dim"), Text(self._said))
        title = f"lipo-e-ray | {clock(self._now() - self._began)}"
        return Panel(grid, title=title, title_align="left")


def _one_line(text: str) -> str:
    """Text from a model or a file must not move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
