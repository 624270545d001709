"""The exact GP behind ``JointPromptGP`` in plain torch: log evidence with its gradient, and the posterior.

Covariance: scale * k(z_inst) * k(z_ex), each k = common + (1 - common) * Matern-5/2 with ARD (Rasmussen and Williams
2006, equations 4.17 and 5.9). Noise: a part that is given, and one that grows with the same k(z_inst) * k(z_ex).
gpytorch gives the same numbers (the tests hold this module to them) and takes two to ten times as long for each step of
a fit or a search; here both gradients are written out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor
from torch.autograd.function import once_differentiable


class Hyperparameters(NamedTuple):
    """Prior mean and variance, () each, and the lengthscales of the two halves of z; all on the scale of the data.

    ``inst_common``, ``ex_common``, () each: the part of a half's covariance that is the same for all pairs of prompts.
    """

    mean: Tensor
    scale: Tensor
    inst: Tensor
    ex: Tensor
    inst_common: Tensor
    ex_common: Tensor


class _Half(NamedTuple):
    """common + (1 - common) * Matern-5/2 between a (b, w) and b (m, w) in units of the lengthscales.

    ``value`` (b, m); ``slope`` (b, m), its derivative by the SQUARED distance, which has no singularity at 0;
    ``by_common`` (b, m), that by the common part.
    """

    a: Tensor
    b: Tensor
    value: Tensor
    slope: Tensor
    by_common: Tensor


def _half(z: Tensor, other: Tensor, lengthscale: Tensor, common: Tensor) -> _Half:
    a, b = z / lengthscale, other / lengthscale
    norms = a.square().sum(-1)[:, None] + b.square().sum(-1)
    squared = torch.addmm(norms, a, b.T, alpha=-2).clamp_min_(0)
    r = (5 * squared).sqrt_()
    decay = r.neg().exp_()
    rise = r.add_(1).mul_(decay)  # (1 + r) exp(-r)
    distant = torch.addcmul(rise, squared, decay, value=5 / 3).neg_().add_(1)  # 1 - Matern
    return _Half(a, b, 1 - (1 - common) * distant, rise * ((common - 1) * 5 / 6), distant)


def _halves(z: Tensor, other: Tensor, hyper: Hyperparameters) -> tuple[_Half, _Half]:
    split = len(hyper.inst)
    return (
        _half(z[:, :split], other[:, :split], hyper.inst, hyper.inst_common),
        _half(z[:, split:], other[:, split:], hyper.ex, hyper.ex_common),
    )


class LogEvidence(torch.autograd.Function):
    """log N(y; mean, (scale + similar) * k + noise), in nats, differentiable in the hyperparameters; k has a diagonal
    of 1.

    ``LogEvidence.apply(*Hyperparameters, z, y, noise, similar)``: latents (m, d), targets (m,), and two covariances
    (m, m) of their noise. ``similar`` is multiplied by k: two prompts share the more of it the more alike they are;
    ``noise`` is added as it is. Raises ``NanError`` and ``NotPSDError`` as gpytorch does, and like it tries jitter
    first.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        hyper, (z, y, noise, similar) = Hyperparameters(*inputs[:-4]), inputs[-4:]
        inst, ex = _halves(z, z, hyper)
        correlation, scale = inst.value * ex.value, hyper.scale + similar
        cholesky = psd_safe_cholesky(scale * correlation + noise)
        residual = y - hyper.mean
        weights = torch.cholesky_solve(residual[:, None], cholesky)
        value: Tensor = (
            -0.5 * (residual @ weights[:, 0] + len(y) * math.log(2 * math.pi)) - cholesky.diagonal().log().sum()
        )
        # d value / d K, times K's part that every other derivative has in common
        common = torch.addmm(torch.cholesky_inverse(cholesky), weights, weights.T, beta=-0.5, alpha=0.5)
        by_scale = (common * correlation).sum()
        common *= scale
        by_inst, by_ex = common * ex.value, common * inst.value
        ctx.save_for_backward(
            weights.sum(),
            by_scale,
            _by_lengthscale(by_inst, inst, hyper.inst),
            _by_lengthscale(by_ex, ex, hyper.ex),
            (by_inst * inst.by_common).sum(),
            (by_ex * ex.by_common).sum(),
        )
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * gradient for gradient in ctx.saved_tensors), None, None, None, None


def _by_lengthscale(outer: Tensor, half: _Half, lengthscale: Tensor) -> Tensor:
    """Sum over pairs of ``outer`` (m, m) * dk/dl, for each lengthscale l: d(squared distance)/dl = -2 (a - b)^2 / l."""
    weight = outer * half.slope
    spread = weight.sum(1) @ half.a.square() - (half.a * (weight @ half.a)).sum(0)
    return -4 * spread / lengthscale


class Posterior:
    """The GP given m noisy targets; everything that no test point changes is computed once, here."""

    def __init__(self, hyper: Hyperparameters, z: Tensor, y: Tensor, noise: Tensor, similar: Tensor) -> None:
        """Latents (m, d), targets (m,), noise as in ``LogEvidence``. Raises ``NanError`` and ``NotPSDError``."""
        self.hyper, self.z = hyper, z
        inst, ex = _halves(z, z, hyper)
        self.cholesky = psd_safe_cholesky((hyper.scale + similar) * inst.value * ex.value + noise)
        self.weights = torch.cholesky_solve((y - hyper.mean)[:, None], self.cholesky)[:, 0]

    def marginals(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (b,) at z (b, d), without noise; differentiable in z, once."""
        mean, variance = _Marginals.apply(z, self)  # type: ignore[no-untyped-call]  # torch's apply has no types
        return mean, variance

    @torch.no_grad()
    def joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (b,) and covariance (b, b) at z (b, d), without noise and without gradient."""
        (inst, ex), (own_inst, own_ex) = _halves(z, self.z, self.hyper), _halves(z, z, self.hyper)
        cross = self.hyper.scale * inst.value * ex.value
        explained = torch.linalg.solve_triangular(self.cholesky, cross.T, upper=False)
        own = self.hyper.scale * own_inst.value * own_ex.value
        return self.hyper.mean + cross @ self.weights, own - explained.T @ explained


class _Marginals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, given: Posterior) -> tuple[Tensor, Tensor]:
        halves = _halves(z, given.z, given.hyper)
        cross = given.hyper.scale * halves[0].value * halves[1].value
        solved = torch.cholesky_solve(cross.T, given.cholesky).T
        if ctx.needs_input_grad[0]:
            ctx.given, ctx.halves, ctx.solved = given, halves, solved
        return given.hyper.mean + cross @ given.weights, given.hyper.scale - (cross * solved).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, None]:
        (inst, ex), hyper = ctx.halves, ctx.given.hyper
        outer = hyper.scale * (by_mean[:, None] * ctx.given.weights - 2 * by_variance[:, None] * ctx.solved)
        by_inst, by_ex = _by_point(outer * ex.value, inst) / hyper.inst, _by_point(outer * inst.value, ex) / hyper.ex
        return torch.cat([by_inst, by_ex], -1), None


def _by_point(outer: Tensor, half: _Half) -> Tensor:
    """Sum over the observed b of ``outer`` (b, m) * dk/da (b, w): d(squared distance)/da = 2 (a - b)."""
    weight = outer * half.slope
    return 2 * (half.a * weight.sum(1, keepdim=True) - weight @ half.b)
