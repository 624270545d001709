import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.acquisition.analytic import _log_ei_helper
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.sampling import SobolQMCNormalSampler

from lipo_e_ray.proposal.acquisition import ascend, comparable, greedy_batch, log_ei, square_root
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.surrogate.noise import NoiseShares

D = torch.float64
MINIMISED = ScalarizedPosteriorTransform(torch.tensor([-1.0], dtype=D))


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


def test_each_pick_adds_about_as_much_as_botorch_finds_possible(gp):
    """Against botorch's qLogEI, each pick given those before it; improvements likely, and hard to come by."""
    candidates = torch.randn(40, 6, dtype=D, generator=torch.Generator().manual_seed(3))
    mean, covariance = gp.joint(candidates)
    sampler = SobolQMCNormalSampler(torch.Size([4096]), seed=1)
    for best in (0.25, 0.05):
        picks = greedy_batch(mean, covariance, best, 5)
        for i, pick in enumerate(picks):
            # botorch maximises, and takes no candidate that is pending
            others = [j for j in range(len(candidates)) if j not in picks[:i]]
            improvement = qLogExpectedImprovement(
                gp.model, -best, sampler, posterior_transform=MINIMISED, X_pending=candidates[picks[:i]] if i else None
            )
            with torch.no_grad():
                value = improvement(candidates[others][:, None]).exp()  # of the picks and each candidate together
            assert value[others.index(pick)] >= 0.97 * value.max()
        assert picks != torch.topk(log_ei(mean, covariance.diagonal().sqrt(), best), 5).indices.tolist()
        assert greedy_batch(mean, covariance, best, 3, pending=picks[:2]) == picks[2:]
        assert greedy_batch(mean, covariance, best, 3, pending=picks[1::-1]) == picks[2:]


def test_greedy_batch_spreads_over_twins():
    covariance = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.9]], dtype=D)
    assert greedy_batch(torch.zeros(3, dtype=D), covariance, 0.0, 3) in ([0, 2, 1], [1, 2, 0])
    assert greedy_batch(torch.zeros(3, dtype=D), covariance, 0.0, 1, pending=[1]) == [2]


def test_where_none_can_improve_the_nearest_come_first():
    mean = torch.tensor([0.5, 0.3, 0.4], dtype=D)
    assert greedy_batch(mean, 1e-6 * torch.eye(3, dtype=D), 0.1, 3) == [1, 2, 0]


def test_greedy_batch_ends_with_the_candidates():
    mean, covariance = torch.zeros(2, dtype=D), torch.eye(2, dtype=D)
    assert sorted(greedy_batch(mean, covariance, 0.0, 5)) == [0, 1]
    assert greedy_batch(mean, covariance, 0.0, 5, pending=[0]) == [1]
    assert greedy_batch(mean, covariance, 0.0, 0) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_choice_does_not_depend_on_the_last_bits(seed):
    """Latents come in twins (the same words in another order), and change in the last bits, as in another batch."""
    noise = torch.Generator().manual_seed(seed)
    z = torch.randn(12, 5, dtype=D, generator=noise).repeat_interleave(2, 0)

    def picks(z):
        distance = torch.cdist(z, z)
        return greedy_batch(z.mean(1), 0.1 * torch.exp(-(distance**2)), 0.0, 8)

    assert picks(z) == picks(z + 1e-15 * torch.randn(z.shape, dtype=D, generator=noise))


def test_a_square_root_is_that_of_the_covariance():
    a = torch.randn(6, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    root = square_root(a @ a.T)
    assert torch.allclose(root @ root, a @ a.T) and torch.equal(
        square_root(torch.zeros(2, 2, dtype=D)), torch.zeros(2, 2, dtype=D)
    )


def test_what_compares_equal_differs_by_rounding_only():
    values = torch.tensor([0.3, 1e-40, 0.0, -7.0, -torch.inf, 12345.0], dtype=D)
    assert torch.allclose(comparable(values), values, rtol=1e-4, atol=0)
    assert torch.equal(comparable(values * (1 + 1e-12)), comparable(values))
    assert comparable(values * (1 + 1e-3))[0] > comparable(values)[0]
