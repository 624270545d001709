"""The walk over all brackets as a pure state machine: observations in, next actions out. No Ray, no torch, no clock.

Brackets overlap, so that no engine waits for a rung's last answer: see ``Hyperband``. All the same the walk is a
function of the seed and of the evaluations: a resumed run, and one on another number of engines, makes the same
decisions, in whatever order the evaluations come in. To that end the schedule, and not the clock, fixes which results
a proposal, a gate or a budget may depend on; a result that arrives earlier than scheduled is not used early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.search.race import History, Race
from lipo_e_ray.search.schedule import Schedule
from lipo_e_ray.types import Evaluation, Observation, Prompt, Request, RungResult, Stage


@dataclass(frozen=True)
class Evaluate:
    """The action "evaluate these prompts", in the order of the proposal, on ``fidelity`` examples: a chunk of a
    bracket's first rung, or a whole later rung.

    ``bracket`` and ``rung`` are indices; ``step`` counts chunks and rungs. In a gated bracket the incumbent is the last
    of ``prompts``. ``wave`` says how early the result is needed; engines with a choice take the lower one first.
    """

    bracket: int
    rung: int
    step: int
    fidelity: int
    prompts: tuple[Prompt, ...]
    wave: int


Action = Request | Evaluate
"""What the walk waits for: proposals for a bracket, or the evaluations of a rung."""


@dataclass(frozen=True)
class Position:
    """Where the walk stands, for display: its first open bracket, of ``open`` ones in all (0 at the end).

    ``brackets``: how many the schedule has, 0 where that depends on the results. ``done`` and ``planned`` are
    evaluations; ``planned`` is an upper bound.
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
    """Successive halving through the brackets of ``schedule``, ``overlap`` rungs apart.

    Count a tick for each step, which is a chunk of a first rung or a later rung. A bracket opens when the one before
    it has ``overlap`` steps left, and at least one complete; its next chunk is proposed when all chunks but
    ``min(overlap, 1)`` are complete. Proposals, gates and budgets depend on exactly the steps that are complete at
    their tick, and treat all other prompts as running. Promotion is that of synchronous successive halving.

    A prompt is charged, for a rung, the examples beyond the highest fidelity it was charged before. ``schedule`` is
    told what its limit leaves for the next bracket, if every bracket that is open costs as much as it can.

    Promotion: fewest errors at equal fidelity; ties by a hash of seed, bracket and prompt. A prompt with calls that
    failed for good is out, and so is one that erred on every example. In a gated bracket the incumbent runs along (on
    examples it has been paid for, so at no charge), and a prompt goes up only if its errors exceed the incumbent's
    ``e`` on the same ``f`` examples by at most ``sqrt(e * (f - e) / f)``: one standard error of the paired difference
    of two prompts with the incumbent's error rate and a correlation of 1/2.

    With several schedules each begins when the one before it is over: a run that was given more to spend goes on from
    where it would have ended.

    A bracket of stage ``baseline`` or ``final`` opens when all before it are over, and asks for no proposals: its
    prompts are those that ``schedule`` names.
    """

    def __init__(self, schedule: Schedule | Sequence[Schedule], seed: int, overlap: int = 1) -> None:
        self._schedules = list(schedule) if isinstance(schedule, Sequence) else [schedule]
        self._first = 0  # of the present schedule's brackets
        self._overlap = overlap
        self._seed = str(seed)
        self._history = History(self._seed)
        self._races: list[Race] = []
        self._next_start = 0  # the tick at which the next bracket opens
        self._closing = False  # all brackets that propose are opened
        self._exhausted = False  # a chunk came back empty: no new prompts exist
        self.stopped = False  # before its end, by ``stop``
        self._waiting: tuple[Race, Request] | None = None  # the chunk that waits for its proposals
        self._advance()

    @property
    def brackets(self) -> list[Bracket]:
        """The brackets that were opened, as they are now: narrowed, resized to their proposals."""
        return [race.bracket for race in self._races]

    def actions(self) -> list[Action]:
        """All that the walk waits for now, the most urgent first; empty when it is over. Asking changes nothing.
        Nothing after ``stop``.
        """
        if self.stopped:
            return []
        evaluations = [_evaluate(race) for race in self._races if race.entrants]
        evaluations.sort(key=lambda action: action.wave)
        return [self._waiting[1], *evaluations] if self._waiting else [*evaluations]

    def is_over(self, bracket: int) -> bool:
        """Whether nothing of this bracket is left to propose or to evaluate."""
        return self.stopped or all(race.over for race in self._races if race.bracket.index == bracket)

    def stop(self) -> None:
        """Begin nothing more, because the time is up. Rungs that are under way can still be observed."""
        self.stopped = self.stopped or bool(self.actions())

    def enter(self, bracket: int, prompts: Sequence[Prompt], written: int = 0) -> list[RungResult]:
        """Enter the prompts proposed for a bracket's next chunk, in order; ``written`` calls were paid to write them.

        With fewer prompts than asked for, no more exist: the bracket shrinks to those it has. Where its first rung is
        complete by that, returns what came of the rung. Raises ``ValueError`` when this bracket waits for no
        proposals, or when there are too many or a prompt is repeated.
        """
        if self._waiting is None or self._waiting[1].bracket != bracket:
            raise ValueError(f"expected proposals for {self._waiting}, got some for bracket {bracket}")
        race, request = self._waiting
        if len({prompt.id for prompt in prompts}) != len(prompts) or len(prompts) > request.count:
            raise ValueError(f"expected up to {request.count} distinct prompts, got {[p.id for p in prompts]}")
        # InvBO has none where no surrogate can be fitted: that says nothing about random prompts.
        self._exhausted = self._exhausted or (not prompts and race.bracket.stage == "hyperband")
        entries = race.enter(prompts, self._seed)
        race.written += written
        self._waiting = None
        results = self._results(race, 0, entries)
        self._advance()
        return results

    def observe(self, bracket: int, step: int, evaluations: Sequence[Evaluation]) -> list[RungResult]:
        """Take in one evaluation for each prompt of an ``Evaluate``, in that order; what came of its rung.

        Raises ``ValueError`` for what the walk does not wait for or what is not at the rung's fidelity.
        """
        race = next((race for race in self._races if race.bracket.index == bracket and race.entrants), None)
        action = _evaluate(race) if race else None
        by_id = {evaluation.observation.prompt_id: evaluation for evaluation in evaluations}
        if not race or not action or step != action.step or list(by_id) != [prompt.id for prompt in action.prompts]:
            raise ValueError(
                f"expected {action or self.actions()}, got step {step} of bracket {bracket}: {list(by_id)}"
            )
        if any(e.observation.evaluated + e.failed != action.fidelity for e in evaluations):
            raise ValueError(f"expected {action.fidelity} examples evaluated or failed, got {list(evaluations)}")
        for prompt in race.entrants:
            self._history.add(action.fidelity, prompt, by_id[prompt.id])
        entries = race.observe(by_id, self._seed)
        results = self._results(race, action.rung, entries)
        self._advance()
        return results

    def _results(self, race: Race, rung: int, entries: Sequence[tuple[Prompt, Evaluation, bool]]) -> list[RungResult]:
        bracket = race.bracket
        return [
            RungResult(
                bracket.index,
                bracket.stage,
                bracket.s,
                rung,
                bracket.rungs[rung].fidelity,
                evaluation.observation,
                promoted,
                self._history.calls,
            )
            for _, evaluation, promoted in entries
        ]

    def incumbent(self) -> Observation | None:
        """The fewest errors at the highest fidelity, without failed calls; ties by a hash of the seed.

        The baseline's race does not count: it goes higher than the others, so the baseline would be the best prompt.
        """
        best = self._seen(race for race in self._races if race.bracket.stage != "baseline").incumbent()
        return best[1] if best else None

    def position(self) -> Position:
        """Where the walk stands."""
        opened = [race for race in self._races if not race.over]
        race = opened[0] if opened else self._races[-1]
        rung = min(len(race.rungs), len(race.bracket.rungs) - 1)
        calls = self._history.calls
        ahead = sum(race.bracket.cost(race.steps) for race in opened)
        return Position(
            bracket=race.bracket.index,
            brackets=self._schedule.brackets,
            open=len(opened),
            stage=race.bracket.stage,
            rung=rung,
            rungs=len(race.bracket.rungs),
            fidelity=race.bracket.rungs[rung].fidelity,
            done=calls,
            planned=self._schedule.limit
            or int(calls + ahead + self._schedule.cost_after(self._opened(), self._history)),
            incumbent=self.incumbent(),
        )

    # ---- opening ----

    def _advance(self) -> None:
        """Ask for the next chunk, once all that its proposals depend on is there; then for the next one."""
        while self._waiting is None:
            chunks = [
                (race.start + len(race.proposed) - self._lag, i) for i, race in enumerate(self._races) if race.wanted
            ]
            opening = [] if self._closing else [(self._next_start, len(self._races))]
            if not chunks and not opening:
                if all(race.over for race in self._races) and (self._close() or self._next_schedule()):
                    continue
                return
            tick, i = min(chunks + opening)
            if not self._is_due(tick):
                return
            race = self._races[i] if i < len(self._races) else self._open(tick)
            if race:
                self._ask(race, tick)

    @property
    def _lag(self) -> int:
        return min(self._overlap, 1)

    def _open(self, tick: int) -> Race | None:
        """The next bracket that proposes; ``None`` when there is no further one."""
        history = self._history_at(tick)
        bracket = self._schedule.following(self._opened(), self._left(tick), self._exhausted, history)
        if bracket is None:  # asked once more when all is complete: what a bracket did not cost may pay for another one
            self._closing = tick >= self._end()
            self._next_start = max(tick, self._end())
            return None
        bracket = replace(bracket, index=len(self._races))
        best = history.incumbent() if bracket.stage == "invbo" else None
        race = Race(bracket, tick, best[0] if best else None)
        self._races.append(race)
        self._next_start = tick + max(1, bracket.steps - self._overlap)
        return race

    def _close(self) -> bool:
        """Open the next bracket of prompts that are known already; ``False`` when there is none."""
        found = self._schedule.closing(self._opened(), self._left(None), self._history)
        if found is None:
            return False
        bracket, prompts = found
        bracket = replace(bracket, index=len(self._races))
        self._races.append(Race(bracket, self._end(), proposed=[tuple(prompts)]))
        return True

    def _next_schedule(self) -> bool:
        """Go on with the next schedule; ``False`` when there is none."""
        if len(self._schedules) == 1:
            return False
        del self._schedules[0]
        self._first, self._next_start = len(self._races), self._end()
        self._closing = self._exhausted = False
        return True

    @property
    def _schedule(self) -> Schedule:
        return self._schedules[0]

    def _opened(self) -> list[Bracket]:
        """The present schedule's brackets, numbered from 0."""
        return [replace(race.bracket, index=i) for i, race in enumerate(self._races[self._first :])]

    def _end(self) -> int:
        """The tick at which everything opened so far is over."""
        return max((race.start + race.bracket.steps for race in self._races), default=0)

    def _ask(self, race: Race, tick: int) -> None:
        running: dict[str, Prompt] = {}
        for other in self._races:
            running |= {prompt.id: prompt for prompt in other.running_after(self._steps_at(other, tick))}
        first = sum(map(len, race.proposed))
        observed = tuple(self._history_at(tick).observed())
        self._waiting = (
            race,
            Request(race.bracket.stage, race.bracket.index, race.wanted, observed, tuple(running.values()), first),
        )

    def _steps_at(self, race: Race, tick: int) -> int:
        """How many steps of ``race`` the schedule completes by ``tick``."""
        return max(0, min(race.bracket.steps, tick - race.start))

    def _is_due(self, tick: int) -> bool:
        return all(race.over or race.steps >= self._steps_at(race, tick) for race in self._races)

    def _left(self, tick: int | None) -> float:
        """What the limit leaves at ``tick``, or now, if all that is open costs as much as it can."""
        if not self._schedule.limit:
            return float("inf")
        left = self._schedule.limit - sum(race.written for race in self._races)
        if tick is None:
            return left - self._history.calls
        steps = [(race, self._steps_at(race, tick)) for race in self._races]
        pending = sum(
            race.bracket.cost(n) for race, n in steps if race.running_after(n) or (race.wanted and not race.rungs)
        )
        return left - pending - self._history_at(tick).calls

    def _history_at(self, tick: int) -> History:
        """What is complete at ``tick``."""
        return self._seen(self._races, tick)

    def _seen(self, races: Iterable[Race], tick: int | None = None) -> History:
        """What is complete of ``races`` at ``tick``, or now."""
        history = History(self._seed)
        for race in races:
            steps = race.steps if tick is None else self._steps_at(race, tick)
            for fidelity, prompt, evaluation in race.observed_after(steps):
                history.add(fidelity, prompt, evaluation)
        return history


def _evaluate(race: Race) -> Evaluate:
    rung, step = len(race.rungs), race.steps
    return Evaluate(
        race.bracket.index, rung, step, race.bracket.rungs[rung].fidelity, race.to_evaluate(), race.start + step
    )
