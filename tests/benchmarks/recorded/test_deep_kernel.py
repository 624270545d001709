"""HbBoPs' surrogate: its gradient is its loss's, its kernel and posterior are gpytorch's."""

import gpytorch
import numpy as np
import pytest
import torch

from benchmarks.recorded import deep_kernel
from benchmarks.recorded.deep_kernel import DeepKernelGP

E, M = 6, 9


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(M, 2 * E)), rng.normal(size=M)


@pytest.fixture
def gp():
    rng = np.random.default_rng(1)
    gp = DeepKernelGP(E, rng)
    gp.flat += rng.normal(scale=0.3, size=gp.flat.shape)  # no parameter is where it starts
    return gp


def reference(gp, x, y):
    """gpytorch's model with the same parameters, on the joined embedding."""
    p = gp._named(gp.flat)
    likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-4))

    class Model(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(embed(p, x), torch.from_numpy(y), likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=10))

        def forward(self, z):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(z), self.covar_module(z))

    model = Model().double()
    model.mean_module.constant.data.fill_(float(p["mean"]))
    model.covar_module.raw_outputscale.data.fill_(float(p["scale"]))
    model.covar_module.base_kernel.raw_lengthscale.data[:] = torch.from_numpy(p["lengthscale"])
    likelihood.raw_noise.data.fill_(float(p["noise"]))
    return model, likelihood


def embed(p, x):
    """The three networks, by torch."""

    def network(name, value, last):
        for i in (0, 1):
            value = value @ torch.from_numpy(p[f"{name}.{i}.weight"]) + torch.from_numpy(p[f"{name}.{i}.bias"])
            value = value if i and not last else value.relu()
        return value

    inst, ex = torch.from_numpy(x).chunk(2, 1)
    return network("join", torch.cat([network("inst", inst, True), network("ex", ex, True)], 1), False)


def test_the_loss_is_gpytorch_s(gp, data):
    x, y = data
    model, likelihood = reference(gp, x, y)
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model.train())(
        model(*model.train_inputs), model.train_targets
    )
    assert gp.loss(x, y)[0] == pytest.approx(-evidence.item() - np.log(2 * np.pi) / 2, rel=1e-6)


def test_the_gradient_is_the_loss_s(gp, data):
    x, y = data
    _, gradient = gp.loss(x, y)
    start = gp.flat.copy()
    for i in [*range(0, len(start), 37), *range(len(start) - 13, len(start))]:  # some weights, all that is no weight
        losses = []
        for step in (1e-6, -1e-6):
            gp.flat[:] = start
            gp.flat[i] += step
            losses.append(gp.loss(x, y)[0])
        assert gradient[i] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-7), i


def test_the_posterior_is_gpytorch_s(gp, data):
    x, y = data
    others = np.random.default_rng(2).uniform(size=(5, 2 * E))
    model, likelihood = reference(gp, x, y)
    model.eval()
    likelihood.eval()
    with torch.no_grad():
        expected = model(embed(gp._named(gp.flat), others))
    mean, std = gp.predict(others, x, y)
    np.testing.assert_allclose(mean, expected.mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(std, expected.variance.sqrt().numpy(), rtol=1e-5)


def test_a_fit_takes_the_steps_of_torch_s_adamw(gp, data, monkeypatch):
    x, y = data
    monkeypatch.setattr(deep_kernel, "EPOCHS", 7)
    expected = torch.from_numpy(gp.flat.copy()).requires_grad_()
    optimiser = torch.optim.AdamW([expected], lr=deep_kernel.RATE)
    start = gp.flat.copy()
    for _ in range(7):
        gp.flat[:] = expected.detach().numpy()
        expected.grad = torch.from_numpy(gp.loss(x, y)[1])
        optimiser.step()
    gp.flat[:] = start
    gp.fit(x, y)
    np.testing.assert_allclose(gp.flat, expected.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_a_fit_ends_once_the_loss_falls_no_more(gp, data, monkeypatch):
    losses = iter([3.0, 2.0, *[2.5] * 100])
    monkeypatch.setattr(gp, "loss", lambda x, y: (next(losses), np.zeros_like(gp.flat)))
    gp.fit(*data)
    assert len(list(losses)) == 100 - deep_kernel.PATIENCE
