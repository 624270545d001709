"""The one seam to the language model: the ``Engine`` protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from lipo_e_ray.types import Completion, Example, Fingerprints, Message, Outcome, Prompt, Sampling, digest


class Engine(Protocol):
    """A language model that answers a task's questions. The test of one inherits ``lipo_e_ray.testing.EngineContract``.

    ``evaluate`` and ``generate`` return one result per input, in the order of the input. A single bad request never
    raises: it comes back as ``Status.FAILED``, or with ``Completion.error``. Both raise ``EngineError`` when the whole
    engine is gone.
    """

    @property
    def fingerprints(self) -> Fingerprints:
        """Model, sampling and template of ``evaluate``'s outcomes."""
        ...

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        """Ask every example's question under ``prompt`` and judge the answers."""
        ...

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        """Continue each conversation with its own sampling: so the model writes instructions."""
        ...

    async def close(self) -> None:
        """Free the engine's processes and memory; a second call does nothing."""
        ...


def generation_key(fingerprints: Fingerprints, conversation: Sequence[Message], sampling: Sampling) -> str:
    """What a generated text is recorded under: the model, its template, the conversation and the sampling."""
    return digest(
        fingerprints.model, fingerprints.template, json.dumps(list(conversation), sort_keys=True), sampling.fingerprint
    )
