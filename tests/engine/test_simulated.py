import asyncio
import time

import pytest
from contract import CHATS, EngineContract

from lipo_e_ray.data.ape import clean_instruction
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine, exemplar_quality, instruction_quality
from lipo_e_ray.types import Example, Prompt, Sampling, Status

EXAMPLES = tuple(Example(f"How much is {i}?", f"#### {i}") for i in range(400))
BAD, GOOD = "x", "Solve the problem step by step."


class TestContract(EngineContract):
    @pytest.fixture
    def engine(self):
        return SimulatedEngine()

    @pytest.fixture
    def prompt(self):
        return Prompt("Solve the problem.", EXAMPLES[:2])

    @pytest.fixture
    def examples(self):
        return EXAMPLES[10:14]

    def test_failed_is_not_wrong(self):
        """It can answer everything: there is nothing to fail on."""


def accuracy(engine, prompt):
    outcomes = asyncio.run(engine.evaluate(prompt, EXAMPLES))
    return sum(o.status is Status.CORRECT for o in outcomes) / len(outcomes)


def test_accuracy_follows_the_probability():
    engine = SimulatedEngine(seed=3)
    for prompt in (Prompt("Say nothing."), Prompt(GOOD), Prompt(GOOD, EXAMPLES[:8])):
        assert accuracy(engine, prompt) == pytest.approx(engine.probability(prompt), abs=0.08)


def test_a_better_prompt_solves_what_a_worse_one_solves():
    engine = SimulatedEngine()
    prompts = sorted((Prompt(GOOD), Prompt(GOOD, EXAMPLES[:8])), key=engine.probability)
    worse, better = (asyncio.run(engine.evaluate(prompt, EXAMPLES)) for prompt in prompts)
    solved = [b.status for w, b in zip(worse, better, strict=True) if w.status is Status.CORRECT]
    assert solved.count(Status.CORRECT) > 0.85 * len(solved)


def test_equal_seeds_agree_and_different_ones_do_not():
    prompt = Prompt(GOOD, EXAMPLES[:3])
    first, again, other = (asyncio.run(SimulatedEngine(seed).evaluate(prompt, EXAMPLES)) for seed in (0, 0, 1))
    assert first == again and [o.status for o in first] != [o.status for o in other]
    assert SimulatedEngine(0).fingerprints == SimulatedEngine(0).fingerprints != SimulatedEngine(1).fingerprints


def test_qualities_have_their_ranges():
    assert instruction_quality("") == 0 == exemplar_quality(())
    assert instruction_quality("A b c") == instruction_quality("c, B: a!")  # only the words count
    assert 0 < exemplar_quality(EXAMPLES[:1]) < 1


def test_some_answers_are_unparseable():
    statuses = {o.status for o in asyncio.run(SimulatedEngine().evaluate(Prompt(BAD), EXAMPLES))}
    assert statuses == {Status.CORRECT, Status.WRONG, Status.UNPARSEABLE}


def test_writes_instructions():
    completions = asyncio.run(SimulatedEngine().generate(CHATS[:1] * 20, [Sampling(seed=i) for i in range(20)]))
    texts = {completion.text for completion in completions}
    assert len(texts) > 15 and all(clean_instruction(text) == text for text in texts)


def test_latency_grows_with_waiting_and_shrinks_with_a_cached_prefix():
    prompt = Prompt(GOOD, EXAMPLES[:8])

    async def two_passes(slots):
        engine = SimulatedEngine(latency=Latency(prefill_rate=1e4, decode_rate=1e3, max_num_seqs=slots, scale=5))
        times, cached = [], []
        for _ in range(2):
            start = time.perf_counter()
            outcomes = await engine.evaluate(prompt, EXAMPLES[:8])
            times.append(time.perf_counter() - start)
            cached.append([o.cached_tokens for o in outcomes])
        return times, cached

    (cold, warm), (first, second) = asyncio.run(two_passes(8))
    assert sorted(first)[0] == 0 and len(set(second)) == 1 and second[0] == max(first) > 0
    assert warm < cold
    serial, _ = asyncio.run(two_passes(1))[0]
    assert serial > cold
