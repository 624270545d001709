"""The simulation held against Ray: the same pass, the same engines, once in virtual time and once in real time.

Part of ``benchmarks/simulated/throughput.py``. Engines are actors that sleep as long as the latency model says;
service, ledger, dispatcher, Tune and all processes are the real ones, on this machine. Proposals come in no time in
both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import ray

from benchmarks.costs.ray_overhead import InstantProposer
from benchmarks.simulated.simulation import IN_FLIGHT, Costs, simulate
from benchmarks.workload import full_pass, gsm8k_like
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.calls import result, slow_result
from lipo_e_ray.distributed.pools import EnginesConfig, start_service
from lipo_e_ray.distributed.runner import start_bo_actor, tune_search
from lipo_e_ray.distributed.session import ray_session
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Example, Outcome, Prompt, Sampling

N, B_MIN = 256, 16  # of the pass
ENGINES = (1, 2, 4)


class _StampedEngine(SimulatedEngine):
    """Leaves a file in ``folder`` when its first evaluations come."""

    def __init__(self, folder: Path, latency: Latency) -> None:
        super().__init__(0, latency)
        self._stamp: Path | None = folder / f"first-{time.time_ns()}"

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        if self._stamp:
            self._stamp.touch()
            self._stamp = None
        return await super().evaluate(prompt, examples)


def by_ray(brackets: Sequence[Bracket], engines: int, latency: Latency, overlap: int) -> tuple[float, float]:
    """Seconds from the first evaluation to the end of the last rung, and those until the first one: Tune's start."""
    task = gsm8k_like(brackets).task
    config = EnginesConfig(count=engines, num_gpus=0, num_cpus=0, in_flight=IN_FLIGHT * latency.max_num_seqs)
    with ray_session("local"), tempfile.TemporaryDirectory() as name:
        folder, ends = Path(name), list[float]()
        service = start_service(
            folder / "ledger", task, SimulatedEngine().fingerprints, partial(_StampedEngine, folder, latency), config
        )
        slow_result(service.generate.remote([[{"role": "user", "content": "start"}]], [Sampling()], "start"), service)
        while result(service.progress.remote()).engines_ready < engines:
            time.sleep(0.1)
        bo = BOSlot(partial(start_bo_actor, InstantProposer, service))
        bo.prepare()
        start = time.time()
        tune_search(
            Hyperband(FixedSchedule(tuple(brackets)), 0, overlap),
            service,
            bo,
            folder,
            lambda position: ends.append(time.time()),
        )
        first = min(path.stat().st_mtime for path in folder.glob("first-*"))
        ray.get(service.close.remote())
    return ends[-1] - first, first - start


def against_ray(latency: Latency, costs: Costs, overlap: int) -> list[dict[str, float]]:
    """A row for each number of engines: seconds by simulation and by Ray."""
    brackets, rows = full_pass(N, B_MIN), []
    for engines in ENGINES:
        simulated = simulate(brackets, engines, latency, costs, overlap)
        seconds, start_s = by_ray(brackets, engines, latency, overlap)
        rows.append(
            {
                "engines": engines,
                "evaluations": simulated.evaluations,
                "simulated_s": simulated.makespan_s,
                "ray_s": seconds,
                "ratio": seconds / simulated.makespan_s,
                "start_s": start_s,
            }
        )
        print(
            f"{engines} engines, {simulated.evaluations:,} evaluations: simulated {simulated.makespan_s:.1f} s, "
            f"by Ray {seconds:.1f} s ({rows[-1]['ratio']:.3f}), after {start_s:.1f} s until the first",
            flush=True,
        )
    return rows
