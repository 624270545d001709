"""The schedule of a run as plain values: which brackets, how many prompts at which fidelity, and what it costs.

Li et al. 2018, "Hyperband", algorithm 1, with a prompt's validation examples as the resource. A fidelity is a prefix
of one fixed shuffle, so a prompt that goes up a rung pays only for the examples it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.config import RunConfig
from lipo_e_ray.types import InputError, Stage

SEEDS_START = 64  # examples of the seeds' first rung; on 16, the best of the demo's twelve seeds lost there
SEEDS_SHARE = 0.25  # what the seeds' race may cost of a call budget; it starts on fewer examples to cost no more


@dataclass(frozen=True)
class Rung:
    """``size`` prompts on the first ``fidelity`` validation examples."""

    size: int
    fidelity: int


@dataclass(frozen=True)
class Bracket:
    """Successive halving over ``rungs``, the lowest fidelity first; ``s`` rungs lie above the first one.

    ``index`` is the position in the run. A bracket of stage ``invbo`` is gated by the incumbent (see ``Hyperband``).
    """

    index: int
    stage: Stage
    s: int
    rungs: tuple[Rung, ...]

    def cost(self, start: int = 0) -> int:
        """Evaluations from rung ``start`` on, with prefix reuse, when every rung is full."""
        below = [0, *(rung.fidelity for rung in self.rungs)]
        return sum(rung.size * (rung.fidelity - below[i]) for i, rung in enumerate(self.rungs) if i >= start)

    def resized(self, first: int) -> Bracket:
        """The same bracket with ``first`` prompts in the first rung and the others in proportion, 1 at least."""
        full = self.rungs[0].size
        return replace(self, rungs=tuple(replace(r, size=max(1, r.size * first // full)) for r in self.rungs))

    def narrowed(self, budget: int) -> Bracket | None:
        """The widest version, up to this one, that costs at most ``budget``; ``None`` if not one prompt can be paid."""
        versions = (self.resized(first) for first in range(self.rungs[0].size, 0, -1))
        return next((version for version in versions if version.cost() <= budget), None)


def fidelities(n: int, b_min: int, eta: int) -> tuple[int, ...]:
    """The ladder, ascending: ``n`` on top, each lower one its neighbour divided by ``eta``, none below ``b_min``.

    An integer loop: ``floor(log(n / b_min) / log(eta))`` loses a rung at exact powers (243 = 3^5 gives 4).
    Raises ``InputError`` when there are fewer examples than ``b_min``.
    """
    if n < b_min:
        raise InputError(
            f"validation split: expected {b_min} examples or more (b_min), got {n}; "
            f"add examples, or begin with fewer: --set hyperband.b_min={n}"
        )
    ladder = [n]
    while ladder[-1] // eta >= b_min:
        ladder.append(ladder[-1] // eta)
    return tuple(reversed(ladder))


def hyperband_brackets(n: int, b_min: int, eta: int, first_index: int = 0) -> list[Bracket]:
    """One pass, s = s_max..0: ``ceil((s_max + 1) / (s + 1) * eta^s)`` prompts, divided by ``eta`` from rung to rung."""
    ladder = fidelities(n, b_min, eta)
    s_max = len(ladder) - 1
    brackets = []
    for s in range(s_max, -1, -1):
        width = -(-(s_max + 1) * eta**s // (s + 1))
        rungs = tuple(Rung(max(1, width // eta**i), fidelity) for i, fidelity in enumerate(ladder[s_max - s :]))
        brackets.append(Bracket(first_index + s_max - s, "hyperband", s, rungs))
    return brackets


def _seeds_bracket(ladder: tuple[int, ...], seeds: int, eta: int, budget: float) -> Bracket:
    """Race ``seeds`` (1 or more) prompts to the top, at least two of them, so that the baseline is a fair one.

    It starts where the halving can end with two, but not on fewer than ``SEEDS_START`` examples: a good seed lost early
    would flatter the search. It starts lower only where ``budget`` demands it.
    """

    def from_rung(start: int) -> Bracket:
        rungs = tuple(
            Rung(seeds if i == 0 else max(min(2, seeds), seeds // eta**i), fidelity)
            for i, fidelity in enumerate(ladder[start:])
        )
        return Bracket(0, "seeds", len(rungs) - 1, rungs)

    start = len(ladder) - 1
    while start > 0 and (
        from_rung(start).cost() > budget or (from_rung(start).rungs[-1].size > 2 and ladder[start - 1] >= SEEDS_START)
    ):
        start -= 1
    return from_rung(start)


def plan_brackets(config: RunConfig, validation: int, seeds: int) -> list[Bracket]:
    """The whole run: the seeds' race, one Hyperband pass, ``config.invbo.iterations`` gated brackets of q candidates.

    ``validation``: examples in the validation split; ``seeds``: shipped instructions, 1 or more.
    Raises ``InputError`` when there are fewer validation examples than ``b_min``.
    """
    eta = config.hyperband.eta
    ladder = fidelities(validation, config.hyperband.b_min, eta)
    budget = 2.0 * len(ladder) * validation  # two brackets of Hyperband
    if config.max_llm_calls:
        budget = min(budget, SEEDS_SHARE * config.max_llm_calls)
    brackets = [_seeds_bracket(ladder, seeds, eta, budget)]
    brackets += hyperband_brackets(validation, config.hyperband.b_min, eta, first_index=1)
    rungs = tuple(Rung(max(1, config.invbo.q // eta**i), fidelity) for i, fidelity in enumerate(ladder))
    first = len(brackets)
    brackets += [Bracket(first + i, "invbo", len(ladder) - 1, rungs) for i in range(config.invbo.iterations)]
    return brackets


def ticks(brackets: Sequence[Bracket], overlap: int) -> tuple[int, ...]:
    """When each bracket opens, counted in rungs: when the one before has ``overlap`` left, and one complete at least.

    The more brackets overlap, the more engines are kept busy, and the fewer results each bracket's proposals can use.
    """
    opened = [0]
    for bracket in brackets[:-1]:
        opened.append(opened[-1] + max(1, len(bracket.rungs) - overlap))
    return tuple(opened)


def cost(brackets: Iterable[Bracket]) -> int:
    """Evaluations with prefix reuse when every rung is full: an upper bound, as InvBO's gate lets fewer go up."""
    return sum(bracket.cost() for bracket in brackets)
