"""A language model that is a formula: instant, deterministic, learnable; with a latency model for scaling studies."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.types import (
    Completion,
    Example,
    Fingerprints,
    Message,
    Outcome,
    Prompt,
    Sampling,
    Status,
    digest,
)

ACTIONS = ("Solve", "Work through", "Read", "Think about", "Break down", "Answer", "Analyse", "Study")
OBJECTS = ("the problem", "each question", "the exercise", "the word problem", "the task", "every part of the question")
MANNERS = ("carefully", "step by step", "one step at a time", "in a few sentences", "with simple words", "in order")
ENDINGS = ("Give the final number on the last line.", "Check your result before you answer.",
           "Show the calculation first.", "Write only what is needed.", "End with the answer.",
           "Name the numbers that matter.")
UNPARSEABLE_SHARE = 0.1  # of the answers that are not correct


@dataclass(frozen=True)
class Latency:
    """How long a batching engine takes; rates in tokens/s, ``scale`` multiplies every delay (0.1: ten times faster).

    Prompts are prefilled one after another, all but their cached prefix; up to ``max_num_seqs`` sequences then
    decode side by side, each at ``decode_rate``.
    """

    prefill_rate: float
    decode_rate: float
    max_num_seqs: int
    scale: float = 1.0


def _uniform(*parts: str) -> float:
    """A number in [0, 1) that depends on ``parts`` only: the same in every process."""
    return int(digest("simulated", *parts), 16) / 16**16


def _tokens(text: str) -> int:
    return len(text) // 4 + 1


def instruction_quality(instruction: str, seed: int = 0) -> float:
    """Mean of its words' hidden values, in [0, 1): texts that share words are alike, so there is something to learn."""
    words = re.findall(r"[a-z']+", instruction.lower())
    return sum(_uniform("word", str(seed), word) for word in words) / len(words) if words else 0.0


def exemplar_quality(exemplars: Sequence[Example], seed: int = 0) -> float:
    """0 without exemplars; else in [0, 1): hidden value of each, and more of them help less and less."""
    if not exemplars:
        return 0.0
    mean = sum(_uniform("exemplar", str(seed), example.id) for example in exemplars) / len(exemplars)
    return mean * (1 - 0.5 ** len(exemplars))


class SimulatedEngine:
    """An ``Engine`` whose answers follow from ``seed``, the prompt and the example alone.

    P(correct) = 0.05 + 0.45 * instruction quality + 0.45 * exemplar quality; an example is answered correctly when
    its difficulty, nine parts its own and one part of the pair's, lies below it. So better prompts solve a
    superset, nearly, of what worse ones solve: paired comparisons tell more than independent ones, as in reality.
    """

    def __init__(self, seed: int = 0, latency: Latency | None = None) -> None:
        self._seed = seed
        self._latency = latency
        self._prefill = asyncio.Lock()
        self._slots = asyncio.Semaphore(latency.max_num_seqs if latency else 1)
        self._cached_prefixes: set[str] = set()

    @property
    def fingerprints(self) -> Fingerprints:
        return Fingerprints(digest("simulated", str(self._seed)), Sampling().fingerprint, digest("simulated-template"))

    def probability(self, prompt: Prompt) -> float:
        """P(correct) of ``prompt`` over all examples there could be: the optimum a test can compare with."""
        return (0.05 + 0.45 * instruction_quality(prompt.instruction, self._seed)
                + 0.45 * exemplar_quality(prompt.exemplars, self._seed))

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._answer(prompt, example) for example in examples)))

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        pairs = zip(conversations, samplings, strict=True)
        return list(await asyncio.gather(*(self._continue(messages, sampling) for messages, sampling in pairs)))

    async def close(self) -> None:
        self._cached_prefixes.clear()

    async def _answer(self, prompt: Prompt, example: Example) -> Outcome:
        seed = str(self._seed)
        difficulty = (0.9 * _uniform("difficulty", seed, example.id)
                      + 0.1 * _uniform("pair", seed, prompt.id, example.id))
        if difficulty < self.probability(prompt):
            status, text = Status.CORRECT, example.answer
        elif _uniform("unparseable", seed, prompt.id, example.id) < UNPARSEABLE_SHARE:
            status, text = Status.UNPARSEABLE, "I do not know."
        else:
            status, text = Status.WRONG, "#### wrong"
        prefix = _tokens(prompt.instruction) + sum(_tokens(e.question) + _tokens(e.answer) for e in prompt.exemplars)
        new = _tokens(example.question)
        cached = await self._wait(prompt.id, prefix, new, _tokens(text))
        return Outcome(prompt.id, example.id, status, text, "", prefix + new, cached, _tokens(text))

    async def _continue(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        content = "\n".join(message["content"] for message in messages)
        rng = random.Random(hashlib.sha256(f"{self._seed}|{sampling.fingerprint}|{content}".encode()).digest())
        text = f"{rng.choice(ACTIONS)} {rng.choice(OBJECTS)} {rng.choice(MANNERS)}. {rng.choice(ENDINGS)}"
        await self._wait(content, _tokens(content), 0, _tokens(text))
        return Completion(text, "", _tokens(content), 0, _tokens(text))

    async def _wait(self, key: str, prefix: int, new: int, completion: int) -> int:
        """Spend the time of one request; returns how many prompt tokens came from the prefix cache."""
        if self._latency is None:
            return 0
        async with self._slots:
            async with self._prefill:
                cached = prefix if key in self._cached_prefixes else 0
                self._cached_prefixes.add(key)
                await asyncio.sleep(self._latency.scale * (prefix - cached + new) / self._latency.prefill_rate)
            await asyncio.sleep(self._latency.scale * completion / self._latency.decode_rate)
        return cached
