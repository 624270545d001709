"""Running sums of the calls a run has sent and the answers it got."""

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
    """What a ``Meter`` shows: ``calls`` and tokens of the whole ledger; ``new_calls`` and ``failed`` attempts since the
    start of this service. ``calls`` includes those in flight, ``new_calls`` only those that came back.

    ``rate``: evaluations answered per second over the last 20 s. ``waiting``: what the service waits for, in words;
    empty when it waits for nothing.
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
    """Running sums. The ledger gives the sums so far once, at the start; answers are counted from then on."""

    def __init__(self, ledger: Ledger) -> None:
        self._tokens = ledger.tokens()
        self._new = self._failed = 0
        self._start = time.monotonic()
        self._evaluated: deque[tuple[float, int]] = deque()

    def count(self, answers: Sequence[Outcome | Completion]) -> None:
        """Add the answers to one request, failed ones included."""
        answered = [answer for answer in answers if not is_failed(answer)]
        self._new += len(answers)
        self._failed += len(answers) - len(answered)
        for name in self._tokens:
            self._tokens[name] += sum(getattr(answer, name) for answer in answered)
        self._evaluated.append((time.monotonic(), sum(isinstance(answer, Outcome) for answer in answered)))

    def read(self, calls: int, ready: int, engines: int, waiting: str) -> Reading:
        """``ready`` of ``engines`` can be sent requests; ``calls`` and ``waiting`` are passed on."""
        now = time.monotonic()
        while self._evaluated and self._evaluated[0][0] < now - RATE_WINDOW_S:
            self._evaluated.popleft()
        rate = sum(n for _, n in self._evaluated) / min(RATE_WINDOW_S, now - self._start)
        return Reading(calls, self._new, self._failed, rate, ready, engines, waiting, **self._tokens)


def is_failed(answer: Outcome | Completion) -> bool:
    """Whether a call ended without an answer."""
    return bool(answer.error) if isinstance(answer, Completion) else answer.status is Status.FAILED
