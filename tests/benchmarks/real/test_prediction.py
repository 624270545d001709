from functools import partial

import pytest

from benchmarks.real.prediction import predict
from benchmarks.simulated import virtual_time
from benchmarks.workload import RecordedEngine, Workload, make_task, random_proposals
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.search.brackets import hyperband_brackets
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Request

LATENCY = Latency(prefill_rate=1000, step_s=0.02, token_s=0.001, max_num_seqs=16, answer_tokens=10)


def test_a_prediction_lies_between_the_bound_and_one_by_one(tmp_path):
    brackets, task, path = hyperband_brackets(32, 4, 2), make_task(32), tmp_path / "ledger.sqlite"
    engine = SimulatedEngine(0, LATENCY)
    with Ledger(path, engine.fingerprints) as ledger:
        for bracket in brackets:
            for proposal in random_proposals(Request("hyperband", bracket.index, bracket.rungs[0].size), task.pool):
                ledger.record_prompt(proposal.prompt)
                outcomes = virtual_time.run(engine.evaluate(proposal.prompt, task.validation))
                ledger.record_outcomes("validation", outcomes)
    workload = Workload(task, make_engine=partial(RecordedEngine, path))
    found = predict(brackets, 4, workload, LATENCY, fit_s=1.5)
    schedule = found["ray"] - found["first_rung"]
    assert found["bound"] < schedule < found["single_process"]
    assert found["bound"] == pytest.approx(found["prefill"] + found["decode"], rel=0.01)
    assert found["single_process"] == pytest.approx(
        1.5 + sum(step["seconds"] for step in found["single_process_steps"])
    )
    assert 8 < found["answer_tokens"] < 12 and found["prefill"] > found["decode"], "a prefix of 1,000 tokens a second"
