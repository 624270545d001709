"""Loading a task: generated, GSM8K, the user's folder or rows given from Python; checked, shuffled and cut.

All randomness comes from the run's seed. Each split is shuffled once and then cut to its size, so the validation split
has one fixed order and a fidelity is a prefix of it. The end of the pool becomes the task's ``reserve``.

To add a task that ``--task NAME`` loads, write a function from the configuration and the seed to ``Splits`` and
register it in ``TASKS``, at the end of this module. ``checked_row`` makes a ``Row`` of a record.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lipo_e_ray.config import TaskConfig
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import Metric, UserMetric, full_name, get_metric, is_user_metric
from lipo_e_ray.task.rows import Row, Splits, checked_row, read_folder
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Status

ARITHMETIC_SIZES = (256, 128, 256)
"""Pool, validation and test of ``arithmetic`` where a size of 0 asks for "all": a generator has no end."""

SMALL_POOL = 40  # rows of a pool that is needed whole for exemplars
RESERVED_SHARE = 5  # of a larger pool, a fifth at most is kept for the finalists

_GSM8K_TRAIN, _GSM8K_VALIDATION = 7473, 1319  # a train split without its own validation is divided in this proportion


def load_task(config: TaskConfig, seed: int, given: Task | None = None, metric: Metric | None = None) -> Task:
    """The task ``config`` names, its splits shuffled by ``seed`` and cut to size.

    A name in ``TASKS`` is loaded from there, any other is a folder: ``train.jsonl`` (the exemplar pool), ``test.jsonl``
    and, unless validation is to be split off train, ``validation.jsonl``. ``given``: take these rows instead of what
    ``config.name`` names, and their metric where ``config.metric`` is ``auto``. ``metric``: a function that will judge
    instead of the metric that is named, so that none is chosen, and it decides alone what a reference may be.
    Raises ``InputError``, one line, for every input that cannot be used.
    """
    splits = given.splits() if given else TASKS.get(config.name, _folder)(config, seed)
    _check_no_duplicates(splits)
    wanted = given.metric if given and config.metric == "auto" else config.metric
    name = _metric_name(wanted, list(splits), metric)
    train, validation = (
        (splits.train, splits.validation) if splits.validation is not None else _divided(splits.train, seed)
    )
    pool, validated, test = (
        tuple(row.example for row in (rows if splits.ordered else _shuffled(rows, f"{label} {seed}"))[: size or None])
        for label, rows, size in (
            ("pool", train, config.pool_size),
            ("validation", validation, config.validation_size),
            ("test", splits.test, config.test_size),
        )
    )
    pool, reserve = pool[: len(pool) - (kept := _reserve_size(pool, validated))], pool[len(pool) - kept :]
    return Task(splits.name, pool, validated, test, name, reserve)


def _reserve_size(pool: Sequence[Example], validation: Sequence[Example]) -> int:
    """How many of the pool's rows, already in random order, are kept for the finalists of a search."""
    return min(len(validation) // 2, len(pool) // RESERVED_SHARE) if len(pool) >= SMALL_POOL else 0


def _shuffled(rows: list[Row], key: str) -> list[Row]:
    return random.Random(key).sample(rows, len(rows))


def _divided(train: list[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Pool and validation out of one train split, in GSM8K's proportion: 7473 rows give 6154 and 1319."""
    if len(train) < 2:
        raise InputError(
            f"{train[0].place}: expected 2 rows or more to split validation off, got 1; add rows or a validation split "
            "(validation.jsonl)"
        )
    rows = _shuffled(train, f"split {seed}")
    held_out = max(1, len(rows) * _GSM8K_VALIDATION // _GSM8K_TRAIN)
    return rows[held_out:], rows[:held_out]


def _check_no_duplicates(rows: Iterable[Row]) -> None:
    """No question twice, in whatever split: across splits it would leak, within one it would count double."""
    seen: dict[str, str] = {}
    for row in rows:
        key = " ".join(row.example.question.split())
        if key in seen:
            raise InputError(
                f"{row.place}: expected a new question, got that of {seen[key]} ({key[:60]!r}); remove one of the two"
            )
        seen[key] = row.place


def _metric_name(wanted: str, rows: list[Row], own: Metric | None) -> str:
    """The metric's full name; every reference must be an answer that the metric itself can read."""
    if own is not None:
        return own.name if isinstance(own, UserMetric) else wanted
    name = full_name(wanted, [row.example for row in rows])
    judge = get_metric(name)
    if is_user_metric(name):
        return name  # the user's own function decides what a reference is
    for row in rows:
        answer = row.example.answer
        if judge(answer, answer) is not Status.CORRECT:
            raise InputError(
                f"{row.place}: expected an answer that the metric {name[:60]!r} can read, got {answer[-60:]!r}; "
                "correct it or choose another --metric"
            )
    return name


def _arithmetic(config: TaskConfig, seed: int) -> Splits:
    wanted = (config.pool_size, config.validation_size, config.test_size)
    pool, held_out, tested = (size or default for size, default in zip(wanted, ARITHMETIC_SIZES, strict=True))
    task = generate_arithmetic(pool, held_out, tested, seed)
    train, validation, test = (
        [Row(example, "arithmetic") for example in split] for split in (task.pool, task.validation, task.test)
    )
    return Splits("arithmetic", train, validation, test, ordered=True)


def _gsm8k(config: TaskConfig, seed: int) -> Splits:
    """``openai/gsm8k`` from the hub or its local cache."""
    import datasets  # heavy, and needed for this one task only

    def rows(split: str) -> list[Row]:
        loaded = datasets.load_dataset("openai/gsm8k", "main", split=split)
        return [checked_row(record, f"gsm8k {split} row {number}") for number, record in enumerate(loaded, 1)]

    try:
        return Splits("gsm8k", rows("train"), None, rows("test"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"gsm8k: expected openai/gsm8k from the Hugging Face hub, got {type(error).__name__}: {reason}; without "
            "the hub, put train.jsonl and test.jsonl (question, answer) into a folder and pass it: --task FOLDER"
        ) from error


def _folder(config: TaskConfig, seed: int) -> Splits:
    folder = Path(config.name)
    if not folder.is_dir():
        raise InputError(
            f"--task: expected {', '.join(TASKS)} or a folder with train.jsonl and test.jsonl, got {config.name!r}"
        )
    return read_folder(folder)


TASKS: dict[str, Callable[[TaskConfig, int], Splits]] = {"arithmetic": _arithmetic, "gsm8k": _gsm8k}
"""The tasks that ``--task`` knows by name; any other name is a folder."""
