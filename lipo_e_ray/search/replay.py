"""The search without Ray: the walk in one process, one evaluation at a time.

The Ray run must equal it step by step; with recorded outcomes it replays a run in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.types import Batch, Evaluation, Prompt, Request, RungResult


def run_search(
    hyperband: Hyperband,
    propose: Callable[[Request], Batch],
    evaluate: Callable[[Prompt, int], Evaluation],
    on_proposals: Callable[[Request, Batch], object] = lambda request, batch: None,
    on_rung: Callable[[list[RungResult]], object] = lambda results: None,
) -> None:
    """Walk ``hyperband`` to its end, one evaluation (prompt, fidelity) at a time.

    ``on_proposals`` (request, batch) and ``on_rung`` are called before anything depends on what they record.
    """
    while actions := hyperband.actions():
        action = actions[0]
        if isinstance(action, Request):
            batch = propose(action)
            on_proposals(action, batch)
            prompts = [proposal.prompt for proposal in batch.proposals]
            if results := hyperband.enter(action.bracket, prompts, batch.written):
                on_rung(results)
        else:
            evaluations = [evaluate(prompt, action.fidelity) for prompt in action.prompts]
            on_rung(hyperband.observe(action.bracket, action.step, evaluations))
