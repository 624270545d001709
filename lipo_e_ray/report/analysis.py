"""What a run found, as plain numbers: ranks, parts of the method, calibration. Intervals are 95% ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.records import Records, ScoredPrompt, least_error
from lipo_e_ray.report.statistics import Z95, Rate
from lipo_e_ray.types import InstructionSource, Observation, Origin, Proposal, RungResult, Stage


def best_over_calls(records: Records) -> list[RungResult]:
    """The result of the best prompt so far, whenever that changed, in the order of ``calls``.

    The best has the fewest errors at the highest fidelity that any prompt had reached by then, so its error may rise
    when a higher fidelity is reached. The baseline's race does not count, see ``Records.winner``.
    """
    steps: list[RungResult] = []
    raced = (r for r in records.rungs if r.stage != "baseline")
    for r in sorted(raced, key=lambda r: (r.calls, -r.fidelity, r.observation.errors)):  # a rung's results come at once
        best = steps[-1] if steps else None
        if best is None or (-r.fidelity, r.observation.errors) < (-best.fidelity, best.observation.errors):
            steps.append(r)
    return steps


def top_prompts(records: Records, count: int = 10) -> list[tuple[int | None, ScoredPrompt]]:
    """(rank, prompt), highest fidelity first, then least error. Only the highest fidelity's prompts have a rank."""
    order = sorted(records.scored, key=lambda s: (-s.fidelity, s.observation.error))[:count]
    return [(rank if s.fidelity == records.full_fidelity else None, s) for rank, s in enumerate(order, start=1)]


@dataclass(frozen=True)
class Part:
    """What one part of the method found.

    ``best``: the one with the fewest errors of its prompts that were asked the most examples; ``None`` without any.
    """

    name: str
    prompts: int
    finished: int  # prompts that reached the full fidelity
    calls: int
    best: ScoredPrompt | None


_PARTS: dict[str, Callable[[Proposal], bool]] = {
    "Instructions without exemplars": lambda p: _is_plain(p),
    "Hyperband: given instructions + exemplars": lambda p: _in(p, "hyperband", "seed", "file") and not _is_plain(p),
    "Hyperband: APE instructions": lambda p: _in(p, "hyperband", "ape"),
    "InvBO: all candidates": lambda p: p.origin.stage == "invbo",
    "InvBO: of these, with new instruction text": lambda p: _in(p, "invbo", "invbo"),
}

WAYS = {
    "plain": "instruction without exemplars",
    "random": "random instruction and set",
    "decoded": "set decoded from the latent space",
    "edited": "good set, edited",
    "paired": "good instruction with a good set",
}
"""How a proposal came about (``Proposal.info["way"]``), in words."""


def _in(proposal: Proposal, stage: Stage, *sources: InstructionSource) -> bool:
    return proposal.origin.stage == stage and proposal.origin.source in sources


def _is_plain(proposal: Proposal) -> bool:
    return not proposal.prompt.exemplars and proposal.origin.source in ("seed", "file")


def parts(records: Records) -> list[Part]:
    """One ``Part`` per part of the method; the last one is a subset of the one before it."""
    return _parts(records, _PARTS)


def ways(records: Records) -> list[Part]:
    """One ``Part`` per way in which a prompt came about, for those that were taken."""
    found = _parts(records, {name: partial(_came, way) for way, name in WAYS.items()})
    return [part for part in found if part.prompts]


def _came(way: str, proposal: Proposal) -> bool:
    return bool(proposal.info.get("way") == way)


def _parts(records: Records, kinds: Mapping[str, Callable[[Proposal], bool]]) -> list[Part]:
    proposals = {p.prompt.id: p for p in reversed(records.proposals)}

    def part(name: str, belongs: Callable[[Proposal], bool]) -> Part:
        ids = {key for key, proposal in proposals.items() if belongs(proposal)}
        mine = [s for s in records.scored if s.prompt.id in ids]
        full = [s for s in mine if s.fidelity == records.full_fidelity]
        calls = sum(n for key, n in records.answered.items() if key in ids)
        return Part(name, len(mine), len(full), calls, least_error(mine))

    return [part(name, belongs) for name, belongs in kinds.items()]


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
