"""HbBoPs' surrogate: a GP with a structural-aware deep kernel (Schneider et al. 2025, section 3.2).

In numpy, its gradient written out: a fit takes hundreds of steps on a few dozen points, and torch spends most of each
on itself (``docs/log.md``). Shapes: e width of an embedding, m observations, b prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.linalg import cho_factor, cho_solve

LAYERS = {"inst": (64, 32), "ex": (64, 32), "join": (32, 10)}  # widths; ReLU after each but the last of "join"
SCALARS = ("mean", "scale", "noise")
JITTER, CLOSE = 1e-4, 1e-12  # least noise; added to squared distances
EPOCHS, PATIENCE, RATE = 3000, 10, 0.01  # AdamW; epochs without a lower loss
DECAY, MOMENTS, EPSILON = 0.01, (0.9, 0.999), 1e-8  # AdamW's, as torch has them


def softplus(raw: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(raw, 0.0))


def sigmoid(raw: np.ndarray) -> np.ndarray:
    """The derivative of ``softplus``."""
    return np.asarray(1 / (1 + np.exp(-raw)))


class DeepKernelGP:
    """Constant mean, scaled Matern-5/2 with a lengthscale for each dimension of the joined embedding.

    Instruction and exemplars have a network each, a third one joins them. The parameters start as torch's layers and
    gpytorch's kernels do, and are views into one vector, ``flat``.
    """

    def __init__(self, e: int, rng: np.random.Generator) -> None:
        self._shapes = dict(_shapes(e))
        self.flat = np.zeros(sum(math.prod(shape) for shape in self._shapes.values()))
        for name, values in self._named(self.flat).items():
            if "." in name:
                bound = self._shapes[name.replace("bias", "weight")][0] ** -0.5
                values[...] = rng.uniform(-bound, bound, values.shape)

    def _named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()])
        parts = np.split(flat, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def loss(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log evidence of y (m,) at x (m, 2e) per observation, without its constant; its gradient."""
        p, gradient = self._named(self.flat), np.zeros_like(self.flat)
        g = self._named(gradient)
        inst, ex, joined = _embed(p, x)
        lengthscale, m = softplus(p["lengthscale"]), len(y)
        u = joined[-1] / lengthscale
        distance, kernel = _matern(u, u)
        covariance = softplus(p["scale"]) * kernel + (softplus(p["noise"]) + JITTER) * np.eye(m)
        factor = cho_factor(covariance, lower=True, check_finite=False)
        inverse = cho_solve(factor, np.eye(m), check_finite=False)
        weights = inverse @ (y - p["mean"])
        loss = ((y - p["mean"]) @ weights / 2 + np.log(factor[0].diagonal()).sum()) / m

        by_covariance = (inverse - np.outer(weights, weights)) / (2 * m)
        g["mean"][...] = -weights.sum() / m
        g["scale"][...] = (by_covariance * kernel).sum() * sigmoid(p["scale"])
        g["noise"][...] = by_covariance.trace() * sigmoid(p["noise"])
        by_square = by_covariance * softplus(p["scale"]) * -5 / 6 * (1 + distance) * np.exp(-distance)
        by_u = 4 * (by_square.sum(1)[:, None] * u - by_square @ u)
        g["lengthscale"][...] = -(by_u * u).sum(0) / lengthscale * sigmoid(p["lengthscale"])
        by_joint = _backward(p, g, "join", joined, by_u / lengthscale)
        half = inst[-1].shape[1]
        _backward(p, g, "inst", inst, by_joint[:, :half])
        _backward(p, g, "ex", ex, by_joint[:, half:])
        return float(loss), gradient

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        """AdamW (Loshchilov and Hutter 2019) until the loss has not fallen for ``PATIENCE`` epochs."""
        first, second, (decay1, decay2) = np.zeros_like(self.flat), np.zeros_like(self.flat), MOMENTS
        best, since = math.inf, 0
        for epoch in range(1, EPOCHS + 1):
            loss, gradient = self.loss(x, y)
            first += (1 - decay1) * (gradient - first)
            second += (1 - decay2) * (gradient**2 - second)
            self.flat *= 1 - RATE * DECAY
            self.flat -= RATE / (1 - decay1**epoch) * first / (np.sqrt(second / (1 - decay2**epoch)) + EPSILON)
            best, since = (loss, 0) if loss < best else (best, since + 1)
            if since == PATIENCE:
                break

    def predict(self, x: np.ndarray, seen: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (b,) at x (b, 2e), given y (m,) at ``seen`` (m, 2e)."""
        p = self._named(self.flat)
        lengthscale, scale = softplus(p["lengthscale"]), softplus(p["scale"])
        z, new = (_embed(p, points)[2][-1] / lengthscale for points in (seen, x))
        noise = (softplus(p["noise"]) + JITTER) * np.eye(len(y))
        factor = cho_factor(scale * _matern(z, z)[1] + noise, lower=True)
        cross = scale * _matern(z, new)[1]
        variance = scale - (cross * cho_solve(factor, cross)).sum(0)
        return p["mean"] + cross.T @ cho_solve(factor, y - p["mean"]), np.sqrt(np.maximum(variance, 1e-12))


def _shapes(e: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    widths = {
        "inst": (e, *LAYERS["inst"]),
        "ex": (e, *LAYERS["ex"]),
        "join": (LAYERS["inst"][-1] + LAYERS["ex"][-1], *LAYERS["join"]),
    }
    for network, sizes in widths.items():
        for i, (before, after) in enumerate(itertools.pairwise(sizes)):
            yield f"{network}.{i}.weight", (before, after)
            yield f"{network}.{i}.bias", (after,)
    yield "lengthscale", (LAYERS["join"][-1],)
    yield from ((name, ()) for name in SCALARS)


def _embed(p: dict[str, np.ndarray], x: np.ndarray) -> list[list[np.ndarray]]:
    """What goes into and comes out of every layer of "inst", "ex" and "join", for x (b, 2e)."""
    inst, ex = (_forward(p, network, half) for network, half in zip(("inst", "ex"), np.split(x, 2, 1), strict=True))
    return [inst, ex, _forward(p, "join", np.concatenate([inst[-1], ex[-1]], 1))]


def _forward(p: dict[str, np.ndarray], network: str, x: np.ndarray) -> list[np.ndarray]:
    values = [x]
    for i in range(len(LAYERS[network])):
        out = values[-1] @ p[f"{network}.{i}.weight"] + p[f"{network}.{i}.bias"]
        values.append(np.maximum(out, 0.0) if _rectified(network, i) else out)
    return values


def _backward(
    p: dict[str, np.ndarray], g: dict[str, np.ndarray], network: str, values: list[np.ndarray], by_out: np.ndarray
) -> np.ndarray:
    """Writes the layers' gradients into ``g``; returns the one by the network's input, of "join" alone."""
    for i in reversed(range(len(LAYERS[network]))):
        if _rectified(network, i):
            by_out = by_out * (values[i + 1] > 0)
        g[f"{network}.{i}.weight"][...] = values[i].T @ by_out
        g[f"{network}.{i}.bias"][...] = by_out.sum(0)
        if i or network == "join":  # nothing is before the others' first layers
            by_out = by_out @ p[f"{network}.{i}.weight"].T
    return by_out


def _rectified(network: str, i: int) -> bool:
    return network != "join" or i + 1 < len(LAYERS[network])


def _matern(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances times sqrt(5) and Matern-5/2 of all pairs of rows."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    distance = np.sqrt(5 * (np.maximum(square, 0.0) + CLOSE))
    return distance, (1 + distance + distance**2 / 3) * np.exp(-distance)
