import asyncio

import pytest

from benchmarks.simulated import ray_scaling, virtual_time
from benchmarks.simulated.simulation import Costs
from benchmarks.workload import RecordedEngine
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Prompt

LATENCY = Latency(prefill_rate=1e6, step_s=0.01, token_s=0.0, max_num_seqs=8, answer_tokens=10)
"""A full batch of 8 takes 0.1 s."""


def test_ray_takes_at_least_as_long_as_the_simulation(ray_cluster, monkeypatch):
    monkeypatch.setattr(ray_scaling, "N", 32)
    monkeypatch.setattr(ray_scaling, "B_MIN", 16)
    monkeypatch.setattr(ray_scaling, "ENGINES", (2,))
    (row,) = ray_scaling.against_ray(LATENCY, Costs(), overlap=1)
    assert row["engines"] == 2 and row["evaluations"] == 112
    assert 0.95 < row["ratio"] == pytest.approx(row["ray_s"] / row["simulated_s"])
    assert row["start_s"] > 0


def test_a_recorded_engine_gives_the_recorded_answers_in_the_models_time(small_task, tmp_path):
    path, prompt, source = tmp_path / "ledger.sqlite", Prompt("Solve it.", small_task.pool[:4]), SimulatedEngine()
    prefilled = SimulatedEngine(0, LATENCY)  # so that prompts have cached prefixes
    outcomes = virtual_time.run(prefilled.evaluate(prompt, small_task.validation[:16]))
    with Ledger(path, source.fingerprints) as ledger:
        ledger.record_prompt(prompt)
        ledger.record_outcomes("validation", outcomes)

    async def replay():
        engine = RecordedEngine(path, LATENCY)
        again = await engine.evaluate(prompt, small_task.validation[:16])
        return again, asyncio.get_running_loop().time()

    again, seconds = virtual_time.run(replay())
    assert again == outcomes
    longest = sum(max(o.completion_tokens for o in half) for half in (outcomes[:8], outcomes[8:])) * LATENCY.step_s
    assert 0.5 * longest < seconds <= 1.2 * longest
