from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lipo_e_ray.engine.pool import SPILL, EnginePool, EnginesConfig, result, start_service
from lipo_e_ray.results.ledger import Ledger
from lipo_e_ray.types import EngineError, Fingerprints, InputError, Observation, Prompt, Sampling

PRINTS = Fingerprints("fake-model", "fake-sampling", "fake-template")
PROMPT = Prompt("Solve the problem.")
WHOLE = Observation(PROMPT.id, errors=45, evaluated=96, unparseable=13)  # of 0..95
ONE = EnginesConfig(num_cpus=0.1, timeout_s=60)
TWO = EnginesConfig(count=2, num_gpus=0, num_cpus=0.1, timeout_s=60)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def start(ray_cluster, path, small_task, fake_engines):
    services = []

    def start(engines=ONE, latency_s=0.0):
        services.append(start_service(path, small_task, PRINTS, fake_engines.factory(latency_s), engines))
        return services[-1]

    yield start
    for service in services:
        result(service.close.remote())


def test_two_engines_share_a_prompts_examples_and_a_second_service_needs_none(start, path, fake_engines):
    service = start(TWO, latency_s=0.05)
    assert result(service.progress.remote()).engines == 0  # nothing to pay yet
    requests = [service.evaluate.remote(PROMPT, "validation", n) for n in (96, 20, 96)]
    evaluations = [result(request) for request in requests]
    assert evaluations[0].observation == evaluations[2].observation == WHOLE
    assert [evaluation.new_calls for evaluation in evaluations] == [96, 0, 0]
    conversation = [{"role": "user", "content": "a"}]
    assert result(service.generate.remote([conversation], [Sampling()]))[0].text == "a, continued"
    assert result(service.progress.remote()).engines == 2
    result(service.close.remote())
    assert (fake_engines.folder / "closed").exists()

    again = start(TWO)
    assert result(again.evaluate.remote(PROMPT, "validation", 96)).new_calls == 0
    assert result(again.generate.remote([conversation], [Sampling()]))[0].text == "a, continued"
    assert result(again.progress.remote()).engines == 0
    assert sum(fake_engines.calls.values()) == len(fake_engines.calls) == 97
    with Ledger(path) as ledger:
        assert ledger.observations("validation") == {PROMPT.id: WHOLE}
        assert ledger.failures() == []


def test_a_broken_engine_is_replaced_and_nothing_is_lost_or_doubled(start, path, fake_engines):
    reasons = {"exit": "ActorDiedError", "raise": "EngineError: the engine core is dead", "hang": "no answer in time"}
    service = start(EnginesConfig(num_cpus=0.1, timeout_s=3), latency_s=0.02)
    for order, reason in reasons.items():
        fake_engines.order(order)
        prompt = Prompt(order)
        evaluation = result(service.evaluate.remote(prompt, "validation", 96))
        assert (evaluation.observation, evaluation.failed) == (replace(WHOLE, prompt_id=prompt.id), 0)
        with Ledger(path) as ledger:
            failures = [failure.error for failure in ledger.failures() if failure.prompt_id == prompt.id]
            assert ledger.observation(prompt.id, ledger.outcomes(prompt.id)) == evaluation.observation
        assert evaluation.new_calls == 96 + len(failures)
        assert any(reason in failure for failure in failures)
        assert not any("\n" in failure for failure in failures)
    assert len(fake_engines.pids) >= 4


def test_an_engine_killed_in_the_middle_of_its_work(start, fake_engines):
    service = start(EnginesConfig(num_cpus=0.1, in_flight=16, timeout_s=60), latency_s=0.2)
    request = service.evaluate.remote(PROMPT, "validation", 96)
    while sum(fake_engines.calls.values()) < 33:  # two chunks of 16 answered, the third on its way
        time.sleep(0.02)
    os.kill(fake_engines.pids[0], signal.SIGKILL)
    evaluation = result(request)
    assert (evaluation.observation, evaluation.failed) == (WHOLE, 0)
    assert evaluation.new_calls == 96 + 16  # one chunk was in flight; those in the queue waited for the next engine
    assert max(fake_engines.calls.values()) <= 2


def test_a_model_that_cannot_be_loaded_is_the_callers_input_error(start, fake_engines):
    fake_engines.order("refuse")
    service = start()
    with pytest.raises(InputError) as caught:
        result(service.evaluate.remote(PROMPT, "validation", 96))
    assert str(caught.value) == "model: expected a folder or a hub id, got 'nothing'; name another --model"
    assert fake_engines.calls == {}


def test_an_unusable_ledger_is_the_callers_input_error(ray_cluster, path, small_task, fake_engines):
    path.write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a database") as caught:
        start_service(path, small_task, PRINTS, fake_engines.factory(), ONE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"num_gpus": -1}, {"in_flight": 0}, {"timeout_s": 0}])
def test_a_config_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="engines: expected"):
        EnginesConfig(**wrong)


def slots(*loads, ready=True):
    return [SimpleNamespace(number=number, load=load, ready=ready, lost=None) for number, load in enumerate(loads)]


@pytest.fixture
def choose(small_task):
    """The number of the engine a pool chooses among these slots."""
    def choose(slots, prompt_id, avoid=None):
        pool = EnginePool(small_task, PRINTS, lambda: None, ONE)
        pool._slots = slots
        return asyncio.run(pool._choose(prompt_id, avoid)).number
    return choose


def test_a_prompt_stays_with_its_engine_and_prompts_spread(choose):
    homes = {f"prompt {i}": choose(slots(0, 0, 0, 0), f"prompt {i}") for i in range(40)}
    assert set(homes.values()) == {0, 1, 2, 3}
    for prompt_id, home in homes.items():
        loads = [0, 0, 0, 0]
        loads[home] = SPILL
        assert choose(slots(*loads), prompt_id) == home
        loads[home] = SPILL + 1
        assert choose(slots(*loads), prompt_id) != home


def test_when_an_engine_goes_only_its_own_prompts_move(choose):
    for i in range(40):
        home = choose(slots(0, 0, 0), f"prompt {i}")
        left = [slot for slot in slots(0, 0, 0) if slot.number != 2]
        assert choose(left, f"prompt {i}") == home or home == 2


def test_another_engine_is_tried_if_there_is_one(choose):
    home = choose(slots(0, 0), "p")
    assert choose(slots(0, 0), "p", avoid=home) == 1 - home
    assert choose(slots(0), "p", avoid=0) == 0


def test_generations_go_to_the_least_loaded(choose):
    assert choose(slots(3, 1, 2), None) == 1


def test_without_a_living_engine_there_is_an_error(choose):
    gone = slots(0, 0, ready=False)
    for slot in gone:
        slot.lost = EngineError("all gone")
    with pytest.raises(EngineError, match="all gone"):
        choose(gone, "p")
