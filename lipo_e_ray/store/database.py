"""The ledger's SQLite file: its schema, its one writer, its readers, and errors a user can act on.

WAL mode lets readers (``report``, ``replay``) read while a run writes. ``synchronous=FULL`` brings a commit to the disk
before anyone acts on it: ``NORMAL`` would survive a ``kill -9`` as well, but not a power failure. One fsync when a
chunk is sent and one when it is answered cost nothing beside the answers.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from lipo_e_ray.store.salvage import is_damaged, salvage
from lipo_e_ray.types import InputError, LipoError

SCHEMA_VERSION = 2
LOCK_WAIT_S = 20.0  # the actor of a killed driver may hold the lock for some seconds more
BUSY_TIMEOUT_S = 5.0  # SQLite's own wait for a locked file; the service then tries again for longer

# `purpose` of a failure: that of the generation, or the split of the evaluation.
_SCHEMA = """
CREATE TABLE sent (kind TEXT PRIMARY KEY, calls INTEGER NOT NULL);
CREATE TABLE outcomes (
    seq INTEGER PRIMARY KEY, prompt_id TEXT NOT NULL, example_id TEXT NOT NULL, split TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('correct', 'wrong', 'unparseable')), text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    model TEXT NOT NULL, sampling TEXT NOT NULL, template TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (prompt_id, example_id, model, sampling, template));
CREATE TABLE failures (
    seq INTEGER PRIMARY KEY, prompt_id TEXT NOT NULL, example_id TEXT NOT NULL, purpose TEXT NOT NULL,
    error TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE generations (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    at REAL NOT NULL);
CREATE TABLE prompts (prompt_id TEXT PRIMARY KEY, instruction TEXT NOT NULL, exemplars TEXT NOT NULL);
CREATE TABLE batches (
    bracket INTEGER NOT NULL, first INTEGER NOT NULL, proposals INTEGER NOT NULL, written INTEGER NOT NULL,
    UNIQUE (bracket, first));
CREATE TABLE proposals (
    bracket INTEGER NOT NULL, position INTEGER NOT NULL, prompt_id TEXT NOT NULL, source TEXT NOT NULL,
    stage TEXT NOT NULL, cosine REAL, info TEXT NOT NULL, UNIQUE (bracket, position));
CREATE TABLE rungs (
    bracket INTEGER NOT NULL, stage TEXT NOT NULL, s INTEGER NOT NULL, rung INTEGER NOT NULL,
    fidelity INTEGER NOT NULL, prompt_id TEXT NOT NULL, errors INTEGER NOT NULL, evaluated INTEGER NOT NULL,
    unparseable INTEGER NOT NULL, promoted INTEGER NOT NULL, calls INTEGER NOT NULL, at REAL NOT NULL,
    UNIQUE (bracket, rung, prompt_id));
"""


class NotWritten(LipoError):
    """A transaction was not written because the file is locked or its disk full. A later try may succeed."""


class Database:
    """An open ledger file, for a reader or the only writer: a second writer waits ``LOCK_WAIT_S`` for the first to end.

    Raises ``InputError`` for a file that is missing (reader), foreign, damaged, of another version, or in use.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self.path = Path(path).absolute()
        if not writable and not self.path.is_file():
            raise InputError(f"ledger: expected a file at {self.path}, found none; name the folder of a run")
        try:
            with ExitStack() as opened:
                if writable:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    opened.enter_context(_lock(self.path.with_suffix(".lock")))
                    self._mend()
                # An async actor opens its ledger in one thread and uses it in another, but never in two at once.
                self._db = opened.enter_context(
                    closing(
                        sqlite3.connect(
                            f"{self.path.as_uri()}?mode={'rwc' if writable else 'ro'}",
                            uri=True,
                            timeout=BUSY_TIMEOUT_S,
                            isolation_level=None,
                            check_same_thread=False,
                        )
                    )
                )
                self._prepare(writable)
                self._opened = opened.pop_all()
        except (OSError, sqlite3.DatabaseError) as error:
            raise InputError(
                f"ledger {self.path}: expected a ledger that this run can use, got: {error}; "
                "move the file away or name another run folder"
            ) from error

    def _mend(self) -> None:
        """Replace a damaged file by one with its readable rows. The run asks for the other answers again."""
        if self.path.exists() and is_damaged(self.path) and not salvage(self.path, _create):
            raise InputError(
                f"ledger {self.path}: expected at least a row that can be read, found a damaged file "
                "without; restore it from a copy or name another run folder"
            )

    def _prepare(self, writable: bool) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if writable and version == 0 and tables == 0:
            _create(self._db)
            version = SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise InputError(
                f"ledger {self.path}: expected schema version {SCHEMA_VERSION}, got {version}; "
                "another program or release wrote the file: name another run folder"
            )
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("SELECT 1 FROM outcomes LIMIT 1")  # another program may count its versions from 1 too

    def close(self) -> None:
        """Close the file and let the next writer in; a second call does nothing."""
        self._opened.close()

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of one query."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise InputError(f"ledger {self.path}: expected to read it, got: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all inserts of the block, or none.

        Raises ``NotWritten``, and ``LipoError`` where a later try cannot succeed either; a broken unique key is called
        "outcome paid twice".
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError as error:
            raise LipoError(f"outcome paid twice: {error}; nothing of this batch was written to {self.path}") from error
        except sqlite3.DatabaseError as error:
            kind = NotWritten if isinstance(error, sqlite3.OperationalError) else LipoError
            raise kind(
                f"ledger {self.path}: expected to write to it, got: {error}; free the file or the disk, and "
                "resume if the run has ended"
            ) from error

    def insert(self, into: str, rows: Sequence[tuple[Any, ...]], on_conflict: str = "") -> None:
        """Insert ``rows`` into ``into``, which is "table (column, ...)". Call it inside ``transaction``."""
        marks = ", ".join("?" * (into.count(",") + 1))
        self._db.executemany(f"INSERT INTO {into} VALUES ({marks}) {on_conflict}", rows)


def _create(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    # In one transaction, so that a kill here leaves an empty file, which the next run accepts.
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _lock(path: Path) -> TextIO:
    """An open file that holds the writer's lock. The kernel frees the lock when the process ends, however it ends."""
    file = open(path, "a")  # noqa: SIM115 - held as long as the ledger
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise InputError(
                    f"ledger: expected to be the only writer, but another run holds {path}; wait for that run or end it"
                ) from None
            time.sleep(0.2)
