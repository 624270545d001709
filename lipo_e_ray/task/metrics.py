"""Extracting and comparing answers.

A metric judges an output against a reference: ``numeric``, ``choice:[labels]``, ``text`` or the user's
``module:function``. A metric's name is a plain string that holds all it needs, so it travels to engine processes as it
is; ``choose_metric`` writes it. No metric here raises, whatever a model writes. An output is first cut where the model
goes on to invent the next question ("Question:" or "Q:" at the start of a line).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal

from lipo_e_ray.types import Example, InputError, Status

Metric = Callable[[str, str], Status]

MAX_LABELS = 20
"""More different answers than this are not a closed set."""

MAX_MARKS, _JOINER, _TO_MARKS = 30, "\u034f", "\u0f73\u0f75\u0f81"  # the last: no marks, but become two each
"""Combining marks in a row: Unicode's normal forms take the square of their number, and no language writes so many
(Unicode Standard Annex 15, section 13, Stream-Safe Text Format)."""

_QUOTES = "\u2018\u2019\u201c\u201d\u00ab\u00bb"
_REGENERATED = re.compile(r"^[ \t>*#]*(?:Question|Q)\b[ \t\d*]*:", re.IGNORECASE | re.MULTILINE)
_ANSWER_MARK = re.compile(r"\banswer\b[ \t*]*(?:is\b[ \t*]*:?|:)[ \t*]*", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?|\.\d+"
# A minus is a sign only where no operand stands before it: "-5", "(-5", "= -$5", but not in "9-5" or the bullet "- 5".
# "3/4" is a fraction; "12 / 6" and "12/6 =" are calculations that the model still has to do.
_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.])(?P<sign>(?<![)\]])-)?[$€£]?(?P<top>{_UNSIGNED})(?:/(?P<bottom>{_UNSIGNED})(?!\s*=))?",
    re.ASCII,
)


def cut(output: str) -> str:
    """The output up to where the model invents the next question; a question it opens with is a restated one."""
    for match in _REGENERATED.finditer(output):
        if output[: match.start()].strip():
            return output[: match.start()]
    return output


def _number(match: re.Match[str]) -> Decimal | None:
    top, bottom = (Decimal((match[part] or "1").replace(",", "")) for part in ("top", "bottom"))
    try:
        value = top / bottom if match["bottom"] else top
        return -value if match["sign"] else value
    except ArithmeticError:  # a division by zero, or a million digits
        return None


def _stated(part: str) -> Decimal | None:
    """The number a final part states: its first one, or what follows its last ``=``."""
    line = part.strip().partition("\n")[0]
    match = _NUMBER.search(line.rpartition("=")[2]) or _NUMBER.search(line)
    return _number(match) if match else None


def extract_number(output: str) -> Decimal | None:
    """The number an output ends on: after the last ``####``, else in the last ``\\boxed{}``, else the last number.

    ``$``, ``%``, thousands separators, markdown and units are left aside (``50%`` is 50); ``3/4`` is 0.75.
    ``None``: there is no number.
    """
    text = cut(output).replace("\u2212", "-").replace("{,}", ",").replace("\\$", "$")
    text = _LATEX_FRACTION.sub(r"\1/\2", text)
    for part in [*reversed(text.split("####")[1:]), *reversed(_BOXED.findall(text))]:
        value = _stated(part)
        if value is not None:
            return value
    numbers = list(_NUMBER.finditer(text))
    return _number(numbers[-1]) if numbers else None


def numeric(output: str, reference: str) -> Status:
    """Equal as decimal numbers; the reference is read in the same way as the output."""
    value = extract_number(output)
    if value is None:
        return Status.UNPARSEABLE
    return Status.CORRECT if value == extract_number(reference) else Status.WRONG


def _nfkc(text: str) -> str:
    """In compatibility form, with at most ``MAX_MARKS`` combining marks in a row (a joiner goes in between)."""
    if text.isascii():
        return text
    run, parts = 0, []
    for letter in text:
        run = run + 1 if unicodedata.combining(letter) or letter in _TO_MARKS else 0
        if run > MAX_MARKS:
            parts.append(_JOINER)
            run = 1
        parts.append(letter)
    return unicodedata.normalize("NFKC", "".join(parts))


def _normalise(text: str) -> str:
    """Case, punctuation and quotes at the ends, and runs of white space do not count."""
    text = _nfkc(text).casefold()
    return " ".join(text.split()).strip(string.punctuation + string.whitespace + _QUOTES)


def _final(output: str) -> str | None:
    """What follows the last ``####``, else the last "answer:" or "answer is", on that line; ``None``: no such mark."""
    parts = output.split("####")
    if len(parts) == 1:
        parts = _ANSWER_MARK.split(output)
    return parts[-1].strip().partition("\n")[0] if len(parts) > 1 else None


