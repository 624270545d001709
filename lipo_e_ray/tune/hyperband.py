"""The walk over all brackets as a pure state machine: observations in, next action out. No Ray, no torch, no clock.

The walk is a function of the seed and of the evaluations: a resumed run, and one on another number of machines, makes
the same decisions, whatever order the evaluations of a rung finish in. So everything it tells (charges, the incumbent,
``RungResult``) changes only when a rung is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.results.ledger import RungResult
from lipo_e_ray.tune.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets, plan_brackets
from lipo_e_ray.types import Evaluation, InputError, Observation, Stage, digest

__all__ = ["Action", "Bracket", "Done", "Evaluate", "Hyperband", "Propose", "Rung", "Snapshot", "cost", "fidelities",
           "hyperband_brackets", "plan_brackets"]


@dataclass(frozen=True)
class Propose:
    """Nothing more can be known before ``count`` prompts for the first rung of ``bracket`` are proposed."""

    bracket: Bracket
    count: int


@dataclass(frozen=True)
class Evaluate:
    """The prompts of this rung that have no evaluation yet, in the order of the proposal."""

    bracket: Bracket
    rung: int
    fidelity: int
    prompt_ids: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """No bracket is left, or the budget pays for none of them."""


Action = Propose | Evaluate | Done


@dataclass(frozen=True)
class Snapshot:
    """Where the walk stands, for display. ``done`` and ``planned`` are evaluations; ``planned`` is an upper bound."""

    bracket: int
    brackets: int
    stage: Stage
    rung: int
    rungs: int
    fidelity: int
    done: int
    planned: int
    incumbent: Observation | None


class Hyperband:
    """Successive halving through ``brackets``, one after the other, within ``max_calls`` evaluations (0: no limit).

    A prompt is charged, for a rung, the examples beyond the highest fidelity it was charged before. With a budget a
    bracket is narrowed when it opens, to what its worst case may still cost: the seeds' race and Hyperband share
    ``1 - invbo_share`` of it, InvBO has the rest.

    Promotion: fewest errors at equal fidelity; ties by a hash of seed, bracket and prompt. A prompt with calls that
    failed for good is out. In a gated bracket the incumbent runs along (on examples it has been paid for, so at no
    charge), and a prompt goes up only if its errors exceed the incumbent's ``e`` on the same ``f`` examples by at most
    ``sqrt(e * (f - e) / f)``: one standard error of the paired difference of two prompts with the incumbent's error
    rate and a correlation of 1/2.

    Raises ``InputError`` when ``max_calls`` cannot pay for one prompt at the highest fidelity.
    """

    def __init__(self, brackets: Sequence[Bracket], seed: int, max_calls: int = 0, invbo_share: float = 0.0) -> None:
        self._brackets = tuple(brackets)
        self._seed = str(seed)
        self._top = max(bracket.rungs[-1].fidelity for bracket in brackets)
        if 0 < max_calls < self._top:
            raise InputError(f"call budget: expected {self._top} evaluations or more (one prompt on all validation "
                             f"examples), got {max_calls}; raise --max-llm-calls or use fewer validation examples")
        self._max_calls = max_calls
        kept = invbo_share if any(bracket.stage == "invbo" for bracket in brackets) else 0.0
        before_invbo = max(self._top, int(max_calls * (1 - kept)))
        self._limits = {"seeds": before_invbo, "hyperband": before_invbo, "invbo": max_calls}
        self._calls = 0
        self._charged: dict[str, int] = {}
        self._observed: dict[str, Observation] = {}
        self._complete: dict[str, Observation] = {}
        self._opened = 0
        self._open_next()

    def next_action(self) -> Action:
        """What the walk waits for now; asking changes nothing."""
        if self._bracket is None:
            return Done()
        if not self._entrants:
            return Propose(self._bracket, self._bracket.rungs[0].size)
        waiting = tuple(prompt_id for prompt_id in self._runners() if prompt_id not in self._seen)
        return Evaluate(self._bracket, self._rung, self._bracket.rungs[self._rung].fidelity, waiting)

    def proposed(self, bracket_index: int, prompt_ids: Sequence[str]) -> None:
        """Enter the prompts, in order. With fewer than asked for the bracket shrinks in proportion; with none it ends.

        Raises ``ValueError`` when this bracket waits for no proposals, or for repeated or too many prompts.
        """
        action = self.next_action()
        if not isinstance(action, Propose) or action.bracket.index != bracket_index:
            raise ValueError(f"expected proposals for {action}, got some for bracket {bracket_index}")
        if len(set(prompt_ids)) != len(prompt_ids) or len(prompt_ids) > action.count:
            raise ValueError(f"expected up to {action.count} distinct prompts, got {list(prompt_ids)}")
        if not prompt_ids:
            self._open_next()
            return
        self._bracket = action.bracket.resized(len(prompt_ids))
        self._entrants = tuple(prompt_ids)

    def observe(self, bracket_index: int, prompt_id: str, evaluation: Evaluation) -> list[RungResult]:
        """Take in one evaluation; the results of the whole rung, in the order of the proposal, once it is complete.

        Raises ``ValueError`` for an evaluation the walk does not wait for or that is not at the rung's fidelity.
        """
        action = self.next_action()
        if not isinstance(action, Evaluate) or bracket_index != action.bracket.index \
                or prompt_id not in action.prompt_ids:
            raise ValueError(f"expected an evaluation for {action}, got {prompt_id} in bracket {bracket_index}")
        if evaluation.observation.evaluated + evaluation.failed != action.fidelity:
            raise ValueError(f"expected {action.fidelity} examples evaluated or failed, got {evaluation}")
        self._seen[prompt_id] = evaluation
        return self._close_rung(action) if len(action.prompt_ids) == 1 else []

    def observations(self) -> list[Observation]:
        """Each prompt's widest observation, in the order of proposal; complete rungs only."""
        return list(self._observed.values())

    def incumbent(self) -> Observation | None:
        """The fewest errors at the highest fidelity, without failed calls; ties by a hash of the seed."""
        return min(self._complete.values(), default=None,
                   key=lambda o: (o.errors, digest("incumbent", self._seed, o.prompt_id)))

    def snapshot(self) -> Snapshot:
        """Where the walk stands; evaluations of the open rung count as done."""
        bracket = self._bracket or self._brackets[-1]
        position = self._rung if self._bracket else len(bracket.rungs) - 1
        fidelity = bracket.rungs[position].fidelity
        ahead = cost(self._brackets[self._opened:]) + (bracket.cost(self._rung) if self._bracket else 0)
        planned = min(self._calls + ahead, self._max_calls or self._calls + ahead)
        return Snapshot(
            bracket=bracket.index, brackets=len(self._brackets), stage=bracket.stage,
            rung=position, rungs=len(bracket.rungs), fidelity=fidelity,
            done=self._calls + sum(self._charge(prompt_id, fidelity) for prompt_id in self._seen),
            planned=planned, incumbent=self.incumbent(),
        )

    def _runners(self) -> tuple[str, ...]:
        """The prompts of this rung and, where its gate needs it, the incumbent."""
        gated = self._pace is not None and self._rung + 1 < len(self._bracket.rungs)
        return (*self._entrants, self._pace) if gated and self._pace not in self._entrants else self._entrants

    def _charge(self, prompt_id: str, fidelity: int) -> int:
        return max(0, fidelity - self._charged.get(prompt_id, 0))

    def _open_next(self) -> None:
        """Move to the next bracket that can be paid for, if there is one."""
        self._bracket: Bracket | None = None
        self._entrants: tuple[str, ...] = ()
        self._rung = 0
        self._seen: dict[str, Evaluation] = {}
        while self._bracket is None and self._opened < len(self._brackets):
            bracket = self._brackets[self._opened]
            self._opened += 1
            self._bracket = bracket
            if self._max_calls:
                self._bracket = bracket.narrowed(self._limits[bracket.stage] - self._calls)
        incumbent = self.incumbent()
        gated = self._bracket is not None and self._bracket.stage == "invbo" and incumbent is not None
        self._pace = incumbent.prompt_id if gated else None

    def _close_rung(self, rung: Evaluate) -> list[RungResult]:
        promoted = self._promoted(rung)
        results = []
        for prompt_id in self._entrants:
            evaluation = self._seen[prompt_id]
            observation = evaluation.observation
            self._calls += self._charge(prompt_id, rung.fidelity)
            self._charged[prompt_id] = max(rung.fidelity, self._charged.get(prompt_id, 0))
            widest = self._observed.get(prompt_id)
            if observation.evaluated and (widest is None or widest.evaluated < observation.evaluated):
                self._observed[prompt_id] = observation
            if rung.fidelity == self._top and not evaluation.failed:
                self._complete[prompt_id] = observation
            results.append(RungResult(rung.bracket.index, rung.bracket.stage, rung.bracket.s, rung.rung, rung.fidelity,
                                      observation, prompt_id in promoted, self._calls))
        if promoted:
            self._rung += 1
            self._entrants = tuple(prompt_id for prompt_id in self._entrants if prompt_id in promoted)
            self._seen = {}
        else:
            self._open_next()
        return results

    def _promoted(self, rung: Evaluate) -> set[str]:
        if rung.rung + 1 == len(rung.bracket.rungs):
            return set()
        eligible = [prompt_id for prompt_id in self._entrants
                    if not self._seen[prompt_id].failed and self._passes_gate(prompt_id)]
        eligible.sort(key=lambda prompt_id: (self._seen[prompt_id].observation.errors,
                                             digest("tie", self._seed, str(rung.bracket.index), prompt_id)))
        return set(eligible[:rung.bracket.rungs[rung.rung + 1].size])

    def _passes_gate(self, prompt_id: str) -> bool:
        """In integers: excess <= sqrt(e (f - e) / f). Without a complete score of the incumbent nothing is gated."""
        pace = self._seen.get(self._pace) if self._pace is not None else None
        if pace is None or pace.failed:
            return True
        errors, examples = pace.observation.errors, pace.observation.evaluated
        excess = self._seen[prompt_id].observation.errors - errors
        return excess <= 0 or excess * excess * examples <= errors * (examples - errors)
