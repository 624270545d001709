from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from lipo_e_ray.service import writer as module
from lipo_e_ray.service.writer import LedgerWriter
from lipo_e_ray.store import database
from lipo_e_ray.store.database import NotWritten
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Fingerprints, Prompt


class CountingLedger(Ledger):
    """Counts the transactions of ``record_sent``."""

    transactions = 0

    def record_sent(self, calls):
        super().record_sent(calls)
        self.transactions += 1


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.01)
    with CountingLedger(tmp_path / "ledger.sqlite", Fingerprints("model", "sampling", "template")) as ledger:
        yield ledger


@pytest.fixture
def other(tmp_path, ledger):
    """Another process's connection to the ledger's file."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
        yield other


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_comes_in_one_turn_shares_a_transaction_and_nothing_goes_out_before_it(ledger):
    async def go():
        writer = LedgerWriter(ledger, lambda paused: None)
        sent = []

        async def chunk(kind, n):
            await writer.count_sent(kind, n)
            sent.append(n)
            assert ledger.calls() >= sum(sent)

        await asyncio.gather(*(chunk(kind, 16) for kind in ("validation", "test", "writing") * 10))
        assert (ledger.transactions, ledger.calls()) == (1, 480)
        await chunk("validation", 1)
        assert (ledger.transactions, ledger.sent()) == (2, {"writing": 160, "validation": 161, "test": 160})

    asyncio.run(go())


def test_who_gives_up_stops_nobody_else(ledger):
    async def go():
        writer = LedgerWriter(ledger, lambda paused: None)
        first, second = (asyncio.create_task(writer.count_sent("test", 1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled() and ledger.calls() == 2

    asyncio.run(go())


def test_while_the_file_is_locked_all_wait_and_then_none_is_counted_twice(ledger, other):
    async def go():
        pauses = []
        writer = LedgerWriter(ledger, pauses.append)
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.create_task(writer.count_sent("test", 1))]
        await until(lambda: pauses)
        waiting += [
            asyncio.create_task(writer.count_sent("test", 1)),
            asyncio.create_task(writer.write(lambda: ledger.record_prompt(Prompt("Think.")))),
        ]
        await until(lambda: len(pauses) > 2)
        assert "database is locked" in writer.problem
        assert not any(task.done() for task in waiting)
        other.execute("ROLLBACK")
        await asyncio.gather(*waiting)
        assert (ledger.calls(), len(ledger.prompts()), writer.problem) == (2, 1, "")
        assert set(pauses[:-1]) == {True} and pauses[-1] is False

    asyncio.run(go())


def test_after_a_count_that_was_never_written_the_next_one_writes_both(ledger, other, monkeypatch):
    monkeypatch.setattr(module, "WAIT_S", 0.05)

    async def go():
        writer = LedgerWriter(ledger, lambda paused: None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotWritten, match="database is locked"):
            await writer.count_sent("test", 2)
        other.execute("ROLLBACK")
        await writer.count_sent("test", 3)
        assert ledger.sent()["test"] == 5

    asyncio.run(go())


def test_close_gives_up_what_is_not_written(ledger, other):
    async def go():
        writer = LedgerWriter(ledger, lambda paused: None)
        await writer.close()
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(writer.count_sent("test", 1))
        await until(lambda: writer.problem)
        await writer.close()
        other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(go())
    assert ledger.calls() == 0
