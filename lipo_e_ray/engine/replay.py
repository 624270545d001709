"""Recorded answers as an engine: the same search again, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Completion, Example, Fingerprints, Message, Outcome, Prompt, Sampling, Status


class Recorded(Protocol):
    """Answers that a real engine gave: a ``Ledger``, or a table of the benchmarks."""

    @property
    def fingerprints(self) -> Fingerprints: ...

    def outcomes(self, prompt_id: str) -> Mapping[str, Outcome]:
        """Example id -> outcome."""
        ...

    def generation(self, key: str) -> Completion | None: ...

    def close(self) -> None: ...


class ReplayEngine:
    """Answers with what was recorded and records nothing; what was never recorded comes back as failed.

    ``source``: the path of a ledger, or anything ``Recorded``. Raises ``InputError`` when there is no such ledger.
    """

    def __init__(self, source: Path | Recorded) -> None:
        self._recorded: Recorded = Ledger(source) if isinstance(source, Path) else source
        self._name = source if isinstance(source, Path) else "the recording"

    @property
    def fingerprints(self) -> Fingerprints:
        return self._recorded.fingerprints

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        recorded = self._recorded.outcomes(prompt.id)
        return [
            recorded.get(example.id)
            or Outcome(
                prompt.id,
                example.id,
                Status.FAILED,
                error=self._missing(f"outcome of prompt {prompt.id} on example {example.id}"),
            )
            for example in examples
        ]

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        keys = [generation_key(self.fingerprints, *pair) for pair in zip(conversations, samplings, strict=True)]
        return [self._recorded.generation(key) or Completion("", self._missing(f"generation {key}")) for key in keys]

    async def close(self) -> None:
        self._recorded.close()

    def _missing(self, what: str) -> str:
        return f"{self._name} holds no {what}: expected a recorded one; run this with the model itself"
