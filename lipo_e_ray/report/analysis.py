"""What a run found, as plain numbers from its ledger: ranks, parts of the method, calibration, test result.

Scores are compared only with scores of the same fidelity; the best prompt is chosen at the highest fidelity (as in the
ablation of HbBoPs, ICML 2025). Intervals are 95% intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.statistics import Z95, Paired, Rate
from lipo_e_ray.store.ledger import Failure, Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import Fingerprints, Message, Observation, Origin, Prompt, Proposal, RungResult, Stage, Status


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt with its counts at the highest fidelity it reached. ``test``: ``None`` where it was not tested."""

    prompt: Prompt
    origin: Origin
    fidelity: int
    observation: Observation
    test: Rate | None

    def messages(self, question: str) -> list[Message]:
        """The chat that asks ``question`` with this prompt."""
        return render(self.prompt, question)

    @property
    def accuracy(self) -> Rate:
        """Validation accuracy at ``fidelity``."""
        return Rate(self.observation.evaluated - self.observation.errors, self.observation.evaluated)


@dataclass(frozen=True)
class Usage:
    """What the run has cost so far. ``unparseable`` of the ``answers`` could not be read; they count as wrong."""

    calls: int
    tokens: dict[str, int]
    answers: int
    unparseable: int

    @property
    def cache_share(self) -> float:
        """Share of the prompt's tokens that came from the engine's prefix cache."""
        return self.tokens["cached_tokens"] / max(self.tokens["prompt_tokens"], 1)


@dataclass(frozen=True)
class Records:
    """The content of a ledger at one moment; every table below is a function of it."""

    scored: tuple[ScoredPrompt, ...]  # in the order of their first result
    rungs: tuple[RungResult, ...]
    proposals: tuple[Proposal, ...]
    answered: dict[str, int]  # prompt id -> validation answers paid for it
    tests: dict[str, dict[str, Status]]
    failures: tuple[Failure, ...]
    usage: Usage
    fingerprints: Fingerprints

    @property
    def full_fidelity(self) -> int:
        """The highest fidelity any prompt reached; 0 before the first result."""
        return max((s.fidelity for s in self.scored), default=0)

    @cached_property
    def best(self) -> ScoredPrompt | None:
        """The prompt with fewest errors at the highest fidelity; of equals a tested one, then the first proposed."""
        return _least_error(self, lambda _: True)

    @cached_property
    def baseline(self) -> ScoredPrompt | None:
        """The best shipped instruction without exemplars, at the highest fidelity."""
        return _least_error(self, lambda s: s.origin.stage == "seeds")

    @cached_property
    def paired(self) -> Paired | None:
        """Best against baseline, on the test questions that both were asked."""
        if not (self.best and self.baseline and self.best.test and self.baseline.test):
            return None
        best, base = self.tests[self.best.prompt.id], self.tests[self.baseline.prompt.id]
        pairs = [(best[e] is Status.CORRECT, base[e] is Status.CORRECT) for e in best if e in base]
        counts = (pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False)))
        return Paired(*counts) if pairs else None


def _least_error(records: Records, belongs: Callable[[ScoredPrompt], bool]) -> ScoredPrompt | None:
    full = [s for s in records.scored if s.fidelity == records.full_fidelity and belongs(s)]
    return min(full, key=lambda s: (s.observation.errors, s.test is None), default=None)


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
    return Records(
        scored,
        rungs,
        proposals,
        {key: o.evaluated for key, o in validation.items()},
        {key: ledger.statuses(key, "test") for key in test},
        tuple(ledger.failures()),
        Usage(ledger.calls(), ledger.tokens(), sum(o.evaluated for o in answers), sum(o.unparseable for o in answers)),
        ledger.fingerprints,
    )


def read_folder(folder: RunFolder) -> Records:
    """``read`` of the ledger in a run folder. Raises ``InputError`` where there is none."""
    with Ledger(folder.ledger_file) as ledger:
        return read(ledger)


def best_over_calls(records: Records) -> list[RungResult]:
    """The results at the highest fidelity that were better than all before them, in the order of ``calls``."""
    steps: list[RungResult] = []
    for r in sorted((r for r in records.rungs if r.fidelity == records.full_fidelity), key=lambda r: r.calls):
        if not steps or r.observation.error < steps[-1].observation.error:
            steps.append(r)
    return steps


def top_prompts(records: Records, count: int = 10) -> list[tuple[int | None, ScoredPrompt]]:
    """(rank, prompt), highest fidelity first, then least error. Only the highest fidelity's prompts have a rank."""
    order = sorted(records.scored, key=lambda s: (-s.fidelity, s.observation.error))[:count]
    return [(rank if s.fidelity == records.full_fidelity else None, s) for rank, s in enumerate(order, start=1)]


