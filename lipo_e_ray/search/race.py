"""The two parts that ``Hyperband`` is made of: one bracket under way, and what a set of complete rungs says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.types import Evaluation, Observation, Prompt, digest

ENOUGH = 8  # prompts that have the same examples wrong, before those count as too hard for all


@dataclass
class Race:
    """One bracket under way.

    ``entrants`` are the prompts that are evaluated next: the oldest chunk of the first rung without an answer, or the
    prompts of a later rung. ``rungs`` holds every complete rung: each of its prompts, the prompt's evaluation, and
    whether it was promoted. ``incumbent`` is the prompt that gates promotion; it is evaluated with the entrants, on
    the same examples.
    """

    bracket: Bracket  # narrowed to its budget, resized to its proposals
    start: int  # the tick of its first step
    incumbent: Prompt | None = None
    proposed: list[tuple[Prompt, ...]] = field(default_factory=list)  # the chunks of the first rung
    chunks: list[list[tuple[Prompt, Evaluation]]] = field(default_factory=list)  # those that are evaluated
    rungs: list[list[tuple[Prompt, Evaluation, bool]]] = field(default_factory=list)
    promoted: tuple[Prompt, ...] = ()
    written: int = 0  # calls that were paid to write the prompts

    @property
    def wanted(self) -> int:
        """Prompts of the next chunk, which is not proposed yet; 0: all are."""
        sizes = self.bracket.chunks
        return sizes[len(self.proposed)] if len(self.proposed) < len(sizes) else 0

    @property
    def entrants(self) -> tuple[Prompt, ...]:
        """See the class; none where a chunk is waited for, and none when the bracket is over."""
        if self.rungs:
            return self.promoted
        return self.proposed[len(self.chunks)] if len(self.chunks) < len(self.proposed) else ()

    @property
    def over(self) -> bool:
        """Whether nothing is left to propose or to evaluate."""
        return not self.wanted and not self.entrants

    @property
    def steps(self) -> int:
        """How many steps are complete: chunks of the first rung, then rungs."""
        return len(self.chunks) + max(0, len(self.rungs) - 1)

    def enter(self, prompts: Sequence[Prompt], seed: str = "") -> list[tuple[Prompt, Evaluation, bool]]:
        """The next chunk. With fewer than are wanted, no more exist: the bracket shrinks to those it has.

        The entries of the first rung, where that is complete now, as in ``observe``.
        """
        exhausted = len(prompts) < self.wanted
        if prompts:
            self.proposed.append(tuple(prompts))
        if exhausted:
            self.bracket = self.bracket.resized(max(1, sum(map(len, self.proposed))))
            if not self.proposed:
                self.proposed.append(())
            if len(self.chunks) == len(self.proposed):
                return self._close([pair for chunk in self.chunks for pair in chunk], seed)
        return []

    def to_evaluate(self) -> tuple[Prompt, ...]:
        """The entrants and, where the gate compares with it, the incumbent; nothing is gated after the last rung."""
        entrants, last = self.entrants, len(self.rungs) + 1 >= len(self.bracket.rungs)
        if self.incumbent is None or self.incumbent in entrants or last or not entrants:
            return entrants
        return (*entrants, self.incumbent)

    def running_after(self, steps: int) -> tuple[Prompt, ...]:
        """The prompts that were under way when the first ``steps`` steps were complete.

        Those of the first rung count as under way until it is complete: any of them may go up.
        """
        rungs = steps - len(self.bracket.chunks) + 1
        if rungs < 1:
            return tuple(prompt for chunk in self.proposed for prompt in chunk)
        if rungs < len(self.rungs):
            return tuple(prompt for prompt, _, _ in self.rungs[rungs])
        return self.promoted

    def observed_after(self, steps: int) -> Iterator[tuple[int, Prompt, Evaluation]]:
        """Fidelity, prompt and evaluation of everything in the first ``steps`` steps."""
        first = self.bracket.rungs[0].fidelity
        for chunk in self.chunks[:steps]:
            yield from ((first, prompt, evaluation) for prompt, evaluation in chunk)
        rungs = max(1, steps - len(self.bracket.chunks) + 1)  # the race may be further on than the schedule
        later = zip(self.bracket.rungs[1:], self.rungs[1:rungs], strict=False)
        for rung, entries in later:
            yield from ((rung.fidelity, prompt, evaluation) for prompt, evaluation, _ in entries)

    def observe(self, evaluations: Mapping[str, Evaluation], seed: str) -> list[tuple[Prompt, Evaluation, bool]]:
        """Take in the answers to ``to_evaluate``, by prompt id; what they were, and which of them went up.

        When the last chunk is in, the entries of the whole first rung. ``seed`` breaks ties.
        """
        entries = [(prompt, evaluations[prompt.id]) for prompt in self.entrants]
        gate = evaluations.get(self.incumbent.id) if self.incumbent else None
        if not self.rungs:
            self.chunks.append(entries)
            if self.wanted or len(self.chunks) < len(self.proposed):
                return [(prompt, evaluation, False) for prompt, evaluation in entries]
            entries = [pair for chunk in self.chunks for pair in chunk]
        return self._close(entries, seed, gate)

    def _close(
        self, entries: Sequence[tuple[Prompt, Evaluation]], seed: str, gate: Evaluation | None = None
    ) -> list[tuple[Prompt, Evaluation, bool]]:
        """Complete the present rung: promote, and go on with the promoted."""
        promoted = self._promoted(entries, seed, gate)
        self.rungs.append([(prompt, evaluation, prompt.id in promoted) for prompt, evaluation in entries])
        self.promoted = tuple(prompt for prompt, _ in entries if prompt.id in promoted)
        return self.rungs[-1]

    def _promoted(self, entries: Sequence[tuple[Prompt, Evaluation]], seed: str, gate: Evaluation | None) -> set[str]:
        above = len(self.rungs) + 1
        if above == len(self.bracket.rungs):
            return set()
        eligible = [
            prompt.id
            for prompt, evaluation in entries
            if not evaluation.failed and _shows_promise(evaluation) and _passes(gate, evaluation)
        ]
        errors = {prompt.id: evaluation.observation.errors for prompt, evaluation in entries}
        eligible.sort(key=lambda key: (errors[key], digest("tie", seed, str(self.bracket.index), key)))
        return set(eligible[: self.bracket.rungs[above].size])


class History:
    """What a set of complete rungs says: every prompt's observations, the incumbent, the evaluations charged.

    ``seed`` breaks ties.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self.calls = 0
        self._charged: dict[str, int] = {}
        self._observed: dict[str, tuple[Prompt, list[Observation]]] = {}  # each observation wider than the one before
        self._complete: dict[int, dict[str, tuple[Prompt, Observation]]] = {}  # by fidelity, those without a failure

    def add(self, fidelity: int, prompt: Prompt, evaluation: Evaluation) -> None:
        """Take in one prompt at one rung. It is charged the examples beyond its highest fidelity so far."""
        charged = self._charged.get(prompt.id, 0)
        self.calls += max(0, fidelity - charged)
        self._charged[prompt.id] = max(fidelity, charged)
        observation = evaluation.observation
        _, earlier = self._observed.get(prompt.id, (prompt, []))
        if observation.evaluated > (earlier[-1].evaluated if earlier else 0):
            self._observed[prompt.id] = (prompt, [*earlier, observation])
        if not evaluation.failed:
            self._complete.setdefault(fidelity, {})[prompt.id] = (prompt, observation)

    def observed(self) -> Iterator[tuple[Prompt, Observation]]:
        """Prompts in the order they were added, each with its observation at every rung, the narrowest first."""
        for prompt, observations in self._observed.values():
            for observation in observations:
                yield prompt, observation

    def incumbent(self) -> tuple[Prompt, Observation] | None:
        """The first of the ``leaders``, if it is at the highest fidelity that any prompt reached."""
        return next(iter(self.leaders()), None)

    def leaders(self) -> list[tuple[Prompt, Observation]]:
        """Every prompt without a failed call at its highest fidelity: highest fidelity first, then fewest errors.

        Ties by a hash of the seed.
        """
        widest: dict[str, tuple[int, Prompt, Observation]] = {}
        for fidelity in sorted(self._complete):
            for key, (prompt, observation) in self._complete[fidelity].items():
                if self._charged[key] == fidelity:
                    widest[key] = (fidelity, prompt, observation)
        order = sorted(
            widest.values(),
            key=lambda entry: (-entry[0], entry[2].errors, digest("incumbent", self._seed, entry[1].id)),
        )
        return [(prompt, observation) for _, prompt, observation in order]

    def rate(self, prompt: Prompt) -> tuple[float, int]:
        """To sort by: a prompt's error rate at its highest fidelity, then minus that fidelity; unseen ones are last."""
        observations = self._observed.get(prompt.id, (prompt, []))[1]
        return (observations[-1].error, -observations[-1].evaluated) if observations else (2.0, 0)

    def unsolved(self, fidelity: int) -> bool:
        """Whether the first ``fidelity`` examples tell nothing: enough prompts were asked them, none had one right."""
        asked = self._complete.get(fidelity, {}).values()
        return len(asked) >= ENOUGH and all(seen.errors == seen.evaluated for _, seen in asked)

    def charged(self, prompt: Prompt) -> int:
        """The examples that a prompt has been charged."""
        return self._charged.get(prompt.id, 0)


def _shows_promise(evaluation: Evaluation) -> bool:
    """Whether a prompt was right at least once: where everything errs, the calls are worth more elsewhere."""
    return evaluation.observation.errors < evaluation.observation.evaluated


def _passes(incumbent: Evaluation | None, entrant: Evaluation) -> bool:
    """Whether excess <= sqrt(e (f - e) / f), in integers: e errors of the incumbent on f examples.

    Everyone passes when there is no incumbent, or when a call of it failed for good at this rung.
    """
    if incumbent is None or incumbent.failed:
        return True
    errors, examples = incumbent.observation.errors, incumbent.observation.evaluated
    excess = entrant.observation.errors - errors
    return excess <= 0 or excess * excess * examples <= errors * (examples - errors)
