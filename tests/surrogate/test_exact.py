"""Against gpytorch's own marginal likelihood, gradients and posterior, on the model that ``JointPromptGP`` builds.

Without noise that prompts share: of that gpytorch's likelihood knows nothing.
"""

import gpytorch
import pytest
import torch
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.errors import NanError

from benchmarks.costs.gp_fit import synthetic_prompts
from lipo_e_ray.surrogate.exact import Hyperparameters, LogEvidence, Posterior
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.surrogate.noise import NoiseShares

D = torch.float64
M = 60
Z, _, ERRORS, EVALUATED = synthetic_prompts(100, seed=3)
LATENTS = torch.cat([Z[M:], Z[:3], Z[:1] * 50])  # new ones, three that were observed, one far away


def untouched(mll):
    """No fit: the prior's modes."""


def shortened(mll):
    with torch.no_grad():
        for kernel, factor in zip(mll.model.covar_module.base_kernel.kernels, (0.05, 0.2), strict=True):
            kernel.raw_lengthscale.mul_(factor * torch.linspace(0.5, 2, 16, dtype=D))


@pytest.fixture(params=[untouched, shortened, None], ids=["modes", "short", "fitted"])
def gp(request):
    return JointPromptGP(16, request.param, shares=NoiseShares(0.0, 0.0)).fit(Z[:M], ERRORS[:M], EVALUATED[:M])


def hyperparameters(model):
    inst, ex = model.covar_module.base_kernel.kernels
    return (
        model.mean_module.raw_constant,
        model.covar_module.raw_outputscale,
        inst.raw_lengthscale,
        ex.raw_lengthscale,
        inst.common,
        ex.common,
    )


