import logging

import numpy as np
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from gpytorch.kernels import ProductKernel
from linear_operator.utils.errors import NotPSDError

from benchmarks.costs.gp_fit import synthetic_prompts
from lipo_e_ray.surrogate.gp import HalfKernel, JointPromptGP, SurrogateError, maximise_lbfgs
from lipo_e_ray.surrogate.noise import SHARES, Measurements, NoiseShares, blocks, fit_prior, measured, shared_noise

M = 120
Z, RATE, ERRORS, EVALUATED = synthetic_prompts(220, seed=2)


@pytest.fixture(scope="module")
def fitted():
    return JointPromptGP(16).fit(Z[:M], ERRORS[:M], EVALUATED[:M])


def test_predictions_follow_the_truth(fitted):
    mean, std = fitted.predict(Z[M:])
    assert mean.shape == std.shape == (100,) and (std > 0).all()
    assert np.corrcoef(mean, RATE[M:])[0, 1] > 0.4
    inside = np.abs(mean.numpy() - RATE[M:]) < 2 * std.numpy()
    assert 0.6 < inside.mean() < 1


def test_covariance_is_a_product_of_halves(fitted):
    kernel = fitted.model.covar_module
    scale = kernel.outputscale
    z = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inst, ex = z.clone(), z.clone()
    inst[:, 16:], ex[:, :16] = 0, 0
    torch.testing.assert_close(kernel(z).to_dense() * scale, kernel(inst).to_dense() * kernel(ex).to_dense())
    assert [part.ard_num_dims for part in kernel.base_kernel.kernels] == [16, 16]


def test_a_kernel_of_ones_own_is_fitted():
    """One without a common part, whose first half reads 8 dimensions and not 16."""

    def make_kernel(inst_dim, dim):
        return ProductKernel(HalfKernel(range(8), None), HalfKernel(range(8, dim), None))

    gp = JointPromptGP(16, make_kernel=make_kernel).fit(Z[:M], ERRORS[:M], EVALUATED[:M])
    inst, ex = gp.model.covar_module.base_kernel.kernels
    assert inst.common == ex.common == 0 and not inst.common.requires_grad
    assert (inst.lengthscale.shape, ex.lengthscale.shape) == ((1, 8), (1, 24))
    _, covariance = gp.joint(torch.cat([Z[:1], Z[:1] + 1e3]))
    assert abs(covariance[0, 1]) < 1e-6, "far apart, nothing is in common"


def test_a_kernel_that_does_not_read_all_of_z_is_refused():
    def make_kernel(inst_dim, dim):
        return ProductKernel(HalfKernel(range(inst_dim)), HalfKernel(range(inst_dim, dim - 1)))

    with pytest.raises(ValueError, match="expected lengthscales for 32 dimensions, got 16 and 15"):
        JointPromptGP(16, make_kernel=make_kernel).fit(Z[:M], ERRORS[:M], EVALUATED[:M])


def test_measurements_of_ones_own_are_fitted():
    def measure(data, prior):
        rate, _ = measured(data, prior)
        return Measurements(rate, np.full_like(rate, 0.01), np.eye(len(rate)))

    gp = JointPromptGP(16, measure=measure).fit(Z[:20], ERRORS[:20], EVALUATED[:20])
    scale = gp.model.outcome_transform.stdvs.squeeze() ** 2
    expected = ((1 - sum(SHARES)) * 0.01 + SHARES.everyone) * torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(gp.model.noise_covariance * scale, expected)


def test_a_prediction_before_a_fit_is_refused():
    with pytest.raises(ValueError, match="call fit"):
        JointPromptGP(16).predict(Z[:1])


