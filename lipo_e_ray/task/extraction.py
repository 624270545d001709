"""Reading answers: the number, the label or the final part that a text states, and texts in a form that compares.

Nothing here raises, whatever a model writes. An output is first cut where the model goes on to invent the next question
("Question:" or "Q:" at the start of a line).
"""

from __future__ import annotations

import re
import string
import unicodedata
from decimal import Decimal

MAX_MARKS = 30
"""Combining marks that may stand in a row. Unicode's normal forms take time by the square of that number, and no
language writes so many (Unicode Standard Annex 15, section 13, Stream-Safe Text Format)."""

_JOINER = "\u034f"  # put between two runs of marks
_BECOME_MARKS = "\u0f73\u0f75\u0f81"  # these are no marks, but normalisation makes two marks of each
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
    """The output up to where the model invents the next question. One at its very start only restates the question."""
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
    """The number that a final part states: what follows its last ``=``, else its first number."""
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


def is_number(answer: str) -> bool:
    """Whether a reference answer ends in ``#### N`` or is a number itself."""
    final = answer.rpartition("####")[2].strip().rstrip(".%")
    match = _NUMBER.fullmatch(final)
    return match is not None and _number(match) is not None


def nfkc(text: str) -> str:
    """``text`` in Unicode's compatibility form; a joiner splits runs of more than ``MAX_MARKS`` combining marks."""
    if text.isascii():
        return text
    run, parts = 0, []
    for letter in text:
        run = run + 1 if unicodedata.combining(letter) or letter in _BECOME_MARKS else 0
        if run > MAX_MARKS:
            parts.append(_JOINER)
            run = 1
        parts.append(letter)
    return unicodedata.normalize("NFKC", "".join(parts))


def normalise(text: str) -> str:
    """``text`` in lower case, without punctuation and quotes at its ends, each run of white space as one space."""
    text = nfkc(text).casefold()
    return " ".join(text.split()).strip(string.punctuation + string.whitespace + _QUOTES)


def final_part(output: str) -> str | None:
    """What follows the last ``####``, else the last "answer:" or "answer is", up to the end of its line.

    ``None``: the output holds no such mark.
    """
    parts = output.split("####")
    if len(parts) == 1:
        parts = _ANSWER_MARK.split(output)
    return parts[-1].strip().partition("\n")[0] if len(parts) > 1 else None


def label(answer: str) -> str:
    """The label that a reference answer states: its marked final part, else all of it."""
    final = final_part(answer)
    return normalise(answer if final is None else final)
