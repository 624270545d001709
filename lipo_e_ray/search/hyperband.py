"""The walk over all brackets as a pure state machine: observations in, next actions out. No Ray, no torch, no clock.

Brackets overlap, so that no engine waits for a rung's last answer: see ``Hyperband``. All the same the walk is a
function of the seed and of the evaluations: a resumed run, and one on another number of engines, makes the same
decisions, in whatever order the evaluations come in. So what a proposal, a gate or a budget may depend on is fixed by
the schedule, and what is known by luck before its time is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.search.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets, plan_brackets, ticks
from lipo_e_ray.search.race import Known, Race
from lipo_e_ray.types import Evaluation, InputError, Observation, RungResult, Stage

__all__ = [
    "Action",
    "Bracket",
    "Evaluate",
    "Hyperband",
    "Position",
    "Propose",
    "Rung",
    "cost",
    "fidelities",
    "hyperband_brackets",
    "plan_brackets",
]


@dataclass(frozen=True)
class Propose:
    """``count`` prompts are wanted for the first rung of ``bracket``.

    ``observed``: all that the proposals may depend on, prompts in the order of proposal, each at every rung it was at.
    ``running``: prompts whose next evaluation is under way.
    """

    bracket: Bracket
    count: int
    observed: tuple[Observation, ...]
    running: tuple[str, ...]


@dataclass(frozen=True)
class Evaluate:
    """All prompts of one rung, in the order of the proposal; the incumbent of a gated bracket comes last.

    ``wave``: how early the result is needed; engines with a choice take the lower one first.
    """

    bracket: Bracket
    rung: int
    fidelity: int
    prompt_ids: tuple[str, ...]
    wave: int


Action = Propose | Evaluate


@dataclass(frozen=True)
class Position:
    """Where the walk stands, for display: its first open bracket, of ``open`` ones in all (0 at the end).

    ``done`` and ``planned`` are evaluations; ``planned`` is an upper bound.
    """

    bracket: int
    brackets: int
    open: int
    stage: Stage
    rung: int
    rungs: int
    fidelity: int
    done: int
    planned: int
    incumbent: Observation | None


class Hyperband:
    """Successive halving through ``brackets`` within ``max_calls`` evaluations (0: no limit), ``overlap`` rungs apart.

    A bracket opens when the one before it has ``overlap`` rungs left, and at least one complete. Count a tick for each
    rung: what a bracket's proposals, gate and budget depend on is exactly what is complete at the tick it opens
    (``brackets.ticks``), for them all else is still running. Promotion is that of synchronous successive halving.

    A prompt is charged, for a rung, the examples beyond the highest fidelity it was charged before. With a budget a
    bracket is narrowed when it opens, to what its worst case may still cost besides the worst case of those that are
    open: the seeds' race and Hyperband share ``1 - invbo_share`` of it, InvBO has the rest.

    Promotion: fewest errors at equal fidelity; ties by a hash of seed, bracket and prompt. A prompt with calls that
    failed for good is out. In a gated bracket the incumbent runs along (on examples it has been paid for, so at no
    charge), and a prompt goes up only if its errors exceed the incumbent's ``e`` on the same ``f`` examples by at most
    ``sqrt(e * (f - e) / f)``: one standard error of the paired difference of two prompts with the incumbent's error
    rate and a correlation of 1/2.

    Raises ``InputError`` when ``max_calls`` cannot pay for one prompt at the highest fidelity.
    """

    def __init__(
        self, brackets: Sequence[Bracket], seed: int, max_calls: int = 0, invbo_share: float = 0.0, overlap: int = 1
    ) -> None:
        self._brackets = tuple(brackets)
        self._ticks = ticks(self._brackets, overlap)
        self._seed = str(seed)
        self._top = max(bracket.rungs[-1].fidelity for bracket in brackets)
        if 0 < max_calls < self._top:
            raise InputError(
                f"call budget: expected {self._top} evaluations or more (one prompt on all validation "
                f"examples), got {max_calls}; raise --max-llm-calls or use fewer validation examples"
            )
        self._max_calls = max_calls
        kept = invbo_share if any(bracket.stage == "invbo" for bracket in brackets) else 0.0
        before_invbo = max(self._top, int(max_calls * (1 - kept)))
        self._limits = {"seeds": before_invbo, "hyperband": before_invbo, "invbo": max_calls}
        self._now = Known(self._seed, self._top)
        self._races: list[Race] = []
        self._wanted: Propose | None = None
        self._open_next()

    def actions(self) -> list[Action]:
        """All that the walk waits for now, what is needed first before the rest; empty when it is over.

        Asking changes nothing.
        """
        evaluations = [
            Evaluate(
                race.bracket,
                len(race.rungs),
                race.bracket.rungs[len(race.rungs)].fidelity,
                race.runners(),
                self._ticks[position] + len(race.rungs),
            )
            for position, race in enumerate(self._races)
            if race.entrants
        ]
        wanted = [self._wanted] if self._wanted else []
        return wanted + sorted(evaluations, key=lambda action: action.wave)

    def proposed(self, bracket_index: int, prompt_ids: Sequence[str]) -> None:
        """Enter the prompts, in order. With fewer than asked for the bracket shrinks in proportion; with none it ends.

        Raises ``ValueError`` when this bracket waits for no proposals, or for repeated or too many prompts.
        """
        wanted = self._wanted
        if wanted is None or wanted.bracket.index != bracket_index:
            raise ValueError(f"expected proposals for {wanted}, got some for bracket {bracket_index}")
        if len(set(prompt_ids)) != len(prompt_ids) or len(prompt_ids) > wanted.count:
            raise ValueError(f"expected up to {wanted.count} distinct prompts, got {list(prompt_ids)}")
        bracket = wanted.bracket.resized(len(prompt_ids)) if prompt_ids else wanted.bracket
        incumbent = self._known_at(len(self._races)).incumbent()
        pace = incumbent.prompt_id if bracket.stage == "invbo" and incumbent else None
        self._races.append(Race(bracket, tuple(prompt_ids), pace))
        self._wanted = None
        self._open_next()

    def observe(self, bracket_index: int, rung: int, evaluations: Sequence[Evaluation]) -> list[RungResult]:
        """Take in a whole rung, one evaluation for each prompt of its ``Evaluate``; what came of it, in that order.

        Raises ``ValueError`` for what the walk does not wait for or what is not at the rung's fidelity.
        """
        race = next((race for race in self._races if race.bracket.index == bracket_index and race.entrants), None)
        seen = {evaluation.observation.prompt_id: evaluation for evaluation in evaluations}
        if race is None or rung != len(race.rungs) or tuple(seen) != race.runners():
            raise ValueError(
                f"expected one of {self.actions()}, got rung {rung} of bracket {bracket_index} with {list(seen)}"
            )
        fidelity = race.bracket.rungs[rung].fidelity
        if any(e.observation.evaluated + e.failed != fidelity for e in evaluations):
            raise ValueError(f"expected {fidelity} examples evaluated or failed, got {list(evaluations)}")
        bracket, entrants = race.bracket, race.entrants
        promoted, results = race.close(seen, self._seed), []
        for prompt_id in entrants:
            self._now.add(fidelity, prompt_id, seen[prompt_id])
            results.append(
                RungResult(
                    bracket.index,
                    bracket.stage,
                    bracket.s,
                    rung,
                    fidelity,
                    seen[prompt_id].observation,
                    prompt_id in promoted,
                    self._now.calls,
                )
            )
        self._open_next()
        return results

    def incumbent(self) -> Observation | None:
        """The fewest errors at the highest fidelity, without failed calls; ties by a hash of the seed."""
        return self._now.incumbent()

    def position(self) -> Position:
        """Where the walk stands."""
        opened = [race for race in self._races if race.entrants]
        first = opened[0] if opened else self._wanted or self._races[-1]
        bracket, rung = first.bracket, len(first.rungs) if opened else 0
        if not opened and not self._wanted:
            rung = len(bracket.rungs) - 1
        ahead = sum(race.bracket.cost(len(race.rungs)) for race in opened)
        ahead += cost([self._wanted.bracket]) if self._wanted else 0
        ahead += cost(self._brackets[len(self._races) + bool(self._wanted) :])
        calls = self._now.calls
        return Position(
            bracket=bracket.index,
            brackets=len(self._brackets),
            open=len(opened) + bool(self._wanted),
            stage=bracket.stage,
            rung=rung,
            rungs=len(bracket.rungs),
            fidelity=bracket.rungs[rung].fidelity,
            done=calls,
            planned=min(calls + ahead, self._max_calls or calls + ahead),
            incumbent=self.incumbent(),
        )

    # ---- opening ----

    def _open_next(self) -> None:
        """Ask for the next bracket that can be paid for, once all that its proposals depend on is there."""
        while self._wanted is None and len(self._races) < len(self._brackets) and self._is_due(len(self._races)):
            position = len(self._races)
            bracket, known = self._brackets[position], self._known_at(position)
            if self._max_calls:
                pending = sum(
                    race.bracket.cost(seen) for race, seen in self._seen_at(position) if race.running_after(seen)
                )
                bracket = bracket.narrowed(self._limits[bracket.stage] - known.calls - pending)
            if bracket is None:
                self._races.append(Race(self._brackets[position], ()))
                continue
            running = (race.running_after(seen) for race, seen in self._seen_at(position))
            observed = tuple(observation for of_one in known.observed.values() for observation in of_one)
            self._wanted = Propose(
                bracket,
                bracket.rungs[0].size,
                observed,
                tuple(dict.fromkeys(prompt_id for ids in running for prompt_id in ids)),
            )

    def _is_due(self, position: int) -> bool:
        return all(len(race.rungs) >= seen or not race.entrants for race, seen in self._seen_at(position))

    def _seen_at(self, position: int) -> list[tuple[Race, int]]:
        """The brackets before ``position``, each with how many of its rungs are complete at the tick this one opens."""
        return [
            (race, min(len(race.bracket.rungs), self._ticks[position] - self._ticks[i]))
            for i, race in enumerate(self._races[:position])
        ]

    def _known_at(self, position: int) -> Known:
        known = Known(self._seed, self._top)
        for race, seen in self._seen_at(position):
            for rung, rows in zip(race.bracket.rungs, race.rungs[:seen], strict=False):
                for prompt_id, evaluation, _ in rows:
                    known.add(rung.fidelity, prompt_id, evaluation)
        return known
