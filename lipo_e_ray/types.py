"""The values every module speaks in, the errors, and the shape glossary.

Shape glossary (the same letters in every docstring of this package):

    b   batch of prompts or latent points
    q   candidates proposed together
    m   observed prompts the surrogate is fitted on
    k   exemplars in a prompt, 0..8 (the slots of the decoder: 8)
    p   exemplars in the pool
    e   width of a sentence embedding (GTR-T5-Base 768, all-MiniLM-L6-v2 384)
    d   width of the joint latent z = [z_inst (16) || z_ex (16)], 32

Units: an *error* is a rate in [0, 1]; ``errors`` and ``evaluated`` are integer counts; a *fidelity* is a number
of validation examples, and always the first ones of one fixed shuffle, so a higher fidelity contains a lower one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

Message = dict[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


class LipoError(Exception):
    """Base of every error this package raises on purpose; its text is one line a user can act on."""


class InputError(LipoError):
    """What the user gave cannot be used (data, flag, config, model). The command line ends with status 2."""


class EngineError(LipoError):
    """An engine could not be started or did not answer after all retries."""


class SpentError(LipoError):
    """``--max-llm-calls`` does not pay for a call, which was therefore not sent."""


def digest(*parts: str) -> str:
    """Sixteen hex digits of SHA-256 over ``parts``, unambiguous about where one part ends."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Example:
    """One question with its reference answer; ``id`` is the hash of both."""

    question: str
    answer: str

    @cached_property
    def id(self) -> str:
        return digest("example", self.question, self.answer)


@dataclass(frozen=True)
class Prompt:
    """An instruction and up to 8 worked examples, in order; ``id`` is the hash of the content."""

    instruction: str
    exemplars: tuple[Example, ...] = ()

    @cached_property
    def id(self) -> str:
        return digest("prompt", self.instruction, *(example.id for example in self.exemplars))


CallKind = Literal["writing", "validation", "test"]
"""What a call is sent for: a text that the model writes, or an answer on one of the two splits."""

InstructionSource = Literal["seed", "ape", "file", "invbo"]
Stage = Literal["hyperband", "invbo", "baseline", "final"]


@dataclass(frozen=True)
class Origin:
    """Where a prompt came from: who wrote the instruction, which stage proposed it, in which bracket.

    ``cosine`` is, for text written by an inverter, the cosine of its embedding to the target embedding.
    """

    source: InstructionSource
    stage: Stage
    bracket: int
    cosine: float | None = None


class Status(StrEnum):
    """How one answer was judged. ``FAILED`` means no answer came: never counted as an error of the prompt."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What one LLM call gave for one (prompt, example); ``error`` says why, when the status is ``FAILED``."""

    prompt_id: str
    example_id: str
    status: Status
    text: str = ""
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Observation:
    """Integer counts of one prompt on a prefix of the validation split; unparseable answers are errors too."""

    prompt_id: str
    errors: int
    evaluated: int
    unparseable: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.unparseable <= self.errors <= self.evaluated:
            raise ValueError(f"expected 0 <= unparseable <= errors <= evaluated, got {self}")

    @property
    def error(self) -> float:
        """Error rate in [0, 1]; raises ``ZeroDivisionError`` when nothing was evaluated."""
        return self.errors / self.evaluated


@dataclass(frozen=True)
class Sampling:
    """How an engine samples. ``seed`` is per request (``None``: the engine's own); temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def fingerprint(self) -> str:
        return digest("sampling", json.dumps(asdict(self), sort_keys=True))


@dataclass(frozen=True)
class Completion:
    """One generated text. A non-empty ``error`` means that the request failed and ``text`` says nothing."""

    text: str
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Fingerprints:
    """What makes two outcomes comparable: the model's weights, the sampling, the chat template and rendering."""

    model: str
    sampling: str
    template: str


@dataclass(frozen=True)
class Proposal:
    """A prompt to evaluate and where it came from.

    ``info`` is plain JSON for the report: ``z`` (d floats), ``mean`` and ``std`` (the surrogate's prediction of the
    error before the evaluation), ``target`` (for InvBO: what the text was written for).
    """

    prompt: Prompt
    origin: Origin
    info: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Request:
    """``count`` prompts are wanted for the bracket of that index; this is all that they may depend on.

    ``first`` prompts were proposed for the same bracket before, in earlier chunks.
    ``observed``: prompts in the order of proposal, each with its observation at every rung it was at, the narrowest
    first. ``running``: prompts whose next evaluation is under way, some of them among the observed.
    """

    stage: Stage
    bracket: int
    count: int
    observed: tuple[tuple[Prompt, Observation], ...] = ()
    running: tuple[Prompt, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class Batch:
    """What came of a ``Request``: the proposals, fewer than asked for only when no more exist, and how many LLM calls
    it took to write them.
    """

    proposals: tuple[Proposal, ...]
    written: int = 0


@dataclass(frozen=True)
class Evaluation:
    """One prompt evaluated at one fidelity: its counts, the calls that failed for good, the calls paid now."""

    observation: Observation
    failed: int
    new_calls: int


@dataclass(frozen=True)
class RungResult:
    """One prompt at one rung. ``calls``: evaluations the search had charged when this result was observed."""

    bracket: int
    stage: Stage
    s: int
    rung: int
    fidelity: int
    observation: Observation
    promoted: bool
    calls: int


Generate = Callable[[Sequence[Sequence[Message]], Sequence[Sampling]], list[Completion]]
"""Blocking text generation, one sampling per conversation; every call is answered from the ledger if it can be."""
