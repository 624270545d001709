"""``JointPromptGP``: the error rate of a prompt as a Gaussian process over its refined latent z = [z_inst || z_ex].

Covariance: Scale(k_inst(z_inst) * k_ex(z_ex)), each a constant plus a Matern-5/2 with ARD. Multiplied out: an effect
of the instruction, one of the exemplar set, and one of both together; how much of each, the fit decides. Targets are
error rates with the variance of each, known from its counts and a Beta prior (``surrogate/noise.py``), so prompts of
every fidelity take part and a higher one counts for more. On the same examples prompts err together, the more so the
more alike they are: they share a part of their noise. So the GP does not hold it against a prompt that it was asked the
hard examples only, nor take fifty like prompts on five examples for 250 measurements.

botorch holds the model: parameters, priors, constraints, the input and outcome transforms. The numbers come from
``surrogate/exact.py``, which agrees with botorch's own and takes a fraction of the time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Normalize, Standardize
from botorch.optim.closures import ForwardBackwardClosure
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import MaternKernel, ProductKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.errors import NanError, NotPSDError
from numpy.typing import NDArray
from torch import Tensor

from lipo_e_ray.surrogate.exact import Hyperparameters, LogEvidence, Posterior
from lipo_e_ray.surrogate.noise import SHARES, BetaPrior, Blocks, Measurements, NoiseShares, blocks, fit_prior, measure
from lipo_e_ray.types import LipoError

logger = logging.getLogger(__name__)

LBFGS_OPTIONS = {"maxiter": 30, "ftol": 1e-5}
"""When a fit ends. Tighter options cost two to five times the time and move neither likelihood nor held-out errors."""
SCALE_SPREAD = 0.3
"""Standard deviation of the log-normal prior of the output scale, round the variance that the Beta prior implies."""
COMMON = 0.3
"""Where the fit starts with the common part of each half of the kernel (see ``HalfKernel``)."""
MIN_VARIANCE = 1e-12  # of a prediction, so that rounding never makes its standard deviation NaN


Counts = Sequence[int] | NDArray[Any]
"""Integers, one for each observation."""


class SurrogateError(LipoError):
    """The observations give no usable GP: the search has to propose without one."""


class HalfKernel(MaternKernel):  # type: ignore[misc]  # gpytorch has no types
    """common + (1 - common) * Matern-5/2 on ``dims``: a share ``common`` is the same for all pairs of prompts.

    ``common``: where its fit starts; None: it is 0 and not fitted. Lengthscale prior scaled with the dimension
    (Hvarfner et al. 2024, ICML, section 5).
    """

    def __init__(self, dims: range, common: float | None = COMMON) -> None:
        prior = LogNormalPrior(math.sqrt(2) + math.log(len(dims)) / 2, math.sqrt(3))
        super().__init__(
            nu=2.5,
            ard_num_dims=len(dims),
            active_dims=tuple(dims),
            lengthscale_prior=prior,
            lengthscale_constraint=GreaterThan(0.025, transform=None, initial_value=prior.mode),
        )
        start = common or 0.0
        self.register_parameter("common", torch.nn.Parameter(torch.tensor(start), requires_grad=common is not None))
        self.register_constraint("common", Interval(0.0, 0.95, transform=None, initial_value=start))

    def forward(self, x1: Tensor, x2: Tensor, **options: Any) -> Tensor:
        correlation: Tensor = self.common + (1 - self.common) * super().forward(x1, x2, **options)
        return correlation


KernelFactory = Callable[[int, int], ProductKernel]
"""Widths of z_inst and z -> the product of two kernels: the first reads the first w dimensions of z, the second the
others. Each is a ``HalfKernel``, or has ``lengthscale`` (1, w) and ``common`` () of its own: ``surrogate/exact.py``
computes that form from these numbers. So a factory chooses where z is split, the priors, and what is fitted."""


def product_of_halves(inst_dim: int, dim: int) -> ProductKernel:
    """LIPO-E's kernel: an effect of the instruction, one of the exemplar set, and one of both together."""
    return ProductKernel(HalfKernel(range(inst_dim)), HalfKernel(range(inst_dim, dim)))


