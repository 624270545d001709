"""The ledger's file: on a full disk, locked, truncated."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.store.ledger import Ledger

from .conftest import Run, finish, harm, until

DISK = 16 * 2**20
WAITS = "ledger {}: expected to write to it, got: {}; free the file or the disk"


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full(undisturbed, disk, tmp_path, head, row):
    """The run says so, sends nothing more, and goes on when there is room again."""
    run = Run(disk / "run", tmp_path, head)
    driver = run.under_way()
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize)
    waits = WAITS.format(run.folder / "ledger.sqlite", "database or disk is full")
    until(lambda: waits in driver.said, driver)
    asked = run.paid()
    time.sleep(5)
    assert run.paid() == asked, "more was sent while nothing could be written"
    filler.unlink()
    finish(driver)
    row(harm(run, undisturbed))


def test_ledger_locked(undisturbed, run, row):
    """As by a program that looks into it, or copies it."""
    driver = run.under_way()
    other = sqlite3.connect(run.folder / "ledger.sqlite", isolation_level=None)
    other.execute("PRAGMA busy_timeout = 60000")
    other.execute("BEGIN IMMEDIATE")
    waits = WAITS.format(run.folder / "ledger.sqlite", "database is locked")
    until(lambda: waits in driver.said, driver)
    other.execute("ROLLBACK")
    other.close()
    finish(driver)
    row(harm(run, undisturbed))


def cut_off(run: Run, file: Path) -> None:
    """The last page of ``file``, or half of it."""
    before = run.recorded()
    os.truncate(file, file.stat().st_size - 2048)
    with Ledger(run.folder / "ledger.sqlite", SimulatedEngine().fingerprints):
        after = run.recorded()
    run.in_flight.update(before.keys() - after.keys())
    assert after.items() <= before.items() and len(before) - len(after) <= 32


def test_ledger_truncated(undisturbed, run, row):
    """The last page of its write-ahead log, after one kill, and that of the file itself, after another."""
    for recorded, name in ((100, "ledger.sqlite-wal"), (200, "ledger.sqlite")):
        run.kill(run.under_way(recorded=recorded))
        if name == "ledger.sqlite":  # bring the log into the file
            sqlite3.connect(run.folder / name).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
        cut_off(run, run.folder / name)
    said = run.finish()
    assert "the ledger was damaged: what could not be read is asked again" in said
    row(harm(run, undisturbed))
