"""What is read of a ledger: every prompt with its counts, the baseline, the answer.

Scores are compared only with scores of the same fidelity; the best prompt is chosen at the highest fidelity (as in the
ablation of HbBoPs, ICML 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.statistics import Paired, Rate
from lipo_e_ray.store.ledger import Failure, Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import (
    Fingerprints,
    InstructionSource,
    Message,
    Observation,
    Origin,
    Prompt,
    Proposal,
    RungResult,
    Status,
)


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with its counts at the highest fidelity it reached. ``test``: ``None`` where it was not tested."""

    prompt: Prompt
    origin: Origin
    fidelity: int
    observation: Observation
    test: Rate | None

    @property
    def is_plain(self) -> bool:
        """Whether it is an instruction of the user's or a shipped one, without exemplars."""
        return not self.prompt.exemplars and self.origin.source in ("seed", "file")

    def messages(self, question: str) -> list[Message]:
        """The chat that asks ``question`` with this prompt."""
        return render(self.prompt, question)

    @property
    def accuracy(self) -> Rate:
        """Validation accuracy at ``fidelity``."""
        return Rate(self.observation.evaluated - self.observation.errors, self.observation.evaluated)


@dataclass(frozen=True)
class Usage:
    """What the run has cost so far. ``unparseable`` of the ``answers`` could not be read; they count as
    wrong. ``texts``: what the model wrote for the search: instructions, rewritten ones."""

    calls: int
    tokens: dict[str, int]
    answers: int
    unparseable: int
    texts: int

    @property
    def cache_share(self) -> float:
        """Share of the prompt's tokens that came from the engine's prefix cache."""
        return self.tokens["cached_tokens"] / max(self.tokens["prompt_tokens"], 1)


@dataclass(frozen=True)
class Records:
    """The content of a ledger at one moment; every table below is a function of it.

    ``compared``: the answers of baseline and winner, on validation and test examples, by prompt id.
    """

    scored: tuple[ScoredPrompt, ...]  # in the order of their first result
    rungs: tuple[RungResult, ...]
    proposals: tuple[Proposal, ...]
    answered: dict[str, int]  # prompt id -> validation answers paid for it
    tests: dict[str, dict[str, Status]]
    compared: dict[str, dict[str, Status]]
    failures: tuple[Failure, ...]
    usage: Usage
    fingerprints: Fingerprints

    @property
    def full_fidelity(self) -> int:
        """The highest fidelity any prompt reached; 0 before the first result."""
        return max((s.fidelity for s in self.scored), default=0)

    @cached_property
    def best(self) -> ScoredPrompt | None:
        """The answer: the ``winner``, or the baseline where the winner is not ahead of it on the same examples."""
        return self.winner if self.winner and self.is_ahead else self.baseline

    @cached_property
    def winner(self) -> ScoredPrompt | None:
        """The prompt with fewest errors at the highest fidelity outside the baseline's race, see ``_winner``."""
        return _winner(self.scored, self.rungs)

    @cached_property
    def baseline(self) -> ScoredPrompt | None:
        """The user's first instruction without exemplars; else the best shipped one without, see ``_baseline``."""
        return _baseline(self.scored, self.rungs)

    @property
    def is_ahead(self) -> bool:
        """Whether the winner was right more often than the baseline, on all examples that both were asked.

        Where both were right as often there, or were asked none in common, the higher estimate decides: of each one's
        accuracy on all that it was asked.
        """
        if self.baseline is None or self.winner is None or self.baseline is self.winner:
            return True
        pair = paired(*(self.compared[scored.prompt.id] for scored in (self.winner, self.baseline)))
        if pair and pair.difference:
            return pair.difference > 0
        return self.winner.accuracy.estimate > self.baseline.accuracy.estimate

    @cached_property
    def paired(self) -> Paired | None:
        """Winner against baseline, on the test questions that both were asked."""
        if self.winner is None or self.baseline is None or self.winner is self.baseline:
            return None
        return paired(*(self.tests.get(scored.prompt.id, {}) for scored in (self.winner, self.baseline)))


def paired(best: dict[str, Status], base: dict[str, Status]) -> Paired | None:
    """Two prompts' answers, by example, on the examples that both were asked; ``None`` where there is none."""
    pairs = [(best[e] is Status.CORRECT, base[e] is Status.CORRECT) for e in best if e in base]
    counts = (pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False)))
    return Paired(*counts) if pairs else None