class JointPromptGP:
    """Gaussian process over refined latents (b, d) float64. Every ``fit`` rebuilds it; nothing is appended.

    A second ``fit`` on the same object starts from the hyperparameters of the last one. Where a search must be a
    function of its observations alone, use a new object each time.
    """

    def __init__(
        self,
        inst_dim: int,
        maximise: Callable[[ExactMarginalLogLikelihood], None] | None = None,
        shares: NoiseShares = SHARES,
        make_kernel: KernelFactory = product_of_halves,
        measure: Callable[[Blocks, BetaPrior], Measurements] = measure,
    ) -> None:
        """``inst_dim``: width of z_inst in z. ``maximise``: fits the hyperparameters, by default botorch's L-BFGS.

        ``shares``: how much of the noise prompts have in common on the same examples. ``make_kernel``: the correlation
        of two prompts. ``measure``: the error rates that are fitted, and their noise.
        """
        self.inst_dim = inst_dim
        self._shares = shares
        self._make_kernel = make_kernel
        self._measure = measure
        self._maximise = maximise or maximise_lbfgs
        self.prior = BetaPrior()
        self.model: Any = None  # botorch's SingleTaskGP of the last fit, whose parts have no types
        self._posterior: Posterior | None = None
        self._hyperparameters: dict[str, Tensor] = {}

    def fit(self, z: Tensor, errors: Counts, evaluated: Counts, prompt: Counts | None = None) -> JointPromptGP:
        """Fit to m prompts: latents (m, d), and integer counts with the row of ``z`` they belong to (see ``blocks``).

        Give every fidelity a prompt was observed at, not its highest alone. A fit that fails or gives non-finite
        numbers keeps the last good hyperparameters (the prior's modes, if there are none) and logs a warning. Raises
        ``SurrogateError`` when not even those give finite predictions.
        """
        if not z.isfinite().all():
            raise SurrogateError(
                f"GP: expected finite latents, got others for {int((~z.isfinite()).any(1).sum())} of {len(z)} prompts"
            )
        data = blocks(errors, evaluated, prompt)
        totals = data.totals()
        if len(z) != len(totals[0]):
            raise ValueError(f"expected counts for every latent, got {len(z)} latents, counts of {len(totals[0])}")
        self.prior = fit_prior(*totals)
        measurements = self._measure(data, self.prior)
        inputs = z.detach().double()[data.prompt]
        self.model = self._build(inputs, measurements)
        start = {name: value.detach().clone() for name, value in self.model.named_parameters()} | self._hyperparameters
        _restore(self.model, start)
        try:
            self._maximise(ExactMarginalLogLikelihood(self.model.likelihood, self.model))
            failure = self._condition(z)
        except (ModelFittingError, NotPSDError, NanError) as error:
            failure = _named(error)
        if failure:
            source = "the last fit" if self._hyperparameters else "the prior"
            logger.warning("GP fit on %d prompts failed (%s); using the hyperparameters of %s", len(z), failure, source)
            self.model = self._build(inputs, measurements)  # a failed fit leaves any state
            _restore(self.model, start)
            if failure := self._condition(z):
                raise SurrogateError(f"GP on {len(z)} prompts: expected finite predictions, got {failure}")
        else:
            self._hyperparameters = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        return self

    def predict(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (b,) of the error rate at z (b, d), without measurement noise.

        Differentiable in z. The model is Gaussian: a mean may lie a little outside [0, 1].
        """
        posterior, centre, spread = self._fitted()
        mean, variance = posterior.marginals(self.model.input_transform(z))
        return centre + spread * mean, (spread**2 * variance).clamp_min(MIN_VARIANCE).sqrt()

    def joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Joint posterior of the error rates at z (b, d): mean (b,) and covariance (b, b), without gradient."""
        posterior, centre, spread = self._fitted()
        mean, covariance = posterior.joint(self.model.input_transform(z))
        return centre + spread * mean, spread**2 * covariance

    def _fitted(self) -> tuple[Posterior, Tensor, Tensor]:
        """The posterior of the standardised error rates; their mean and standard deviation, () each."""
        if self._posterior is None:
            raise ValueError("GP: expected a fit before a prediction, got none; call fit")
        transform = self.model.outcome_transform
        return self._posterior, transform.means.squeeze(), transform.stdvs.squeeze()

    def _condition(self, z: Tensor) -> str:
        """Freeze the hyperparameters and compute once what every prediction needs; why that failed, empty if not."""
        model = self.model.eval().requires_grad_(False)  # evaluation mode: ``train_inputs`` are the transformed ones
        try:
            self._posterior = Posterior(
                _hyperparameters(model),
                model.train_inputs[0],
                model.train_targets,
                model.noise_covariance,
                model.similar_noise,
            )
        except (NotPSDError, NanError) as error:
            return _named(error)
        return "" if self._is_finite(z) else "non-finite hyperparameters or predictions"

    def _build(self, z: Tensor, measurements: Measurements) -> SingleTaskGP:
        """botorch's model of r measurements at z (r, d), its hyperparameters at the modes of their priors."""
        rate, variance = (torch.from_numpy(values)[:, None] for values in measurements[:2])
        shared = torch.from_numpy(measurements.shared)
        spread = float(rate.std()) if len(rate) > 1 else 0.0
        standard = spread if spread >= 1e-8 else 1.0  # as Standardize does it
        implied = self.prior.mean * (1 - self.prior.mean) / (self.prior.strength + 1) / standard**2
        covariance = ScaleKernel(
            self._make_kernel(self.inst_dim, z.shape[-1]),
            # Smoothed targets vary less than the rates they stand for. Left alone, the scale shrinks to nothing and the
            # model is sure of a flat landscape; fixed at 1, it is too sure of itself.
            outputscale_prior=LogNormalPrior(math.log(implied), SCALE_SPREAD),
            outputscale_constraint=GreaterThan(1e-8, transform=None, initial_value=implied),
        )
        everyone, similar = self._shares
        inst, ex = (kernel.lengthscale.shape[-1] for kernel in covariance.base_kernel.kernels)
        if inst + ex != z.shape[-1]:
            raise ValueError(f"kernel: expected lengthscales for {z.shape[-1]} dimensions, got {inst} and {ex}")
        model = SingleTaskGP(
            z,
            rate,
            (1 - everyone - similar) * variance,
            covar_module=covariance,
            input_transform=Normalize(z.shape[-1]),
            outcome_transform=Standardize(1),
        )
        # botorch's likelihood has a diagonal only
        model.noise_covariance = torch.diag(model.likelihood.noise) + everyone * shared / standard**2
        model.similar_noise = similar * shared / standard**2
        return model

    def _is_finite(self, z: Tensor) -> bool:
        parameters = all(bool(value.isfinite().all()) for value in self.model.parameters())
        with torch.no_grad():
            return parameters and all(bool(value.isfinite().all()) for value in self.predict(z.double()))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _restore(model: SingleTaskGP, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])


