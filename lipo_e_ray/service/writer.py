"""Writing to the ledger from many tasks: one transaction at a time, and again while the disk does not take it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from lipo_e_ray.store.database import NotWritten
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import CallKind

RETRY_S = 1.0
WAIT_S = 600.0  # the run ends when the disk stays full or the file locked for longer


class LedgerWriter:
    """``pause`` is called with ``True`` when a transaction was not written, and with ``False`` once one was again."""

    def __init__(self, ledger: Ledger, pause: Callable[[bool], None]) -> None:
        self.problem = ""  # why the last transaction was not written; empty when it was
        self._ledger = ledger
        self._pause = pause
        self._lock = asyncio.Lock()  # each try at a locked file blocks this process for seconds
        self._uncounted: Counter[CallKind] = Counter()  # calls that the ledger does not count as sent yet
        self._counting: asyncio.Task[None] | None = None

    async def write(self, transaction: Callable[[], None]) -> None:
        """Call ``transaction``; where the file is locked or the disk is full, pause and try again until it succeeds.

        Raises ``NotWritten`` after ``WAIT_S``.
        """
        deadline = time.monotonic() + WAIT_S
        async with self._lock:
            while True:
                try:
                    transaction()
                except NotWritten as error:
                    if time.monotonic() > deadline:
                        raise
                    self.problem = str(error)
                    self._pause(True)
                    await asyncio.sleep(RETRY_S)
                else:
                    if self.problem:
                        self.problem = ""
                        self._pause(False)
                    return

    async def count_sent(self, kind: CallKind, n: int) -> None:
        """Count ``n`` calls as sent; they may go out when this returns. Raises as ``write`` does.

        One transaction counts for all tasks that come here in the same turn of the event loop, because 64 engines take
        thousands of chunks a second and a commit takes most of a millisecond.
        """
        self._uncounted[kind] += n
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self.write(self._record_sent))  # begins in the next turn
        await asyncio.shield(self._counting)  # a task that is cancelled must not cancel what others wait for

    def _record_sent(self) -> None:
        self._ledger.record_sent(self._uncounted)
        self._uncounted.clear()

    async def close(self) -> None:
        """Give up what is not written. Cancel the tasks that write before."""
        if self._counting:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)
