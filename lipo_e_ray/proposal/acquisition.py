"""Log expected improvement, its gradient ascent inside a box, and the greedy choice of a batch. Errors are minimised.

The incumbent is the lowest posterior MEAN over the observed prompts, never the lowest measured error: with noisy
counts the latter is mostly luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipo_e_ray.surrogate.gp import JointPromptGP

FAR = -1e4
"""Below this many standard deviations 1 - |u| Phi(u) / phi(u) has fewer correct digits than its expansion 1 / u^2."""


def log_ei(mean: Tensor, std: Tensor, best: float) -> Tensor:
    """log E[max(best - f, 0)] for f ~ N(mean, std^2), any shape, finite and differentiable far from the incumbent.

    Ament et al. 2023, "Unexpected improvements to expected improvement", NeurIPS, section 4.1 and appendix A.1.
    """
    return std.log() + _log_h((best - mean) / std)


def _log_h(u: Tensor) -> Tensor:
    """log(phi(u) + u Phi(u)); each branch sees only arguments it can take, so that no gradient is NaN."""
    near = u.clamp_min(-1.0)
    density = torch.exp(-0.5 * near**2) / math.sqrt(2 * math.pi)
    upper = (density + near * torch.special.ndtr(near)).log()
    low = u.clamp_max(-1.0)
    middle = low.clamp_min(FAR)
    ratio = math.sqrt(math.pi / 2) * torch.special.erfcx(-middle / math.sqrt(2)) * middle.abs()  # |u| Phi(u) / phi(u)
    tail = torch.where(low > FAR, torch.log1p(-ratio), -2 * low.abs().log())
    return torch.where(u > -1.0, upper, -0.5 * low**2 - 0.5 * math.log(2 * math.pi) + tail)


def ascend(
    gp: JointPromptGP, start: Tensor, box: tuple[Tensor, Tensor], scale: Tensor, steps: int, rate: float, best: float
) -> tuple[Tensor, Tensor]:
    """Raise LogEI from every start at once, by Adam; returns the best point visited per row and its LogEI.

    Args:
        start: (b, d). ``box``: lower and upper bounds, each broadcast to (b, d); where they are equal a coordinate is
        held. scale: (d,), the unit of ``rate``: latent dimensions differ in spread.
    """
    lower, upper = box
    # One point per row in its own units. Adam treats coordinates alone, so rows of one batch cannot disturb each other.
    offset = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=rate)
    found, found_value = start.clone(), torch.full(start.shape[:1], -torch.inf, dtype=start.dtype)
    for step in range(steps + 1):
        z = start + offset * scale
        value = log_ei(*gp.predict(z), best)
        better = value.detach() > found_value
        found[better], found_value[better] = z.detach()[better], value.detach()[better]
        if step == steps:
            break
        optimizer.zero_grad()
        (-value.sum()).backward()
        optimizer.step()
        with torch.no_grad():
            inside = torch.minimum(torch.maximum(start + offset * scale, lower), upper)
            offset.copy_((inside - start) / scale)
    return found, found_value


def greedy_batch(
    mean: Tensor, covariance: Tensor, noise: float, best: float, q: int, pending: Sequence[int] = ()
) -> list[int]:
    """Pick up to q of b candidates by LogEI, each pick pending for the next: mean believed, variance spent.

    Kriging believer (Ginsbourger et al. 2010, section 4.1): conditioning on the posterior mean leaves all means and
    takes cov(., j) cov(j, .) / (var_j + noise) off the covariance. Equal values go to the lower index.

    Args:
        mean (b,), covariance (b, b): joint posterior of the candidates. ``noise``: variance of a pending measurement.
        pending: candidates already chosen; conditioned on, not returned.
    """
    variance = covariance.diagonal().clone()
    open_ = torch.ones(len(mean), dtype=torch.bool)
    # Row t: what the t-th pending candidate takes, so that only the columns ever asked for are updated (a partial
    # Cholesky factor).
    taken = torch.empty(len(pending) + q, len(mean), dtype=mean.dtype)
    picks: list[int] = []
    queue, t = list(pending), 0
    while len(picks) < q:
        for j in queue:
            column = covariance[:, j] - taken[:t, j] @ taken[:t]
            taken[t] = column / (variance[j] + noise).sqrt()
            variance -= taken[t].square()
            open_[j] = False
            t += 1
        if not open_.any():
            break
        value = log_ei(mean, variance.clamp_min(1e-12).sqrt(), best)
        queue = [int(value.masked_fill(~open_, -torch.inf).argmax())]
        picks += queue
    return picks