def _hyperparameters(model: SingleTaskGP) -> Hyperparameters:
    inst, ex = model.covar_module.base_kernel.kernels
    return Hyperparameters(
        model.mean_module.constant,
        model.covar_module.outputscale,
        inst.lengthscale[0],
        ex.lengthscale[0],
        inst.common,
        ex.common,
    )


def maximise_lbfgs(mll: ExactMarginalLogLikelihood) -> None:
    """Maximise ``mll`` (marginal likelihood plus priors, per prompt) by botorch's L-BFGS, from ``exact.LogEvidence``.

    botorch retries from sampled priors, hence the fork.
    """
    model = mll.model
    data = (
        model.transform_inputs(model.train_inputs[0]),
        model.train_targets,
        model.noise_covariance,
        model.similar_noise,
    )

    def loss() -> Tensor:
        priors = sum(prior.log_prob(value(module)).sum() for _, module, prior, value, _ in mll.named_priors())
        evidence: Tensor = LogEvidence.apply(*_hyperparameters(model), *data)  # type: ignore[no-untyped-call]
        per_prompt: Tensor = (evidence + priors) / len(model.train_targets)
        return -per_prompt

    closure = ForwardBackwardClosure(loss, dict(mll.named_parameters()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fit_gpytorch_mll(mll, closure=closure, optimizer_kwargs={"options": LBFGS_OPTIONS})
