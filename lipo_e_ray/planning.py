"""What a run will cost, before anything is paid: its schedule in LLM calls, tokens and time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.inputs import Inputs
from lipo_e_ray.instructions.induction import fewest_calls
from lipo_e_ray.latent.inversion import MAX_REQUESTS
from lipo_e_ray.progress import clock
from lipo_e_ray.search.hyperband import plan_brackets
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import InputError, Prompt

SAMPLED = 50  # prompts drawn to estimate the tokens of a call
APE_YIELD = 0.6  # distinct instructions per answer: 48 of 72 with the embedded model
# Calls/s of a whole demo run, start included, on 2 cores with these parts (docs/log.md).
CPU_RATES = {"bfloat16": {"AMX": 8.0}, "float32": {"AVX-512": 6.0, "AVX2": 2.5}}


@dataclass(frozen=True)
class Item:
    """One line of the plan. ``calls`` is an upper bound; ``schedule`` reads prompts x examples, rung by rung."""

    name: str
    schedule: str
    calls: int


def plan_items(config: RunConfig, inputs: Inputs) -> list[Item]:
    """The run's parts in order. InvBO's gate and prompts met twice make a real run cheaper."""
    items = []
    if config.ape.use:
        items.append(
            Item("APE", f"~{config.ape.num_instructions} instructions", round(config.ape.num_instructions / APE_YIELD))
        )
    brackets = plan_brackets(config, len(inputs.task.validation), len(inputs.instructions))
    invbo = [bracket for bracket in brackets if bracket.stage == "invbo"]
    for bracket in brackets:
        if bracket.stage != "invbo":
            name = "seeds" if bracket.stage == "seeds" else f"Hyperband s={bracket.s}"
            items.append(Item(name, ", ".join(f"{r.size} x {r.fidelity}" for r in bracket.rungs), bracket.cost()))
    if invbo:
        rungs = ", ".join(f"{r.size} x {r.fidelity}" for r in invbo[0].rungs)
        items.append(Item(f"InvBO, {len(invbo)} iterations", f"each: {rungs}", sum(b.cost() for b in invbo)))
        items.append(
            Item(
                "InvBO's rewriting",
                f"up to {MAX_REQUESTS} requests a candidate",
                len(invbo) * config.invbo.q * MAX_REQUESTS,
            )
        )
    items.append(Item("test", f"2 x {len(inputs.task.test)}", 2 * len(inputs.task.test)))
    return items


def left_for_search(config: RunConfig, inputs: Inputs, paid: int) -> int:
    """What of ``max_llm_calls`` is left for validation: less the ``paid`` calls of APE, rewriting and test at most."""
    reserved = 2 * len(inputs.task.test) + config.invbo.iterations * config.invbo.q * MAX_REQUESTS
    return config.max_llm_calls - paid - reserved


def check_limit(config: RunConfig, inputs: Inputs) -> None:
    """Raises ``InputError`` where ``max_llm_calls`` cannot pay for one prompt on all validation examples."""
    paid, needed = fewest_calls(config.ape) if config.ape.use else 0, len(inputs.task.validation)
    lacking = needed - left_for_search(config, inputs, paid)
    if config.max_llm_calls and lacking > 0:
        fewer = f", or ask the model for fewer instructions, which takes {paid}: --ape-num-instructions" if paid else ""
        raise InputError(
            f"call budget: expected {config.max_llm_calls + lacking} calls or more (one prompt on all {needed} "
            f"validation examples, and what is done besides), got {config.max_llm_calls}; raise --max-llm-calls{fewer}"
        )


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
    mean of a call, those in the prefix cache included; ``None``: unknown. ``max_tokens``: of an answer.
    """

    task: str
    model: str
    items: tuple[Item, ...]
    calls: int
    limit: int
    prompt_tokens: float | None
    max_tokens: int
    dtype: str

    def __str__(self) -> str:
        rows = [*((item.name, item.schedule, f"{item.calls:,}") for item in self.items), ("all", "", f"{self.calls:,}")]
        names, schedules, calls = (max(map(len, column)) for column in zip(*rows, strict=True))
        table = (f"{name:{names}}  {schedule:{schedules}}  {count:>{calls}}" for name, schedule, count in rows)
        return "\n".join([f"{self.task}, {self.model}: LLM calls, upper bounds", *table, self.tokens, self.time])

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
    )
