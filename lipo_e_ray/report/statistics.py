"""The statistics of the report: 95% intervals and exact tests for counts, valid for small samples too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95% interval


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); (0, 1) when nothing was measured."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


@dataclass(frozen=True)
class Rate:
    """``correct`` of ``n``, as integers; ``value`` raises ``ZeroDivisionError`` for n = 0."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        return self.correct / self.n

    @property
    def estimate(self) -> float:
        """The mean of the rate's posterior when any rate is as likely beforehand (Laplace's rule)."""
        return (self.correct + 1) / (self.n + 2)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Paired:
    """Two prompts on the same questions: how often both, only one, or neither was right."""

    both: int
    only_best: int
    only_baseline: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.only_best + self.only_baseline + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the best less that of the baseline."""
        return (self.only_best - self.only_baseline) / self.n

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: a fair coin decides each question on which the two differ."""
        discordant = self.only_best + self.only_baseline
        tail = sum(math.comb(discordant, i) for i in range(min(self.only_best, self.only_baseline) + 1))
        return min(1.0, float(2 * tail / 2**discordant))

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of ``difference``: Newcombe 1998 (Statistics in Medicine 17:2635), method 10."""
        a, b, c, d = self.both, self.only_best, self.only_baseline, self.neither
        p1, p2 = (a + b) / self.n, (a + c) / self.n
        (low1, high1), (low2, high2) = wilson_interval(a + b, self.n), wilson_interval(a + c, self.n)
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        association = float(a * d - b * c)
        if association > 0:  # the method's continuity correction, for positive association only
            association = max(association - self.n / 2, 0.0)
        phi = association / math.sqrt(margins) if margins else 0.0
        down, up = p1 - low1, high2 - p2
        below = math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0))
        up, down = high1 - p1, p2 - low2
        above = math.sqrt(max(up**2 - 2 * phi * up * down + down**2, 0))
        return self.difference - below, self.difference + above


def departs_from(rate: Rate, share: float) -> int:
    """-1 or +1 where ``rate`` is significantly below or above ``share`` (exact binomial, 2.5% each side), else 0."""
    if bdtr(rate.correct, rate.n, share) < 0.025:
        return -1
    return int(rate.correct > 0 and 1 - bdtr(rate.correct - 1, rate.n, share) < 0.025)


def neighbour_correlation(z: np.ndarray, errors: np.ndarray) -> float:
    """Correlation of the errors (b,) with those of each nearest other point in z (b, d); 0 where all are equal."""
    squares = (z**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * z @ z.T
    np.fill_diagonal(distances, np.inf)
    nearest = errors[distances.argmin(axis=1)]
    if errors.std() == 0 or nearest.std() == 0:
        return 0.0
    return float(np.corrcoef(errors, nearest)[0, 1])
