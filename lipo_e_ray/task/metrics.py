"""Metrics: how an output is judged against a reference.

A metric's name is a string that holds all that the metric needs, so that it travels to engine processes and run folders
as it is: the name of a kind in ``METRICS``, with an argument where it takes one (``choice:["no", "yes"]``), or the
user's ``module:function``. ``full_name`` completes what the user wrote, and ``get_metric`` gives the function. No
metric of this module raises, whatever a model writes.

To add a metric, write a function ``(output, reference) -> Status`` and register its kind in ``METRICS``, at the end of
this module.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lipo_e_ray.task.extraction import cut, extract_number, final_part, is_number, label, nfkc, normalise
from lipo_e_ray.types import Example, InputError, Status

Metric = Callable[[str, str], Status]
"""Judges an output (first argument) against a reference (second)."""

MAX_LABELS = 20
"""A closed set of labels has at most so many."""


def numeric(output: str, reference: str) -> Status:
    """Equal as decimal numbers; the reference is read in the same way as the output."""
    value = extract_number(output)
    if value is None:
        return Status.UNPARSEABLE
    return Status.CORRECT if value == extract_number(reference) else Status.WRONG


def text(output: str, reference: str) -> Status:
    """Normalised exact match of the final part, or of the first line that is not empty where no part is marked."""

    def answer(written: str) -> str:
        final = final_part(written)
        return normalise(written.strip().partition("\n")[0] if final is None else final)

    given = answer(cut(output))
    if not given:
        return Status.UNPARSEABLE
    return Status.CORRECT if given == answer(reference) else Status.WRONG


def choice(labels: Sequence[str]) -> Metric:
    """The metric over a closed set of labels.

    In a marked final part the first label decides. Without such a part the whole output decides, if it mentions exactly
    one label, any number of times. Several different labels are ambiguous and none is nothing: both are unparseable,
    so that a prompt whose answers recite the options never scores by luck. One-letter labels ("A") must be upper case
    when they stand in a longer text, where "a" is an article.
    """
    longest_first = sorted({normalise(one) for one in labels}, key=len, reverse=True)
    patterns = "|".join(re.escape(one.upper()) if len(one) == 1 else f"(?i:{re.escape(one)})" for one in longest_first)
    mention = re.compile(rf"(?<!\w)(?:{patterns})(?!\w)")

    def judge(output: str, reference: str) -> Status:
        kept = " ".join(nfkc(cut(output)).split())
        final = final_part(nfkc(cut(output)))
        given = normalise(kept if final is None else final)
        if given not in longest_first:
            mentioned = [normalise(found) for found in mention.findall(kept if final is None else final)]
            if not mentioned or (final is None and len(set(mentioned)) > 1):
                return Status.UNPARSEABLE
            given = mentioned[0]
        return Status.CORRECT if given == label(reference) else Status.WRONG

    return judge


@dataclass(frozen=True)
class UserMetric:
    """A function of the user's, ``function(output, reference) -> bool | Status``, as a ``Metric`` of that name.

    It can be pickled wherever the function can. It raises ``InputError`` for any other result, and what the function
    itself raises.
    """

    function: Callable[[str, str], Any]
    name: str

    def __call__(self, output: str, reference: str) -> Status:
        verdict = self.function(output, reference)
        if isinstance(verdict, Status):
            return verdict
        if isinstance(verdict, bool):
            return Status.CORRECT if verdict else Status.WRONG
        raise InputError(f"metric {self.name}: expected bool or Status as its result, got {verdict!r:.60}")


def user_metric(function: Callable[[str, str], Any], name: str) -> Metric:
    """``function(output, reference) -> bool | Status`` as a metric. Raises ``InputError`` for what is no function."""
    if not callable(function):
        raise InputError(f"metric {name}: expected a function, got {type(function).__name__}")
    return UserMetric(function, name)


def _imported(name: str) -> Metric:
    """The metric of the function ``module:function``, whose module is looked for in the working directory as well."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may do anything when it is imported
        raise InputError(
            f"metric {name}: expected an importable module and a function in it, got {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct --metric module:function"
        ) from error
    return user_metric(found, name)


def choose_metric(examples: Sequence[Example]) -> str:
    """The metric the reference answers call for, by its full name.

    ``numeric`` when every answer ends in ``#### N`` or is a number; ``choice:[...]`` when the answers form a small
    closed set, each seen twice or more on average; else ``text``.
    """
    if all(is_number(example.answer) for example in examples):
        return "numeric"
    labels = {label(example.answer) for example in examples}
    if "" not in labels and len(labels) <= MAX_LABELS and 2 * len(labels) <= len(examples):
        return choice_name(examples)
    return "text"


def choice_name(examples: Sequence[Example]) -> str:
    """``choice:`` and the JSON list of the labels in ``examples``."""
    return "choice:" + json.dumps(sorted({label(example.answer) for example in examples}), ensure_ascii=False)


def full_name(wanted: str, examples: Sequence[Example]) -> str:
    """The name that ``get_metric`` takes for what the user wrote: ``auto`` and ``choice`` follow from ``examples``."""
    if wanted == "auto":
        return choose_metric(examples)
    kind = METRICS.get(wanted)
    return kind.complete(examples) if kind and kind.complete else wanted


def is_user_metric(name: str) -> bool:
    """Whether ``name`` is a ``module:function``: ``get_metric`` would run code that is not this package's."""
    return ":" in name and name.partition(":")[0] not in METRICS


def get_metric(name: str) -> Metric:
    """The metric of that full name: ``numeric``, ``text``, ``choice:[...]`` or ``module:function``.

    The last is imported: take it from the user's command line, from a run folder only by ``RunFolder.config_to_run``.
    Raises ``InputError`` when there is none, or when the user's function cannot be imported.
    """
    kind, colon, argument = name.partition(":")
    if kind in METRICS:
        return METRICS[kind].make(argument)
    if not (colon and kind and argument):
        raise InputError(f"--metric: expected auto, {', '.join(METRICS)} or module:function, got {name!r:.60}")
    return _imported(name)


def _choice_of(listed: str) -> Metric:
    try:
        labels = json.loads(listed)
    except (ValueError, RecursionError):
        labels = None
    if not (isinstance(labels, list) and labels and all(isinstance(x, str) and normalise(x) for x in labels)):
        got = f"choice:{listed}"
        raise InputError(f'--metric: expected choice:["label", ...] with one label or more, got {got!r:.60}')
    return choice(labels)


def _without_argument(name: str, metric: Metric) -> Callable[[str], Metric]:
    def make(argument: str) -> Metric:
        if argument:
            raise InputError(f"--metric: expected {name} alone, got {f'{name}:{argument}'!r:.60}")
        return metric

    return make


@dataclass(frozen=True)
class MetricKind:
    """How the metrics of one kind are made.

    ``make``: from the argument, which is the part of the full name after the first colon ("" where there is none), to
    the metric; raises ``InputError`` for an argument that it cannot use. ``complete``: for a kind whose argument
    follows from the data, from all examples of a task to the full name, where the user gave the kind alone.
    """

    make: Callable[[str], Metric]
    complete: Callable[[Sequence[Example]], str] | None = None


METRICS: dict[str, MetricKind] = {
    "numeric": MetricKind(_without_argument("numeric", numeric)),
    "choice": MetricKind(_choice_of, complete=choice_name),
    "text": MetricKind(_without_argument("text", text)),
}
"""The kinds of metrics by the name that ``--metric`` takes; any other name with a colon is a ``module:function``."""
