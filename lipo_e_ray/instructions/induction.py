"""Instruction induction: the model is shown solved examples and asked what the instruction was.

After "Large Language Models are Human-Level Prompt Engineers" (APE), Zhou et al. 2023, section 3.1, forward mode. The
request itself shows how it is done, on other tasks: without that a small model answers the questions instead.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

from lipo_e_ray.config import APEConfig
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Generate, Message, Sampling, digest

MIN_WORDS, MAX_WORDS = 3, 60  # of an instruction
ATTEMPTS = 8  # calls for each instruction wanted, at most
TOP_P, MAX_TOKENS = 0.7, 64
DEMONSTRATIONS = 4  # other tasks shown per request

# Other tasks: solved examples and their instruction. Small models copy the style of these instructions, so each says in
# its own way how to go about the task.
_OTHER_TASKS = (
    (
        (("5 km", "5 km * 1000 = 5000 m"), ("12 km", "12 km * 1000 = 12000 m")),
        "Convert the distance to metres. Show the multiplication first and end with the result.",
    ),
    (
        (
            ("Ana is older than Ben. Ben is older than Cy. Who is oldest?", "Ana > Ben > Cy, so Ana."),
            ("Dan sits left of Eva. Eva sits left of Flo. Who is in the middle?", "Dan, Eva, Flo, so Eva."),
        ),
        "Think about the clues step by step, put the people in order, and then name the right person.",
    ),
    (
        (("banana", "b-a-n-a-n-a: a, a, a. Vowels: 3"), ("window", "w-i-n-d-o-w: i, o. Vowels: 2")),
        "Spell the word, list its vowels one by one, and finish with how many there are.",
    ),
    (
        (("I loved every minute of this film.", "loved. Positive"), ("The waiter was rude.", "rude. Negative")),
        "Read the review carefully. Name the word that shows the feeling, then decide what the feeling is.",
    ),
    (
        (
            ("What day comes three days after Monday?", "Tuesday, Wednesday, Thursday. Thursday"),
            ("What day comes two days after Saturday?", "Sunday, Monday. Monday"),
        ),
        "You are good with calendars. Count forward one day at a time and write the final day at the end.",
    ),
    (
        (
            ("apple, rose, cherry", "rose. It is a flower, the others are fruits."),
            ("chair, table, horse", "horse. It is an animal, the others are furniture."),
        ),
        "Find what does not belong with the others, and explain your choice in one short sentence.",
    ),
    (
        (
            ("Mia left her umbrella on the bus. Where is it?", "Mia left it on the bus, so it is on the bus."),
            ("Tim ate before he slept. What did he do first?", "Tim ate, then he slept, so he ate first."),
        ),
        "Answer the question about the story. First repeat the fact that matters, then draw the conclusion from it.",
    ),
    (
        (("pear, fig, kiwi", "fig, kiwi, pear"), ("west, east, north", "east, north, west")),
        "Put the words in the order of the alphabet, and check the order before you answer.",
    ),
)
_ASKS = (
    "What was the instruction?",
    "Write the instruction that tells a student how to answer like this.",
    "Which instruction leads from each input to its output?",
    "Describe in one or two sentences what to do with each input.",
)

_CONTROL = re.compile(r"<\|.*?\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>", re.IGNORECASE)
_MARKUP = re.compile(r"`|</?[a-z][^>]*>|\*\*|[{}|_]|\\[a-z]+|https?:|^#", re.IGNORECASE)
_SOLVED = re.compile(
    r"####|\\boxed|\d\s*[-+*/x=]\s*\$?\d|=\s*\$?\d|\b(?:answer|result|total) (?:is|was):? *\$?\d", re.IGNORECASE
)
_LABEL = re.compile(
    r"^(?:(?:the|my|your|our) )?(?:(?:original|given|new) )?(?:instructions?|prompts?|tasks?|output|rewritten)(?: \d+)?"
    r"(?: (?:was|were|is|are|given was))?\s*(?:to the \w+ )?[:\-]\s*",
    re.IGNORECASE,
)
_LIST_MARKER = re.compile(r"^(?:[-*•\u2013]|\(?\d{1,2}[.):]|\(?[a-z][.)])\s+", re.IGNORECASE)
_NOT_AN_INSTRUCTION = re.compile(
    r"^(?:(?:i|i'm|i am|i've|we|he|she|they|it|this|sorry|sure|certainly|yes|no|as an ai|here|there)\b"
    r"|(?:question|answer|input):)",
    re.IGNORECASE,
)
_QUOTES = "\"'\u201c\u201d\u2018\u2019\u00ab\u00bb"


Holds = Callable[[Sequence[Message], int], bool]
"""Whether the model takes a chat and has so many tokens left for its answer (``ContextLimit.holds``)."""


def generate_instructions(
    generate: Generate,
    task: Task,
    config: APEConfig,
    seed: int,
    holds: Holds = lambda messages, max_tokens: True,
    max_calls: float = math.inf,
) -> list[str]:
    """Up to ``config.num_instructions`` instructions the model wrote, cleaned and distinct, in the order they came.

    Each request shows ``config.examples_per_request`` solved pool examples, or as many of them as the context
    ``holds``, and has a seed of its own: the result follows from ``seed`` and the model's answers. Fewer instructions
    come back when ``ATTEMPTS`` times as many calls, or ``max_calls``, did not give enough. Two are distinct when they
    differ in more than case, punctuation and space; they also differ so from the shipped seeds and from the
    instructions in the request.
    """
    shown = [instruction for _, instruction in _OTHER_TASKS]
    seen = {identity(text) for text in (*SEED_INSTRUCTIONS, *shown)}
    instructions: list[str] = []
    asked, most = 0, int(min(most_calls(config), max_calls))
    while (missing := config.num_instructions - len(instructions)) > 0 and asked < most:
        batch = range(asked, min(asked + _batch_size(missing), most))
        asked = batch.stop
        requests = [_request(task, config, seed, number, holds) for number in batch]
        for completion in generate([chat for chat, _ in requests], [sampling for _, sampling in requests]):
            text = None if completion.error else clean_instruction(completion.text)
            if text is not None and identity(text) not in seen:
                seen.add(identity(text))
                instructions.append(text)
    return instructions[: config.num_instructions]


def most_calls(config: APEConfig) -> int:
    """LLM calls that ``generate_instructions`` makes at most."""
    return ATTEMPTS * config.num_instructions


def _batch_size(missing: int) -> int:
    return max(8, 3 * missing // 2)  # about two of three answers are new instructions


def identity(text: str) -> str:
    """``text`` without case, punctuation and space: equal for texts that read the same."""
    return re.sub(r"[\W_]+", "", text.lower())


def longest_request(examples: Sequence[Example], count_tokens: Callable[[list[Message]], int]) -> int:
    """Tokens of the longest request that shows ``examples``, its answer included."""
    beginnings = range(len(_OTHER_TASKS))  # their number is a multiple of that of the ways to ask
    return max(count_tokens(_conversation(number, examples)) for number in beginnings) + MAX_TOKENS


def _request(task: Task, config: APEConfig, seed: int, number: int, holds: Holds) -> tuple[list[Message], Sampling]:
    request_seed = int(digest("ape", str(seed), str(number))[:8], 16) >> 1  # 31 bits
    examples = random.Random(request_seed).sample(task.pool, min(config.examples_per_request, len(task.pool)))
    messages = _conversation(number, examples)
    while len(examples) > 1 and not holds(messages, MAX_TOKENS):
        examples = examples[:-1]
        messages = _conversation(number, examples)
    return messages, Sampling(config.temperature, TOP_P, MAX_TOKENS, seed=request_seed)


def _conversation(number: int, examples: Sequence[Example]) -> list[Message]:
    # Few different beginnings, so that the engine's prefix cache holds them.
    ask = _ASKS[number % len(_ASKS)]
    messages: list[Message] = []
    for i in range(DEMONSTRATIONS):
        pairs, instruction = _OTHER_TASKS[(number + i) % len(_OTHER_TASKS)]
        messages.append({"role": "user", "content": _show(pairs, ask)})
        messages.append({"role": "assistant", "content": instruction})
    messages.append({"role": "user", "content": _show([(e.question, e.answer) for e in examples], ask)})
    return messages


def _show(pairs: Sequence[tuple[str, str]], ask: str) -> str:
    solved = "\n\n".join(f"Input: {question}\nOutput: {answer}" for question, answer in pairs)
    return f"{solved}\n\n{ask}"


def clean_instruction(text: str) -> str | None:
    """The first line of ``text`` that says something, cleaned, if it is an instruction of 3..60 words; else ``None``.

    Cleaning strips labels ("The instruction was:"), list markers and quotes, and drops a last sentence that was cut
    off. Refused are control tokens, markup, code, solved answers, questions and replies in the first person. A clean
    text comes back unchanged.
    """
    for line in text.strip().splitlines():
        candidate = _strip(line)
        if not candidate or (candidate.endswith(":") and len(candidate.split()) < 12):
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
    for sentence in re.split(rf"(?<=[.!?])[{_QUOTES}]?\s+", text):
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
        and text.count('"') % 2 == 0
        and len(re.findall(r"\d+", text)) < 2  # two numbers: it retells an example instead of naming the task
        and not any(pattern.search(text) for pattern in (_CONTROL, _MARKUP, _SOLVED, _NOT_AN_INSTRUCTION))
    )
