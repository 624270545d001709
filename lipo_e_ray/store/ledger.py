"""The ledger: every answer that was paid for, in one SQLite file. Cache, resume and report read it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from lipo_e_ray.store.database import Database
from lipo_e_ray.types import (
    Batch,
    CallKind,
    Completion,
    Example,
    Fingerprints,
    InputError,
    LipoError,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Status,
)

_ANSWERED = "model = ? AND sampling = ? AND template = ?"


@dataclass(frozen=True)
class Failure:
    """One attempt that gave no answer. For a generation ``prompt_id`` is its key and ``example_id`` is empty."""

    prompt_id: str
    example_id: str
    error: str


class Ledger:
    """The run folder's ``ledger.sqlite``.

    With ``fingerprints`` it is opened for writing, by one writer: a second one waits up to 20 s for the first to end.
    Without, it is opened for reading and shows the outcomes of the fingerprints written last. Not for concurrent
    threads.

    Raises ``InputError`` for a file that is missing (reader), foreign, damaged, of another version, or in use.
    """

    def __init__(self, path: Path, fingerprints: Fingerprints | None = None) -> None:
        self._db = Database(path, writable=fingerprints is not None)
        self._fingerprints = fingerprints

    def close(self) -> None:
        """Close the file and let the next writer in; a second call does nothing."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- writing: one transaction each ----

    def record_sent(self, calls: Mapping[CallKind, int]) -> None:
        """Add to the calls of each kind that count as sent. Write it before they are sent: a killed process may have
        had an answer that is not in the ledger, and it was paid for."""
        with self._db.transaction():
            self._db.insert(
                "sent (kind, calls)", list(calls.items()), "ON CONFLICT DO UPDATE SET calls = calls + excluded.calls"
            )

    def record_prompt(self, prompt: Prompt) -> None:
        """Write what a prompt id stands for; a second call does nothing."""
        with self._db.transaction():
            self._insert_prompts([prompt])

    def record_outcomes(self, split: str, outcomes: Sequence[Outcome]) -> None:
        """Write a batch; ``FAILED`` ones go to ``failures``. Raises ``LipoError`` when an outcome was paid twice."""
        now = time.time()
        prints = astuple(self.fingerprints)
        answered = [
            (
                o.prompt_id,
                o.example_id,
                split,
                o.status.value,
                _storable(o.text),
                o.prompt_tokens,
                o.cached_tokens,
                o.completion_tokens,
                *prints,
                now,
            )
            for o in outcomes
            if o.status is not Status.FAILED
        ]
        failed = [
            (o.prompt_id, o.example_id, split, _storable(o.error), now) for o in outcomes if o.status is Status.FAILED
        ]
        with self._db.transaction():
            self._db.insert(
                "outcomes (prompt_id, example_id, split, status, text, prompt_tokens, cached_tokens, "
                "completion_tokens, model, sampling, template, at)",
                answered,
            )
            self._db.insert("failures (prompt_id, example_id, purpose, error, at)", failed)

    def record_generation(self, key: str, completion: Completion, purpose: str) -> None:
        """Write one generated text, or, when it has an ``error``, the failed attempt. ``purpose``: what it is for."""
        now = time.time()
        with self._db.transaction():
            if completion.error:
                self._db.insert(
                    "failures (prompt_id, example_id, purpose, error, at)",
                    [(key, "", purpose, _storable(completion.error), now)],
                )
            else:
                self._db.insert(
                    "generations (key, purpose, text, prompt_tokens, cached_tokens, completion_tokens, at)",
                    [
                        (
                            key,
                            purpose,
                            _storable(completion.text),
                            completion.prompt_tokens,
                            completion.cached_tokens,
                            completion.completion_tokens,
                            now,
                        )
                    ],
                )

    def record_batch(self, bracket: int, first: int, batch: Batch) -> None:
        """Write the proposals for a bracket's chunk that begins with its prompt number ``first``, once.

        Raises ``LipoError`` where others are recorded: a resumed run proposes the same.
        """
        rows = [
            (bracket, first + i, p.prompt.id, p.origin.source, p.origin.stage, p.origin.cosine, json.dumps(p.info))
            for i, p in enumerate(batch.proposals)
        ]
        before = self.batch(bracket, first)
        if before is not None:
            if [p.prompt for p in before.proposals] != [p.prompt for p in batch.proposals]:
                raise LipoError(
                    f"ledger {self._db.path}: expected the {len(before.proposals)} proposals recorded for bracket "
                    f"{bracket}, got {len(rows)} others; use a new run folder for a changed run"
                )
            return
        with self._db.transaction():
            self._insert_prompts(p.prompt for p in batch.proposals)
            self._db.insert(
                "batches (bracket, first, proposals, written)", [(bracket, first, len(rows), batch.written)]
            )
            self._db.insert("proposals (bracket, position, prompt_id, source, stage, cosine, info)", rows)

    def record_rung(self, result: RungResult) -> None:
        """Write a result. It replaces that of an earlier walk, whose failed calls may have been answered since, or that
        of an earlier chunk, when it was not known yet who goes up.
        """
        o = result.observation
        with self._db.transaction():
            self._db.insert(
                "rungs (bracket, stage, s, rung, fidelity, prompt_id, errors, evaluated, unparseable, promoted, "
                "calls, at)",
                [
                    (
                        result.bracket,
                        result.stage,
                        result.s,
                        result.rung,
                        result.fidelity,
                        o.prompt_id,
                        o.errors,
                        o.evaluated,
                        o.unparseable,
                        result.promoted,
                        result.calls,
                        time.time(),
                    )
                ],
                "ON CONFLICT DO UPDATE SET s = excluded.s, fidelity = excluded.fidelity, errors = excluded.errors, "
                "evaluated = excluded.evaluated, unparseable = excluded.unparseable, promoted = excluded.promoted, "
                "calls = excluded.calls",
            )

    # ---- reading ----

    @property
    def fingerprints(self) -> Fingerprints:
        """Those the ledger was opened with; for a reader those of the last outcome, empty before the first outcome."""
        if self._fingerprints is not None:
            return self._fingerprints
        rows = self._db.rows("SELECT model, sampling, template FROM outcomes ORDER BY seq DESC LIMIT 1")
        return Fingerprints(*rows[0]) if rows else Fingerprints("", "", "")

    def check_fingerprints(self) -> None:
        """Raises ``InputError`` when all outcomes are of other fingerprints: every call would be paid for again."""
        rows = self._db.rows("SELECT DISTINCT model, sampling, template FROM outcomes")
        if rows and astuple(self.fingerprints) not in rows:
            raise InputError(
                f"ledger {self._db.path}: its answers are of another model, sampling or chat template; go on with the "
                "model or engine that the run began with (in Python: engine=...), or give another --output"
            )

    def statuses(self, prompt_id: str, split: str) -> dict[str, Status]:
        """Example id -> status, for all examples of ``split`` that the prompt was answered on."""
        rows = self._db.rows(
            f"SELECT example_id, status FROM outcomes WHERE prompt_id = ? AND {_ANSWERED} AND split = ?",
            prompt_id,
            *astuple(self.fingerprints),
            split,
        )
        return {example_id: Status(status) for example_id, status in rows}

    def observation(self, prompt_id: str, example_ids: Iterable[str]) -> Observation:
        """Counts over the answered examples among ``example_ids``."""
        known = dict(
            self._db.rows(
                f"SELECT example_id, status FROM outcomes WHERE prompt_id = ? AND {_ANSWERED}",
                prompt_id,
                *astuple(self.fingerprints),
            )
        )
        answered = [known[e] for e in example_ids if e in known]
        return Observation(
            prompt_id, len(answered) - answered.count(Status.CORRECT), len(answered), answered.count(Status.UNPARSEABLE)
        )

    def observations(self, split: str) -> dict[str, Observation]:
        """Prompt id -> counts over all answered examples of ``split``."""
        rows = self._db.rows(
            f"SELECT prompt_id, sum(status != 'correct'), count(*), sum(status = 'unparseable') "
            f"FROM outcomes WHERE split = ? AND {_ANSWERED} GROUP BY prompt_id ORDER BY min(seq)",
            split,
            *astuple(self.fingerprints),
        )
        return {row[0]: Observation(*row) for row in rows}

    def answers(self) -> int:
        """Answers over both splits."""
        count: int = self._db.rows(f"SELECT count(*) FROM outcomes WHERE {_ANSWERED}", *astuple(self.fingerprints))[0][
            0
        ]
        return count

    def outcomes(self, prompt_id: str) -> dict[str, Outcome]:
        """Example id -> outcome with its text, over both splits."""
        rows = self._db.rows(
            "SELECT example_id, status, text, prompt_tokens, cached_tokens, completion_tokens "
            f"FROM outcomes WHERE prompt_id = ? AND {_ANSWERED}",
            prompt_id,
            *astuple(self.fingerprints),
        )
        return {row[0]: Outcome(prompt_id, row[0], Status(row[1]), row[2], "", *row[3:]) for row in rows}

    def generation(self, key: str) -> Completion | None:
        """The text recorded under ``key``, if any."""
        rows = self._db.rows(
            "SELECT text, '', prompt_tokens, cached_tokens, completion_tokens FROM generations WHERE key = ?", key
        )
        return Completion(*rows[0]) if rows else None

    def prompts(self) -> dict[str, Prompt]:
        """Prompt id -> prompt."""
        return {
            prompt_id: _prompt(instruction, exemplars)
            for prompt_id, instruction, exemplars in self._db.rows(
                "SELECT prompt_id, instruction, exemplars FROM prompts ORDER BY rowid"
            )
        }

    def batch(self, bracket: int, first: int) -> Batch | None:
        """See ``record_batch``; ``None`` where nothing is recorded."""
        rows = self._db.rows("SELECT proposals, written FROM batches WHERE bracket = ? AND first = ?", bracket, first)
        if not rows:
            return None
        [(count, written)] = rows
        proposals = [proposal for index, proposal in self.proposals() if index == bracket]
        return Batch(tuple(proposals[first : first + count]), written)

    def proposals(self) -> list[tuple[int, Proposal]]:
        """(bracket, proposal), in the order of brackets and positions."""
        rows = self._db.rows(
            "SELECT bracket, instruction, exemplars, source, stage, cosine, info FROM proposals "
            "JOIN prompts USING (prompt_id) ORDER BY bracket, position"
        )
        return [
            (
                bracket,
                Proposal(_prompt(instruction, exemplars), Origin(source, stage, bracket, cosine), json.loads(info)),
            )
            for bracket, instruction, exemplars, source, stage, cosine, info in rows
        ]

    def rungs(self) -> list[RungResult]:
        """All results, in the order they were first recorded."""
        rows = self._db.rows(
            "SELECT bracket, stage, s, rung, fidelity, prompt_id, errors, evaluated, unparseable, "
            "promoted, calls FROM rungs ORDER BY rowid"
        )
        return [
            RungResult(bracket, stage, s, rung, fidelity, Observation(*counts), bool(promoted), calls)
            for bracket, stage, s, rung, fidelity, *counts, promoted, calls in rows
        ]

    def failures(self) -> list[Failure]:
        """Every failed attempt, in order."""
        return [
            Failure(*row) for row in self._db.rows("SELECT prompt_id, example_id, error FROM failures ORDER BY seq")
        ]

    def unanswered(self) -> dict[tuple[str, str], str]:
        """Calls that failed and have no answer, as in ``Failure``: (prompt id, example id) -> the last error."""
        rows = self._db.rows(
            "SELECT prompt_id, example_id, error FROM failures AS f "
            "WHERE NOT EXISTS (SELECT 1 FROM outcomes AS o "
            f"WHERE o.prompt_id = f.prompt_id AND o.example_id = f.example_id AND {_ANSWERED}) "
            "AND NOT EXISTS (SELECT 1 FROM generations WHERE key = f.prompt_id) ORDER BY seq",
            *astuple(self.fingerprints),
        )
        return {(prompt_id, example_id): error for prompt_id, example_id, error in rows}

    def texts(self) -> int:
        """How many generations have an answer."""
        return int(self._db.rows("SELECT count(*) FROM generations")[0][0])

    def sent(self) -> dict[CallKind, int]:
        """How many calls of each kind were sent to the LLM, or were about to be when the process ended."""
        none: dict[CallKind, int] = {"writing": 0, "validation": 0, "test": 0}
        return none | dict(self._db.rows("SELECT kind, calls FROM sent"))

    def calls(self) -> int:
        """How many calls were sent in all, retries included."""
        return sum(self.sent().values())

    def asked(self) -> int:
        """How many different calls have an answer or failed."""
        [(answered,)] = self._db.rows("SELECT (SELECT count(*) FROM outcomes) + (SELECT count(*) FROM generations)")
        return int(answered) + len(self.unanswered())

    def tokens(self) -> dict[str, int]:
        """Sums of ``prompt_tokens``, ``cached_tokens``, ``completion_tokens`` over outcomes and generations."""
        names = ("prompt_tokens", "cached_tokens", "completion_tokens")
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
        columns = ", ".join(names)
        rows = self._db.rows(
            f"SELECT {sums} FROM (SELECT {columns} FROM outcomes UNION ALL SELECT {columns} FROM generations)"
        )
        return dict(zip(names, rows[0], strict=True))

    def _insert_prompts(self, prompts: Iterable[Prompt]) -> None:
        self._db.insert(
            "prompts (prompt_id, instruction, exemplars)",
            [(p.id, p.instruction, json.dumps([[e.question, e.answer] for e in p.exemplars])) for p in prompts],
            "ON CONFLICT DO NOTHING",
        )


def _prompt(instruction: str, exemplars: str) -> Prompt:
    return Prompt(instruction, tuple(Example(*pair) for pair in json.loads(exemplars)))


def _storable(text: str) -> str:
    """``text`` as SQLite can store it, in UTF-8: half a surrogate pair from a tokenizer must not lose a paid answer."""
    return text.encode("utf-8", "replace").decode()
