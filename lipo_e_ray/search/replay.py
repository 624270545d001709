"""The search without Ray: the prompts behind the walk's ids, and the walk in one process.

``run_search`` is what the Ray run must equal, step by step; with recorded outcomes it replays a run in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.search.hyperband import Hyperband, Propose
from lipo_e_ray.types import Evaluation, Prompt, Proposal, Request, RungResult


class Walk:
    """A ``Hyperband`` together with the prompts its ids stand for; ``on_rung`` is given each complete rung, once.

    ``failed``: why it cannot go on.
    """

    def __init__(self, hyperband: Hyperband, on_rung: Callable[[list[RungResult]], object]) -> None:
        self.hyperband = hyperband
        self.prompts: dict[str, Prompt] = {}
        self.failed: Exception | None = None
        self._on_rung = on_rung

    def request(self, action: Propose) -> Request:
        """The action with prompts for ids."""
        return Request(
            action.bracket.stage,
            action.bracket.index,
            action.count,
            tuple((self.prompts[o.prompt_id], o) for o in action.observed),
            tuple(self.prompts[prompt_id] for prompt_id in action.running),
        )

    def enter(self, bracket: Bracket, proposals: Sequence[Proposal]) -> None:
        """Take the proposals of ``bracket``; of more than it asked for (recorded under a larger budget) the first."""
        prompts = [proposal.prompt for proposal in proposals[: bracket.rungs[0].size]]
        self.prompts.update({prompt.id: prompt for prompt in prompts})
        self.hyperband.proposed(bracket.index, [prompt.id for prompt in prompts])

    def observe(self, bracket_index: int, rung: int, evaluations: Sequence[Evaluation]) -> None:
        """Take in a whole rung and report what came of it."""
        self._on_rung(self.hyperband.observe(bracket_index, rung, evaluations))


def run_search(
    hyperband: Hyperband,
    propose: Callable[[Request], list[Proposal]],
    evaluate: Callable[[Prompt, int], Evaluation],
    on_proposals: Callable[[int, list[Proposal]], object],
    on_rung: Callable[[list[RungResult]], object],
) -> None:
    """Walk ``hyperband`` to its end, one evaluation (prompt, fidelity) at a time.

    ``on_proposals`` (bracket index, proposals) and ``on_rung`` are called before anything depends on what they record.
    """
    walk = Walk(hyperband, on_rung)
    while actions := hyperband.actions():
        action = actions[0]
        if isinstance(action, Propose):
            proposals = propose(walk.request(action))
            on_proposals(action.bracket.index, proposals)
            walk.enter(action.bracket, proposals)
        else:
            walk.observe(
                action.bracket.index,
                action.rung,
                [evaluate(walk.prompts[prompt_id], action.fidelity) for prompt_id in action.prompt_ids],
            )
