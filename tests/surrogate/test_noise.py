import numpy as np
import pytest

from lipo_e_ray.surrogate.noise import STRENGTH, BetaPrior, blocks, fit_prior, measure, measured, shared_noise, smoothed


def test_smoothed_against_hand_computed_numbers():
    # a = 2, c = 6: (3 + 2) / (10 + 8) = 5/18, variance 5/18 * 13/18 / 19; (0 + 2) / (32 + 8) = 1/20, 1/20 * 19/20 / 41
    mean, variance = smoothed([3, 0], [10, 32], BetaPrior(2.0, 6.0))
    assert mean == pytest.approx([5 / 18, 0.05], rel=1e-14)
    assert variance == pytest.approx([65 / 324 / 19, 0.0475 / 41], rel=1e-14)


def test_measured_against_hand_computed_numbers():
    # prior (1, 3): p = (0 + 1) / (8 + 4) = 1/12 and (6 + 1) / (12 + 4) = 7/16
    rate, variance = measured(blocks([0, 6], [8, 12]), BetaPrior(1.0, 3.0))
    np.testing.assert_allclose(rate, [0.0, 0.5])
    np.testing.assert_allclose(variance, [1 / 12 * 11 / 12 / 8, 7 / 16 * 9 / 16 / 12])


def test_measurements_are_rates_their_variances_and_what_is_shared():
    data, prior = blocks([0, 6], [8, 12]), BetaPrior(1.0, 3.0)
    measurements = measure(data, prior)
    np.testing.assert_array_equal(measurements[:2], measured(data, prior))
    np.testing.assert_array_equal(measurements.shared, shared_noise(data, prior))


def test_prior_against_hand_computed_numbers():
    # rates 0.2, 0.5, 0.8 of 10: p = 0.5, s2 = 0.09, h = 0.1; g = (0.36 - 0.1) / 0.9 = 13/45; sum 45/13 - 1 = 32/13
    prior = fit_prior([2, 5, 8], [10, 10, 10])
    assert (prior.alpha, prior.beta) == pytest.approx((16 / 13, 16 / 13), rel=1e-12)


def test_prior_with_unequal_fidelities_against_hand_computed_numbers():
    # rates 0.1, 0.7 of 10 and 40: p = 0.4, s2 = 0.18, h = 0.0625; g = (0.75 - 0.0625) / 0.9375 = 11/15; sum 4/11 -> 2
    # with 2/10 and 12/40 (0.2, 0.3): p = 0.25, s2 = 0.005, g = (0.005/0.1875 - 0.0625) / 0.9375 < 0: the upper bound
    low = fit_prior([1, 28], [10, 40])
    assert (low.mean, low.strength) == pytest.approx((0.4, STRENGTH[0]))
    high = fit_prior([2, 12], [10, 40])
    assert (high.mean, high.strength) == pytest.approx((0.25, STRENGTH[1]))


def test_prior_is_recovered_from_many_prompts_and_not_the_binomial_spread():
    rng = np.random.default_rng(0)
    evaluated = rng.choice([8, 16, 64], 20_000)
    errors = rng.binomial(evaluated, rng.beta(6.0, 9.0, 20_000))
    prior = fit_prior(errors, evaluated)
    assert prior.mean == pytest.approx(0.4, abs=0.01)
    assert prior.strength == pytest.approx(15.0, rel=0.1)


def test_clipping_the_sum_keeps_the_mean():
    errors, evaluated = [0, 0, 0, 10], [10, 10, 10, 10]  # a wild spread: the raw sum is far under the bound
    assert fit_prior(errors, evaluated).mean == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("errors", "evaluated", "mean", "strength"),
    [
        ([], [], 0.5, 2.0),
        ([3], [10], 0.3, 2.0),
        ([1, 0, 1], [1, 1, 1], 2 / 3, 2.0),
        ([0, 0], [10, 10], 0.5 / 21, 50.0),
        ([10, 10], [10, 10], 1 - 0.5 / 21, 50.0),
    ],
)
def test_degenerate_cases(errors, evaluated, mean, strength):
    prior = fit_prior(errors, evaluated)
    assert (prior.mean, prior.strength) == pytest.approx((mean, strength))
    assert np.all(smoothed(errors, evaluated, prior)[1] > 0)


@pytest.mark.parametrize(
    ("errors", "evaluated", "message"),
    [
        ([1, 2], [3], "one length"),
        ([[1]], [[3]], "one length"),
        ([0.5], [3], "integer counts"),
        ([4], [3], "errors <= evaluated"),
        ([-1], [3], "errors <= evaluated"),
        ([0], [0], "without an answer"),
    ],
)
def test_bad_counts_are_refused(errors, evaluated, message):
    with pytest.raises(ValueError, match=message):
        fit_prior(errors, evaluated)


def test_improper_prior_is_refused():
    with pytest.raises(ValueError, match="alpha > 0"):
        BetaPrior(0.0, 2.0)


def test_blocks_are_what_each_observation_adds():
    data = blocks([9, 3, 5, 7, 9], [40, 10, 10, 20, 40], [1, 0, 1, 0, 1])  # prompt 1 was seen twice on the same 40
    rows = list(zip(data.prompt.tolist(), data.start.tolist(), data.stop.tolist(), data.errors.tolist(), strict=True))
    assert rows == [(0, 0, 10, 3), (0, 10, 20, 4), (1, 0, 10, 5), (1, 10, 40, 4)]
    assert data.totals()[0].tolist() == [7, 9] and data.totals()[1].tolist() == [20, 40]
    # p of prompt 0 is (7 + 1) / (20 + 4) = 1/3, in both of its blocks
    rate, variance = measured(data, BetaPrior(1.0, 3.0))
    np.testing.assert_allclose(rate, [0.3, 0.4, 0.5, 4 / 30])
    np.testing.assert_allclose(variance[:2], 2 / 9 / 10)


@pytest.mark.parametrize(("errors", "evaluated"), [([3, 2], [10, 20]), ([3, 14], [10, 20])])
def test_observations_that_do_not_contain_each_other_are_refused(errors, evaluated):
    with pytest.raises(ValueError, match="contain its narrower ones"):
        blocks(errors, evaluated, [0, 0])


def test_shared_noise_is_that_of_means_over_the_same_examples():
    rng = np.random.default_rng(0)
    difficulties = rng.random((20_000, 32)) < 0.3  # whether an example is hard, for all prompts alike
    data = blocks([1, 2, 3, 4, 5], [4, 8, 32, 8, 32], [0, 1, 1, 2, 3])
    rates = np.stack([difficulties[:, start:stop].mean(1) for start, stop in zip(data.start, data.stop, strict=True)])
    np.testing.assert_allclose(shared_noise(data, BetaPrior(3, 7)), np.cov(rates), rtol=0.05, atol=3e-4)
