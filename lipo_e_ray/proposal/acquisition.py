"""Log expected improvement, its gradient ascent inside a box, and the greedy choice of a batch. Errors are minimised.

The incumbent is the lowest posterior MEAN over the observed prompts, never the lowest measured error: with noisy
counts the latter is mostly luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from botorch.utils.sampling import draw_sobol_normal_samples
from torch import Tensor
from torch.nn.functional import softplus

from lipo_e_ray.surrogate.gp import JointPromptGP

FAR = -1e4
"""In standard deviations; there ``_log_h`` changes its form. Below it 1 - |u| Phi(u) / phi(u) has fewer correct digits
than its expansion 1 / u^2."""

DRAWS = 512  # joint samples of all candidates' error rates, from which improvements are averaged
BITS = 16  # of a value that counts in a comparison, see ``comparable``
NO_VARIANCE = 1e-10  # of the largest eigenvalue: below it, an eigenvalue of a covariance is rounding
SMOOTHING = 1e-3  # error rate within which a softplus rounds off max(., 0); Ament et al. 2023, section 4.2


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


def greedy_batch(mean: Tensor, covariance: Tensor, best: float, q: int, pending: Sequence[int] = ()) -> list[int]:
    """Pick up to q of b candidates one by one, each for what it adds to the lowest error of best, pending and picked.

    Expected improvement of the whole batch by quasi-Monte Carlo, maximised greedily (Wilson et al. 2018, "Maximizing
    acquisition functions for Bayesian optimization", NeurIPS, sections 2 and 3). What candidates have in common counts
    once: a second prompt with a promising instruction is worth little if that instruction disappoints. Hyperband will
    find out which prompt of the batch is best, so improvement is that of true error rates, not of one measurement each.

    Args:
        mean (b,), covariance (b, b): joint posterior of the candidates. pending: candidates already chosen, not
        returned.
    """
    draws = mean + draw_sobol_normal_samples(len(mean), DRAWS, dtype=mean.dtype, seed=0) @ square_root(covariance).T
    lowest = draws[:, list(pending)].amin(1).clamp_max(best) if pending else torch.full_like(draws[:, 0], best)
    open_ = torch.ones(len(mean), dtype=torch.bool)
    open_[list(pending)] = False
    picks: list[int] = []
    for _ in range(min(q, int(open_.sum()))):
        # A softplus is above max(., 0) on both sides of 0: where no candidate improves in any draw, the nearest wins.
        value = softplus((lowest[:, None] - draws) / SMOOTHING).mean(0)
        picks.append(int(comparable(value.masked_fill(~open_, -torch.inf)).argmax()))
        open_[picks[-1]] = False
        lowest = torch.minimum(lowest, draws[:, picks[-1]])
    return picks


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric A with A A = covariance; eigenvalues that are 0 but for rounding count as 0: no jitter is needed.

    Symmetric, because the eigenvectors of equal eigenvalues are any that span the same space: with V sqrt(D) a change
    in the last bit of ``covariance`` could give other draws.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values = torch.where(values > NO_VARIANCE * values.amax(), values, 0.0)
    root: Tensor = (vectors * values.sqrt()) @ vectors.T
    return root


def comparable(values: Tensor) -> Tensor:
    """``values``, of any shape, to 16 binary digits: what prompts are ordered by, so that ties are ties.

    Two texts of the same words can have the same latent up to the last bits, and those depend on the batch in which
    the texts were encoded. A resumed run encodes in other batches and must make the same choice.
    """
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**BITS) / 2**BITS, exponent)
