"""The walk over all brackets as a pure state machine: observations in, next actions out. No Ray, no torch, no clock.

Brackets overlap, so that no engine waits for a rung's last answer: see ``Hyperband``. All the same the walk is a
function of the seed and of the evaluations: a resumed run, and one on another number of engines, makes the same
decisions, in whatever order the evaluations come in. To that end the schedule, and not the clock, fixes which results
a proposal, a gate or a budget may depend on; a result that arrives earlier than scheduled is not used early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.search.brackets import Bracket, Rung, cost, fidelities, hyperband_brackets, plan_brackets, ticks
from lipo_e_ray.search.race import History, Race
from lipo_e_ray.types import Evaluation, InputError, Observation, Prompt, Request, RungResult, Stage

__all__ = [
    "Action",
    "Bracket",
    "Evaluate",
    "Hyperband",
    "Position",
    "Rung",
    "cost",
    "fidelities",
    "hyperband_brackets",
    "plan_brackets",
]


@dataclass(frozen=True)
class Evaluate:
    """The action "evaluate one rung": all its prompts, in the order of the proposal, on ``fidelity`` examples.

    ``bracket`` and ``rung`` are indices. In a gated bracket the incumbent is the last of ``prompts``. ``wave`` says how
    early the result is needed; engines with a choice take the lower one first.
    """

    bracket: int
    rung: int
    fidelity: int
    prompts: tuple[Prompt, ...]
    wave: int


Action = Request | Evaluate
"""What the walk waits for: proposals for a bracket, or the evaluations of a rung."""


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
    rung: a bracket's proposals, gate and budget depend on exactly the rungs that are complete at the tick it opens
    (``brackets.ticks``); they treat all other prompts as running. Promotion is that of synchronous successive halving.

    A prompt is charged, for a rung, the examples beyond the highest fidelity it was charged before. With a budget a
    bracket is narrowed when it opens, so that the worst case of all open brackets together stays within it. The seeds'
    race and Hyperband share ``1 - invbo_share`` of the budget, InvBO has the rest.

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
                f"examples), got {max_calls}; raise --max-llm-calls, or use fewer examples: "
                f"--set task.validation_size={max_calls}"
            )
        self._max_calls = max_calls
        kept = invbo_share if any(bracket.stage == "invbo" for bracket in brackets) else 0.0
        before_invbo = max(self._top, int(max_calls * (1 - kept)))
        self._limits = {"seeds": before_invbo, "hyperband": before_invbo, "invbo": max_calls}
        self._history = History(self._seed, self._top)
        self._races: list[Race] = []
        self.stopped = False  # before its end, by ``stop``
        self._opening: tuple[Bracket, Request] | None = None  # the bracket that waits for its proposals
        self._open_next()

    def actions(self) -> list[Action]:
        """All that the walk waits for now, the most urgent first; empty when it is over. Asking changes nothing.
        Nothing after ``stop``.
        """
        if self.stopped:
            return []
        evaluations = [
            Evaluate(
                race.bracket.index,
                len(race.rungs),
                race.bracket.rungs[len(race.rungs)].fidelity,
                race.to_evaluate(),
                self._ticks[position] + len(race.rungs),
            )
            for position, race in enumerate(self._races)
            if race.entrants
        ]
        evaluations.sort(key=lambda action: action.wave)
        return [self._opening[1], *evaluations] if self._opening else [*evaluations]

    def stop(self) -> None:
        """Begin nothing more, because the time is up. Rungs that are under way can still be observed."""
        self.stopped = self.stopped or bool(self.actions())

    def enter(self, bracket_index: int, prompts: Sequence[Prompt]) -> None:
        """Enter the prompts proposed for a bracket, in order.

        Of more than it asked for (recorded under a larger budget) the first are taken. With fewer the bracket shrinks
        in proportion; with none it ends. Raises ``ValueError`` when this bracket waits for no proposals, or when a
        prompt is repeated.
        """
        if self._opening is None or self._opening[0].index != bracket_index:
            raise ValueError(f"expected proposals for {self._opening}, got some for bracket {bracket_index}")
        bracket, request = self._opening
        prompts = tuple(prompts[: request.count])
        if len({prompt.id for prompt in prompts}) != len(prompts):
            raise ValueError(f"expected distinct prompts, got {[prompt.id for prompt in prompts]}")
        bracket = bracket.resized(len(prompts)) if prompts else bracket
        best = self._history_at(len(self._races)).incumbent() if bracket.stage == "invbo" else None
        self._races.append(Race(bracket, prompts, best[0] if best else None))
        self._opening = None
        self._open_next()

    def observe(self, bracket_index: int, rung: int, evaluations: Sequence[Evaluation]) -> list[RungResult]:
        """Take in a whole rung, one evaluation for each prompt of its ``Evaluate``, in that order; its results.

        Raises ``ValueError`` for what the walk does not wait for or what is not at the rung's fidelity.
        """
        race = next((race for race in self._races if race.bracket.index == bracket_index and race.entrants), None)
        by_id = {evaluation.observation.prompt_id: evaluation for evaluation in evaluations}
        if race is None or rung != len(race.rungs) or list(by_id) != [prompt.id for prompt in race.to_evaluate()]:
            raise ValueError(
                f"expected one of {self.actions()}, got rung {rung} of bracket {bracket_index} with {list(by_id)}"
            )
        fidelity = race.bracket.rungs[rung].fidelity
        if any(e.observation.evaluated + e.failed != fidelity for e in evaluations):
            raise ValueError(f"expected {fidelity} examples evaluated or failed, got {list(evaluations)}")
        race.close(by_id, self._seed)
        bracket, results = race.bracket, []
        for prompt, evaluation, promoted in race.rungs[-1]:
            self._history.add(fidelity, prompt, evaluation)
            results.append(
                RungResult(
                    bracket.index,
                    bracket.stage,
                    bracket.s,
                    rung,
                    fidelity,
                    evaluation.observation,
                    promoted,
                    self._history.calls,
                )
            )
        self._open_next()
        return results

    def incumbent(self) -> Observation | None:
        """The fewest errors at the highest fidelity, without failed calls; ties by a hash of the seed."""
        best = self._history.incumbent()
        return best[1] if best else None

    def position(self) -> Position:
        """Where the walk stands."""
        opened = [race for race in self._races if race.entrants]
        if opened:
            bracket, rung = opened[0].bracket, len(opened[0].rungs)
        elif self._opening:
            bracket, rung = self._opening[0], 0
        else:
            bracket = self._races[-1].bracket
            rung = len(bracket.rungs) - 1
        ahead = sum(race.bracket.cost(len(race.rungs)) for race in opened)
        ahead += self._opening[0].cost() if self._opening else 0
        ahead += cost(self._brackets[len(self._races) + bool(self._opening) :])
        calls = self._history.calls
        return Position(
            bracket=bracket.index,
            brackets=len(self._brackets),
            open=len(opened) + bool(self._opening),
            stage=bracket.stage,
            rung=rung,
            rungs=len(bracket.rungs),
            fidelity=bracket.rungs[rung].fidelity,
            done=calls,
            planned=min(calls + ahead, self._max_calls or calls + ahead),
            incumbent=self.incumbent(),
        )

    # ---- opening: ``position`` is a bracket's place among ``self._brackets`` ----

    def _open_next(self) -> None:
        """Ask for the next bracket that can be paid for, once all that its proposals depend on is there."""
        while self._opening is None and len(self._races) < len(self._brackets) and self._is_due(len(self._races)):
            position = len(self._races)
            history, before = self._history_at(position), self._rungs_at(position)
            full = self._brackets[position]
            pending = sum(race.bracket.cost(rungs) for race, rungs in before if race.running_after(rungs))
            left = self._limits[full.stage] - history.calls - pending
            bracket = full.narrowed(left) if self._max_calls else full
            if bracket is None:
                self._races.append(Race(full, ()))
                continue
            running = {prompt.id: prompt for race, rungs in before for prompt in race.running_after(rungs)}
            count, observed = bracket.rungs[0].size, tuple(history.observed())
            self._opening = bracket, Request(bracket.stage, bracket.index, count, observed, tuple(running.values()))

    def _is_due(self, position: int) -> bool:
        return all(len(race.rungs) >= rungs or not race.entrants for race, rungs in self._rungs_at(position))

    def _rungs_at(self, position: int) -> list[tuple[Race, int]]:
        """The brackets before ``position``, each with how many of its rungs are complete at the tick this one opens."""
        return [
            (race, min(len(race.bracket.rungs), self._ticks[position] - self._ticks[i]))
            for i, race in enumerate(self._races[:position])
        ]

    def _history_at(self, position: int) -> History:
        """What is complete at the tick at which the bracket at ``position`` opens."""
        history = History(self._seed, self._top)
        for race, complete in self._rungs_at(position):
            for rung, entries in zip(race.bracket.rungs, race.rungs[:complete], strict=False):
                for prompt, evaluation, _ in entries:
                    history.add(rung.fidelity, prompt, evaluation)
        return history