def test_noise_is_the_beta_variance_of_every_prompt_after_each_rebuild():
    gp = JointPromptGP(16)
    for m in (20, 50, 30):
        gp.fit(Z[:m], ERRORS[:m], EVALUATED[:m])
        prior, scale = fit_prior(ERRORS[:m], EVALUATED[:m]), gp.model.outcome_transform.stdvs.squeeze() ** 2
        data = blocks(ERRORS[:m], EVALUATED[:m])
        (_, variance), shared = measured(data, prior), shared_noise(data, prior)
        noise = (1 - sum(SHARES)) * np.diag(variance) + SHARES.everyone * shared
        np.testing.assert_allclose(gp.model.noise_covariance * scale, noise, rtol=1e-9)
        np.testing.assert_allclose(gp.model.similar_noise * scale, SHARES.similar * shared, rtol=1e-9)


def test_a_hard_prefix_is_not_held_against_those_who_saw_nothing_else():
    """All err on the first 10 examples; who was asked 100 hardly errs on the others. So will he who was asked 10."""
    errors, evaluated = np.array([10] * 10 + [15] * 20), np.array([10] * 10 + [100] * 20)
    alone, shared = (
        JointPromptGP(16, shares=shares).fit(Z[:30], errors, evaluated).predict(Z[:10])[0].mean()
        for shares in (NoiseShares(0.0, 0.0), SHARES)
    )
    assert shared < alone - 0.1


def test_who_went_up_does_not_make_the_first_examples_look_hard():
    """Ten prompts err 3 times in 10 and are asked 90 more, thirty err 7 times in 10 and are not: on the same ten."""
    z = 0.1 * torch.randn(40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[:10] += 1
    first, top = [3] * 10 + [7] * 30, [30] * 10
    every = JointPromptGP(16).fit(z, [*first, *top], [10] * 40 + [100] * 10, [*range(40), *range(10)])
    widest = JointPromptGP(16).fit(z, [*top, *first[10:]], [100] * 10 + [10] * 30)
    left_below = [float(gp.predict(z[10:])[0].mean()) for gp in (every, widest)]
    assert left_below[0] > 0.5 and left_below[1] < 0.4  # the mean of all is 0.46 on 10 examples, 0.3 on more


def test_many_like_prompts_on_few_examples_are_not_many_measurements():
    """Twenty copies of a prompt, 5 examples each, the same ones: what is known of it is what 5 examples tell."""
    z = torch.cat([Z[:1].repeat(20, 1), Z[1:11]])
    errors, evaluated = np.array([1] * 20 + [20, 30, 40, 50, 60] * 2), np.array([5] * 20 + [100] * 10)
    alone, shared = (
        float(JointPromptGP(16, shares=shares).fit(z, errors, evaluated).predict(Z[:1])[1])
        for shares in (NoiseShares(0.0, 0.0), SHARES)
    )
    assert shared > 1.5 * alone


def test_more_evaluations_pull_the_mean_closer_to_the_measurement():
    errors, evaluated = ERRORS[:M].copy(), EVALUATED[:M].copy()
    distance = []
    for times in (1, 16):
        errors[0], evaluated[0] = 8 * times, 8 * times
        gp = JointPromptGP(16).fit(Z[:M], errors, evaluated)
        distance.append(1 - gp.predict(Z[:1])[0].item())
    assert distance[1] < distance[0] - 0.05


def test_shifted_and_stretched_latents_change_nothing(fitted):
    scale = torch.logspace(-3, 3, 32, dtype=torch.float64)
    other = JointPromptGP(16).fit(Z[:M] * scale + 7, ERRORS[:M], EVALUATED[:M])
    torch.testing.assert_close(other.predict(Z[M:] * scale + 7)[0], fitted.predict(Z[M:])[0], rtol=0, atol=0.01)


def test_joint_agrees_with_predict(fitted):
    mean, covariance = fitted.joint(Z[M : M + 7])
    expected_mean, std = fitted.predict(Z[M : M + 7])
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(covariance.diagonal().sqrt(), std)
    assert covariance.shape == (7, 7)


def test_predictions_are_differentiable_in_z(fitted):
    z = Z[M : M + 3].clone().requires_grad_()
    mean, std = fitted.predict(z)
    (mean.sum() + std.sum()).backward()
    assert z.grad.isfinite().all() and (z.grad.abs().sum(1) > 0).all()


def test_a_fit_is_a_function_of_its_data_and_leaves_the_global_generator_alone(fitted):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = JointPromptGP(16).fit(Z[:M], ERRORS[:M], EVALUATED[:M])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.predict(Z[M:])[0], fitted.predict(Z[M:])[0])


