"""Who races again when no new prompt is to come: first for the baseline, then for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.race import History
from lipo_e_ray.types import Prompt

Entry = tuple[Bracket, list[Prompt]]
"""A bracket of prompts that are known already, and these prompts."""

FINALISTS = 4
FURTHER = 1.25  # finalists see at least so many times as many examples as before; else fewer of them go on
BASELINE_START = 64  # examples from which the last plain instructions race: on 16, the demo's best seed was lost


@dataclass(frozen=True)
class Ending:
    """Who races again when no new prompt is to come: first for the baseline, then for the answer.

    ``plain``: the instructions without exemplars among which the baseline is found; one: it is the baseline. ``top``:
    validation examples. ``fresh``: examples beyond those, which no bracket sees before the end. ``b_min``: the least
    examples. ``baseline``: evaluations, at most, for the baseline's race.
    """

    plain: tuple[Prompt, ...]
    top: int
    fresh: int
    b_min: int
    baseline: float = float("inf")

    def closing(self, opened: Sequence[Bracket], left: float, history: History) -> Entry | None:
        """See ``Schedule``."""
        stages, entry = {bracket.stage for bracket in opened}, None
        if not stages & {"baseline", "final"}:
            entry = self._for_baseline(len(opened), min(left, self.baseline), history)
        if entry is None and "final" not in stages:
            entry = self._finalists(len(opened), left, history)
        return entry

    def most(self, history: History, opened: Sequence[Bracket] = ()) -> float:
        """Evaluations that the races which are not ``opened`` cost at most after ``history``.

        Once there are finalists, later ones have been charged as many examples or more.
        """
        stages = {bracket.stage for bracket in opened}
        if "final" in stages:
            return 0
        entry = None if "baseline" in stages else self._for_baseline(0, self.baseline, history)
        raced = entry[0].rungs[-1].fidelity if entry else 0  # so far the baseline is when the finalists begin
        entrants = self._entrants(history, FINALISTS)
        baseline = next((prompt for prompt in entrants if prompt in self.plain), None)
        paid = [max(history.charged(prompt), raced if prompt == baseline else 0) for prompt in entrants]
        return (
            (_cost(entry[1], entry[0].rungs, history) if entry else 0) + FINALISTS * (self.top + self.fresh) - sum(paid)
        )

    def _for_baseline(self, index: int, budget: float, history: History) -> Entry | None:
        """The longest race among the plain instructions that ``budget`` pays for."""
        known = sorted(self.plain, key=history.rate)
        start, end = min(BASELINE_START, self.top), self.top
        middle = min(2 * self.b_min, start)
        for sizes, examples in (  # the longest first
            ((len(known), 2), (start, end)),
            ((len(known), 4, 2), (middle, start, end)),
            ((len(known), 2), (min(self.b_min, start), start)),
            ((2,), (start,)),
            ((1,), (start,)),
        ):
            rungs: list[Rung] = []
            for size, fidelity in zip(sizes, examples, strict=True):
                if not rungs or fidelity > rungs[-1].fidelity:
                    rungs.append(Rung(min(size, len(known)), fidelity))
            entrants = known[: rungs[0].size]
            if entrants and _cost(entrants, rungs, history) <= budget:
                return Bracket(index, "baseline", len(rungs) - 1, tuple(rungs)), entrants
        return None

    def _finalists(self, index: int, left: float, history: History) -> Entry | None:
        """The best prompts on more examples than before, as many of both as ``left`` pays for."""
        end = self.top + self.fresh
        for count in range(FINALISTS, 0, -1):
            entrants = self._entrants(history, count)
            paid = [history.charged(prompt) for prompt in entrants]
            reached = max(paid, default=0)
            fidelity = max(
                (n for n in range(reached, end + 1) if sum(n - before for before in paid) <= left), default=0
            )
            if entrants and fidelity > min(paid) and (count <= 2 or fidelity >= min(end, FURTHER * reached)):
                return Bracket(index, "final", 0, (Rung(len(entrants), fidelity),)), entrants
        return None

    def _entrants(self, history: History, count: int) -> list[Prompt]:
        """The first ``count`` leaders, the best plain prompt and the best other one always among them.

        The baseline is to be compared with the answer on the same examples. And since its race may have gone higher
        than any other, it would be the answer for that alone. Of one entrant nothing is compared.
        """
        leaders = [prompt for prompt, _ in history.leaders()]
        plain = [prompt for prompt in leaders if prompt in self.plain]
        others = [prompt for prompt in leaders if prompt not in self.plain]
        if count < 2:
            return [] if plain[:1] == leaders[:1] and others else leaders[:count]
        chosen = list(dict.fromkeys([*plain[:1], *others[:1], *leaders]))[:count]
        return [prompt for prompt in leaders if prompt in chosen]


def _cost(entrants: Sequence[Prompt], rungs: Sequence[Rung], history: History) -> int:
    """What the rungs cost at most, when ``entrants`` have been charged what they have."""
    paid = sorted(history.charged(prompt) for prompt in entrants)
    total = 0
    for rung in rungs:
        total += sum(max(0, rung.fidelity - before) for before in paid[: rung.size])
        paid = [max(rung.fidelity, before) for before in paid[: rung.size]]
    return total
