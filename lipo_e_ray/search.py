"""The search without Ray: the prompts behind the walk's ids, and the walk in one process.

``run_search`` is what the Ray run must equal, step by step; with recorded outcomes it replays a run in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lipo_e_ray.results.ledger import RungResult
from lipo_e_ray.tune.brackets import Bracket
from lipo_e_ray.tune.hyperband import Evaluate, Hyperband, Propose
from lipo_e_ray.types import Evaluation, Observation, Prompt, Proposal, Stage

Observed = list[tuple[Prompt, Observation]]
"""Each prompt's widest observation, in the order of proposal: what proposals may depend on."""


class Walk:
    """A ``Hyperband`` together with the prompts its ids stand for; ``on_rung`` is given each complete rung, once."""

    def __init__(self, hyperband: Hyperband, on_rung: Callable[[list[RungResult]], object]) -> None:
        self.hyperband = hyperband
        self.prompts: dict[str, Prompt] = {}
        self._on_rung = on_rung

    def observed(self) -> Observed:
        """What a proposer may know now."""
        return [(self.prompts[o.prompt_id], o) for o in self.hyperband.observations()]

    def enter(self, bracket: Bracket, proposals: Sequence[Proposal]) -> None:
        """Take the proposals of ``bracket``; of more than it asked for (recorded under a larger budget) the first."""
        prompts = [proposal.prompt for proposal in proposals[:bracket.rungs[0].size]]
        self.prompts.update({prompt.id: prompt for prompt in prompts})
        self.hyperband.proposed(bracket.index, [prompt.id for prompt in prompts])

    def observe(self, bracket_index: int, prompt_id: str, evaluation: Evaluation) -> None:
        """Take in one evaluation and report the rung, if it is complete now."""
        if results := self.hyperband.observe(bracket_index, prompt_id, evaluation):
            self._on_rung(results)


def run_search(
    hyperband: Hyperband,
    propose: Callable[[Stage, int, int, Observed], list[Proposal]],
    evaluate: Callable[[Prompt, int], Evaluation],
    on_proposals: Callable[[int, list[Proposal]], object],
    on_rung: Callable[[list[RungResult]], object],
) -> None:
    """Walk ``hyperband`` to its end, one evaluation (prompt, fidelity) at a time.

    ``on_proposals`` (bracket index, proposals) and ``on_rung`` are called before anything depends on what they record.
    """
    walk = Walk(hyperband, on_rung)
    while True:
        action = hyperband.next_action()
        if isinstance(action, Propose):
            bracket = action.bracket
            proposals = propose(bracket.stage, bracket.index, action.count, walk.observed())
            on_proposals(bracket.index, proposals)
            walk.enter(bracket, proposals)
        elif isinstance(action, Evaluate):
            for prompt_id in action.prompt_ids:
                walk.observe(action.bracket.index, prompt_id, evaluate(walk.prompts[prompt_id], action.fidelity))
        else:
            return
