"""Searches of several methods side by side: a row for each, and what their paired differences tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t, wilcoxon

METHODS = ("lipo_e", "random_halved")
"""The first one is compared with the other."""
ALL = "all tasks"
Key = tuple[str, int, int, str]
"""Task, seed, limit, method."""


@dataclass(frozen=True)
class Row:
    """One search. Accuracies are rates in [0, 1]; ``model``: fingerprint; ``test_size``: as given, 0 for all."""

    task: str
    seed: int
    limit: int
    method: str
    model: str
    test_size: int
    calls: int
    validation: float
    validation_n: int
    test: float
    test_n: int

    @property
    def key(self) -> Key:
        """Which search of the comparison it is."""
        return self.task, self.seed, self.limit, self.method


def paired(rows: Sequence[Row], rival: str = METHODS[1]) -> dict[str, float | None]:
    """LIPO-E's test accuracy less that of the method ``rival`` over all pairs of a task and a seed.

    Mean, half the width of its 95% interval (Student's t) and p (Wilcoxon's signed-rank test, two-sided); ``None`` for
    what so few pairs do not tell.
    """
    ours, theirs = ({(r.task, r.seed): r.test for r in rows if r.method == method} for method in (METHODS[0], rival))
    each = np.array([ours[pair] - theirs[pair] for pair in ours if pair in theirs])
    n = len(each)
    return {
        "pairs": n,
        "difference": float(each.mean()) if n else None,
        "interval": float(t.ppf(0.975, n - 1) * each.std(ddof=1) / n**0.5) if n > 1 else None,
        "p": (float(wilcoxon(each).pvalue) if each.any() else 1.0) if n else None,
    }


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each limit and task, and for all tasks: each method's mean test accuracy, and the paired difference."""
    table = []
    for limit in sorted({row.limit for row in rows}):
        for task in (*dict.fromkeys(row.task for row in rows), ALL):
            cell = [row for row in rows if row.limit == limit and task in (row.task, ALL)]
            tests = {method: [row.test for row in cell if row.method == method] for method in METHODS}
            means = {method: float(np.mean(values)) for method, values in tests.items() if values}
            table.append({"limit": limit, "task": task, **means, **paired(cell)})
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    """One line per limit and task."""

    def percent(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.1%}"

    print(f"{'test accuracy':>13s}  {'task':18s}" + "".join(f"{method:>15s}" for method in METHODS) + "  difference")
    for line in table:
        p = "-" if line["p"] is None else f"{line['p']:.3f}"
        print(
            f"{line['limit']:7,} calls  {line['task']:18s}"
            + "".join(f"{percent(line.get(method)):>15s}" for method in METHODS)
            + f"  {percent(line['difference'], '+')} +- {percent(line['interval'])}, p = {p}, {line['pairs']} pairs"
        )
