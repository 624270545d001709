"""Beta-binomial smoothing: from integer counts to an error rate and the variance of its measurement.

A prompt's error rate is drawn from Beta(alpha, beta); its errors are binomial. The prior is fitted to all prompts seen
so far (empirical Bayes), so a prompt with 2 errors in 10 is pulled towards the others and one with 260 in 1319 hardly
moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

STRENGTH = (2.0, 50.0)
"""Bounds of a fitted prior's alpha + beta. Below 2 the prior piles up at 0 and 1 and a lucky 0 of 10 looks certain; 50
keeps a few prompts that happen to agree from drowning every later difference."""


class NoiseShares(NamedTuple):
    """Shares, 0..1 each, of the variance of an answer, by cause.

    ``everyone``: the example is hard, or easy, for every prompt. ``similar``: it is so for some prompts and not for
    others, and two prompts agree the more about it the more alike they are. The rest differs from prompt to prompt.
    """

    everyone: float
    similar: float


SHARES = NoiseShares(0.2, 0.4)
"""The shares as measured on recorded answers: docs/log.md, "What prompts have in common"."""


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


def smoothed(errors: ArrayLike, evaluated: ArrayLike, prior: BetaPrior) -> tuple[Array, Array]:
    """Posterior mean (k + a) / (b + a + c) and variance p (1 - p) / (b + a + c + 1) of each error rate, both (m,)
    float64.

    a and c are the prior's alpha and beta, k the errors, b the evaluations, p the returned mean.
    """
    k, b = _counts(errors, evaluated)
    total = b + prior.strength
    mean = (k + prior.alpha) / total
    return mean, mean * (1.0 - mean) / (total + 1.0)


@dataclass(frozen=True)
class Blocks:
    """Measurements that have no answer in common: r blocks of examples, each of one prompt; vectors (r,) of integers.

    Block i: prompt ``prompt[i]`` erred ``errors[i]`` times on the validation examples ``start[i]`` to ``stop[i]``.
    """

    prompt: Array
    start: Array
    stop: Array
    errors: Array

    @property
    def size(self) -> Array:
        """Examples of each block, (r,)."""
        size: Array = self.stop - self.start
        return size

    def totals(self) -> tuple[Array, Array]:
        """Errors and evaluations of each of m prompts, both (m,)."""
        return np.bincount(self.prompt, self.errors).astype(int), np.bincount(self.prompt, self.size).astype(int)


def blocks(errors: ArrayLike, evaluated: ArrayLike, prompt: ArrayLike | None = None) -> Blocks:
    """What each observation adds to the narrower ones of its prompt: a fidelity is a prefix of one order of examples.

    Args:
        errors, evaluated: integer counts of each observation. prompt: the index, 0..m-1, of the prompt it belongs to;
        every prompt has one at least; by default each observation is of a prompt of its own.

    Give every observation of a prompt, not its widest alone. A prompt is promoted because it did well on its first
    examples. Where those results are merged into the widest, the prompts that were not promoted are all that shows
    the first examples alone, and these look hard for every prompt.
    """
    _counts(errors, evaluated)
    k, b = np.asarray(errors), np.asarray(evaluated)
    row = np.arange(len(k)) if prompt is None else np.asarray(prompt)
    order = np.lexsort((b, row))
    k, b, row = k[order], b[order], row[order]
    again = np.concatenate([[False], row[1:] == row[:-1]])
    narrower, before = (np.where(again, np.roll(counts, 1), 0) for counts in (b, k))
    new = b > narrower
    if np.any(k < before) or np.any(k - before > b - narrower):
        raise ValueError("expected each observation of a prompt to contain its narrower ones, got counts that do not")
    return Blocks(row[new], narrower[new], b[new], (k - before)[new])


class Measurements(NamedTuple):
    """What a GP is fitted on: error rates of r blocks, and their noise if its only cause were one of these.

    ``rate`` (r,). ``variance`` (r,): every prompt errs by itself. ``shared`` (r, r), a covariance: the examples alone
    make answers right or wrong.
    """

    rate: Array
    variance: Array
    shared: Array


def measure(data: Blocks, prior: BetaPrior) -> Measurements:
    """``measured`` and ``shared_noise``."""
    return Measurements(*measured(data, prior), shared_noise(data, prior))


def measured(data: Blocks, prior: BetaPrior) -> tuple[Array, Array]:
    """Error rates k / n and their sampling variances p (1 - p) / n, both (r,) float64.

    p is the prompt's smoothed rate on all its examples, so a prompt with no error or nothing but errors has noise too.
    The rate itself is not smoothed: the GP shrinks it by that noise, and shrinking twice made it too sure.
    """
    p, _ = smoothed(*data.totals(), prior)
    return data.errors / data.size, (p * (1.0 - p))[data.prompt] / data.size


def shared_noise(data: Blocks, prior: BetaPrior) -> Array:
    """Covariance (r, r) of error rates if only examples, and not prompts, made answers right or wrong.

    For two blocks it is v times the share of pairs, an example of each, that are the same example; v is the variance
    p (1 - p) of an answer at the prior's mean. (With each prompt's own p the fit is drawn to prompts nearly always
    wrong or right: Peelle's puzzle.)
    """
    common = np.minimum(data.stop[:, None], data.stop) - np.maximum(data.start[:, None], data.start)
    noise: Array = prior.mean * (1 - prior.mean) * common.clip(0) / np.outer(data.size, data.size)
    return noise


def _counts(errors: ArrayLike, evaluated: ArrayLike) -> tuple[Array, Array]:
    k, b = np.asarray(errors), np.asarray(evaluated)
    if k.shape != b.shape or k.ndim != 1:
        raise ValueError(f"expected two vectors of one length, got shapes {k.shape} and {b.shape}")
    if k.size and not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise ValueError(f"expected integer counts, got {k.dtype} and {b.dtype}; never rebuild a count from a rate")
    if np.any(k < 0) or np.any(k > b) or np.any(b < 1):
        raise ValueError("expected 0 <= errors <= evaluated and evaluated >= 1; leave out prompts without an answer")
    return k.astype(float), b.astype(float)
