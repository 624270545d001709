"""How many calls may still be sent: a limit on all of them, and a reserve for those that are sent again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lipo_e_ray.types import CallKind, SpentError


@dataclass(frozen=True)
class Spent:
    """``sent``: calls of each kind. ``overhead``: how many of them were retries, or were in flight when a process was
    killed. ``left``: how many more may be sent; ``None``: there is no limit."""

    sent: dict[CallKind, int]
    overhead: int
    left: int | None


class CallBudget:
    """Counts calls before they are sent, and refuses those that would exceed ``limit`` (0: no limit, no reserve).

    Of every call the first attempt is paid from ``limit`` alone. Sending it again is overhead, which must stay within
    ``reserve`` as well. ``sent`` and ``asked``: what the ledger has, see ``Ledger.sent`` and ``Ledger.asked``.
    """

    def __init__(self, limit: int, reserve: int, sent: Mapping[CallKind, int], asked: int) -> None:
        self._limit = limit
        self._reserve = reserve
        self._sent = dict(sent)
        self._asked = asked

    @property
    def calls(self) -> int:
        """All calls that were sent, those of earlier processes included."""
        return sum(self._sent.values())

    @property
    def _overhead(self) -> int:
        return self.calls - self._asked

    def take(self, kind: CallKind, n: int, again: bool) -> None:
        """Count ``n`` calls as sent. ``again``: all of them failed before; otherwise none was asked for before.

        Raises ``SpentError`` and counts nothing where ``limit`` or ``reserve`` does not pay for all ``n``.
        """
        if self._limit and self.calls + n > self._limit:
            raise SpentError(
                f"--max-llm-calls {self._limit}: expected {n} calls or more to be left, got "
                f"{max(0, self._limit - self.calls)} ({self.calls} were sent); resume with a higher --max-llm-calls"
            )
        if self._limit and again and self._overhead + n > self._reserve:
            raise SpentError(
                f"--max-llm-calls {self._limit}: expected {n} calls or more to be left of the {self._reserve} for "
                f"retries, got {max(0, self._reserve - self._overhead)}; resume with a higher --max-llm-calls"
            )
        self._sent[kind] += n
        if not again:
            self._asked += n

    def spent(self) -> Spent:
        """The counts so far."""
        left = max(0, self._limit - self.calls) if self._limit else None
        return Spent(dict(self._sent), self._overhead, left)