@dataclass(frozen=True)
class Part:
    """What one part of the method found. ``best`` is ``None`` when none of its prompts reached the full fidelity."""

    name: str
    prompts: int
    finished: int  # prompts that reached the full fidelity
    calls: int
    best: ScoredPrompt | None


_PARTS: dict[str, Callable[[Origin], bool]] = {
    "Baseline: seed instructions, no exemplars": lambda o: o.stage == "seeds",
    "Hyperband: seed instructions + exemplars": lambda o: o.stage == "hyperband" and o.source in ("seed", "file"),
    "Hyperband: APE instructions + exemplars": lambda o: o.stage == "hyperband" and o.source == "ape",
    "InvBO: all candidates": lambda o: o.stage == "invbo",
    "InvBO: of these, with new instruction text": lambda o: o.stage == "invbo" and o.source == "invbo",
}


def parts(records: Records) -> list[Part]:
    """One ``Part`` per part of the method; the last one is a subset of the one before it."""
    origins = {p.prompt.id: p.origin for p in reversed(records.proposals)}

    def part(name: str, belongs: Callable[[Origin], bool]) -> Part:
        mine = [s for s in records.scored if belongs(s.origin)]
        return Part(
            name,
            len(mine),
            sum(s.fidelity == records.full_fidelity for s in mine),
            sum(n for key, n in records.answered.items() if key in origins and belongs(origins[key])),
            _least_error(records, lambda s: belongs(s.origin)),
        )

    return [part(name, belongs) for name, belongs in _PARTS.items()]


@dataclass(frozen=True)
class Prediction:
    """The surrogate's prediction for a proposal, and its first result, which is the only one without selection bias."""

    origin: Origin
    mean: float
    std: float
    observation: Observation

    @property
    def spread(self) -> float:
        """Standard deviation of the observed error: Var = std^2 + E[p (1 - p)] / n, the binomial part included."""
        mean = min(max(self.mean, 0.0), 1.0)
        binomial = max(mean * (1 - mean) - self.std**2, 0.0) / self.observation.evaluated
        return math.sqrt(self.std**2 + binomial)

    @property
    def residual(self) -> float:
        """(observed - predicted) / spread: standard normal for a calibrated surrogate."""
        return (self.observation.error - self.mean) / max(self.spread, 1e-9)


def predictions(records: Records) -> list[Prediction]:
    """One per proposal with a predicted ``mean`` and ``std`` and a result in its own bracket."""
    first: dict[tuple[int, str], Observation] = {}
    for r in records.rungs:
        first.setdefault((r.bracket, r.observation.prompt_id), r.observation)
    return [
        Prediction(p.origin, p.info["mean"], p.info["std"], first[p.origin.bracket, p.prompt.id])
        for p in records.proposals
        if (p.origin.bracket, p.prompt.id) in first and p.info.get("mean") is not None and p.info.get("std") is not None
    ]


def coverage(found: Collection[Prediction]) -> Rate:
    """How many observed errors lie inside their 95% prediction intervals."""
    return Rate(sum(abs(p.residual) <= Z95 for p in found), len(found))


def stage_spans(records: Records) -> list[tuple[Stage, int, int]]:
    """(stage, first call, last call) in the order the search went through them."""
    ends: dict[Stage, int] = {}
    for r in records.rungs:
        ends[r.stage] = max(ends.get(r.stage, 0), r.calls)
    starts = [0, *ends.values()]
    return [(stage, start, end) for (stage, end), start in zip(ends.items(), starts, strict=False)]


@dataclass(frozen=True)
class NewInstruction:
    """An instruction InvBO wrote. ``novel``: no input has the same text, case and spacing ignored."""

    best: ScoredPrompt  # the prompt with this instruction that has the highest fidelity, then the least error
    prompts: int
    novel: bool


def new_instructions(records: Records, inputs: Collection[str] = SEED_INSTRUCTIONS) -> list[NewInstruction]:
    """Every instruction text of source ``invbo`` that was evaluated, the best first.

    ``inputs``: the instructions the run was given; those that other sources proposed count as inputs as well.
    """

    def plain(text: str) -> str:
        return " ".join(text.casefold().split())

    known = {plain(text) for text in inputs}
    known |= {plain(p.prompt.instruction) for p in records.proposals if p.origin.source != "invbo"}
    groups: dict[str, list[ScoredPrompt]] = {}
    for _, s in top_prompts(records, len(records.scored)):
        if s.origin.source == "invbo":
            groups.setdefault(s.prompt.instruction, []).append(s)
    return [NewInstruction(group[0], len(group), plain(text) not in known) for text, group in groups.items()]
