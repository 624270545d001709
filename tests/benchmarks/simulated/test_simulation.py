"""The simulated pass against numbers worked out by hand."""

import asyncio
import time
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.simulated import virtual_time
from benchmarks.simulated.simulation import Costs, LocalPool, simulate, simulate_one_by_one
from benchmarks.workload import full_pass, gsm8k_like
from lipo_e_ray.config import InvBOConfig, RunConfig
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.search.brackets import Bracket, Rung, cost, hyperband_brackets
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.schedule import full_schedule
from lipo_e_ray.types import Prompt, Request

WORKLOAD = gsm8k_like([Bracket(0, "hyperband", 0, (Rung(1, 8),))])
STEADY = Latency(prefill_rate=1e12, step_s=0.1, token_s=0.0, max_num_seqs=8, answer_tokens=1)
"""Every request takes one step of 0.1 s, up to 8 of them together."""


def test_hours_pass_at_once_and_in_order():
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def wait(hours):
            await asyncio.sleep(3600 * hours)
            seen.append((hours, round(loop.time() / 3600, 6)))

        await asyncio.gather(wait(3), wait(1), wait(2))
        return seen

    start = time.monotonic()
    assert virtual_time.run(main()) == [(1, 1), (2, 2), (3, 3)]
    assert time.monotonic() - start < 60


def test_a_deadlock_is_an_error_and_no_hang():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="every task waits for another one"):
        virtual_time.run(main())


def test_a_pass_of_one_bracket_takes_its_work_and_its_chain():
    brackets = [Bracket(0, "hyperband", 1, (Rung(4, 8), Rung(1, 16)))]
    job = simulate(brackets, engines=1, latency=STEADY, costs=Costs(), overlap=1)
    assert job.evaluations == cost(brackets) == 40
    assert job.work_s == pytest.approx(40 * 0.1 / 8)
    assert job.path_s == pytest.approx(0.2)
    assert job.makespan_s == pytest.approx(0.5), "four batches of 8 and one"
    assert job.busy_share == pytest.approx(1.0)
    two = simulate(brackets, engines=2, latency=STEADY, costs=Costs(), overlap=1)
    assert two.makespan_s == pytest.approx(0.3), "two batches of 8 on each, then one"
    assert two.lower_bound_s == pytest.approx(0.25)


def test_a_paused_pool_sends_nothing_until_it_goes_on():
    workload = gsm8k_like([Bracket(0, "hyperband", 0, (Rung(1, 8),))])

    async def main():
        loop, pool = asyncio.get_running_loop(), LocalPool(workload, 1, STEADY, 0.0)
        pool.pause(True)
        loop.call_later(5.0, pool.pause, False)
        await pool.evaluate(Prompt("Solve it."), [workload.task.validation[0].id], None, 0, partial(asyncio.sleep, 0))
        return loop.time()

    assert virtual_time.run(main()) == pytest.approx(5.1)


def test_a_chunk_waits_for_the_one_before_it_and_the_bound_knows():
    whole = Bracket(0, "hyperband", 1, (Rung(8, 8), Rung(1, 16)))
    jobs = {
        (chunk, overlap): simulate([replace(whole, chunk=chunk)], 64, STEADY, Costs(), overlap)
        for chunk in (0, 4, 2)
        for overlap in (0, 1)
    }
    paths = {key: round(job.path_s, 6) for key, job in jobs.items()}
    steps = {0: 2, 4: 3, 2: 5}
    assert paths == {(chunk, overlap): pytest.approx(0.1 * steps[chunk]) for chunk, overlap in jobs}
    assert {job.evaluations for job in jobs.values()} == {72}
    for job in jobs.values():
        assert job.path_s <= job.makespan_s == pytest.approx(job.path_s), "more engines than there is work"


def test_a_full_pass_is_a_run_s_without_a_limit():
    config, full = replace(RunConfig(), invbo=InvBOConfig(iterations=0)), full_pass(128, 10)
    ending = Ending((), 128, 0, 10)
    assert tuple(full) == full_schedule(config, ending).list
    assert [len(bracket.chunks) for bracket in full] == [2, 1, 1, 1]
    again = [prompt.id for first in (0, 4) for prompt in WORKLOAD.prompts(Request("hyperband", 1, 4, first=first))]
    assert again == [prompt.id for prompt in WORKLOAD.prompts(Request("hyperband", 1, 8))]


def test_overlapping_brackets_fill_more_engines():
    brackets = hyperband_brackets(64, 8, 2)
    apart, overlapped = (simulate(brackets, 8, STEADY, Costs(), overlap).makespan_s for overlap in (0, 4))
    assert overlapped < 0.8 * apart


def test_what_ray_costs_is_added_and_one_by_one_is_slower():
    brackets = hyperband_brackets(32, 4, 2)  # in the first rung a candidate alone fills half a batch
    free = simulate(brackets, 1, STEADY, Costs(), 1)
    assert simulate(brackets, 1, STEADY, Costs(rung_s=0.5), 1).makespan_s > free.makespan_s + 0.5
    assert simulate(brackets, 1, STEADY, Costs(propose_s=lambda m: 0.5), 1).makespan_s > free.makespan_s + 0.5
    seconds, steps = simulate_one_by_one(brackets, STEADY, lambda m: 0.0)
    assert seconds > 1.1 * free.makespan_s
    assert seconds == pytest.approx(sum(step.seconds for step in steps))
    assert [step.examples for step in steps] == [4, 8, 16, 32], "a rung of 4 to 32 doubles what is known, or starts"
    assert sum(step.evaluations for step in steps) == free.evaluations
    assert simulate_one_by_one(brackets, STEADY, lambda m: 1.0)[0] > seconds + len(brackets)
    assert free.even_bound_s(STEADY) >= free.lower_bound_s
