"""A table as what a search pays for: counts of calls, the incumbent after each, and what that was worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.recorded.tables import OutcomeTable
from lipo_e_ray.types import Evaluation, Observation, Prompt

FULL_EVALUATIONS = 25  # a search's budget, in evaluations of one prompt on all validation examples


class SpentError(Exception):
    """The budget does not pay for this evaluation."""


class Oracle:
    """Answers from ``table``; a prompt pays for those examples only that it has not been asked.

    Examples come in an order that depends on ``seed``: the validation split is shuffled anew for each, as a user's
    run with another seed would. The incumbent is the prompt with the fewest errors at the highest fidelity reached.
    """

    def __init__(self, table: OutcomeTable, seed: int, budget: float = FULL_EVALUATIONS) -> None:
        self.table = table
        self.n = len(table.grid.validation)
        self.budget = int(budget * self.n)
        self.calls = 0
        order = np.random.default_rng([seed, 1]).permutation(self.n)
        wrong = ~table.correct.reshape(len(table.prompts), -1)[:, order]
        self.wrong = wrong
        self._errors = np.pad(wrong.cumsum(1), ((0, 0), (1, 0)))
        self._paid = np.zeros(len(table.prompts), int)
        self._incumbent = (0, 0, -1)  # minus fidelity, errors, prompt: lower is better
        self.trace: list[tuple[int, int]] = []  # calls, incumbent

    def errors(self, prompt: int, n: int) -> int:
        """Errors of a prompt (its index) on the first n examples. Raises ``SpentError``."""
        new = max(0, n - int(self._paid[prompt]))
        if self.calls + new > self.budget:
            raise SpentError
        self.calls += new
        self._paid[prompt] = max(n, self._paid[prompt])
        errors = int(self._errors[prompt, n])
        if (-n, errors) < self._incumbent[:2]:
            self._incumbent = (-n, errors, prompt)
        self.trace.append((self.calls, self._incumbent[2]))
        return errors

    def evaluate(self, prompt: Prompt, n: int) -> Evaluation:
        """The same for ``run_search``."""
        before, index = self.calls, self.table.index(prompt)
        return Evaluation(Observation(prompt.id, self.errors(index, n), n), 0, self.calls - before)


def normalised(table: OutcomeTable, trace: Sequence[tuple[int, int]], calls: float) -> tuple[float, float]:
    """Validation and test error of the incumbent after so many calls: 0 the best prompt of the grid, 1 the worst.

    Before a search has an incumbent it has the worst.
    """
    chosen = [prompt for paid, prompt in trace if paid <= calls]
    if not chosen:
        return 1.0, 1.0
    validation, test = (
        (errors[chosen[-1]] - errors.min()) / (errors.max() - errors.min())
        for errors in (table.validation_error, table.test_error)
    )
    return float(validation), float(test)
