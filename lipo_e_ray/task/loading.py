"""Loading a task: generated, GSM8K, or the user's folder of JSONL files; checked row by row, then split and cut.

All randomness comes from the run's seed. Each split is shuffled once and then cut to its size, so the validation split
has one fixed order and a fidelity is a prefix of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lipo_e_ray.config import TaskConfig
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import choice_name, choose_metric, get_metric, is_user_metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Status

ARITHMETIC_SIZES = (256, 128, 256)
"""Pool, validation and test of ``arithmetic`` where a size of 0 asks for "all": a generator has no end."""

_GSM8K_TRAIN, _GSM8K_VALIDATION = 7473, 1319  # a train split without its own validation is divided in this proportion


@dataclass(frozen=True)
class _Row:
    """An example and where it was read, for the error messages."""

    example: Example
    place: str


_Splits = tuple[list[_Row], list[_Row], list[_Row]]


def load_task(config: TaskConfig, seed: int) -> Task:
    """The task ``config`` names, its splits shuffled by ``seed`` and cut to size.

    ``arithmetic`` is generated; ``gsm8k`` comes through the ``datasets`` package; a folder holds ``train.jsonl`` (the
    exemplar pool), ``test.jsonl`` and, unless validation is to be split off train, ``validation.jsonl``.
    Raises ``InputError``, one line, for every input that cannot be used.
    """
    if config.name == "arithmetic":
        return _arithmetic(config, seed)
    if config.name == "gsm8k":
        return _build("gsm8k", (*_divided(_gsm8k("train"), seed), _gsm8k("test")), config, seed)
    splits = _read_folder(Path(config.name), seed)
    return _build(Path(config.name).resolve().name, splits, config, seed)


def _arithmetic(config: TaskConfig, seed: int) -> Task:
    sizes = zip((config.pool_size, config.validation_size, config.test_size), ARITHMETIC_SIZES, strict=True)
    task = generate_arithmetic(*(size or default for size, default in sizes), seed)
    rows = [_Row(example, "arithmetic") for split in (task.pool, task.validation, task.test) for example in split]
    return replace(task, metric=_metric(config.metric, rows))


def _build(name: str, splits: _Splits, config: TaskConfig, seed: int) -> Task:
    """Check what only all rows together show, choose the metric, shuffle and cut."""
    rows = [row for split in splits for row in split]
    _check_no_duplicates(rows)
    metric = _metric(config.metric, rows)
    sizes = (config.pool_size, config.validation_size, config.test_size)
    pool, validation, test = (
        tuple(row.example for row in _shuffled(split, f"{label} {seed}")[: size or None])
        for label, split, size in zip(("pool", "validation", "test"), splits, sizes, strict=True)
    )
    return Task(name, pool, validation, test, metric)


def _shuffled(rows: list[_Row], key: str) -> list[_Row]:
    return random.Random(key).sample(rows, len(rows))


def _divided(train: list[_Row], seed: int) -> tuple[list[_Row], list[_Row]]:
    """Pool and validation out of one train split, in GSM8K's proportion: 7473 rows give 6154 and 1319."""
    if len(train) < 2:
        raise InputError(
            f"{train[0].place}: expected 2 rows or more to split validation off, got 1; add rows or a validation.jsonl"
        )
    rows = _shuffled(train, f"split {seed}")
    held_out = max(1, len(rows) * _GSM8K_VALIDATION // _GSM8K_TRAIN)
    return rows[held_out:], rows[:held_out]


def _check_no_duplicates(rows: Iterable[_Row]) -> None:
    """No question twice, in whatever split: across splits it would leak, within one it would count double."""
    seen: dict[str, str] = {}
    for row in rows:
        key = " ".join(row.example.question.split())
        if key in seen:
            raise InputError(
                f"{row.place}: expected a new question, got that of {seen[key]} ({key[:60]!r}); remove one of the two"
            )
        seen[key] = row.place


def _metric(wanted: str, rows: list[_Row]) -> str:
    """The metric's full name; every reference must be an answer the metric itself can read."""
    examples = [row.example for row in rows]
    name = {"auto": choose_metric, "choice": choice_name}.get(wanted, lambda _: wanted)(examples)
    judge = get_metric(name)
    if is_user_metric(name):
        return name  # the user's own function decides what a reference is
    for row in rows:
        answer = row.example.answer
        if judge(answer, answer) is not Status.CORRECT:
            raise InputError(
                f"{row.place}: expected an answer that the metric {name[:60]!r} can read, got {answer[-60:]!r}; "
                "correct it or choose another metric (numeric, choice, text, module:function)"
            )
    return name


def _gsm8k(split: str) -> list[_Row]:
    """One split of ``openai/gsm8k`` from the hub or its local cache."""
    import datasets  # heavy, and needed for this one task only

    try:
        loaded = datasets.load_dataset("openai/gsm8k", "main", split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"gsm8k: expected openai/gsm8k from the Hugging Face hub, got {type(error).__name__}: {reason}; without "
            "the hub, put train.jsonl and test.jsonl (question, answer) into a folder and pass it: --task FOLDER"
        ) from error
    return [_row(record, f"gsm8k {split} row {number}") for number, record in enumerate(loaded, 1)]


def _read_folder(folder: Path, seed: int) -> _Splits:
    if not folder.is_dir():
        raise InputError(
            f"task: expected arithmetic, gsm8k or a folder with train.jsonl and test.jsonl, got {str(folder)!r}"
        )
    train, test = _read_jsonl(folder / "train.jsonl"), _read_jsonl(folder / "test.jsonl")
    if (folder / "validation.jsonl").exists():
        return train, _read_jsonl(folder / "validation.jsonl"), test
    return (*_divided(train, seed), test)


def _read_jsonl(path: Path) -> list[_Row]:
    """All rows of one file; blank lines are skipped."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: expected a JSONL file of question and answer, got: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset {error.start}; "
            "convert the file to UTF-8"
        ) from error
    rows = [_parsed(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f'{path}: expected one {{"question": ..., "answer": ...}} per line, got an empty file')
    return rows


def _parsed(line: str, place: str) -> _Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: expected one JSON object, got {line.strip()[:60]!r} ({error})") from error
    return _row(record, place)


def _row(record: object, place: str) -> _Row:
    """Check one record: an object with a non-empty ``question`` and ``answer``, both text that can be encoded."""
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected an object with question and answer, got {type(record).__name__}")
    values = []
    for key in ("question", "answer"):
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            got = f"{value!r:.60}" if key in record else f"the keys {sorted(record)!s:.60}"
            raise InputError(f"{place}: expected a non-empty string {key!r}, got {got}")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(f"{place}: expected Unicode text in {key!r}, got half a surrogate pair; re-encode the row")
        values.append(value)
    return _Row(Example(*values), place)
