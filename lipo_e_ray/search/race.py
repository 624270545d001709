"""One bracket under way, and what a set of complete rungs says: the parts that ``Hyperband`` walks with."""

from __future__ import annotations

from dataclasses import dataclass, field

from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.types import Evaluation, Observation, digest


@dataclass
class Race:
    """One bracket under way. ``rungs``: what came of each complete rung; no ``entrants``: the bracket is over."""

    bracket: Bracket  # narrowed to its budget, resized to its proposals
    entrants: tuple[str, ...]
    pace: str | None = None
    rungs: list[list[tuple[str, Evaluation, bool]]] = field(default_factory=list)

    def runners(self) -> tuple[str, ...]:
        """The prompts of the present rung and, where its gate needs it, the incumbent."""
        gated = self.pace is not None and len(self.rungs) + 1 < len(self.bracket.rungs)
        return (*self.entrants, self.pace) if gated and self.pace not in self.entrants else self.entrants

    def running_after(self, seen: int) -> tuple[str, ...]:
        """The prompts that were under way when ``seen`` rungs were complete."""
        if seen < len(self.rungs):
            return tuple(prompt_id for prompt_id, _, _ in self.rungs[seen])
        return self.entrants

    def close(self, seen: dict[str, Evaluation], seed: str) -> set[str]:
        """The present rung is complete: ``seen`` has an evaluation for each of ``runners``. Returns who goes up."""
        promoted = self._promoted(seen, seed)
        self.rungs.append([(prompt_id, seen[prompt_id], prompt_id in promoted) for prompt_id in self.entrants])
        self.entrants = tuple(prompt_id for prompt_id in self.entrants if prompt_id in promoted)
        return promoted

    def _promoted(self, seen: dict[str, Evaluation], seed: str) -> set[str]:
        above = len(self.rungs) + 1
        if above == len(self.bracket.rungs):
            return set()
        pace = seen.get(self.pace) if self.pace is not None else None
        eligible = [
            prompt_id
            for prompt_id in self.entrants
            if not seen[prompt_id].failed and _passes_gate(seen[prompt_id], pace)
        ]
        eligible.sort(
            key=lambda prompt_id: (
                seen[prompt_id].observation.errors,
                digest("tie", seed, str(self.bracket.index), prompt_id),
            )
        )
        return set(eligible[: self.bracket.rungs[above].size])


class Known:
    """What a set of complete rungs says: observations in the order of proposal, the incumbent, the calls charged."""

    def __init__(self, seed: str, top: int) -> None:
        self._seed = seed
        self._top = top
        self.calls = 0
        self.charged: dict[str, int] = {}
        self.observed: dict[str, list[Observation]] = {}  # of each prompt, each wider than the one before
        self.complete: dict[str, Observation] = {}

    def add(self, fidelity: int, prompt_id: str, evaluation: Evaluation) -> None:
        """Take in one prompt at one rung."""
        self.calls += max(0, fidelity - self.charged.get(prompt_id, 0))
        self.charged[prompt_id] = max(fidelity, self.charged.get(prompt_id, 0))
        observation, earlier = evaluation.observation, self.observed.get(prompt_id, [])
        if observation.evaluated > (earlier[-1].evaluated if earlier else 0):
            self.observed[prompt_id] = [*earlier, observation]
        if fidelity == self._top and not evaluation.failed:
            self.complete[prompt_id] = observation

    def incumbent(self) -> Observation | None:
        """The fewest errors at the highest fidelity, without failed calls; ties by a hash of the seed."""
        return min(
            self.complete.values(), default=None, key=lambda o: (o.errors, digest("incumbent", self._seed, o.prompt_id))
        )


def _passes_gate(evaluation: Evaluation, pace: Evaluation | None) -> bool:
    """In integers: excess <= sqrt(e (f - e) / f). Without a complete score of the incumbent nothing is gated."""
    if pace is None or pace.failed:
        return True
    errors, examples = pace.observation.errors, pace.observation.evaluated
    excess = evaluation.observation.errors - errors
    return excess <= 0 or excess * excess * examples <= errors * (examples - errors)
