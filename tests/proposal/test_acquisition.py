import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel

from lipo_e_ray.proposal.acquisition import ascend, greedy_batch, log_ei
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.surrogate.noise import NoiseShares

D = torch.float64


@pytest.fixture
def gp():
    z = torch.randn(24, 6, dtype=D, generator=torch.Generator().manual_seed(0))
    return JointPromptGP(3, shares=NoiseShares(0.0, 0.0)).fit(z, [i % 9 for i in range(24)], [16] * 24)


def test_log_ei_is_botorch_s(gp):
    z = torch.randn(50, 6, dtype=D, generator=torch.Generator().manual_seed(1)) * 2
    for best in (0.9, 0.3, 0.0, -2.0):  # improvements from certain to hopeless
        expected = LogExpectedImprovement(gp.model, best_f=best, maximize=False)(z[:, None])
        torch.testing.assert_close(log_ei(*gp.predict(z), best), expected, rtol=1e-7, atol=1e-7)


def test_log_ei_and_its_gradient_are_finite_and_botorch_s_at_any_distance():
    u = torch.cat([-torch.logspace(-3, 12, 400, dtype=D), torch.linspace(-3, 30, 200, dtype=D)]).requires_grad_()
    ours = log_ei(-u, torch.ones_like(u), 0.0)
    (slope,) = torch.autograd.grad(ours.sum(), u)
    expected = _log_ei_helper(u)
    (expected_slope,) = torch.autograd.grad(expected.sum(), u)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-7)
    near = u > -1e5  # beyond, botorch's own slope loses digits
    torch.testing.assert_close(slope[near], expected_slope[near], rtol=1e-5, atol=1e-8)
    assert slope.isfinite().all() and (slope > 0).all()


def test_ascent_moves_free_coordinates_up_and_holds_the_others(gp):
    start = torch.zeros(10, 6, dtype=D) + torch.linspace(-1, 1, 10, dtype=D)[:, None]
    lower, upper = start.clone(), start.clone()
    lower[:, 3:], upper[:, 3:] = -1.5, 1.5
    before = log_ei(*gp.predict(start), 0.2)
    z, value = ascend(gp, start, (lower, upper), torch.ones(6, dtype=D), 20, 0.1, 0.2)
    torch.testing.assert_close(value, log_ei(*gp.predict(z), 0.2))
    assert (value > before + 1e-3).all()
    assert torch.equal(z[:, :3], start[:, :3])
    assert (z[:, 3:] - start[:, 3:]).abs().amax() > 0.1 and z[:, 3:].abs().max() <= 1.5


def test_ascent_gives_the_start_back_when_every_step_is_worse(gp):
    z, _ = ascend(gp, torch.zeros(2, 6, dtype=D), (torch.zeros(6), torch.zeros(6)), torch.ones(6), 5, 0.1, 0.2)
    assert torch.equal(z, torch.zeros(2, 6, dtype=D))


def test_greedy_batch_conditions_as_a_gp_does():
    """Against botorch: fantasise each pick at its posterior mean, with its noise, and evaluate LogEI anew."""
    generator = torch.Generator().manual_seed(3)
    x, candidates = (torch.rand(count, 2, dtype=D, generator=generator) for count in (8, 30))
    y, noise = torch.sin(5 * x.sum(-1, keepdim=True)), 0.3
    kernel = ScaleKernel(MaternKernel(nu=2.5)).double()
    kernel.base_kernel.lengthscale = 0.4
    model = SingleTaskGP(x, y, torch.full_like(y, noise), covar_module=kernel, outcome_transform=None).eval()
    best = -1.1
    posterior = model.posterior(candidates)
    mean, covariance = posterior.mean.squeeze(-1).detach(), posterior.distribution.covariance_matrix.detach()
    picks = greedy_batch(mean, covariance, noise, best, 5)

    expected = []
    for _ in range(5):
        value = LogExpectedImprovement(model, best_f=best, maximize=False)(candidates[:, None])
        value[expected] = -torch.inf
        expected.append(int(value.argmax()))
        x = torch.cat([x, candidates[expected[-1:]]])
        y = torch.cat([y, model.posterior(candidates[expected[-1:]]).mean.detach()])
        model = SingleTaskGP(x, y, torch.full_like(y, noise), covar_module=kernel, outcome_transform=None).eval()
    assert picks == expected
    assert picks != torch.topk(log_ei(mean, covariance.diagonal().sqrt(), best), 5).indices.tolist()
    assert greedy_batch(mean, covariance, noise, best, 3, pending=picks[:2]) == picks[2:]
    assert picks != greedy_batch(mean, covariance, 1e-9, best, 5)


def test_pending_candidates_count_as_measured_at_their_means_in_any_order():
    generator = torch.Generator().manual_seed(4)
    root, mean = torch.randn(40, 12, dtype=D, generator=generator), torch.rand(40, dtype=D, generator=generator)
    covariance, noise, pending = root @ root.T / 40, 0.02, list(range(30, 40))
    cross = covariance[:30, 30:]
    known = torch.linalg.inv(covariance[30:, 30:] + noise * torch.eye(10, dtype=D))
    rest = greedy_batch(mean[:30], covariance[:30, :30] - cross @ known @ cross.T, noise, 0.1, 6)
    assert greedy_batch(mean, covariance, noise, 0.1, 6, pending) == rest
    assert greedy_batch(mean, covariance, noise, 0.1, 6, pending[::-1]) == rest
    assert greedy_batch(mean[:30], covariance[:30, :30], noise, 0.1, 6) != rest


def test_greedy_batch_spreads_over_twins():
    covariance = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.9]], dtype=D)
    assert greedy_batch(torch.zeros(3, dtype=D), covariance, 1e-6, 0.0, 3) == [0, 2, 1]


def test_greedy_batch_ends_with_the_candidates():
    mean, covariance = torch.zeros(2, dtype=D), torch.eye(2, dtype=D)
    assert greedy_batch(mean, covariance, 0.1, 0.0, 5) == [0, 1]
    assert greedy_batch(mean, covariance, 0.1, 0.0, 5, pending=[0]) == [1]
    assert greedy_batch(mean, covariance, 0.1, 0.0, 0) == []
