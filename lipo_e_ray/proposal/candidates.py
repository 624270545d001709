"""``CandidateSource``: where prompts come from, what a source is told, and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.types import Prompt, Request


@dataclass(frozen=True)
class Candidate:
    """A prompt that a source wants evaluated. ``cosine``: see ``Origin``; ``info``: plain JSON for the report."""

    prompt: Prompt
    cosine: float | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchState:
    """All that a source may base its candidates on, besides what it was built with.

    ``instructions``: every text known, those given before the search first, in a fixed order. ``excluded``: ids of the
    prompts that are observed, running or in the batch already. ``posterior``: what the observations say about any
    prompt's error; ``None`` while there are too few of them, or when no GP can be fitted to them. ``fits``: whether
    the model's context holds a prompt.
    """

    request: Request
    instructions: tuple[str, ...]
    excluded: frozenset[str]
    posterior: PromptPosterior | None = None
    fits: Callable[[Prompt], bool] = lambda prompt: True

    def accepts(self, prompt: Prompt) -> bool:
        """Whether ``prompt`` may be proposed."""
        return prompt.id not in self.excluded and self.fits(prompt)

    def new(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Those of ``prompts`` that may be proposed, in their order, none twice."""
        by_id: dict[str, Prompt] = {}
        for prompt in prompts:
            by_id.setdefault(prompt.id, prompt)
        return [prompt for prompt in by_id.values() if self.accepts(prompt)]

    def after(self, batch: Sequence[Candidate]) -> SearchState:
        """The state for the next source, once ``batch`` is chosen."""
        return replace(self, excluded=self.excluded | {candidate.prompt.id for candidate in batch})


class CandidateSource(Protocol):
    """Proposes prompts. Implementations inherit ``CandidateSourceContract`` in ``tests/proposal/source_contract.py``.

    A new source is a class with this one method, named in ``proposer.lipo_e_sources`` for the stages it serves. For
    example, the best prompt so far with each instruction in the place of its own::

        class OtherInstructions:
            def propose(self, state, count, rng):
                if state.posterior is None:
                    return []
                best = state.posterior.prompts[state.posterior.ranking()[0]]
                prompts = state.new(Prompt(text, best.exemplars) for text in state.instructions)
                return [Candidate(prompts[i]) for i in state.posterior.choose_batch(prompts, count)]
    """

    def propose(self, state: SearchState, count: int, rng: np.random.Generator) -> list[Candidate]:
        """Up to ``count`` (1 or more) candidates, the best first; where there are fewer, later sources fill the batch.

        Their prompts are distinct and fit the model's context, and none is observed, running or in the batch already:
        ``state.new`` sees to that.
        The answer is a function of the arguments and of what the source was built with: all chance comes from ``rng``,
        and a call leaves nothing behind. So a resumed run proposes the same.
        """
        ...
