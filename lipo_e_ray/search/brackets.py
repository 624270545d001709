"""A bracket as plain values: how many prompts at which fidelity, in which chunks they are proposed, and what it costs.

Li et al. 2018, "Hyperband", algorithm 1, with a prompt's validation examples as the resource. A fidelity is a prefix
of one fixed shuffle, so a prompt that goes up a rung pays only for the examples it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.types import InputError, Stage


@dataclass(frozen=True)
class Rung:
    """``size`` prompts on the first ``fidelity`` validation examples."""

    size: int
    fidelity: int


@dataclass(frozen=True)
class Bracket:
    """Successive halving over ``rungs``, the lowest fidelity first; ``s`` rungs lie above the first one.

    ``index`` is the position in the run. The prompts of the first rung are proposed and evaluated ``chunk`` at a time
    (0: all at once), so that the proposals of a chunk know what the chunks before it gave. A bracket of stage
    ``invbo`` is gated by the incumbent; one of stage ``baseline`` or ``final`` proposes nothing: prompts that are
    known already race on more examples (see ``Hyperband``).
    """

    index: int
    stage: Stage
    s: int
    rungs: tuple[Rung, ...]
    chunk: int = 0

    @property
    def chunks(self) -> tuple[int, ...]:
        """How many prompts each chunk of the first rung has."""
        size = self.rungs[0].size
        chunk = self.chunk or size
        return tuple(min(chunk, size - start) for start in range(0, size, chunk))

    @property
    def steps(self) -> int:
        """Evaluations that follow one another: the chunks of the first rung, then the other rungs."""
        return len(self.chunks) + len(self.rungs) - 1

    def cost(self, step: int = 0) -> int:
        """Evaluations from ``step`` on, with prefix reuse, when every rung is full."""
        first = sum(self.chunks[step:]) * self.rungs[0].fidelity
        above = max(1, step - len(self.chunks) + 1)
        pairs = list(zip(self.rungs, self.rungs[1:], strict=False))[above - 1 :]
        return first + sum(rung.size * (rung.fidelity - below.fidelity) for below, rung in pairs)

    def resized(self, first: int) -> Bracket:
        """The same bracket with ``first`` prompts in the first rung and the others in proportion, 1 at least."""
        full = self.rungs[0].size
        return replace(self, rungs=tuple(replace(r, size=max(1, r.size * first // full)) for r in self.rungs))

    def narrowed(self, budget: float) -> Bracket | None:
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


def hyperband_bracket(ladder: tuple[int, ...], s: int, eta: int, index: int, chunk: int = 0) -> Bracket:
    """Hyperband's bracket s on ``ladder``: ``ceil((s_max + 1) / (s + 1) * eta^s)`` prompts, a rung ``eta`` times fewer.

    ``chunk``: see ``Bracket``.
    """
    s_max = len(ladder) - 1
    width = -(-(s_max + 1) * eta**s // (s + 1))
    return Bracket(index, "hyperband", s, halving(ladder[s_max - s :], width, eta), chunk)


def halving(ladder: Sequence[int], width: int, eta: int) -> tuple[Rung, ...]:
    """``width`` prompts at the lowest fidelity of ``ladder``, ``eta`` times fewer at each higher one, 1 at least."""
    return tuple(Rung(max(1, width // eta**i), fidelity) for i, fidelity in enumerate(ladder))


def hyperband_brackets(n: int, b_min: int, eta: int, first_index: int = 0) -> list[Bracket]:
    """One pass, s = s_max..0."""
    ladder = fidelities(n, b_min, eta)
    steps = range(len(ladder) - 1, -1, -1)
    return [hyperband_bracket(ladder, s, eta, first_index + i) for i, s in enumerate(steps)]


def cost(brackets: Iterable[Bracket]) -> int:
    """Evaluations with prefix reuse when every rung is full: an upper bound, as InvBO's gate lets fewer go up."""
    return sum(bracket.cost() for bracket in brackets)
