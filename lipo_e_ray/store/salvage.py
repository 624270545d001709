"""Recovery of a damaged ledger: a new file with the readable rows that were paid for takes its place.

A crash does not damage the file, for a commit is on the disk before anyone acts on it. An interrupted copy or a failing
disk may.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

# Proposals and rungs are left out: the run computes them again, and half of them would mislead it.
PAID = ("sent", "prompts", "outcomes", "generations", "failures")

# No fewer calls were sent than have an answer or failed, also where `sent` itself cannot be read.
_AT_LEAST_SENT = """
INSERT INTO sent SELECT kind, count(*) FROM (
    SELECT split AS kind FROM outcomes
    UNION ALL SELECT iif(example_id = '', 'writing', purpose) FROM failures
    UNION ALL SELECT 'writing' FROM generations)
WHERE true GROUP BY kind ON CONFLICT (kind) DO UPDATE SET calls = max(calls, excluded.calls)
"""


def damaged_copy(path: Path) -> Path:
    """Where ``salvage`` leaves the damaged file."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def is_damaged(path: Path) -> bool:
    """Whether a database file lacks pages or has pages that SQLite cannot read.

    Raises ``sqlite3.DatabaseError`` for a file that never was a database.
    """
    with closing(sqlite3.connect(path)) as db:
        try:
            whole = db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            return not whole or bool(path.stat().st_size % db.execute("PRAGMA page_size").fetchone()[0])
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return True


def salvage(path: Path, create: Callable[[sqlite3.Connection], None]) -> int:
    """Replace ``path``, which nobody may have open, by a new database with its readable rows of ``PAID``.

    Returns the number of rows; where it is 0, ``path`` stays as it was. ``damaged_copy`` keeps the damaged file. Calls
    whose answers cannot be read any more stay counted as sent, if their number can be read.
    """
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    shutil.copy2(path, damaged_copy(path))
    _cut_to_whole_pages(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as old, closing(sqlite3.connect(part)) as new:
        old.execute("PRAGMA writable_schema = ON")  # reads on although the file is shorter than its header says
        create(new)
        found = {table: rows for table in PAID if (rows := _readable(old, table))}
        for table, rows in found.items():
            new.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        new.execute(_AT_LEAST_SENT)
        new.commit()
        if found:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(part if found else damaged_copy(path), path)
    return sum(map(len, found.values()))


def _cut_to_whole_pages(path: Path) -> None:
    """Cut off an incomplete last page: SQLite reads its missing part as zeros, and would take half a row for a row."""
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("PRAGMA page_size").fetchone()[0]
    os.truncate(path, path.stat().st_size // page * page)


def _readable(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """The rows from both ends of ``table``, each up to the first row that cannot be read."""
    rows: dict[int, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        try:
            for rowid, *row in db.execute(f"SELECT rowid, * FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                rows[rowid] = tuple(row)
        except sqlite3.DatabaseError:
            continue
    return [rows[rowid] for rowid in sorted(rows)]
