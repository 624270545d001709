"""What a run has sent, got back and waits for, as running sums."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Completion, Outcome, Status

RATE_WINDOW_S = 20.0


@dataclass(frozen=True)
class Reading:
    """``calls`` and tokens: all in the ledger; ``new_calls``, ``failed`` attempts: since this service started.

    ``rate``: evaluations answered per second, over the last 20 s. ``waiting``: in words, for what, if for anything.
    """

    calls: int
    new_calls: int
    failed: int
    rate: float
    engines_ready: int
    engines: int
    waiting: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Meter:
    """Running sums: the ledger is asked once, at the start."""

    def __init__(self, ledger: Ledger) -> None:
        self._before = ledger.calls()
        self._tokens = ledger.tokens()
        self._new = self._failed = 0
        self._start = time.monotonic()
        self._evaluated: deque[tuple[float, int]] = deque()

    def count(self, answers: Sequence[Outcome | Completion]) -> None:
        answered = [answer for answer in answers if not is_failed(answer)]
        self._new += len(answers)
        self._failed += len(answers) - len(answered)
        for name in self._tokens:
            self._tokens[name] += sum(getattr(answer, name) for answer in answered)
        self._evaluated.append((time.monotonic(), sum(isinstance(answer, Outcome) for answer in answered)))

    def read(self, ready: int, engines: int, waiting: str) -> Reading:
        now = time.monotonic()
        while self._evaluated and self._evaluated[0][0] < now - RATE_WINDOW_S:
            self._evaluated.popleft()
        rate = sum(n for _, n in self._evaluated) / min(RATE_WINDOW_S, now - self._start)
        return Reading(self._before + self._new, self._new, self._failed, rate, ready, engines, waiting, **self._tokens)


def is_failed(answer: Outcome | Completion) -> bool:
    """Whether an attempt gave no answer."""
    return bool(answer.error) if isinstance(answer, Completion) else answer.status is Status.FAILED
