import asyncio
import math
import random
import time
from dataclasses import replace

import pytest

from lipo_e_ray.engine.simulated import Latency, SimulatedEngine, exemplar_quality, instruction_quality
from lipo_e_ray.instructions.induction import clean_instruction
from lipo_e_ray.testing import CHATS, EngineContract
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


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


def virtually(go):
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(go())


async def timed(awaitable):
    """Its answer and the time at which it came."""
    return await awaitable, asyncio.get_running_loop().time()


LATENCY = Latency(prefill_rate=1000, step_s=0.01, token_s=0.001, max_num_seqs=4, answer_tokens=100)
PROMPT = Prompt(GOOD, EXAMPLES[:8])


def test_a_lone_request_takes_its_prefill_and_its_steps_and_the_second_has_its_prefix_cached():
    async def go():
        engine = SimulatedEngine(latency=LATENCY)
        (first,), one = await timed(engine.evaluate(PROMPT, EXAMPLES[10:11]))
        (second,), two = await timed(engine.evaluate(PROMPT, EXAMPLES[11:12]))
        assert first.cached_tokens == 0 < second.cached_tokens < second.prompt_tokens == first.prompt_tokens
        assert one == pytest.approx(LATENCY.alone(first.prompt_tokens, first.completion_tokens))
        uncached = second.prompt_tokens - second.cached_tokens
        assert two - one == pytest.approx(LATENCY.alone(uncached, second.completion_tokens))
        assert engine.busy_s == pytest.approx(two)
        await asyncio.sleep(5)  # idle
        await engine.close()  # forgets the prefix
        assert (await engine.evaluate(PROMPT, EXAMPLES[10:11])) == [first]
        assert engine.busy_s == pytest.approx(two + one)

    virtually(go)


def test_a_full_batch_takes_the_work_of_its_requests():
    latency = replace(LATENCY, max_num_seqs=16)

    async def go():
        engine = SimulatedEngine(latency=latency)
        outcomes, seconds = await timed(engine.evaluate(PROMPT, EXAMPLES))
        work = sum(latency.work(o.prompt_tokens - o.cached_tokens, o.completion_tokens) for o in outcomes)
        assert work <= seconds < 1.05 * work  # at the end the batch is not full
        assert [o.cached_tokens > 0 for o in outcomes] == [False] + [True] * (len(EXAMPLES) - 1)

    virtually(go)


def test_a_prefill_stalls_what_decodes_and_a_larger_batch_is_slower():
    async def go():
        engine = SimulatedEngine(latency=LATENCY)
        first = asyncio.create_task(timed(engine.evaluate(PROMPT, EXAMPLES[10:11])))
        await asyncio.sleep(0.8)  # in the middle of its decoding
        second = asyncio.create_task(timed(engine.evaluate(Prompt(BAD), EXAMPLES[11:12])))
        ((one,), end), ((two,), last) = await first, await second
        prefill, stall = one.prompt_tokens / 1000, two.prompt_tokens / 1000
        alone = (0.8 - prefill) / 0.011  # steps of a batch of one
        assert 0 < alone < one.completion_tokens
        together = one.completion_tokens - alone  # steps of a batch of two
        assert together < two.completion_tokens
        assert end == pytest.approx(0.8 + stall + 0.012 * together)
        assert last == pytest.approx(end + 0.011 * (two.completion_tokens - together))

    virtually(go)


def test_who_finds_no_place_waits_in_order():
    async def go():
        engine = SimulatedEngine(latency=replace(LATENCY, max_num_seqs=1))
        calls = [asyncio.create_task(timed(engine.evaluate(PROMPT, [example]))) for example in EXAMPLES[10:20]]
        ends = [end for _, end in await asyncio.gather(*calls)]
        assert ends == sorted(ends) and len(set(ends)) == len(ends)

    virtually(go)


