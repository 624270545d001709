"""Beta-binomial smoothing: from integer counts to an error rate and the variance of its measurement.

A prompt's error rate is drawn from Beta(alpha, beta); its errors are binomial. The prior is fitted to all prompts seen
so far (empirical Bayes), so a prompt with 2 errors in 10 is pulled towards the others and one with 260 in 1319 hardly
moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

STRENGTH = (2.0, 50.0)
"""Bounds of alpha + beta. Below 2 the prior piles up at 0 and 1 and a lucky 0 of 10 looks certain; 50 keeps a few
prompts that happen to agree from drowning every later difference."""


class NoiseShares(NamedTuple):
    """Whose doing the variance of an answer is, each 0..1; what is left is the prompt's own.

    ``everyone``: the example is hard, or easy, for every prompt; ``similar``: for prompts as far as they are alike.
    """

    everyone: float
    similar: float


SHARES = NoiseShares(0.1, 0.8)
"""Measured on recorded answers: docs/log.md, "What prompts have in common"."""


@dataclass(frozen=True)
class BetaPrior:
    """Beta distribution of error rates over prompts. The default is uniform: nothing is known."""

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"expected alpha > 0 and beta > 0, got {self.alpha} and {self.beta}; use fit_prior")

    @property
    def mean(self) -> float:
        return self.alpha / self.strength

    @property
    def strength(self) -> float:
        """alpha + beta: how many evaluations the prior is worth."""
        return self.alpha + self.beta


def fit_prior(errors: ArrayLike, evaluated: ArrayLike) -> BetaPrior:
    """Fit the prior by the method of moments, every prompt with equal weight (Kleinman 1973, JASA 68(341), section 3).

    Observed rates vary by more than the prompts do: Var(k/b) = pq (h + g (1 - h)) with p the mean rate, q = 1 - p, h
    the mean of 1/b and g = 1 / (alpha + beta + 1). The sample variance is solved for g, hence for the strength.

    Args:
        errors, evaluated: integer counts (m,), ``0 <= errors <= evaluated`` and ``evaluated >= 1``.

    Degenerate cases: no prompt gives the uniform prior; one prompt, or one evaluation each, leave the strength unknown
    and it takes its lower bound; no more variance than binomial sampling explains gives the upper bound. Bounds apply
    to the SUM alpha + beta, so the mean stays; a mean of 0 or 1 is moved inside by half an error of all evaluations.
    """
    k, b = _counts(errors, evaluated)
    if k.size == 0:
        return BetaPrior()
    edge = 0.5 / (b.sum() + 1.0)
    p = float(np.clip(np.mean(k / b), edge, 1.0 - edge))
    h = float(np.mean(1.0 / b))
    low, high = STRENGTH
    strength = low
    if k.size > 1 and h < 1.0:
        g = (np.var(k / b, ddof=1) / (p * (1.0 - p)) - h) / (1.0 - h)
        strength = high if g <= 0.0 else float(np.clip(1.0 / g - 1.0, low, high))
    return BetaPrior(p * strength, (1.0 - p) * strength)


def smoothed(errors: ArrayLike, evaluated: ArrayLike, prior: BetaPrior) -> tuple[NDArray, NDArray]:
    """Posterior mean (k + a) / (b + a + c) and variance p (1 - p) / (b + a + c + 1) of each error rate, both (m,)
    float64.

    a and c are the prior's alpha and beta, k the errors, b the evaluations, p the returned mean.
    """
    k, b = _counts(errors, evaluated)
    total = b + prior.strength
    mean = (k + prior.alpha) / total
    return mean, mean * (1.0 - mean) / (total + 1.0)


def measured(errors: ArrayLike, evaluated: ArrayLike, prior: BetaPrior) -> tuple[NDArray, NDArray]:
    """What a GP is fitted on: error rates k / b and their sampling variances p (1 - p) / b, both (m,) float64.

    p is the smoothed rate, so a prompt with no error or nothing but errors has noise too. The rate itself is not
    smoothed: the GP shrinks it by that noise, and shrinking twice made it too sure (see docs/log.md).
    """
    k, b = _counts(errors, evaluated)
    p, _ = smoothed(errors, evaluated, prior)
    return k / b, p * (1.0 - p) / b


def shared_noise(evaluated: ArrayLike, prior: BetaPrior) -> NDArray:
    """Covariance (m, m) of error rates if only examples, and not prompts, made answers right or wrong.

    A fidelity is a prefix, so of two prompts the one with fewer examples was asked nothing that the other was not:
    v / max(b, b'), with v the variance p (1 - p) of an answer at the prior's mean. (With each prompt's own p the fit
    is drawn towards those that are nearly always wrong or right: Peelle's puzzle.)
    """
    b = np.asarray(evaluated)
    return prior.mean * (1 - prior.mean) / np.maximum(b[:, None], b)


def _counts(errors: ArrayLike, evaluated: ArrayLike) -> tuple[NDArray, NDArray]:
    k, b = np.asarray(errors), np.asarray(evaluated)
    if k.shape != b.shape or k.ndim != 1:
        raise ValueError(f"expected two vectors of one length, got shapes {k.shape} and {b.shape}")
    if k.size and not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise ValueError(f"expected integer counts, got {k.dtype} and {b.dtype}; never rebuild a count from a rate")
    if np.any(k < 0) or np.any(k > b) or np.any(b < 1):
        raise ValueError("expected 0 <= errors <= evaluated and evaluated >= 1; leave out prompts without an answer")
    return k.astype(float), b.astype(float)
