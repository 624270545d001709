"""What the search itself costs beside the LLM: GP fits and proposals in time, driver and BO actor in memory.

``python -m benchmarks.costs.overhead`` prints the rows and writes ``benchmarks/results/overhead.json``. Times are
medians of wall seconds and, in brackets, of CPU seconds: on a busy machine trust those, which with one thread are
what an idle machine would take. A proposal is one whole call of ``Proposer.propose``: latents of all observed
prompts, a cold fit, 50 instructions x 5 restarts in one gradient search of 20 steps, the greedy choice. For the
times, the encoder gives hashed unit vectors and the VAE was trained for one epoch: neither changes how much there is
to compute.
``benchmarks/costs/overhead_memory.py`` measures memory, with the real encoder, ``benchmarks/costs/ray_overhead.py``
Ray and Tune.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.costs.gp_fit import INST_DIM, synthetic_prompts
from benchmarks.costs.overhead_memory import Size, memory_rows
from benchmarks.costs.ray_overhead import ray_rows
from benchmarks.costs.synthetic_search import HashEncoder, instruction_texts, latent_space, observations
from benchmarks.machine import write
from lipo_e_ray.config import ProposalConfig, RunConfig
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.types import Request

RESULTS = Path(__file__).parents[1] / "results" / "overhead.json"
SIZES, BATCHES, THREADS = (50, 100, 200, 500, 1000), (8, 32, 128), (1, 2)
INSTRUCTIONS, POOL = 2000, 256  # of the search that is timed
BARS = {"cold_s": 3.0, "warm_s": 0.5, "ms_a_candidate": 150.0, "memory_mib": 2048.0, "ms_a_trial_and_rung": 20.0}
"""Upper limits on 2 cores: the first three with 500 observations, the third for a batch of 32, the fourth for driver
and BO actor together with 500 prompts x 1319 outcomes, the last for Ray Tune."""

Row = dict[str, Any]


def measure(action: Callable[[Any], object], repeats: int, prepare: Callable[[], Any] = lambda: None) -> list[float]:
    """Medians of wall and CPU seconds of ``action``, which gets what an untimed ``prepare`` made for it."""
    seconds = []
    for _ in range(repeats):
        prepared = prepare()
        wall, cpu = time.perf_counter(), time.process_time()
        action(prepared)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [round(statistics.median(kind), 4) for kind in zip(*seconds, strict=True)]


def fit_row(m: int, repeats: int) -> Row:
    """A cold fit of m prompts, and the refit of a GP that was fitted on 4 prompts fewer."""
    z, _, errors, evaluated = synthetic_prompts(m, seed=0)

    def fit(gp: JointPromptGP, count: int) -> JointPromptGP:
        return gp.fit(z[:count], errors[:count], evaluated[:count])

    cold, cold_cpu = measure(lambda gp: fit(gp, m), repeats, lambda: JointPromptGP(INST_DIM))
    warm, warm_cpu = measure(lambda gp: fit(gp, m), repeats, lambda: fit(JointPromptGP(INST_DIM), m - 4))
    return {
        "row": "fit",
        "observations": m,
        "threads": torch.get_num_threads(),
        "cold_s": cold,
        "cold_cpu_s": cold_cpu,
        "warm_s": warm,
        "warm_cpu_s": warm_cpu,
    }


class ProposalTimer:
    """A proposer over ``instructions`` texts and ``pool`` examples, and as many observations as are asked for."""

    def __init__(self, largest: int, instructions: int, pool: int, proposal: ProposalConfig) -> None:
        texts, task = instruction_texts(instructions), generate_arithmetic(pool, 1, 1, 0)
        with TemporaryDirectory() as folder:
            space = latent_space(HashEncoder(), texts, task.pool, 1, Path(folder))
        self._observed = observations(space, texts, task.pool, largest)
        config = RunConfig(proposal=proposal)
        self._proposer = Proposer(task, config, dict.fromkeys(texts, "ape"), lambda: (space, None))

    def row(self, m: int, batch: int, repeats: int) -> Row:
        """One batch from m observations."""
        request = Request("hyperband", 1, batch, self._observed[:m])
        wall, cpu = measure(lambda _: self._proposer.propose(request), repeats)
        return {
            "row": "proposal",
            "observations": m,
            "threads": torch.get_num_threads(),
            "batch": batch,
            "s": wall,
            "cpu_s": cpu,
            "ms_a_candidate": round(1000 * wall / batch, 1),
        }


def time_rows(
    sizes: Sequence[int],
    batches: Sequence[int],
    threads: Sequence[int],
    repeats: int,
    instructions: int,
    pool: int,
    proposal: ProposalConfig,
) -> Iterator[Row]:
    """Rows of fits and proposals for every number of threads and observations."""
    timer = ProposalTimer(max(sizes), instructions, pool, proposal)
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for m in sizes:
                yield fit_row(m, repeats)
                for batch in batches:
                    yield timer.row(m, batch, repeats)
    finally:
        torch.set_num_threads(before)


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """Each bar beside the best number of threads' result; without one where it was not measured."""

    def lowest(key: str, **where: Any) -> float | None:
        found = [row[key] for row in rows if key in row and where.items() <= row.items()]
        return min(found, default=None)

    measured = {
        "cold_s": lowest("cold_s", observations=500),
        "warm_s": lowest("warm_s", observations=500),
        "ms_a_candidate": lowest("ms_a_candidate", observations=500, batch=32),
        "memory_mib": lowest("mib", process="both"),
        "ms_a_trial_and_rung": lowest("ms_a_trial_and_rung"),
    }
    return [
        {
            "row": "bar",
            "name": name,
            "limit": limit,
            "measured": value,
            "met": None if value is None else value <= limit,
        }
        for (name, limit), value in zip(BARS.items(), measured.values(), strict=True)
    ]


def line(row: Row) -> str:
    """A row as one line of text."""
    start = f"{row['row']:9s}"
    if "observations" in row:
        start += f"{row['observations']:5d} observations, {row['threads']} threads: "
    match row["row"]:
        case "fit":
            return start + (
                f"cold {row['cold_s']:.2f} ({row['cold_cpu_s']:.2f}) s, "
                f"warm {row['warm_s']:.2f} ({row['warm_cpu_s']:.2f}) s"
            )
        case "proposal":
            return start + (
                f"batch of {row['batch']} in {row['s']:.2f} ({row['cpu_s']:.2f}) s, "
                f"{row['ms_a_candidate']:.0f} ms a candidate"
            )
    return "  ".join([start, *(f"{key}={value}" for key, value in row.items() if key != "row")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory rows (about 3 minutes)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []

    def add(more: Iterator[Row] | Sequence[Row]) -> None:
        for row in more:
            print(line(row), flush=True)
            rows.append(row)

    add(
        time_rows(
            arguments.sizes,
            BATCHES,
            arguments.threads,
            arguments.repeats,
            INSTRUCTIONS,
            arguments.pool,
            ProposalConfig(),
        )
    )
    add(() if arguments.no_memory else memory_rows(Size()))
    add(ray_rows())
    add(verdicts(rows))
    inputs = {"instructions": INSTRUCTIONS, "pool": arguments.pool, "repeats": arguments.repeats}
    write(arguments.output, {"inputs": inputs, "rows": rows})


if __name__ == "__main__":
    main()
