"""How good a prompt each method has found for the same calls: LIPO-E, its rivals, and LIPO-E without each of its parts.

``python -m benchmarks.recorded.search_quality`` replays every search on the tables of real answers in
``benchmarks/recorded/tables/``, 30 seeds each, prints the comparison and writes
``benchmarks/results/search_quality.json`` and ``docs/search_quality.png``; with ``--parts`` LIPO-E without each of
its parts, in ``search_parts.json``. Errors are normalised: 0 is the best prompt of the grid, 1 the worst. A seed
also shuffles the validation examples.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from benchmarks.machine import write
from benchmarks.recorded.grids import RECIPES
from benchmarks.recorded.hbbops import hbbops
from benchmarks.recorded.lipo_e import LIPO_E, VARIANTS, lipo_e, table_space
from benchmarks.recorded.oracle import FULL_EVALUATIONS, Oracle, SpentError, normalised
from benchmarks.recorded.rivals import hdbo, hyperband_random, random_search, successive_halving, tpe
from benchmarks.recorded.tables import FOLDER, OutcomeTable
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.report.statistics import Z95

RESULTS = Path(__file__).parents[1] / "results"
PLOT = Path(__file__).parents[2] / "docs" / "search_quality.png"
RIVALS: dict[str, Callable[[Oracle, int], None]] = {
    "random search": random_search,
    "TRIPLE-SH": successive_halving,
    "Hyperband": hyperband_random,
    "HDBO": hdbo,
    "TPE": tpe,
    "HbBoPs": hbbops,
}
SHARES = (0.06, 0.12, 0.25, 0.5, 1.0)  # of the budget: 300, 600, 1,250, 2,500 and 5,000 calls
BY_BUDGET = {"TRIPLE-SH", *VARIANTS}  # a search that plans for its whole budget: one for each share
CURVE = np.unique(np.concatenate([np.linspace(0, 1, 51)[1:], SHARES]).round(6))

Job = tuple[str, str, int]  # table, method, seed


@functools.cache
def _table(path: Path) -> OutcomeTable:
    return OutcomeTable.load(path)


@functools.cache
def _space(path: Path, folder: Path) -> LatentSpace:
    return table_space(_table(path), folder)


def search(job: Job, tables: Path, folder: Path) -> np.ndarray:
    """Normalised validation and test error at every share of ``CURVE``, (2, len(CURVE))."""
    name, method, seed = job
    path = tables / f"{name}.safetensors"

    def curve(budget: float) -> np.ndarray:
        oracle = Oracle(_table(path), seed, budget)
        with contextlib.suppress(SpentError):
            if method in RIVALS:
                RIVALS[method](oracle, seed)
            else:
                lipo_e(oracle, seed, _space(path, folder), VARIANTS[method])
        shares = CURVE * FULL_EVALUATIONS * oracle.n
        return np.array([normalised(oracle.table, oracle.trace, calls) for calls in shares]).T

    if method not in BY_BUDGET:
        return curve(FULL_EVALUATIONS)
    ends = [min(share for share in SHARES if spent <= share + 1e-9) for spent in CURVE]
    by_end = {end: curve(end * FULL_EVALUATIONS) for end in SHARES}
    return np.stack([by_end[end][:, i] for i, end in enumerate(ends)], 1)


def whole_tables(folder: Path) -> list[str]:
    """Names of the tables with every instruction of their grid: of a smaller one, the budget asks too large a part."""
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    return [
        name
        for name in names
        if name not in RECIPES or _table(folder / f"{name}.safetensors").grid.instructions == RECIPES[name].instructions
    ]


def compare(
    tables: Path, names: Sequence[str], methods: Sequence[str], seeds: int, processes: int
) -> dict[str, np.ndarray]:
    """Method -> (tables, seeds, 2, len(CURVE))."""
    jobs = [(name, method, seed) for name in names for method in methods for seed in range(seeds)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(processes, context, _one_thread) as pool:
        folder = Path(name)
        list(pool.map(functools.partial(_train, tables, folder), names))
        curves = pool.map(functools.partial(search, tables=tables, folder=folder), jobs, chunksize=2)
        found: dict[Job, np.ndarray] = {}
        for job, curve in zip(jobs, curves, strict=True):
            found[job] = curve
            if job[2] == seeds - 1:
                print(f"{job[0]}: {job[1]} done", flush=True)
    return {
        method: np.array([[found[name, method, seed] for seed in range(seeds)] for name in names]) for method in methods
    }


def _one_thread() -> None:
    import logging

    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's
    logging.disable(logging.WARNING)  # a grid may well be exhausted


def _train(tables: Path, folder: Path, name: str) -> None:
    _space(tables / f"{name}.safetensors", folder)


def at_share(curves: np.ndarray, share: float) -> np.ndarray:
    """(tables, seeds, 2) at one share of the budget."""
    return curves[..., int(np.argmin(abs(CURVE - share)))]


def p_value(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided Wilcoxon signed-rank test over all pairs of a table and a seed."""
    differences = np.ravel(ours - theirs)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def rows(curves: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """For every method and share: mean and standard error of both errors, and how much higher than ours the test error
    is, with its 95% interval (pairs of a table and a seed) and the test."""
    result = []
    for method, own_curves in curves.items():
        for share in SHARES:
            both = at_share(own_curves, share).reshape(-1, 2)
            mean, error = both.mean(0), both.std(0, ddof=1) / len(both) ** 0.5
            ours, theirs = (at_share(values, share)[..., 1].ravel() for values in (curves[LIPO_E], own_curves))
            result.append(
                {
                    "method": method,
                    "share": share,
                    "validation": mean[0],
                    "validation_se": error[0],
                    "test": mean[1],
                    "test_se": error[1],
                    "higher": (theirs - ours).mean(),
                    "interval": Z95 * (theirs - ours).std(ddof=1) / len(ours) ** 0.5,
                    "p": p_value(ours, theirs),
                }
            )
    return result


def show(table: Sequence[dict[str, Any]]) -> None:
    """One line per method: test error at each share, p against LIPO-E; the difference; then validation error."""
    print(f"{'normalised test error':26s}" + "".join(f"{share:>24.2f}" for share in SHARES))
    for method in dict.fromkeys(row["method"] for row in table):
        cells = [row for row in table if row["method"] == method]
        print(
            f"{method:26s}" + "".join(f"   {row['test']:.3f} +- {row['test_se']:.3f} p={row['p']:.0e}" for row in cells)
        )
    print("test error less LIPO-E's, with its 95% interval")
    for method in dict.fromkeys(row["method"] for row in table):
        cells = [row for row in table if row["method"] == method]
        print(f"{method:26s}" + "".join(f"   {row['higher']:+.3f} +- {row['interval']:.3f}{'':7s}" for row in cells))
    print("normalised validation error")
    for method in dict.fromkeys(row["method"] for row in table):
        cells = [row for row in table if row["method"] == method]
        print(
            f"{method:26s}"
            + "".join(f"   {row['validation']:.3f} +- {row['validation_se']:.3f}{'':8s}" for row in cells)
        )


def plot(curves: dict[str, np.ndarray]) -> None:
    """Mean normalised test error over the share of the budget that is spent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method in (*RIVALS, LIPO_E):
        mean = curves[method].mean((0, 1))[1]
        axes.plot(
            CURVE * FULL_EVALUATIONS,
            mean,
            label=method,
            linewidth=2.5 if method == LIPO_E else 1.2,
            color="black" if method == LIPO_E else None,
        )
    axes.set(
        xlabel="LLM calls, in evaluations of one prompt on all validation examples",
        ylabel="normalised test error",
        ylim=(0, 0.6),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tables", type=Path, default=FOLDER)
    parser.add_argument("--parts", action="store_true", help="LIPO-E without each of its parts, instead of the rivals")
    arguments = parser.parse_args()
    methods = list(VARIANTS) if arguments.parts else [*RIVALS, LIPO_E]
    names = whole_tables(arguments.tables)
    print(f"tables: {', '.join(names)}", flush=True)
    curves = compare(arguments.tables, names, methods, arguments.seeds, arguments.processes)
    table = rows(curves)
    show(table)
    if not arguments.parts:
        plot(curves)
    write(
        RESULTS / ("search_parts.json" if arguments.parts else "search_quality.json"),
        {"tables": names, "seeds": arguments.seeds, "full_evaluations": FULL_EVALUATIONS, "rows": table},
    )


if __name__ == "__main__":
    main()
