"""A task folder as users write it: sums whose answers are all different."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
ROWS = 20


def good_rows(split: str, n: int = ROWS) -> list[dict[str, Any]]:
    first = 100 * SPLITS.index(split)
    return [{"question": f"What is {first + i} + 1?", "answer": f"{first + i + 1}"} for i in range(n)]


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Strings are written as they are."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


def write_task(folder: Path, sizes: Sequence[int] = (ROWS, ROWS, ROWS)) -> Path:
    """``sizes``: rows of train, validation and test."""
    folder.mkdir(parents=True)
    for split, n in zip(SPLITS, sizes, strict=True):
        write_rows(folder / f"{split}.jsonl", good_rows(split, n))
    return folder