def text(output: str, reference: str) -> Status:
    """Normalised exact match of the final part, or of the first line that is not empty where no part is marked."""

    def answer(written: str) -> str:
        final = _final(written)
        return _normalise(written.strip().partition("\n")[0] if final is None else final)

    given = answer(cut(output))
    if not given:
        return Status.UNPARSEABLE
    return Status.CORRECT if given == answer(reference) else Status.WRONG


def _label(answer: str) -> str:
    """The label a reference answer states: its marked final part, else all of it."""
    final = _final(answer)
    return _normalise(answer if final is None else final)


def _choice(labels: Sequence[str]) -> Metric:
    """Metric over a closed set of labels.

    A marked final part decides by the first label in it. Without one the whole output decides, if it mentions exactly
    one label, any number of times. Several different labels are ambiguous and none is nothing: both are unparseable,
    so that a prompt whose answers recite the options never scores by luck. One-letter labels ("A") must be upper case
    when they stand in a longer text, where "a" is an article.
    """
    longest_first = sorted({_normalise(label) for label in labels}, key=len, reverse=True)
    patterns = "|".join(
        re.escape(label.upper()) if len(label) == 1 else f"(?i:{re.escape(label)})" for label in longest_first
    )
    mention = re.compile(rf"(?<!\w)(?:{patterns})(?!\w)")

    def choice(output: str, reference: str) -> Status:
        kept = " ".join(_nfkc(cut(output)).split())
        final = _final(_nfkc(cut(output)))
        given = _normalise(kept if final is None else final)
        if given not in longest_first:
            mentioned = [_normalise(found) for found in mention.findall(kept if final is None else final)]
            if not mentioned or (final is None and len(set(mentioned)) > 1):
                return Status.UNPARSEABLE
            given = mentioned[0]
        return Status.CORRECT if given == _label(reference) else Status.WRONG

    return choice


def choose_metric(examples: Sequence[Example]) -> str:
    """The metric the reference answers call for.

    ``numeric`` when every answer ends in ``#### N`` or is a number; ``choice:[...]`` when the answers form a small
    closed set, each seen twice or more on average; else ``text``.
    """
    if all(_is_number(example.answer) for example in examples):
        return "numeric"
    labels = {_label(example.answer) for example in examples}
    if "" not in labels and len(labels) <= MAX_LABELS and 2 * len(labels) <= len(examples):
        return choice_name(examples)
    return "text"


def _is_number(answer: str) -> bool:
    final = answer.rpartition("####")[2].strip().rstrip(".%")
    match = _NUMBER.fullmatch(final)
    return match is not None and _number(match) is not None


def choice_name(examples: Sequence[Example]) -> str:
    """``choice:`` and the JSON list of the labels in ``examples``."""
    return "choice:" + json.dumps(sorted({_label(example.answer) for example in examples}), ensure_ascii=False)


def is_user_metric(name: str) -> bool:
    """Whether ``name`` is a ``module:function``: ``get_metric`` would run code that is not this package's."""
    return ":" in name and not name.startswith("choice:")


def get_metric(name: str) -> Metric:
    """The metric ``name`` stands for: ``numeric``, ``text``, ``choice:[...]`` or ``module:function``.

    The last is imported: take it from the user's command line, from a run folder only by ``RunFolder.config_to_run``.
    Raises ``InputError`` when there is none, or when the user's function cannot be imported.
    """
    if name == "numeric":
        return numeric
    if name == "text":
        return text
    kind, colon, rest = name.partition(":")
    if kind == "choice":
        return _choice(_labels(rest))
    if not (colon and kind and rest):
        raise InputError(f"metric: expected auto, numeric, choice, text or module:function, got {name!r}")
    return _user_metric(name, kind, rest)


def _labels(listed: str) -> list[str]:
    try:
        labels = json.loads(listed)
    except ValueError:
        labels = None
    if not (isinstance(labels, list) and labels and all(isinstance(x, str) and _normalise(x) for x in labels)):
        raise InputError(f'metric: expected choice:["label", ...] with one label or more, got {"choice:" + listed!r}')
    return labels


def _user_metric(name: str, module: str, function: str) -> Metric:
    """The user's ``function(output, reference) -> bool | Status``, looked for in the working directory as well."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        judge = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may do anything when it is imported
        raise InputError(
            f"metric {name}: expected an importable module and a function in it, got {type(error).__name__}: {error}"
        ) from error
    if not callable(judge):
        raise InputError(f"metric {name}: expected a function, got {type(judge).__name__}")

    def metric(output: str, reference: str) -> Status:
        verdict = judge(output, reference)
        if isinstance(verdict, Status):
            return verdict
        if isinstance(verdict, bool):
            return Status.CORRECT if verdict else Status.WRONG
        raise InputError(f"metric {name}: expected bool or Status as its result, got {verdict!r}")

    return metric
