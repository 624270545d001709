"""How well 1 to 64 engines are kept busy: a whole Hyperband pass on simulated engines, in virtual time.

``python -m benchmarks.simulated.throughput`` prints tables, writes ``benchmarks/results/throughput.json`` and the
scaling plot
``docs/scaling.png``. The engines follow ``L40S``; what Ray, Tune and the proposals cost comes from the results of
``benchmarks/costs/overhead.py``. The lower bound of a makespan is max(total engine work / engines, critical path of the
schedule), see ``simulation.Job``. A smaller pass is made by Ray too, in real time (4 minutes), see ``ray_scaling``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write
from benchmarks.simulated.ray_scaling import against_ray
from benchmarks.simulated.simulation import Costs, Job, simulate, simulate_one_by_one
from benchmarks.workload import full_pass
from lipo_e_ray.config import PROFILES
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.search.brackets import Bracket, cost

RESULTS = Path(__file__).parents[1] / "results" / "throughput.json"
PLOT = Path(__file__).parents[2] / "docs" / "scaling.png"
L40S = Latency(prefill_rate=30_000, step_s=0.008, token_s=33e-6, max_num_seqs=256, answer_tokens=200)
"""Not measured: from the data sheet, for Qwen2.5-1.5B in bf16. A step reads 3.1 GB of weights (864 GB/s: 3.6 ms, and as
much again for launches), a sequence 28 KB a token of its context of 1,000; prefill at half of 181 TFLOPS."""
OVERHEAD = Path(__file__).parents[1] / "results" / "overhead.json"
ENGINES = (1, 2, 4, 8, 16, 32, 64)
BARS = {1: 1.05, 8: 1.10, 64: 1.20}  # makespan / lower bound
EFFICIENCY_BAR = 0.90  # of 64 engines on eight times the work
BASELINE_BAR = 3.0  # one engine under Ray against one candidate at a time


def measured_costs() -> Costs:
    """What ``benchmarks/costs/overhead.py`` measured, on whatever machine: Tune's part, a chunk's way to an engine
    and back, and the proposals, one thread."""
    measured = json.loads(OVERHEAD.read_text(encoding="utf-8"))["rows"]
    rung_s, request_s = (
        next(row[key] for row in measured if row["row"] == name) / 1000
        for name, key in (("tune", "ms_a_trial_and_rung"), ("chunk", "ms"))
    )
    points = sorted(
        (row["observations"], row["s"])
        for row in measured
        if row["row"] == "proposal" and row["batch"] == 32 and row["threads"] == 1
    )
    observations, seconds = np.array(points, float).T
    return Costs(rung_s, request_s, lambda m: float(np.interp(m, observations, seconds)))


def overlap(engines: int) -> int:
    """As the profiles have it: for one GPU, and for many."""
    return PROFILES["one-gpu" if engines == 1 else "cluster"].hyperband.overlap


def scaling(brackets: Sequence[Bracket], engines: Sequence[int], latency: Latency, costs: Costs) -> list[Job]:
    """One simulated pass for each number of engines."""
    print(f"{cost(brackets):,} evaluations")
    print(
        f"{'engines':>7} {'makespan':>9} {'bound':>8} {'ratio':>6} {'even bound':>10} "
        f"{'speed-up':>8} {'efficiency':>10} {'busy':>5} {'eval/s':>7} {'hits':>5}"
    )
    jobs: list[Job] = []
    for n in engines:
        job = simulate(brackets, n, latency, costs, overlap(n))
        jobs.append(job)
        print(
            f"{n:7d} {job.makespan_s:8.1f}s {job.lower_bound_s:7.1f}s {job.ratio:6.3f} "
            f"{job.even_bound_s(latency):9.1f}s {jobs[0].makespan_s / job.makespan_s:8.1f} {job.efficiency:10.2f} "
            f"{job.busy_share:5.2f} {job.evaluations / job.makespan_s:7.0f} {job.prefix_hits:5.2f}",
            flush=True,
        )
    return jobs


def loss(brackets: Sequence[Bracket], engines: int, costs: Costs) -> dict[str, float]:
    """Makespan / lower bound with one cause of delay after another taken away: where the rest comes from."""
    alone = replace(L40S, token_s=0.0)
    causes = {
        "all": (L40S, costs),
        "no time for proposals": (L40S, replace(costs, propose_s=lambda m: 0.0)),
        "no cost of Ray, Tune and proposals": (L40S, Costs()),
        "and a step as long for a full batch as for one": (alone, Costs()),
        "and prefill in no time": (replace(alone, prefill_rate=1e9), Costs()),
    }
    found = {}
    for name, (latency, costs) in causes.items():
        job = simulate(brackets, engines, latency, costs, overlap(engines))
        found[name] = job.ratio
        print(f"{engines} engines, {name}: {found[name]:.3f}", flush=True)
    return found


def baseline(brackets: Sequence[Bracket], latency: Latency, costs: Costs, job: Job) -> dict[str, Any]:
    """One candidate at a time, in one process with one engine: its seconds, and where they go.

    ``job``: the same pass by the schedule on one engine. No schedule can take less than ``job.lower_bound_s``.
    """
    seconds, steps = simulate_one_by_one(brackets, latency, costs.propose_s)
    full_s = job.work_s / job.evaluations  # of an evaluation in a full batch
    print(
        f"one candidate at a time: {seconds:.0f} s; the schedule on one engine is {seconds / job.makespan_s:.2f} "
        f"times as fast (bar {BASELINE_BAR:.1f}), the most there is {seconds / job.lower_bound_s:.2f}"
    )
    print(f"{'at a time':>9} {'evaluations':>11} {'share':>6} {'seconds':>8} {'to gain':>7}")
    for step in steps:
        print(
            f"{step.examples:9d} {step.evaluations:11,d} {step.evaluations / job.evaluations:6.0%} "
            f"{step.seconds:7.1f}s {step.seconds / (step.evaluations * full_s):7.2f}"
        )
    proposals_s = seconds - sum(step.seconds for step in steps)
    print(f"{'proposals':>9} {'':11} {'':6} {proposals_s:7.1f}s")
    return {
        "seconds": seconds,
        "most_to_gain": seconds / job.lower_bound_s,
        "proposals_s": proposals_s,
        "steps": [asdict(step) for step in steps],
    }


def plot(jobs: Sequence[Job], large: Sequence[Job]) -> None:
    """Speed-up over engines, the ideal beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(ENGINES, ENGINES, color="0.6", linestyle="--", label="ideal")
    for series, style, examples in ((large, "s-", "10,552"), (jobs, "o-", "1,319")):
        axes.plot(
            [job.engines for job in series],
            [series[0].makespan_s / job.makespan_s for job in series],
            style,
            label=f"a Hyperband pass, {examples} validation examples ({series[0].evaluations:,} evaluations)",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="engines (simulated, one GPU each)",
        ylabel="speed-up over one engine",
        xticks=ENGINES,
        yticks=ENGINES,
    )
    axes.set_xticklabels([str(n) for n in ENGINES])
    axes.set_yticklabels([str(n) for n in ENGINES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=150)


def rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    return [
        asdict(job)
        | {
            "lower_bound_s": job.lower_bound_s,
            "ratio": job.ratio,
            "even_bound_s": job.even_bound_s(L40S),
            "efficiency": job.efficiency,
        }
        for job in jobs
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    brackets = full_pass(1319, 10)
    costs = measured_costs()
    jobs = scaling(brackets, ENGINES, L40S, costs)
    one_by_one = baseline(brackets, L40S, costs, jobs[0])
    causes = loss(brackets, 64, costs)
    large = scaling(full_pass(8 * 1319, 80), (1, 8, 64), L40S, costs)
    for job in jobs:
        if bar := BARS.get(job.engines):
            print(
                f"{job.engines} engines: makespan / lower bound {job.ratio:.3f}, bar {bar}: "
                f"{'met' if job.ratio <= bar else 'missed'}"
            )
    print(f"64 engines, eight times the work: efficiency {large[-1].efficiency:.3f}, bar {EFFICIENCY_BAR}")
    by_ray = against_ray(L40S, replace(costs, propose_s=lambda m: 0.0), overlap(8))
    plot(jobs, large)
    write(
        RESULTS,
        {
            "latency": asdict(L40S),
            "costs": {"rung_s": costs.rung_s, "request_s": costs.request_s, "propose_200_s": costs.propose_s(200)},
            "pass": rows(jobs),
            "eight_times": rows(large),
            "one_by_one": one_by_one,
            "against_ray": by_ray,
            "loss_at_64": causes,
            "bars": {"ratio": BARS, "efficiency": EFFICIENCY_BAR, "one_by_one": BASELINE_BAR},
        },
    )


if __name__ == "__main__":
    main()
