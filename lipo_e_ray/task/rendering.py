"""From a prompt and a question to chat messages."""

from __future__ import annotations

import json
from collections.abc import Callable

from lipo_e_ray.types import Example, Message, Prompt

CountTokens = Callable[[list[Message]], int]
"""Tokens of a chat by the model's own template, up to where the answer begins."""


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
