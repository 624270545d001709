"""What a run will cost, before anything is paid: its schedule in LLM calls, tokens and time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lipo_e_ray.app.display import clock
from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.inputs import EngineSpec, Inputs, load_inputs
from lipo_e_ray.latent.inversion import MAX_REQUESTS
from lipo_e_ray.search.hyperband import plan_brackets
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import Prompt

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


def tokens_per_call(config: RunConfig, inputs: Inputs) -> float:
    """Mean prompt tokens over random prompts of 0..max_exemplars exemplars (what the prefix cache holds included)."""
    rng = random.Random(config.seed)
    task, instructions = inputs.task, list(inputs.instructions)
    counts = []
    for _ in range(SAMPLED):
        exemplars = rng.sample(task.pool, min(rng.randint(0, config.max_exemplars), len(task.pool)))
        prompt = Prompt(rng.choice(instructions), tuple(exemplars))
        counts.append(inputs.engine.count_tokens(render(prompt, rng.choice(task.validation).question)))
    return sum(counts) / len(counts)


def print_plan(config: RunConfig, engine: EngineSpec | None = None) -> None:
    """Print schedule and cost. Raises ``InputError`` like the run itself would."""
    console = Console()
    inputs = load_inputs(config, engine)
    items = plan_items(config, inputs)
    table = Table(title=f"{inputs.task.name}, {config.model.name}: upper bounds")
    table.add_column("part")
    table.add_column("prompts x examples")
    table.add_column("LLM calls", justify="right")
    for item in items:
        table.add_row(item.name, item.schedule, f"{item.calls:,}")
    calls = sum(item.calls for item in items)
    if config.max_llm_calls:
        calls = min(calls, config.max_llm_calls)
    table.add_row(
        "all", f"--max-llm-calls {config.max_llm_calls:,}" if config.max_llm_calls else "", f"{calls:,}", style="bold"
    )
    console.print(table)
    prompt = tokens_per_call(config, inputs)
    console.print(
        f"tokens: ~{prompt:,.0f} a prompt, {calls * prompt / 1e6:,.1f} M in all before prefix caching; "
        f"answers up to {config.model.max_tokens} tokens, {calls * config.model.max_tokens / 1e6:,.1f} M "
        "at most"
    )
    console.print(f"time: {_time(config, calls)}")


def _time(config: RunConfig, calls: int) -> str:
    """A number only where one was measured: another model's speed is known when its engine has run for a minute."""
    rates = CPU_RATES.get(config.model.dtype)
    if rates and config.model.name == PROFILES["demo"].model.name:
        return "two cores without a GPU take " + ", ".join(
            f"~{clock(calls / rate)} with {part} ({rate:.3g} calls/s)" for part, rate in rates.items()
        )
    return f"{clock(calls / 10)} at 10 calls/s, {clock(calls / 100)} at 100 calls/s; the run shows your speed"
