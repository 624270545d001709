"""The two parts that ``Hyperband`` is made of: one bracket under way, and what a set of complete rungs says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.types import Evaluation, Observation, Prompt, digest


@dataclass
class Race:
    """One bracket under way.

    ``entrants`` are the prompts of the present rung; the bracket is over when there are none. ``rungs`` holds every
    complete rung: each of its prompts, the prompt's evaluation, and whether it was promoted. ``incumbent`` is the
    prompt that gates promotion; it is evaluated with the entrants, on the same examples.
    """

    bracket: Bracket  # narrowed to its budget, resized to its proposals
    entrants: tuple[Prompt, ...]
    incumbent: Prompt | None = None
    rungs: list[list[tuple[Prompt, Evaluation, bool]]] = field(default_factory=list)

    def to_evaluate(self) -> tuple[Prompt, ...]:
        """The entrants and, where the gate compares with it, the incumbent; nothing is gated after the last rung."""
        if self.incumbent is None or self.incumbent in self.entrants or len(self.rungs) + 1 >= len(self.bracket.rungs):
            return self.entrants
        return (*self.entrants, self.incumbent)

    def running_after(self, complete: int) -> tuple[Prompt, ...]:
        """The prompts that were under way when the first ``complete`` rungs were complete."""
        if complete < len(self.rungs):
            return tuple(prompt for prompt, _, _ in self.rungs[complete])
        return self.entrants

    def close(self, evaluations: Mapping[str, Evaluation], seed: str) -> None:
        """Complete the present rung: promote, and go on with the promoted.

        ``evaluations`` has one for the id of each prompt of ``to_evaluate``; ``seed`` breaks ties.
        """
        promoted = self._promoted(evaluations, seed)
        self.rungs.append([(prompt, evaluations[prompt.id], prompt.id in promoted) for prompt in self.entrants])
        self.entrants = tuple(prompt for prompt in self.entrants if prompt.id in promoted)

    def _promoted(self, evaluations: Mapping[str, Evaluation], seed: str) -> set[str]:
        above = len(self.rungs) + 1
        if above == len(self.bracket.rungs):
            return set()
        gate = evaluations.get(self.incumbent.id) if self.incumbent else None
        eligible = [
            prompt.id
            for prompt in self.entrants
            if not evaluations[prompt.id].failed and _passes(gate, evaluations[prompt.id])
        ]
        eligible.sort(
            key=lambda prompt_id: (
                evaluations[prompt_id].observation.errors,
                digest("tie", seed, str(self.bracket.index), prompt_id),
            )
        )
        return set(eligible[: self.bracket.rungs[above].size])


class History:
    """What a set of complete rungs says: every prompt's observations, the incumbent, the evaluations charged.

    ``top`` is the highest fidelity; ``seed`` breaks ties.
    """

    def __init__(self, seed: str, top: int) -> None:
        self._seed = seed
        self._top = top
        self.calls = 0
        self._charged: dict[str, int] = {}
        self._observed: dict[str, tuple[Prompt, list[Observation]]] = {}  # each observation wider than the one before
        self._complete: dict[str, tuple[Prompt, Observation]] = {}

    def add(self, fidelity: int, prompt: Prompt, evaluation: Evaluation) -> None:
        """Take in one prompt at one rung. It is charged the examples beyond its highest fidelity so far."""
        charged = self._charged.get(prompt.id, 0)
        self.calls += max(0, fidelity - charged)
        self._charged[prompt.id] = max(fidelity, charged)
        observation = evaluation.observation
        _, earlier = self._observed.get(prompt.id, (prompt, []))
        if observation.evaluated > (earlier[-1].evaluated if earlier else 0):
            self._observed[prompt.id] = (prompt, [*earlier, observation])
        if fidelity == self._top and not evaluation.failed:
            self._complete[prompt.id] = (prompt, observation)

    def observed(self) -> Iterator[tuple[Prompt, Observation]]:
        """Prompts in the order they were added, each with its observation at every rung, the narrowest first."""
        for prompt, observations in self._observed.values():
            for observation in observations:
                yield prompt, observation

    def incumbent(self) -> tuple[Prompt, Observation] | None:
        """The prompt with the fewest errors at the highest fidelity and no failed call; ties by a hash of the seed."""
        return min(
            self._complete.values(),
            default=None,
            key=lambda pair: (pair[1].errors, digest("incumbent", self._seed, pair[0].id)),
        )


def _passes(incumbent: Evaluation | None, entrant: Evaluation) -> bool:
    """Whether excess <= sqrt(e (f - e) / f), in integers: e errors of the incumbent on f examples.

    Everyone passes when there is no incumbent, or when a call of it failed for good at this rung.
    """
    if incumbent is None or incumbent.failed:
        return True
    errors, examples = incumbent.observation.errors, incumbent.observation.evaluated
    excess = entrant.observation.errors - errors
    return excess <= 0 or excess * excess * examples <= errors * (examples - errors)