@pytest.mark.parametrize("m", [1, 2])
def test_few_or_equal_observations_are_fitted(m):
    gp = JointPromptGP(16).fit(Z[:1].repeat(m, 1), [3] * m, [10] * m)
    mean, std = gp.predict(Z[:4])
    assert mean.isfinite().all() and (std > 0).all()


def test_a_warm_fit_starts_from_the_last_hyperparameters(fitted):
    starts = []

    def record(mll):
        starts.append(mll.model.covar_module.base_kernel.kernels[0].lengthscale.clone())
        maximise_lbfgs(mll)

    gp = JointPromptGP(16, record).fit(Z[:M], ERRORS[:M], EVALUATED[:M])
    ended = gp.model.covar_module.base_kernel.kernels[0].lengthscale.clone()
    gp.fit(Z[: M + 1], ERRORS[: M + 1], EVALUATED[: M + 1])
    assert torch.equal(starts[1], ended) and not torch.equal(starts[0], ended)


def raising(mll):
    raise ModelFittingError("all attempts failed")


def poisoning(mll):
    with torch.no_grad():
        mll.model.mean_module.raw_constant.fill_(torch.nan)


@pytest.mark.parametrize("broken", [raising, poisoning])
@pytest.mark.parametrize("source", ["the prior", "the last fit"])
def test_a_failing_fit_falls_back_and_says_so(broken, source, caplog):
    behaviour = [maximise_lbfgs, broken] if source == "the last fit" else [broken]
    gp = JointPromptGP(16, lambda mll: behaviour.pop(0)(mll))
    if source == "the last fit":
        gp.fit(Z[:M], ERRORS[:M], EVALUATED[:M])
        good = gp.model.covar_module.base_kernel.kernels[0].lengthscale.clone()
    with caplog.at_level(logging.WARNING):
        gp.fit(Z[: M + 5], ERRORS[: M + 5], EVALUATED[: M + 5])
    assert f"GP fit on {M + 5} prompts failed" in caplog.text and source in caplog.text
    mean, std = gp.predict(Z[M:])
    assert mean.isfinite().all() and (std > 0).all() and len(gp.model.train_targets) == M + 5
    if source == "the last fit":
        assert torch.equal(gp.model.covar_module.base_kernel.kernels[0].lengthscale, good)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_latents_that_are_not_finite_are_refused_by_name(value):
    z = Z[:5].clone()
    z[2, 3] = z[4, 0] = value
    with pytest.raises(SurrogateError, match="expected finite latents, got others for 2 of 5 prompts"):
        JointPromptGP(16).fit(z, ERRORS[:5], EVALUATED[:5])


@pytest.mark.parametrize("broken", [raising, poisoning])
def test_where_the_fall_back_fails_too_there_is_no_surrogate(broken, monkeypatch, caplog):
    def singular(*_):
        raise NotPSDError("Matrix not positive definite\nafter repeatedly adding jitter")

    monkeypatch.setattr("lipo_e_ray.surrogate.gp.Posterior", singular)
    with pytest.raises(SurrogateError, match="NotPSDError: Matrix not positive definite after") as caught:
        JointPromptGP(16, broken).fit(Z[:5], ERRORS[:5], EVALUATED[:5])
    assert "\n" not in str(caught.value)
    assert "GP fit on 5 prompts failed" in caplog.text


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="counts for every latent"):
        JointPromptGP(16).fit(Z[:5], ERRORS[:4], EVALUATED[:4])
