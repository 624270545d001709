"""Seeded one-step and two-step arithmetic word problems in GSM8K's form: the embedded task, no download needed.

An answer is worked, one short sentence per step, and ends ``#### N`` (Cobbe et al. 2021, GSM8K), so that a small model
that copies the form answers in about 20 tokens.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable

from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError

TWO_STEP_SHARE = 0.15
"""Share of two-step problems. docs/log.md has the error rates of prompts that it was chosen by."""

_LARGEST = 9  # largest number in a question
_LARGEST_RESULT = 99  # largest result of a step
_MOST = 100_000  # problems in all: far fewer than the templates can give, so that a new one is drawn quickly

_NAMES = ("Ada", "Ben", "Carla", "Diego", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lena", "Marco",
          "Nina", "Omar", "Paula", "Ravi", "Sofia", "Tom", "Vera")  # fmt: skip
_THINGS = ("apples", "books", "buttons", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "muffins",
           "oranges", "pencils", "photos", "shells", "stamps", "stickers", "stones", "tickets", "toys")  # fmt: skip

# A problem is a question and one sentence per step. "[a + b]" is a step, written out as "9 + 7 = 16"; r is its result.
_ONE_STEP: tuple[tuple[str, ...], ...] = (
    ("{name} has {a} {things} and {friend} has {b} {things}. How many {things} do they have together?",
     "Together they have [a + b] {things}."),
    ("{name} found {a} {things} on Monday and {b} {things} on Tuesday. How many {things} did {name} find in all?",
     "{name} found [a + b] {things}."),
    ("{name} has {a} {things} and gets {b} more from {friend}. How many {things} does {name} have now?",
     "{name} has [a + b] {things}."),
    ("{name} had {a} {things} and gave {b} of them to {friend}. How many {things} does {name} have left?",
     "{name} has [a - b] {things} left."),
    ("{name} buys {a} bags with {b} {things} in each bag. How many {things} does {name} buy?",
     "{name} buys [a * b] {things}."),
    ("{name} makes {a} {things} every day. How many {things} does {name} make in {b} days?",
     "{name} makes [a * b] {things}."),
    ("{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
     "Each friend gets [a / b] {things}."),
)  # fmt: skip
_TWO_STEP: tuple[tuple[str, ...], ...] = (
    ("{name} found {a} {things} on Monday, {b} on Tuesday and {c} on Wednesday. How many {things} did {name} find?",
     "{name} found [a + b] {things} by Tuesday.", "In all {name} found [r + c] {things}."),
    ("{name} buys {a} bags with {b} {things} in each bag and gets {c} more. How many {things} does {name} have now?",
     "{name} buys [a * b] {things}.", "Then {name} has [r + c] {things}."),
    ("{name} has {a} {things} and gets {b} more. Then {name} gives {c} to {friend}. How many {things} are left?",
     "{name} has [a + b] {things}.", "Then {name} has [r - c] {things} left."),
)  # fmt: skip
_STEP = re.compile(r"\[(\w) (.) (\w)\]")
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv,
}  # fmt: skip


def _solve(sentences: list[str], numbers: dict[str, int]) -> str | None:
    """The worked answer, or ``None`` when a step does not come out as a whole number in 2.._LARGEST_RESULT."""
    lines = []
    for sentence in sentences:
        ((left, sign, right),) = _STEP.findall(sentence)
        x, y = numbers[left], numbers[right]
        result = _OPERATORS[sign](x, y)
        if (sign == "/" and x % y) or not 2 <= result <= _LARGEST_RESULT:
            return None
        lines.append(_STEP.sub(f"{x} {sign} {y} = {result}", sentence))
        numbers = numbers | {"r": result}
    return "\n".join([*lines, f"#### {numbers['r']}"])


def _draw(rng: random.Random) -> Example:
    """One problem; numbers are drawn until every step comes out."""
    question, *sentences = rng.choice(_TWO_STEP if rng.random() < TWO_STEP_SHARE else _ONE_STEP)
    name, friend = rng.sample(_NAMES, 2)
    words = {"name": name, "friend": friend, "things": rng.choice(_THINGS)}
    while True:
        numbers = {letter: rng.randint(2, _LARGEST) for letter in "abc"}
        answer = _solve(sentences, numbers)
        if answer is not None:
            return Example(question.format(**words, **numbers), answer.format(**words))


def generate_arithmetic(pool: int, validation: int, test: int, seed: int) -> Task:
    """Three splits of ``pool``, ``validation`` and ``test`` problems, no question twice; the same for the same seed.

    Raises ``InputError`` when more than 100,000 problems are asked for.
    """
    total = pool + validation + test
    if total > _MOST:
        raise InputError(
            f"arithmetic: expected at most {_MOST} examples in all, got {total}; lower --qa-pool-size, "
            "--set task.validation_size or --set task.test_size"
        )
    rng = random.Random(f"arithmetic {seed}")
    found: dict[str, Example] = {}
    while len(found) < total:
        example = _draw(rng)
        found.setdefault(example.question, example)
    examples = tuple(found.values())
    return Task(
        name="arithmetic",
        pool=examples[:pool],
        validation=examples[pool : pool + validation],
        test=examples[pool + validation :],
        metric="numeric",
    )
