"""What Ray and Tune cost beside the LLM: the real service, engine actor and Tune run, with engines that take no time.

Part of ``benchmarks/costs/overhead.py``.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from benchmarks.workload import make_task, random_proposals
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.calls import slow_result
from lipo_e_ray.distributed.pools import EnginesConfig, start_service
from lipo_e_ray.distributed.runner import start_bo_actor, tune_search
from lipo_e_ray.distributed.session import ray_session
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.service.service import CHUNK
from lipo_e_ray.types import Batch, Request

RUNGS = 8
BRACKETS = 20  # in Tune's run, of 8 rungs of one prompt and one example each: next to nothing to evaluate
PROMPTS, EXAMPLES = 20, 512  # evaluated by the service alone


class InstantProposer:
    """Prompts in no time."""

    def __init__(self) -> None:
        self._pool = make_task(1).pool

    def prepare(self) -> None:
        pass

    def propose(self, request: Request) -> Batch:
        return Batch(tuple(random_proposals(request, self._pool)))


def ray_rows() -> list[dict[str, Any]]:
    """Milliseconds of Tune a trial (bracket) and rung; of service, ledger and RPC for a chunk that comes alone, and an
    evaluation among many."""
    task = make_task(EXAMPLES)
    engines = EnginesConfig(count=1, num_gpus=0, in_flight=512)
    with ray_session("local"), tempfile.TemporaryDirectory() as folder:
        service = start_service(
            Path(folder) / "ledger", task, SimulatedEngine().fingerprints, partial(SimulatedEngine, 0), engines
        )
        lonely, *prompts = [
            proposal.prompt for proposal in random_proposals(Request("hyperband", 99, PROMPTS + 1), task.pool)
        ]
        slow_result(service.evaluate.remote(prompts[0], "validation", 1), service)  # starts the engine
        start = time.perf_counter()
        slow_result([service.evaluate.remote(prompt, "validation", EXAMPLES) for prompt in prompts], service)
        evaluation_s = (time.perf_counter() - start) / (PROMPTS * EXAMPLES - 1)
        start = time.perf_counter()
        for n in range(CHUNK, EXAMPLES + 1, CHUNK):
            slow_result(service.evaluate.remote(lonely, "validation", n), service)
        chunk_s = (time.perf_counter() - start) / (EXAMPLES // CHUNK)
        rung_s, first_s = _tune(service, Path(folder))
        ray.get(service.close.remote())
    return [
        {
            "row": "tune",
            "trials": BRACKETS,
            "rungs": BRACKETS * RUNGS,
            "ms_a_trial_and_rung": 1000 * rung_s,
            "first_rung_s": first_s,
        },
        {"row": "chunk", "evaluations": CHUNK, "ms": 1000 * chunk_s},
        {"row": "ray", "evaluations": PROMPTS * EXAMPLES, "ms_an_evaluation": 1000 * evaluation_s},
    ]


def _tune(service: Any, folder: Path) -> tuple[float, float]:
    """Seconds a rung, once the first two brackets have their trial processes; seconds to the end of the first rung."""
    brackets = [
        Bracket(i, "hyperband", RUNGS - 1, tuple(Rung(1, n + 1) for n in range(RUNGS))) for i in range(BRACKETS + 2)
    ]
    marks: list[tuple[float, int, int]] = []  # when, first open bracket, evaluations done
    bo = BOSlot(partial(start_bo_actor, InstantProposer, service))
    bo.prepare()
    start = time.perf_counter()
    tune_search(
        Hyperband(FixedSchedule(tuple(brackets)), 0, overlap=0),
        service,
        bo,
        folder,
        lambda position: marks.append((time.perf_counter(), position.bracket, position.done)),
    )
    warm = next(when for when, bracket, _ in marks if bracket == 2)
    return (marks[-1][0] - warm) / (BRACKETS * RUNGS), next(when for when, _, done in marks if done) - start