def test_evidence_and_gradient_are_gpytorch_s(gp):
    model = gp.model.train().requires_grad_(True)
    parameters = hyperparameters(model)
    output = model(*model.train_inputs)
    expected = model.likelihood(output, model.transform_inputs(Z[:M])).log_prob(model.train_targets)
    expected_slope = torch.autograd.grad(expected, parameters)
    mean, scale, inst, ex, *common = parameters
    value = LogEvidence.apply(
        mean,
        scale,
        inst[0],
        ex[0],
        *common,
        model.transform_inputs(Z[:M]),
        model.train_targets,
        torch.diag(model.likelihood.noise),
        torch.zeros((), dtype=D),
    )
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(torch.autograd.grad(value, parameters), expected_slope, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_what_a_fit_climbs_is_gpytorch_s_objective(monkeypatch):
    """Priors and the division by m included: the values that botorch's optimiser is given, against the mll itself."""
    losses = []
    original = LogEvidence.apply

    def spy(*inputs):
        losses.append((original(*inputs), [value.detach().clone() for value in inputs[:6]]))
        return losses[-1][0]

    monkeypatch.setattr(LogEvidence, "apply", spy)
    fitted = JointPromptGP(16, shares=NoiseShares(0.0, 0.0)).fit(Z[:M], ERRORS[:M], EVALUATED[:M])
    assert len(losses) > 5
    model = fitted.model.train()
    mll = ExactMarginalLogLikelihood(model.likelihood, model)

    def objective(values):
        for parameter, value in zip(hyperparameters(model), values, strict=True):
            parameter.copy_(value.view_as(parameter))
        return float(mll(model(*model.train_inputs), model.train_targets))

    with torch.no_grad():
        best = objective([value.clone() for value in hyperparameters(model)])
        visited = [objective(values) for _, values in losses]
    assert best == pytest.approx(max(visited), abs=1e-9) and best > visited[0] + 0.01


def test_posterior_and_its_gradient_are_gpytorch_s(gp):
    z = LATENTS.clone().requires_grad_()
    posterior = gp.model.posterior(z)
    mean, std = gp.predict(z)
    torch.testing.assert_close(mean, posterior.mean[:, 0], rtol=0, atol=1e-8)
    torch.testing.assert_close(std, posterior.variance[:, 0].sqrt(), rtol=0, atol=1e-8)
    for ours, theirs in ((mean, posterior.mean), (std, posterior.variance.sqrt())):
        (slope,), (expected,) = (torch.autograd.grad(value.sum(), z, retain_graph=True) for value in (ours, theirs))
        # At a distance of 0 gpytorch's own gradient is of the order of its clamp, not 0.
        torch.testing.assert_close(slope[:-4], expected[:-4], rtol=1e-6, atol=1e-8)
        assert slope.isfinite().all()


def test_joint_posterior_is_gpytorch_s(gp):
    with torch.no_grad(), gpytorch.settings.fast_pred_var(False):
        expected = gp.model.posterior(LATENTS)
    mean, covariance = gp.joint(LATENTS)
    torch.testing.assert_close(mean, expected.mean[:, 0], rtol=0, atol=1e-8)
    torch.testing.assert_close(covariance, expected.distribution.covariance_matrix, rtol=0, atol=1e-8)


def test_gradients_against_finite_differences():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(7, 5, dtype=D, generator=generator), torch.arange(7.0, dtype=D)
    noise = torch.linspace(0.1, 0.5, 7, dtype=D)
    hyper = Hyperparameters(
        torch.tensor(0.5, dtype=D),
        torch.tensor(2.0, dtype=D),
        torch.tensor([0.7, 1.3], dtype=D),
        torch.tensor([0.4, 2.0, 1.0], dtype=D),
        torch.tensor(0.2, dtype=D),
        torch.tensor(0.6, dtype=D),
    )
    inputs = [value.clone().requires_grad_() for value in hyper]
    common = 1 / torch.maximum(noise[:, None], noise)
    own, none = torch.diag(noise), torch.zeros(7, 7, dtype=D)
    for covariances in ((own, none), (own + 0.1 * common, none), (own + 0.1 * common, 0.3 * common)):
        assert torch.autograd.gradcheck(
            lambda *values, noises=covariances: LogEvidence.apply(*values, z, y, *noises), inputs
        )
    given = Posterior(hyper, z, y, own + 0.1 * common, 0.3 * common)
    points = torch.randn(4, 5, dtype=D, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(given.marginals, points)


def test_similar_noise_is_noise_in_proportion_to_the_kernel():
    """Evidence and posterior are those of the same noise written out; a new point has no part in it."""
    z, y = torch.randn(5, 4, dtype=D, generator=torch.Generator().manual_seed(1)), torch.arange(5.0, dtype=D)
    one = torch.ones((), dtype=D)
    hyper = Hyperparameters(one, 2 * one, torch.ones(2, dtype=D), torch.ones(2, dtype=D), one / 4, one / 2)
    own, none, similar = torch.eye(5, dtype=D), torch.zeros(5, 5, dtype=D), torch.full((5, 5), 0.7, dtype=D)
    prior = Posterior(hyper, torch.full((1, 4), 1e6, dtype=D), y[:1], torch.full((1, 1), 1e12, dtype=D), none[:1, :1])
    correlation = prior.joint(z)[1] / hyper.scale
    written = own + similar * correlation
    torch.testing.assert_close(
        LogEvidence.apply(*hyper, z, y, own, similar), LogEvidence.apply(*hyper, z, y, written, none)
    )
    new = torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(2))
    for ours, theirs in zip(
        Posterior(hyper, z, y, own, similar).joint(new), Posterior(hyper, z, y, written, none).joint(new), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_an_observed_point_has_a_flat_prior_covariance_and_a_finite_gradient():
    z = torch.zeros(1, 2, dtype=D)
    one = torch.ones(1, dtype=D)
    given = Posterior(
        Hyperparameters(one[0] * 0, one[0], one, one, one[0] / 2, one[0] / 4), z, one, one[:, None], 0 * one
    )
    (slope,) = torch.autograd.grad(given.marginals(point := z.clone().requires_grad_())[0].sum(), point)
    assert torch.equal(slope, z)


def test_not_a_number_is_refused_as_gpytorch_refuses_it():
    z, one = torch.zeros(2, 2, dtype=D), torch.ones(2, dtype=D)
    hyper = Hyperparameters(one[0], one[0], one[:1] * torch.nan, one[:1], one[0] / 2, one[0] / 2)
    with pytest.raises(NanError):
        Posterior(hyper, z, one, torch.diag(one), 0 * one)
    with pytest.raises(NanError):
        LogEvidence.apply(*hyper, z, one, torch.diag(one), 0 * one)
