"""From a prompt and a question to chat messages, and the check that the longest such chat fits the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Message, Prompt

CountTokens = Callable[[list[Message]], int]


def render(prompt: Prompt, question: str) -> list[Message]:
    """The chat that asks ``question``: each exemplar as a user and an assistant turn, then instruction and question.

    The instruction stands in front of the last question alone. Measured with SmolLM2 on ``arithmetic`` against the
    system message and the front of the first or of every user turn: there, exemplars drown the instruction; here both
    count, and the best prompt is better (docs/log.md). All but the question is still one prefix that an engine caches.
    """
    messages: list[Message] = []
    for exemplar in prompt.exemplars:
        messages.append({"role": "user", "content": exemplar.question})
        messages.append({"role": "assistant", "content": exemplar.answer})
    last = f"{prompt.instruction}\n\n{question}" if prompt.instruction else question
    return [*messages, {"role": "user", "content": last}]


_SAMPLE = tuple(Example(f"<question {i}>", f"<answer {i}>") for i in (1, 2))
TEMPLATE: str = json.dumps(
    [render(Prompt(instruction, _SAMPLE[:k]), "<question>") for instruction in ("", "<instruction>") for k in (0, 1, 2)]
)
"""What ``render`` makes of placeholders. It goes into the template fingerprint: any change of rendering changes it."""


def check_context(
    task: Task,
    longest_instruction: str,
    max_exemplars: int,
    max_model_len: int,
    max_tokens: int,
    count_tokens: CountTokens,
) -> None:
    """Make sure that no prompt of this run overflows the model's context, so that no run dies midway.

    The worst case is built, not sampled: ``longest_instruction``, the ``max_exemplars`` longest exemplars of the pool
    and the longest question of validation and test, all in tokens, and ``max_tokens`` left for the answer.
    ``count_tokens`` counts a chat with the model's own template. Raises ``InputError`` when that does not fit.
    """
    questions = {example.question for split in (task.validation, task.test) for example in split}
    question = max(questions, key=lambda text: count_tokens(render(Prompt(""), text)), default="")
    exemplars = sorted(task.pool, key=lambda example: count_tokens(render(Prompt("", (example,)), "")), reverse=True)

    @cache  # text of a megabyte takes seconds
    def tokens(k: int) -> int:
        return count_tokens(render(Prompt(longest_instruction, tuple(exemplars[:k])), question))

    room = max_model_len - max_tokens
    if tokens(max_exemplars) <= room:
        return
    fits = next(k for k in range(max_exemplars + 1) if tokens(k) > room) - 1
    advice = (
        f"set max_exemplars to {fits} or less, or raise model.max_model_len"
        if fits >= 0
        else "not even a prompt without exemplars fits: raise model.max_model_len or lower model.max_tokens"
    )
    raise InputError(
        f"the longest prompt with {max_exemplars} exemplars takes {tokens(max_exemplars)} tokens, expected at most "
        f"{room} (model.max_model_len {max_model_len} less {max_tokens} for the answer): {advice}"
    )
