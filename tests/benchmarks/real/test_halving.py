import asyncio
from dataclasses import replace

import pytest

from benchmarks.real.halving import FIDELITIES, INSTRUCTIONS, accuracy, affordable, random_halved, rungs
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.types import InputError, LipoError, Outcome, Status

TASK = generate_arithmetic(pool=64, validation=128, test=16, seed=0)
ENGINE = SimulatedEngine()


class Recorder(SimulatedEngine):
    """Notes what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    async def evaluate(self, prompt, examples):
        self.asked.append((prompt, examples))
        return await super().evaluate(prompt, examples)


def race(limit, seed=0, task=TASK):
    engine = Recorder()
    found = asyncio.run(random_halved(task, engine, limit, seed))
    return found, engine.asked


def test_sixteen_prompts_cost_384_calls():
    assert rungs(16, FIDELITIES) == [(16, 8), (8, 8), (4, 16), (2, 32), (1, 64)]
    assert [affordable(limit, FIDELITIES) for limit in (128, 300, 383, 384, 1000)] == [1, 13, 15, 16, 45]
    with pytest.raises(InputError, match="128 calls or more"):
        affordable(127, FIDELITIES)


@pytest.mark.parametrize("limit", [128, 300, 384, 1000])
def test_a_race_pays_for_no_example_twice_and_keeps_to_the_limit(limit):
    found, asked = race(limit)
    pairs = [(prompt, example.id) for prompt, examples in asked for example in examples]
    assert len(set(pairs)) == len(pairs) == found.calls <= limit
    assert sorted({len(examples) for _, examples in asked}) == [8, 16, 32, 64]
    assert len({prompt for prompt, _ in asked}) == affordable(limit, FIDELITIES)


def test_prompts_are_random_sets_under_three_instructions_in_turn():
    prompts = list(dict.fromkeys(prompt for prompt, _ in race(300)[1]))
    assert [prompt.instruction for prompt in prompts[:4]] == [*INSTRUCTIONS, INSTRUCTIONS[0]]
    assert all(len(set(prompt.exemplars)) == 8 and set(prompt.exemplars) <= set(TASK.pool) for prompt in prompts)
    more = list(dict.fromkeys(prompt for prompt, _ in race(1000)[1]))
    assert more[: len(prompts)] == prompts  # so that a wider race finds answers in the store
    assert not set(prompts) & {prompt for prompt, _ in race(300, seed=1)[1]}


def test_the_better_half_goes_on():
    _, asked = race(384)
    ids = [example.id for example in TASK.validation]
    first = [prompt for prompt, examples in asked if examples[0].id == ids[0]]
    second = [prompt for prompt, examples in asked if examples[0].id == ids[8]]
    rates = {prompt: asyncio.run(accuracy(ENGINE, prompt, TASK.validation[:8])).correct for prompt in first}
    assert len(first) == 16 and len(second) == 8
    assert min(rates[prompt] for prompt in second) >= max(rates[prompt] for prompt in set(first) - set(second))


def test_the_answer_has_the_fewest_errors_of_those_on_all_examples():
    found, asked = race(1000)
    finalists = [prompt for prompt, examples in asked if examples[-1] == TASK.validation[-1]]
    rates = {prompt: asyncio.run(accuracy(ENGINE, prompt, TASK.validation)) for prompt in finalists}
    assert len(finalists) == 2
    assert found.prompt in finalists and found.validation == rates[found.prompt]
    assert found.validation.correct == max(rate.correct for rate in rates.values())


def test_a_small_validation_split_ends_the_race_early():
    task = replace(TASK, validation=TASK.validation[:83])
    found, asked = race(300, task=task)
    assert found.validation.n == 83
    assert found.calls == sum(len(examples) for _, examples in asked) <= 300


def test_a_failed_answer_ends_the_race():
    class Failing(SimulatedEngine):
        async def evaluate(self, prompt, examples):
            return [Outcome(prompt.id, example.id, Status.FAILED, error="gone") for example in examples]

    with pytest.raises(LipoError, match="8 answers failed, the first: gone"):
        asyncio.run(random_halved(TASK, Failing(), 300, 0))
