"""A run's recorded answers as an engine: the same search again, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.results.ledger import Ledger
from lipo_e_ray.types import Completion, Example, Fingerprints, Message, Outcome, Prompt, Sampling, Status


class ReplayEngine:
    """Answers from the ledger of a run, which stays as it is; what was never recorded comes back as failed.

    Raises ``InputError`` when there is no such ledger.
    """

    def __init__(self, ledger_path: Path) -> None:
        self._path = ledger_path
        self._ledger = Ledger(ledger_path)

    @property
    def fingerprints(self) -> Fingerprints:
        return self._ledger.fingerprints

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        recorded = self._ledger.outcomes(prompt.id)
        return [recorded.get(example.id) or Outcome(prompt.id, example.id, Status.FAILED, error=self._missing(
            f"outcome of prompt {prompt.id} on example {example.id}")) for example in examples]

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        keys = [generation_key(self.fingerprints, *pair) for pair in zip(conversations, samplings, strict=True)]
        return [self._ledger.generation(key) or Completion("", self._missing(f"generation {key}")) for key in keys]

    async def close(self) -> None:
        self._ledger.close()

    def _missing(self, what: str) -> str:
        return f"{self._path} holds no {what}: expected a recorded one; run this with the model itself"
