"""One store of a model's answers, shared by all methods that are compared, and an engine that looks there first.

An answer's key is a digest of the model's fingerprint, the rendered chat and the sampling. So what one method has
asked, another one, or the same command a second time, reads instead of asking the model again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from lipo_e_ray.engine.base import Engine, generation_key
from lipo_e_ray.task.metrics import Metric
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import Completion, Example, Fingerprints, Message, Outcome, Prompt, Sampling, Status

COLUMNS = ("text", "error", "prompt_tokens", "cached_tokens", "completion_tokens")  # the fields of a ``Completion``
BUSY_TIMEOUT_S = 60.0


class AnswerStore:
    """Completions by key in an SQLite file. Several processes may read and write it at the same time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # An engine's actor is built in one thread and answers in another, but never in two at once.
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a power failure loses the last answers: they are asked again
        self._db.execute(f"CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, {', '.join(COLUMNS)})")

    def get(self, key: str) -> Completion | None:
        """The answer under ``key``, or ``None``."""
        row = self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM answers WHERE key = ?", (key,)).fetchone()
        return Completion(*row) if row else None

    def add(self, key: str, completion: Completion) -> None:
        """Keep an answer. The first one under a key stays: what was once read from the store never changes."""
        values = asdict(completion)
        self._db.execute(
            f"INSERT OR IGNORE INTO answers VALUES (?, {', '.join('?' * len(COLUMNS))})",
            (key, *(values[column] for column in COLUMNS)),
        )

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """A second call does nothing."""
        self._db.close()


class StoredEngine:
    """An ``Engine`` that answers from the store at ``path`` and asks the engine of ``make`` for what is missing.

    That engine is built when the first answer is missing. ``close`` ends it; the next missing answer builds another.
    ``fingerprints``, ``sampling`` and ``metric`` are those that the engine has. An answer that failed is not kept.
    ``asked`` counts the answers that were wanted, ``missing`` those of them that the engine had to give.
    """

    def __init__(
        self, path: Path, make: Callable[[], Engine], fingerprints: Fingerprints, sampling: Sampling, metric: Metric
    ) -> None:
        self._store = AnswerStore(path)
        self._make = make
        self._fingerprints = fingerprints
        self._sampling = sampling
        self._metric = metric
        self._engine: Engine | None = None
        self.asked = 0
        self.missing = 0

    @property
    def fingerprints(self) -> Fingerprints:
        return self._fingerprints

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        chats = [render(prompt, example.question) for example in examples]
        completions = await self.generate(chats, [self._sampling] * len(chats))
        return [self._judge(prompt, *pair) for pair in zip(examples, completions, strict=True)]

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        pairs = zip(conversations, samplings, strict=True)
        return list(await asyncio.gather(*(self._complete(chat, sampling) for chat, sampling in pairs)))

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    def _judge(self, prompt: Prompt, example: Example, answer: Completion) -> Outcome:
        status = Status.FAILED if answer.error else self._metric(answer.text, example.answer)
        return Outcome(prompt.id, example.id, status, **asdict(answer))

    async def _complete(self, chat: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer, kept as soon as it is there: a command that is cut off has lost none."""
        key = generation_key(self._fingerprints, chat, sampling)
        self.asked += 1
        if known := self._store.get(key):
            return known
        self.missing += 1
        if self._engine is None:
            self._engine = self._make()
        [answer] = await self._engine.generate([chat], [sampling])
        if not answer.error:
            self._store.add(key, answer)
        return answer
