"""What is optimized for: three splits of question/answer pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipo_e_ray.task.rows import Splits, python_rows, read_folder, write_jsonl
from lipo_e_ray.types import Example, InputError


@dataclass(frozen=True)
class Task:
    """Three disjoint splits of question/answer pairs; ``metric`` names how answers are compared.

    What ``load_task`` gives is ready for a run: shuffled, so that fidelity n is ``validation[:n]``, with the full name
    of a metric. What the classmethods give is not shuffled yet: ``metric`` may be ``auto``, and ``validation`` is empty
    where it is to be split off ``pool``. ``reserve``: examples that only the finalists of a search are asked, after
    ``validation``; no prompt and no request for an instruction shows them.
    """

    name: str
    pool: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    metric: str
    reserve: tuple[Example, ...] = ()

    @property
    def ladder(self) -> tuple[Example, ...]:
        """All examples that a fidelity counts: those for validation, then the reserve."""
        return self.validation + self.reserve

    @classmethod
    def from_rows(
        cls,
        train: Iterable[object],
        *,
        test: Iterable[object],
        validation: Iterable[object] | None = None,
        name: str = "task",
        metric: str = "auto",
    ) -> Task:
        """A task of rows given from Python: dicts with question and answer, (question, answer) pairs, ``Example``s.

        ``train`` is the pool of exemplars; without ``validation``, a run splits that off ``train`` as it does for a
        folder. Raises ``InputError``, which names the row, for a row that cannot be used.
        """
        return cls._of(
            Splits(
                name,
                python_rows(train, "train"),
                None if validation is None else python_rows(validation, "validation"),
                python_rows(test, "test"),
            ),
            metric,
        )

    @classmethod
    def from_pandas(
        cls, train: Any, *, test: Any, validation: Any = None, name: str = "task", metric: str = "auto"
    ) -> Task:
        """A task of data frames with the columns question and answer; otherwise as ``from_rows``."""

        def rows(frame: Any, split: str) -> Any:
            if not (hasattr(frame, "to_dict") and hasattr(frame, "itertuples")):  # a Series has the first alone
                raise InputError(
                    f"{split}: expected a data frame of pandas, got {type(frame).__name__}; for other rows there is "
                    "Task.from_rows"
                )
            return frame.to_dict(orient="records")

        return cls.from_rows(
            rows(train, "train"),
            test=rows(test, "test"),
            validation=None if validation is None else rows(validation, "validation"),
            name=name,
            metric=metric,
        )

    @classmethod
    def from_folder(cls, path: str | Path, metric: str = "auto") -> Task:
        """The task of a folder with train.jsonl, test.jsonl and perhaps validation.jsonl, named like the folder.

        Raises ``InputError``, which names file and line, for what cannot be used.
        """
        return cls._of(read_folder(Path(path)), metric)

    @classmethod
    def _of(cls, splits: Splits, metric: str) -> Task:
        if not isinstance(metric, str):
            raise InputError(
                f"metric: expected a metric's name for a task, got {type(metric).__name__}; give a function to "
                "optimize(..., metric=function)"
            )
        train, validation, test = (
            tuple(row.example for row in rows) for rows in (splits.train, splits.validation or (), splits.test)
        )
        return cls(splits.name, train, validation, test, metric)

    def splits(self) -> Splits:
        """The rows of this task, checked again, for ``load_task``. Raises ``InputError``."""
        validation = python_rows(self.validation, "validation") if self.validation else None
        return Splits(self.name, python_rows(self.pool, "train"), validation, python_rows(self.test, "test"))

    def save(self, folder: str | Path) -> None:
        """Write train.jsonl, test.jsonl and, unless it is empty, validation.jsonl into ``folder``, made if need be.

        ``from_folder`` gives the same task back, but for its name, which is the folder's, and its metric.
        Raises ``InputError`` where that is not possible.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, examples in (("train", self.pool), ("validation", self.validation), ("test", self.test)):
                path = folder / f"{name}.jsonl"
                if examples:
                    write_jsonl(path, examples)
                else:
                    path.unlink(missing_ok=True)  # left by another task
        except OSError as error:
            raise InputError(f"{folder}: expected a folder to write the task to, got: {error.strerror}") from error