def least_error(scored: Sequence[ScoredPrompt]) -> ScoredPrompt | None:
    top = max((s.fidelity for s in scored), default=0)
    full = [s for s in scored if s.fidelity == top]
    return min(full, key=lambda s: (s.observation.errors, s.test is None), default=None)


def _winner(scored: Sequence[ScoredPrompt], rungs: Sequence[RungResult]) -> ScoredPrompt | None:
    """Of equals a tested one, then the first proposed.

    The baseline's race does not count: it goes higher than the races of all other prompts, so a run that ended before
    its finalists raced would have the baseline for an answer, however bad.
    """
    raced: dict[str, RungResult] = {}
    for r in sorted(rungs, key=lambda r: r.fidelity):
        if r.stage != "baseline":
            raced[r.observation.prompt_id] = r
    entered = [s for s in scored if s.prompt.id in raced]
    there = [
        replace(s, fidelity=raced[s.prompt.id].fidelity, observation=raced[s.prompt.id].observation) for s in entered
    ]
    best = least_error(there)
    return entered[there.index(best)] if best else None


def _baseline(scored: Sequence[ScoredPrompt], rungs: Sequence[RungResult]) -> ScoredPrompt | None:
    """The user's first plain instruction. Without one, the plain one that won the last race of such: fewest errors at
    that race's highest fidelity; without such a race, the one with the lowest error rate."""
    plain = [s for s in scored if s.is_plain]
    if own := [s for s in plain if s.origin.source == "file"]:
        return own[0]
    raced = [r for r in rungs if r.stage == "baseline"]
    top = max((r.fidelity for r in raced), default=0)
    errors = {r.observation.prompt_id: r.observation.errors for r in raced if r.fidelity == top}
    if finished := [s for s in plain if s.prompt.id in errors]:
        return min(finished, key=lambda s: (errors[s.prompt.id], s.test is None))
    return min(plain, key=lambda s: (s.observation.error, -s.fidelity, s.test is None), default=None)


def read(ledger: Ledger) -> Records:
    """Read all that the tables need. Results with failed calls are left out: their counts are not comparable."""
    rungs = tuple(r for r in ledger.rungs() if r.observation.evaluated == r.fidelity)
    proposals = tuple(proposal for _, proposal in ledger.proposals())
    first: dict[str, Proposal] = {}
    for proposal in proposals:  # in order of bracket and position, for the order of rungs differs between runs
        first.setdefault(proposal.prompt.id, proposal)
    top: dict[str, RungResult] = {}
    for r in rungs:
        known = top.setdefault(r.observation.prompt_id, r)
        if r.fidelity > known.fidelity:
            top[r.observation.prompt_id] = r
    validation, test = ledger.observations("validation"), ledger.observations("test")
    prompts = ledger.prompts()
    # A shipped instruction may be evaluated for the first time in the race for the baseline. In the order of ids, since
    # that in which results were recorded differs between runs.
    others = {r.observation.prompt_id: r for r in reversed(rungs) if r.observation.prompt_id not in first}
    for key, r in sorted(others.items(), key=lambda item: item[0]):
        if key in prompts:
            source: InstructionSource = "seed" if prompts[key].instruction in SEED_INSTRUCTIONS else "file"
            first[key] = Proposal(prompts[key], Origin(source, r.stage, r.bracket))
    scored = tuple(
        ScoredPrompt(
            proposal.prompt,
            proposal.origin,
            top[key].fidelity,
            top[key].observation,
            Rate(test[key].evaluated - test[key].errors, test[key].evaluated) if key in test else None,
        )
        for key, proposal in first.items()
        if key in top
    )
    answers = [*validation.values(), *test.values()]
    tests = {key: ledger.statuses(key, "test") for key in test}
    compared = {
        s.prompt.id: ledger.statuses(s.prompt.id, "validation") | tests.get(s.prompt.id, {})
        for s in (_winner(scored, rungs), _baseline(scored, rungs))
        if s
    }
    return Records(
        scored,
        rungs,
        proposals,
        {key: o.evaluated for key, o in validation.items()},
        tests,
        compared,
        tuple(ledger.failures()),
        Usage(
            ledger.calls(),
            ledger.tokens(),
            sum(o.evaluated for o in answers),
            sum(o.unparseable for o in answers),
            ledger.texts(),
        ),
        ledger.fingerprints,
    )


def read_folder(folder: RunFolder) -> Records:
    """``read`` of the ledger in a run folder. Raises ``InputError`` where there is none."""
    with Ledger(folder.ledger_file) as ledger:
        return read(ledger)
