"""What the throughput benchmarks search for, and the engines that answer: made up, or as a real engine did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lipo_e_ray.config import RunConfig
from lipo_e_ray.engine.replay import ReplayEngine
from lipo_e_ray.engine.simulated import Latency, Load, SimulatedEngine
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.search.brackets import Bracket, hyperband_brackets
from lipo_e_ray.search.schedule import chunked
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Origin, Outcome, Prompt, Proposal, Request

QUESTION_CHARS, ANSWER_CHARS = 235, 290  # means of GSM8K
EXEMPLARS = 8


def full_pass(n: int, b_min: int) -> list[Bracket]:
    """One Hyperband pass over ``n`` examples, in chunks as a run without a limit has them."""
    return [chunked(bracket, RunConfig().hyperband.chunks) for bracket in hyperband_brackets(n, b_min, 2)]


def make_task(n: int) -> Task:
    """As long as GSM8K's texts are, and as many validation examples as wanted."""

    def examples(name: str, count: int) -> tuple[Example, ...]:
        return tuple(
            Example(f"{name} {i} ".ljust(QUESTION_CHARS, "q"), f"#### {i} ".ljust(ANSWER_CHARS, "a"))
            for i in range(count)
        )

    return Task("simulated", examples("pool", 64), examples("validation", n), examples("test", 1), "numeric")


def random_proposals(request: Request, pool: Sequence[Example]) -> list[Proposal]:
    """Distinct prompts of 8 exemplars."""
    first = 31 * request.bracket
    return [
        Proposal(
            Prompt(
                f"Instruction {i} of bracket {request.bracket}.",
                tuple(pool[(first + i + j * (1 + i % 7)) % len(pool)] for j in range(EXEMPLARS)),
            ),
            Origin("ape", request.stage, request.bracket),
        )
        for i in range(request.first, request.first + request.count)
    ]


def random_prompts(
    instructions: Sequence[str], pool: ExemplarPool, count: int, rng: np.random.Generator
) -> list[Prompt]:
    """``count`` different ones: any instruction with a random set of exemplars."""
    chosen = dict[str, Prompt]()
    while len(chosen) < count:
        prompt = Prompt(instructions[int(rng.integers(len(instructions)))], pool.random(rng))
        chosen[prompt.id] = prompt
    return list(chosen.values())


@dataclass(frozen=True)
class Workload:
    """What is searched for, and who answers: an engine that takes the time of a latency model."""

    task: Task
    propose: Callable[[Request, Sequence[Example]], list[Proposal]] = random_proposals
    make_engine: Callable[[Latency], SimulatedEngine] = lambda latency: SimulatedEngine(0, latency)

    def prompts(self, request: Request) -> list[Prompt]:
        """What is proposed in answer to ``request``."""
        return [proposal.prompt for proposal in self.propose(request, self.task.pool)]


def gsm8k_like(brackets: Sequence[Bracket]) -> Workload:
    """As many examples as ``brackets`` need."""
    return Workload(make_task(max(bracket.rungs[-1].fidelity for bracket in brackets)))


class RecordedEngine(SimulatedEngine):
    """The answers in a run's ledger, in the time that a latency model gives their lengths."""

    def __init__(self, ledger: Path, latency: Latency) -> None:
        super().__init__(0, latency)
        self._replay = ReplayEngine(ledger)
        with Ledger(ledger) as recorded:  # what one request found in the cache, each could have found there
            self._prefixes = {
                prompt_id: max(o.cached_tokens for o in recorded.outcomes(prompt_id).values())
                for prompt_id in recorded.prompts()
            }

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        outcomes = await self._replay.evaluate(prompt, examples)
        prefix = self._prefixes[prompt.id]
        cached = await self.serve(
            [Load(prompt.id, prefix, o.prompt_tokens - prefix, o.completion_tokens) for o in outcomes]
        )
        return [replace(o, cached_tokens=tokens) for o, tokens in zip(outcomes, cached, strict=True)]
