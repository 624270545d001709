"""Instruction induction: the model is shown solved examples and asked what the instruction was.

After "Large Language Models are Human-Level Prompt Engineers" (APE), Zhou et al. 2023, section 3.1, forward mode.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from lipo_e_ray.config import APEConfig
from lipo_e_ray.data.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.types import Generate, Message, Sampling, Task, digest

MIN_WORDS, MAX_WORDS = 3, 60

_CONTROL = re.compile(r"<\|.*?\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>", re.IGNORECASE)
_MARKUP = re.compile(r"```|`|</?[a-z][^>]*>|\*\*|\{|\}|\\[a-z]+|https?:|^#|\|", re.IGNORECASE)
_SOLVED = re.compile(r"####|\\boxed|\d\s*[-+*/x×÷=]\s*\$?\d|=\s*\$?\d|\b(?:answer|result|total) (?:is|was):? *\$?\d",
                     re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:the |my |your |our )?(?:original |given |new )?(?:instructions?|prompts?|tasks?|output|rewritten)"
    r"(?: \d+)?(?: (?:was|were|is|are|given was))?\s*(?:to the \w+ )?[:\-]\s*)", re.IGNORECASE)
_LIST_MARKER = re.compile(r"^(?:[-*•–]|\(?\d{1,2}[.):]|\(?[a-z][.)])\s+", re.IGNORECASE)
_NOT_AN_INSTRUCTION = re.compile(
    r"^(?:i|i'm|i am|i've|we|he|she|they|it|this|sorry|sure|certainly|yes|no|as an ai|here|question|answer|input|output)"
    r"\b", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»"


def clean_instruction(text: str) -> str | None:
    """The first line of ``text`` that is an instruction, in one line of 3..60 words; ``None`` if it is none.

    Strips labels ("The instruction was:"), list markers and quotes; drops a last sentence that was cut off; refuses
    control tokens, markup, code, solved answers, questions and replies in the first person.
    """
    for line in text.strip().splitlines():
        candidate = _strip(line)
        if not candidate or candidate.endswith(":") and len(candidate.split()) < 12:
            continue  # an empty line, or a preamble: "Here is the instruction:"
        candidate = _whole_sentences(candidate)
        return candidate if _reads_as_instruction(candidate) else None
    return None


def _strip(line: str) -> str:
    """Remove spaces, quotes, list markers and labels, in whatever order they are nested."""
    previous = None
    line = re.sub(r"\s+", " ", line)
    while line != previous:
        previous = line
        line = _LABEL.sub("", _LIST_MARKER.sub("", line.strip().strip(_QUOTES + "*_").strip()))
    return line


def _whole_sentences(text: str) -> str:
    """As many whole leading sentences as fit in ``MAX_WORDS``; a text without a full stop stays as it is."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])[\"'”’]?\s+", text):
        whole = sentence[-1:] in ".!?"
        if kept and (not whole or len(" ".join([*kept, sentence]).split()) > MAX_WORDS):
            break
        kept.append(sentence)
    text = " ".join(kept)
    return text[:1].upper() + text[1:]


def _reads_as_instruction(text: str) -> bool:
    letters = sum(char.isalpha() or char in " '" for char in text)
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and text.isprintable()
        and letters >= 0.9 * len(text)
        and not text.endswith("?")
        and len(re.findall(r"\d+", text)) < 2  # two numbers: it retells an example instead of naming the task
        and not any(pattern.search(text) for pattern in (_CONTROL, _MARKUP, _SOLVED, _NOT_AN_INSTRUCTION))
    )
