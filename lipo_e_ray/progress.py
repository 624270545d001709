"""What a run tells while it goes on: events for a listener, the command line's display or a user's callback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from lipo_e_ray.search.hyperband import Position


@dataclass(frozen=True)
class Message:
    """A sentence: what the run does next, or what its user should know."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Waiting:
    """What the run waits for now, besides answers of the model; empty text: for nothing else."""

    text: str

    def __str__(self) -> str:
        return f"waiting: {self.text}" if self.text else "waiting for nothing"


@dataclass(frozen=True)
class Snapshot:
    """The search at one moment: where it stands, and what came in since then.

    ``evaluations``: all of the search so far, those of the open rung included; ``rate``: recent evaluations per second;
    ``calls`` and ``failed``: all requests to the model, and those that gave no answer; ``engines_ready`` of ``engines``
    answer.
    """

    position: Position
    evaluations: int
    rate: float
    calls: int
    failed: int
    engines_ready: int
    engines: int

    @property
    def place(self) -> str:
        """Stage, bracket and rung in words."""
        p = self.position
        others = f" (+{p.open - 1})" if p.open > 1 else ""
        return (
            f"{p.stage} | bracket {p.bracket + 1}{f'/{p.brackets}' if p.brackets > p.bracket else ''}{others} | "
            f"rung {p.rung + 1}/{p.rungs} ({p.fidelity} examples)"
        )

    @property
    def seconds_left(self) -> float | None:
        """Remaining planned evaluations over the recent rate; ``None`` while no answers come."""
        return max(self.position.planned - self.evaluations, 0) / self.rate if self.rate > 0 else None

    def facts(self) -> dict[str, str]:
        """What is shown beside the place, in words."""
        left, best = self.seconds_left, self.position.incumbent
        return {
            "evaluations": f"{self.evaluations:,}/{self.position.planned:,}",
            "speed": f"{self.rate:.1f}/s",
            "best": f"{best.error:.1%} error on {best.evaluated} examples" if best else "none yet",
            "calls": f"{self.calls:,} ({self.failed:,} failed)",
            "engines": f"{self.engines_ready}/{self.engines}",
            "left": "unknown" if left is None else f"~{clock(left)}",
        }

    def __str__(self) -> str:
        return " | ".join([self.place, *(f"{name} {value}" for name, value in self.facts().items())])


Event = Message | Waiting | Snapshot
Listener = Callable[[Event], object]
"""Called from several threads, one event at a time; ``str(event)`` is a line to print."""


def one_at_a_time(listener: Listener) -> Listener:
    """``listener``, which no thread calls while another one does."""
    lock = threading.RLock()  # a signal may interrupt a call, in whose thread the next event then comes

    def tell(event: Event) -> object:
        with lock:
            return listener(event)

    return tell


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
