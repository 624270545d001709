"""Which bracket comes next: without a limit a fixed list, with one what it can pay for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from lipo_e_ray.config import RunConfig
from lipo_e_ray.search.brackets import Bracket, cost, fidelities, halving, hyperband_bracket
from lipo_e_ray.search.ending import Ending, Entry
from lipo_e_ray.search.race import History

OWN_SHARE, SHIPPED_SHARE = 0.5, 0.25  # of a chunk of the first bracket: instructions without exemplars, at most
MIN_CHUNK = 4  # prompts that are proposed together, at least
FINAL_SHARE = 0.2  # of a limit, kept for the races at the end, if they cost so much
INVBO_SHARE = 0.3  # of a limit, at most, for InvBO's iterations
LEAST_ITERATIONS = 3  # of InvBO: one or two are better spent on races (docs/log.md)
FIRST_RUNG = 2  # of ``b_min``, the part that a limited run begins with: many prompts on few examples (docs/log.md)
LEAST_STEP = 1.4  # from the last rung but one to all examples; else that rung is left out
WIDER = 2  # times as many prompts as a race needs to end with one
LEAST_WIDTH = 4  # prompts of a bracket that is worth while


class Schedule(Protocol):
    """What ``Hyperband`` walks. Its answers are functions of its arguments.

    ``limit``: evaluations and calls for writing, in all; 0: none. ``brackets``: how many brackets propose prompts, 0
    where that depends on the results.
    """

    @property
    def limit(self) -> int: ...

    @property
    def brackets(self) -> int: ...

    def following(
        self, opened: Sequence[Bracket], left: float, exhausted: bool, history: History | None = None
    ) -> Bracket | None:
        """The bracket after ``opened``, of at most ``left`` evaluations; ``None``: no further one proposes prompts.

        ``exhausted``: the sources had no new prompt for an earlier bracket. ``history``: what is known of ``opened``.
        """
        ...

    def closing(self, opened: Sequence[Bracket], left: float, history: History) -> Entry | None:
        """When all ``opened`` brackets are over: one of known prompts, with those; ``None``: the run is over."""
        ...

    def cost_after(self, opened: Sequence[Bracket], history: History) -> float:
        """Evaluations, at most, of the brackets after ``opened``, as far as they are known."""
        ...


@dataclass(frozen=True)
class FixedSchedule:
    """The given brackets, each as wide as ``limit`` allows; then what ``ending`` has, if anything."""

    list: tuple[Bracket, ...]
    limit: int = 0
    ending: Ending | None = None

    @property
    def brackets(self) -> int:
        """See ``Schedule``."""
        return len(self.list)

    def following(
        self, opened: Sequence[Bracket], left: float, exhausted: bool, history: History | None = None
    ) -> Bracket | None:
        """See ``Schedule``."""
        ahead = (bracket.narrowed(left) for bracket in self.list[opened[-1].index + 1 if opened else 0 :])
        return next(filter(None, ahead), None)

    def closing(self, opened: Sequence[Bracket], left: float, history: History) -> Entry | None:
        """See ``Schedule``."""
        return self.ending.closing(opened, left, history) if self.ending else None

    def cost_after(self, opened: Sequence[Bracket], history: History) -> float:
        """See ``Schedule``."""
        return cost(self.list[len(opened) :]) + (self.ending.most(history, opened) if self.ending else 0)


@dataclass(frozen=True)
class LimitedSchedule:
    """Brackets that ``limit`` pays for: see ``following``. ``rewriting``: calls, at most, for the texts of an
    iteration of InvBO. ``before``: what of the limit an earlier schedule of the same run had. ``lost``: calls
    beyond the reserve that had to be sent again, or were on their way when a process was killed. The last races alone
    have so many fewer: earlier brackets must be those that the run had before it was killed.
    """

    config: RunConfig
    limit: int
    ending: Ending
    rewriting: int = 0
    before: int = 0
    lost: int = 0
    brackets: int = 0

    @cached_property
    def kept(self) -> float:
        """What of the limit is left for ``ending``, at most."""
        return min(FINAL_SHARE * (self.limit - self.before), self.ending.most(History("")))

    @cached_property
    def ladder(self) -> tuple[int, ...]:
        """The fidelities up to the highest one at which the limit pays for a race from each rung below it, if each
        costs as much as the widest one that ends with a single prompt."""
        eta = self.config.hyperband.eta
        whole = rising(self.ending.top, max(1, self.config.hyperband.b_min // FIRST_RUNG), eta)
        for top in range(len(whole), 2, -1):
            race = self._bracket(0, whole[:top], eta ** (top - 1))
            if (top - 1) * race.cost() <= self._purse:
                return whole[:top]
        return whole[:2]

    @cached_property
    def races(self) -> int:
        """How many of those there are: each has ``WIDER`` times as many prompts as it needs to end with one.

        Of few calls, one wide race made more than two (docs/log.md).
        """
        width = WIDER * self.config.hyperband.eta ** (len(self.ladder) - 1)
        purse = self._purse - self.iterations * self._price
        return max(1, min(len(self.ladder) - 1, purse // self._bracket(0, self.ladder, width).cost()))

    @property
    def _price(self) -> int:
        """Of an iteration of InvBO, at most."""
        return invbo_bracket(self.config, self.ladder, 0).cost() + self.rewriting

    @property
    def _purse(self) -> int:
        return int(self.limit - self.before - self.kept)

    @cached_property
    def iterations(self) -> int:
        """InvBO's, as many as ``INVBO_SHARE`` of the limit pays for."""
        most = min(self.config.invbo.iterations, int(INVBO_SHARE * (self.limit - self.before) // self._price))
        return most if most >= min(LEAST_ITERATIONS, self.config.invbo.iterations) else 0

    def following(
        self, opened: Sequence[Bracket], left: float, exhausted: bool, history: History | None = None
    ) -> Bracket | None:
        """See ``Schedule``.

        First there are the ``races``, each from one rung higher on than the one before, as in Hyperband; all of them
        get an equal part of what is left for them. Then come InvBO's ``iterations``, then further brackets for
        as long as one of ``LEAST_WIDTH`` prompts can be paid. A rung whose examples no prompt has had right so far
        tells nothing, so brackets begin above it; of the ``races``, one for which that can't be paid begins lower.
        """
        spare = left - (min(self.kept, self.ending.most(history)) if history else self.kept)
        if exhausted:
            return None
        races = sum(bracket.stage == "hyperband" for bracket in opened)
        iterated = len(opened) - races
        ahead = self.races - races
        telling = self._telling(history)
        invbo = invbo_bracket(self.config, self.ladder[telling:], len(opened))
        if ahead <= 0 and iterated < self.iterations and invbo.cost() + self.rewriting <= spare:
            return invbo
        share = (spare - (self.iterations - iterated) * self._price) / ahead if ahead > 0 else spare
        lowest = 0 if ahead > 0 else telling
        for low in range(max(telling, races % max(1, len(self.ladder) - 1)), lowest - 1, -1):
            bracket = self._widest(len(opened), self.ladder[low:], share)
            if bracket and bracket.rungs[0].size >= LEAST_WIDTH:
                return bracket
        return None

    def _telling(self, history: History | None) -> int:
        """The lowest rung of the ladder that tells prompts apart; two rungs at least are left."""
        rungs = range(len(self.ladder) - 2)
        return next((i for i in rungs if not history or not history.unsolved(self.ladder[i])), len(rungs))

    def _widest(self, index: int, ladder: tuple[int, ...], budget: float) -> Bracket | None:
        """The widest bracket on ``ladder`` that costs at most ``budget``."""
        width = int(budget // ladder[0])  # so many prompts cost more than the budget, or just the first rung
        while width > 0 and self._bracket(index, ladder, width).cost() > budget:
            width -= 1
        return self._bracket(index, ladder, width) if width > 0 else None

    def _bracket(self, index: int, ladder: tuple[int, ...], width: int) -> Bracket:
        rungs = halving(ladder, width, self.config.hyperband.eta)
        return chunked(Bracket(index, "hyperband", len(ladder) - 1, rungs), self.config.hyperband.chunks)

    def closing(self, opened: Sequence[Bracket], left: float, history: History) -> Entry | None:
        """See ``Schedule``."""
        return self.ending.closing(opened, left - self.lost, history)

    def cost_after(self, opened: Sequence[Bracket], history: History) -> float:
        """See ``Schedule``: not known."""
        return 0


def more_iterations(config: RunConfig, ending: Ending, before: int) -> FixedSchedule:
    """InvBO's iterations beyond the first ``before`` ones, which an earlier schedule had."""
    ladder = fidelities(ending.top, config.hyperband.b_min, config.hyperband.eta)
    brackets = (invbo_bracket(config, ladder, i) for i in range(config.invbo.iterations - before))
    return FixedSchedule(tuple(brackets), 0, ending)


def rising(n: int, b_min: int, eta: int) -> tuple[int, ...]:
    """A ladder from the bottom: ``b_min`` examples, each higher rung ``eta`` times as many, ``n`` on top.

    With a small limit the first rung takes most of the calls, so it has no more examples than it must. (``fidelities``
    begins at the top; its first rung may have almost ``eta`` times ``b_min``.)
    """
    ladder = [b_min]
    while ladder[-1] * eta < n:
        ladder.append(ladder[-1] * eta)
    close = len(ladder) > 1 and ladder[-1] * eta > n * LEAST_STEP
    return (*(ladder[:-1] if close else ladder), n) if ladder[-1] < n else tuple(ladder)


def full_schedule(config: RunConfig, ending: Ending) -> FixedSchedule:
    """One Hyperband pass up to all validation examples, then ``config.invbo.iterations`` brackets of q prompts."""
    ladder = fidelities(ending.top, config.hyperband.b_min, config.hyperband.eta)
    brackets = [
        chunked(hyperband_bracket(ladder, s, config.hyperband.eta, i), config.hyperband.chunks)
        for i, s in enumerate(range(len(ladder) - 1, -1, -1))
    ]
    brackets += [invbo_bracket(config, ladder, len(brackets) + i) for i in range(config.invbo.iterations)]
    return FixedSchedule(tuple(brackets), 0, ending)


def invbo_bracket(config: RunConfig, ladder: tuple[int, ...], index: int) -> Bracket:
    """One iteration: q candidates on the whole ladder."""
    return Bracket(index, "invbo", len(ladder) - 1, halving(ladder, config.invbo.q, config.hyperband.eta))


def chunked(bracket: Bracket, chunks: int) -> Bracket:
    """``bracket`` with its first rung in up to ``chunks`` chunks of equal size, ``MIN_CHUNK`` prompts or more."""
    size = bracket.rungs[0].size
    count = max(1, min(chunks, size // MIN_CHUNK))
    return replace(bracket, chunk=-(-size // count))
