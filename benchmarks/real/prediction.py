"""What a pass that was really made should take by a latency model, and where its time goes.

Part of ``benchmarks/real/real_engine.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.costs.overhead import RESULTS as OVERHEAD
from benchmarks.simulated.simulation import Costs, simulate, simulate_one_by_one
from benchmarks.workload import Workload
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.search.brackets import Bracket


def predict(
    brackets: Sequence[Bracket], overlap: int, workload: Workload, latency: Latency, fit_s: float
) -> dict[str, Any]:
    """Seconds of both passes by ``latency``, and what they spend it on.

    ``bound``: of one engine that is always full, so ``single_process / bound`` is the most that a schedule can gain.
    Ray's parts are as ``benchmarks/costs/overhead.py`` measured them; ``fit_s``: what the baseline spent on fits.
    """
    rows = {row["row"]: row for row in json.loads(OVERHEAD.read_text(encoding="utf-8"))["rows"]}
    costs = Costs(rows["tune"]["ms_a_trial_and_rung"] / 1000, rows["chunk"]["ms"] / 1000)
    job = simulate(brackets, 1, latency, costs, overlap, workload)
    one_by_one, steps = simulate_one_by_one(brackets, latency, lambda m: 0.0, workload)
    decode = job.answer_tokens * (latency.step_s / latency.max_num_seqs + latency.token_s)
    return {
        "single_process": one_by_one + fit_s,
        "ray": rows["tune"]["first_rung_s"] + job.makespan_s,
        "first_rung": rows["tune"]["first_rung_s"],
        "bound": job.lower_bound_s,
        "decode": decode,
        "prefill": job.work_s - decode,
        "answer_tokens": job.answer_tokens / job.evaluations,
        "single_process_steps": [asdict(step) for step in steps],
    }
