"""Which prompts fit the model's context, told by an upper bound of their tokens whose parts are measured once each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.task.rendering import CountTokens, render
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Message, Prompt

MARGIN = 1
"""Tokens for each message: two texts side by side may have more tokens than the two have apart."""

BLOCK = 64
"""A context is rounded up to a multiple of so many tokens."""

_STUB = "x"  # an instruction and a question of one token, at which the cost of the other parts is measured
# Such a text holds no special token of any model, and has at most as many tokens as letters, and one.
_PLAIN = re.compile(r"[A-Za-z0-9 .,;:'\"!?()-]*")


class PromptTokens:
    """How many tokens a prompt of ``task`` takes at most, with the longest question of validation and test.

    ``count_tokens`` measures each part of a prompt once, and the parts are added; ``MARGIN`` covers what the sum may
    lack where two parts meet. It can be pickled if ``count_tokens`` can, and takes along what was measured.
    """

    def __init__(self, task: Task, count_tokens: CountTokens) -> None:
        self.count_tokens = count_tokens
        self._bare = self._chat(_STUB)
        sample = Example(_STUB, _STUB)
        first, both = self._chat(_STUB, sample), self._chat(_STUB, sample, sample)
        self._later = max(0, (both - first) - (first - self._bare))  # a later exemplar costs more than the first one
        questions = {example.question: 0 for split in (task.validation, task.test) for example in split}
        for question in questions:
            questions[question] = count_tokens(render(Prompt(_STUB), question))
        self.longest_question = max(questions, key=questions.__getitem__, default=_STUB)
        self._question = questions.get(self.longest_question, self._bare)
        self._instructions = {"": 0}
        self._exemplars: dict[str, int] = {}
        for example in task.pool:
            self.exemplar(example)

    def _chat(self, instruction: str, *exemplars: Example) -> int:
        return self.count_tokens(render(Prompt(instruction, exemplars), _STUB))

    def instruction(self, text: str) -> int:
        """Tokens that ``text`` adds to a prompt."""
        if text not in self._instructions:
            self._instructions[text] = self._chat(text) - self._bare + 1  # one for the stub that it replaces
        return self._instructions[text]

    def exemplar(self, example: Example) -> int:
        """Tokens that ``example`` adds to a prompt, wherever it stands."""
        if example.id not in self._exemplars:
            self._exemplars[example.id] = self._chat(_STUB, example) - self._bare + self._later + 2 * MARGIN
        return self._exemplars[example.id]

    def asks(self, example: Example) -> bool:
        """Whether its question is no longer than the longest of validation and test."""
        return self.count_tokens(render(Prompt(_STUB), example.question)) <= self._question

    def of(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` with any question of validation and test, at most."""
        return self.total(self.instruction(prompt.instruction), prompt.exemplars)

    def total(self, instruction: int, exemplars: Iterable[Example]) -> int:
        """Tokens of a prompt whose instruction adds ``instruction`` tokens, at most."""
        return self._question + instruction + sum(map(self.exemplar, exemplars)) + 2 * MARGIN


@dataclass(frozen=True)
class ContextLimit:
    """Whether a prompt leaves room for the answer. ``tokens``: ``None`` where no one can tell: then everything fits.

    ``max_model_len`` and ``max_tokens``, which of it is kept for the answer, in tokens.
    """

    tokens: PromptTokens | None = None
    max_model_len: int = 0
    max_tokens: int = 0

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return self.max_model_len - self.max_tokens

    def fits(self, prompt: Prompt) -> bool:
        """Whether the model takes ``prompt`` with any question; the tokenizer is asked only where that is close."""
        if self.tokens is None:
            return True
        rest, text = self.tokens.total(0, prompt.exemplars), prompt.instruction
        if _PLAIN.fullmatch(text) and rest + len(text) + 1 <= self.room:
            return True
        return rest <= self.room and self.tokens.of(prompt) <= self.room

    def holds(self, messages: Sequence[Message], max_tokens: int) -> bool:
        """Whether the model takes this chat and has ``max_tokens`` left for its answer."""
        if self.tokens is None:
            return True
        return self.tokens.count_tokens(list(messages)) + max_tokens <= self.max_model_len


@dataclass(frozen=True)
class FittingTask:
    """``task`` without the rows that are too long for an exemplar, the largest number of exemplars of which some prompt
    fits, and one line for each of both that fell, to be told.
    """

    task: Task
    max_exemplars: int
    notes: tuple[str, ...] = ()


def fitting_task(task: Task, instructions: Iterable[str], max_exemplars: int, limit: ContextLimit) -> FittingTask:
    """What of ``task`` fits ``limit`` with ``instructions``, of which each must fit when it stands alone.

    The number of exemplars falls only where not even the shortest ones of the pool fit with the shortest instruction.
    Raises ``InputError`` where an instruction without exemplars does not fit with every question.
    """
    tokens = limit.tokens
    if tokens is None:
        return FittingTask(task, max_exemplars)
    texts = sorted(instructions, key=tokens.instruction)
    if (worst := tokens.of(Prompt(texts[-1]))) > limit.room:
        raise InputError(_too_long(worst, tokens.longest_question, texts[-1], limit))
    shortest = tokens.instruction(texts[0])
    pool = sorted(task.pool, key=tokens.exemplar)
    possible = min(max_exemplars, len(pool))
    most = max(k for k in range(possible + 1) if tokens.total(shortest, pool[:k]) <= limit.room)
    context = f"the context of {limit.max_model_len} tokens less {limit.max_tokens} for the answer"
    notes = []
    if most < possible:
        longer = up_to_block(tokens.total(shortest, pool[:possible]) + limit.max_tokens)
        notes.append(
            f"prompts get at most {most} exemplars instead of {max_exemplars}: with more, not even the shortest fit "
            f"{context}; where the model has more, raise it: --set model.max_model_len={longer}"
        )
        max_exemplars = most
    kept = tuple(example for example in task.pool if tokens.total(shortest, [example]) <= limit.room)
    if max_exemplars and len(kept) < len(pool):
        lost = len(pool) - len(kept)
        notes.append(f"{lost} of {len(pool)} rows of the pool are left out: an exemplar so long does not fit {context}")
        task = replace(task, pool=kept)
    task = replace(task, reserve=tuple(example for example in task.reserve if tokens.asks(example)))
    return FittingTask(task, max_exemplars, tuple(notes))


def up_to_block(tokens: int) -> int:
    """``tokens``, rounded up to a multiple of ``BLOCK``."""
    return -(-tokens // BLOCK) * BLOCK


def _too_long(taken: int, question: str, instruction: str, limit: ContextLimit) -> str:
    fewer = limit.max_model_len - taken
    ways = [f"where the model has more, --set model.max_model_len={up_to_block(taken + limit.max_tokens)}"]
    if fewer >= 1:
        ways.append(f"for shorter answers, --set model.max_tokens={fewer}")
    return (
        f"the longest question ({question[:40]!r}) with the longest instruction ({instruction[:40]!r}) takes {taken} "
        f"tokens, expected at most {limit.room} (a context of {limit.max_model_len} less {limit.max_tokens} for the "
        f"answer); shorten it, or: {'; or, '.join(ways)}"
    )
