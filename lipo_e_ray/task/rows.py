"""The rows of a task as they come in, from files or from Python. Each is checked, and errors name the row's place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lipo_e_ray.types import Example, InputError

KEYS = ("question", "answer")


@dataclass(frozen=True)
class Row:
    """An example and where it was read, for the error messages."""

    example: Example
    place: str


@dataclass(frozen=True)
class Splits:
    """All rows of a task in the order in which they were read. ``validation`` is ``None`` where it is to be split off
    ``train``. ``ordered``: the rows are in the order that a run uses already, so that nobody shuffles them again.
    """

    name: str
    train: list[Row]
    validation: list[Row] | None
    test: list[Row]
    ordered: bool = False

    def __iter__(self) -> Iterator[Row]:
        return iter([*self.train, *(self.validation or []), *self.test])


def read_folder(folder: Path) -> Splits:
    """``train.jsonl``, ``test.jsonl`` and, where it exists, ``validation.jsonl``. Raises ``InputError``."""
    train, test = read_jsonl(folder / "train.jsonl"), read_jsonl(folder / "test.jsonl")
    validation = folder / "validation.jsonl"
    return Splits(folder.resolve().name, train, read_jsonl(validation) if validation.exists() else None, test)


def read_jsonl(path: Path) -> list[Row]:
    """All rows of one file; blank lines are skipped. Raises ``InputError``."""
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


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """One ``{"question": ..., "answer": ...}`` per line: ``read_jsonl`` gives the same examples back."""
    lines = (json.dumps({"question": one.question, "answer": one.answer}, ensure_ascii=False) for one in examples)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def python_rows(records: Iterable[object], split: str) -> list[Row]:
    """Rows given from Python: dicts, (question, answer) pairs or ``Example``s. Raises ``InputError``."""
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable):
        raise InputError(f"{split}: expected a list of rows with question and answer, got {type(records).__name__}")
    rows = [checked_row(_record(record), f"row {number} of {split}") for number, record in enumerate(records, 1)]
    if not rows:
        raise InputError(f"{split}: expected one row or more, got none")
    return rows


def _record(given: object) -> object:
    if isinstance(given, Example):
        return {"question": given.question, "answer": given.answer}
    if isinstance(given, (tuple, list)) and len(given) == len(KEYS):
        return dict(zip(KEYS, given, strict=True))
    return dict(given) if isinstance(given, Mapping) else given


def checked_row(record: object, place: str) -> Row:
    """The row of one record: an object with a non-empty ``question`` and ``answer``, both text that can be encoded.

    Raises ``InputError``, which names ``place``.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected an object with question and answer, got {type(record).__name__}")
    values = []
    for key in KEYS:
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            got = f"{value!r:.60}" if key in record else f"the keys {sorted(map(str, record))!s:.60}"
            raise InputError(f"{place}: expected a non-empty string {key!r}, got {got}")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(f"{place}: expected Unicode text in {key!r}, got half a surrogate pair; re-encode the row")
        values.append(value)
    return Row(Example(*values), place)


def _parsed(line: str, place: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: expected one JSON object, got {line.strip()[:60]!r} ({error})") from error
    return checked_row(record, place)