def test_lengths_spread_around_their_mean_and_change_no_answer():
    async def go():
        return await SimulatedEngine(latency=LATENCY).evaluate(PROMPT, EXAMPLES)

    outcomes = virtually(go)
    lengths = [o.completion_tokens for o in outcomes]
    assert (min(lengths), max(lengths)) == (pytest.approx(50, abs=5), pytest.approx(150, abs=5))
    assert sum(lengths) / len(lengths) == pytest.approx(100, abs=5)
    without = asyncio.run(SimulatedEngine().evaluate(PROMPT, EXAMPLES))
    assert [(o.status, o.text, o.prompt_tokens) for o in outcomes] == [
        (o.status, o.text, o.prompt_tokens) for o in without
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_clock_of_steps_agrees_with_a_simulation_step_by_step(seed):
    """Random arrivals; answers of whole steps, which the plain simulation takes one at a time."""
    rng = random.Random(seed)
    latency = replace(LATENCY, prefill_rate=1e12, token_s=0.0, answer_tokens=20)  # steps of one length, no stalls
    arrivals = sorted(rng.sample(range(400), 60))

    async def ask(engine, step, i):
        await asyncio.sleep(step * latency.step_s)
        (outcome,), end = await timed(engine.evaluate(PROMPT, EXAMPLES[i : i + 1]))
        return round(end / latency.step_s), outcome.completion_tokens

    async def go():
        engine = SimulatedEngine(latency=latency)
        return await asyncio.gather(*(ask(engine, step, i) for i, step in enumerate(arrivals)))

    ends = virtually(go)
    expected, running, waiting, step = [None] * len(arrivals), {}, list(range(len(arrivals))), 0
    while waiting or running:
        running = {i: left for i, left in running.items() if left}
        while waiting and arrivals[waiting[0]] <= step and len(running) < latency.max_num_seqs:
            i = waiting.pop(0)
            running[i] = ends[i][1]
        step += 1
        running = {i: left - 1 for i, left in running.items()}
        expected = [step if running.get(i) == 0 else end for i, end in enumerate(expected)]
    assert [end for end, _ in ends] == expected


def test_a_caller_that_gives_up_stops_nobody_else():
    async def go():
        engine = SimulatedEngine(latency=LATENCY)
        first, second = (asyncio.create_task(engine.evaluate(PROMPT, EXAMPLES[i : i + 1])) for i in (10, 11))
        await asyncio.sleep(0.8)
        first.cancel()
        assert len(await second) == 1
        await asyncio.sleep(10)
        assert len(await engine.evaluate(PROMPT, EXAMPLES[12:13])) == 1

    virtually(go)


@pytest.mark.parametrize("ticks", range(6))
def test_an_instant_engine_takes_what_comes_in_the_middle(ticks):
    async def later(engine, i):
        for _ in range(ticks * i):
            await asyncio.sleep(0)
        return await engine.evaluate(PROMPT, EXAMPLES[i : i + 1])

    async def go():
        engine = SimulatedEngine(latency=Latency(math.inf, 0.0, 0.0, 4, answer_tokens=0))
        answers = [
            outcome.text for answer in await asyncio.gather(*(later(engine, i) for i in range(6))) for outcome in answer
        ]
        assert answers == [outcome.text for outcome in await SimulatedEngine().evaluate(PROMPT, EXAMPLES[:6])]
        assert asyncio.get_running_loop().time() == 0

    virtually(go)


def test_scale_is_the_speed_of_everything_and_real_time_works_too():
    async def go(scale):
        latency = replace(LATENCY, scale=scale)
        engine = SimulatedEngine(latency=latency)
        return (await timed(engine.evaluate(PROMPT, EXAMPLES[:8])))[1]

    assert virtually(lambda: go(0.01)) == pytest.approx(0.01 * virtually(lambda: go(1)))
    assert virtually(lambda: go(0)) == 0
    start = time.perf_counter()
    asyncio.run(go(0.1))
    assert time.perf_counter() - start > 0.99 * virtually(lambda: go(0.1))
