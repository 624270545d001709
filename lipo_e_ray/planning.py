"""What a run will cost, before anything is paid: its schedule in LLM calls, tokens and time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.budget import TESTED, check_limit, divide, make_schedules
from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.inputs import Inputs
from lipo_e_ray.latent.inversion import MAX_REQUESTS
from lipo_e_ray.progress import clock
from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import OWN_SHARE, LimitedSchedule, Schedule
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import Batch, Evaluation, Observation, Origin, Prompt, Proposal, Request, RungResult

SAMPLED = 50  # prompts drawn to estimate the tokens of a call
APE_YIELD = 0.6  # distinct instructions per answer: 48 of 72 with the embedded model
NAMES = {"invbo": "InvBO", "baseline": "race for the baseline", "final": "finalists on more examples"}
# Limits that are tried in search of what a larger one gains: from 100 to 8.2 million, each about 1.2 times the last.
TRIED = tuple(
    digits * 10**zeros for zeros in range(1, 6) for digits in (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82)
)
# Calls/s of a whole demo run, start included, on 2 cores with these parts (docs/log.md).
CPU_RATES = {"bfloat16": {"AMX": 8.0}, "float32": {"AVX-512": 6.0, "AVX2": 2.5}}


@dataclass(frozen=True)
class Item:
    """One line of the plan. ``calls`` is an upper bound; ``schedule`` reads prompts x examples, rung by rung."""

    name: str
    schedule: str
    calls: int


def plan_items(config: RunConfig, inputs: Inputs) -> list[Item]:
    """The run's parts in order: its own walk, in which every answer is right half of the time.

    InvBO's gate, prompts that err on everything, and prompts met twice make parts of a real run cheaper; with a limit,
    what they leave buys more.
    """
    budget = divide(config, inputs)
    written = min(budget.writing, _to_write(config))
    items = [Item("APE", f"~{round(written * APE_YIELD)} instructions", written)] if written else []
    brackets = forecast(make_schedules(config, inputs, written), config)
    for bracket, calls in brackets:
        rungs = ", ".join(f"{rung.size} x {rung.fidelity}" for rung in bracket.rungs)
        name = f"Hyperband s={bracket.s}" if bracket.stage == "hyperband" else NAMES[bracket.stage]
        if items and bracket.stage == "invbo" and items[-1].name.startswith(name):
            count = sum(known.stage == "invbo" for known, _ in brackets)
            items[-1] = Item(f"{name}, {count} iterations", f"each: {rungs}", items[-1].calls + calls)
        else:
            items.append(Item(name, rungs, calls))
    if budget.test:
        items.append(Item("test", f"{TESTED} x {budget.test}", TESTED * budget.test))
    if budget.reserve:
        items.append(Item("calls that fail, again", "", budget.reserve))
    return items


def forecast(schedules: Sequence[Schedule], config: RunConfig) -> list[tuple[Bracket, int]]:
    """Every bracket of a walk whose prompts are all right half of the time, with the calls that it is charged."""
    rewriting = config.invbo.q * MAX_REQUESTS
    calls: dict[int, int] = {}

    def propose(request: Request) -> Batch:
        prompts = (Prompt(f"{request.bracket}.{request.first + i}") for i in range(request.count))
        written = rewriting if request.stage == "invbo" else 0
        calls[request.bracket] = calls.get(request.bracket, 0) + written
        origin = Origin("seed", request.stage, request.bracket)
        return Batch(tuple(Proposal(prompt, origin) for prompt in prompts), written)

    def evaluate(prompt: Prompt, n: int) -> Evaluation:
        return Evaluation(Observation(prompt.id, n // 2, n), 0, 0)

    hyperband = Hyperband(schedules, config.seed, config.hyperband.overlap)
    before = 0

    def on_rung(results: list[RungResult]) -> None:
        nonlocal before
        charged = hyperband.position().done
        calls[results[0].bracket] = calls.get(results[0].bracket, 0) + charged - before
        before = charged

    run_search(hyperband, propose, evaluate, on_rung=on_rung)
    return [(bracket, calls[bracket.index]) for bracket in hyperband.brackets]


def summary(config: RunConfig, inputs: Inputs) -> list[str]:
    """In a few lines, what a run does with its limit and what it does not reach; how many of the user's instructions
    it tries, where that is not all."""
    budget, lines = divide(config, inputs), list[str]()
    if budget.limit:
        lines.append(
            f"{budget.limit:,} LLM calls at most: {budget.writing:,} to write instructions, "
            f"{budget.for_search(budget.writing):,} to search, {TESTED * budget.test:,} for the test, "
            f"{budget.reserve:,} for calls that fail; what one does not need goes to the next"
        )
        lines += gains(config, inputs)
    [schedule] = make_schedules(config, inputs, budget.writing)
    own = sum(source == "file" for source in inputs.instructions.values())
    first = schedule.following([], schedule.limit or math.inf, False)
    room = sum(math.ceil(OWN_SHARE * chunk) for chunk in first.chunks) if first else 0
    if own > room:
        lines.append(
            f"{room} of your {own} instructions are tried without exemplars, the first ones; all of them may be used "
            "with exemplars; raise --max-llm-calls to try more"
        )
    return lines


def gains(config: RunConfig, inputs: Inputs) -> list[str]:
    """What the limit does not reach, and from about which limit on it always is; a line each, none without a limit.

    The limits that are tried do not depend on the present one, so that all limits are told the same.
    """
    limit, largest = config.max_llm_calls, TRIED[-1]
    if not 0 < limit < largest:
        return []
    reached = {there: _reach(config, inputs, there) for there in (limit, *TRIED) if there >= limit}
    found = []
    for words in reached[largest]:
        short = max((there for there in reached if words not in reached[there]), default=0)
        if words not in reached[limit]:
            found.append((min(there for there in reached if there > short), words))
    return [f"not reached: {words} (from about {calls:,} calls on)" for calls, words in sorted(found)]


def _reach(config: RunConfig, inputs: Inputs, limit: int) -> list[str]:
    """What a run with that limit does, and one with a smaller limit may not."""
    config = replace(config, max_llm_calls=limit)
    budget = divide(config, inputs)
    [schedule] = make_schedules(config, inputs, min(budget.writing, _to_write(config)))
    found, n, tested = [], len(inputs.task.validation), len(inputs.task.test)
    if not isinstance(schedule, LimitedSchedule) or schedule.ladder[-1] == n:
        found.append(f"prompts race up to all {n} validation examples")
    if config.invbo.iterations and (not isinstance(schedule, LimitedSchedule) or schedule.iterations):
        found.append("InvBO's new instructions")
    if config.test_share and budget.test == tested:
        found.append(f"a test on all {tested} test examples")
    return found


def _to_write(config: RunConfig) -> int:
    """Calls that APE probably takes."""
    return round(config.ape.num_instructions / APE_YIELD) if config.ape.use else 0


def tokens_per_call(config: RunConfig, inputs: Inputs) -> float | None:
    """Mean prompt tokens over random prompts of 0..max_exemplars exemplars (those in the prefix cache included).

    ``None`` where the engine cannot count.
    """
    rng = random.Random(config.seed)
    task, instructions = inputs.task, list(inputs.instructions)
    count_tokens, counts = inputs.engine.count_tokens, []
    if count_tokens is None:
        return None
    for _ in range(SAMPLED):
        exemplars = rng.sample(task.pool, min(rng.randint(0, inputs.max_exemplars), len(task.pool)))
        prompt = Prompt(rng.choice(instructions), tuple(exemplars))
        counts.append(count_tokens(render(prompt, rng.choice(task.validation).question)))
    return sum(counts) / len(counts)


@dataclass(frozen=True)
class Plan:
    """What a run will cost at most.

    ``calls``: of all parts together, but not more than ``limit`` (``--max-llm-calls``; 0: none). ``prompt_tokens``:
    mean of a call, those in the prefix cache included; ``None``: unknown. ``max_tokens``: of an answer. ``gains``: what
    larger limits reach, in words.
    """

    task: str
    model: str
    items: tuple[Item, ...]
    calls: int
    limit: int
    prompt_tokens: float | None
    max_tokens: int
    dtype: str
    gains: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [*((item.name, item.schedule, f"{item.calls:,}") for item in self.items), ("all", "", f"{self.calls:,}")]
        names, schedules, calls = (max(map(len, column)) for column in zip(*rows, strict=True))
        table = (f"{name:{names}}  {schedule:{schedules}}  {count:>{calls}}" for name, schedule, count in rows)
        title = f"{self.task}, {self.model}: LLM calls, upper bounds"
        return "\n".join([title, *table, *self.gains, self.tokens, self.time])

    @property
    def tokens(self) -> str:
        """The tokens of the whole run, in words."""
        if self.prompt_tokens is None:
            return f"tokens: unknown, as this engine does not count them; answers up to {self.max_tokens} tokens"
        return (
            f"tokens: ~{self.prompt_tokens:,.0f} a prompt, {self.calls * self.prompt_tokens / 1e6:,.1f} M in all "
            f"before prefix caching; answers up to {self.max_tokens} tokens, "
            f"{self.calls * self.max_tokens / 1e6:,.1f} M at most"
        )

    @property
    def time(self) -> str:
        """The run's time in words: as measured for the embedded model, at two assumed speeds for any other."""
        rates = CPU_RATES.get(self.dtype)
        if rates and self.model == PROFILES["demo"].model.name:
            return "time: two cores without a GPU take " + ", ".join(
                f"~{clock(self.calls / rate)} with {part} ({rate:.3g} calls/s)" for part, rate in rates.items()
            )
        slow, fast = clock(self.calls / 10), clock(self.calls / 100)
        return f"time: {slow} at 10 calls/s, {fast} at 100 calls/s; the run shows your speed"


def make_plan(config: RunConfig, inputs: Inputs) -> Plan:
    """The schedule and its cost. Raises ``InputError`` like the run itself would."""
    check_limit(config, inputs)
    items = tuple(plan_items(config, inputs))
    calls = sum(item.calls for item in items)
    return Plan(
        inputs.task.name,
        config.model.name,
        items,
        min(calls, config.max_llm_calls or calls),
        config.max_llm_calls,
        tokens_per_call(config, inputs),
        config.model.max_tokens,
        config.model.dtype,
        tuple(gains(config, inputs)),
    )
