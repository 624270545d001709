"""``PromptPosterior``: what the observations of a request say about the error of any prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from lipo_e_ray.proposal.acquisition import comparable, greedy_batch
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.types import Example, Prompt, Request


class PromptSpace(Protocol):
    """What proposals need of ``latent.space.LatentSpace``, which says more about each method."""

    inst_dim: int

    def encode(self, prompts: Sequence[Prompt]) -> Tensor:
        """Latents z (b, d), float64; the first ``inst_dim`` coordinates are the instruction's."""
        ...

    def invert(self, prompts: Sequence[Prompt]) -> Tensor:
        """Latents (b, d) that decode to the prompts as nearly as can be."""
        ...

    def decode_instruction(self, z: Tensor) -> NDArray[Any]:
        """Embeddings (b, e) of unit length."""
        ...

    def decode_exemplars(self, z: Tensor) -> list[tuple[Example, ...]]:
        """One set for each of b latents, in the order of the pool."""
        ...


@dataclass(frozen=True)
class PromptPosterior:
    """The surrogate of the prompts' errors, fitted to m observed prompts.

    ``gp`` is fitted on ``z`` (m, d) = ``embed(prompts)`` and ``mean`` (m,) is its posterior there. ``embed`` is
    ``space.encode``, or ``space.invert`` in InvBO (gradient steps: for what is fitted and ranked only, points to start
    a search from are encoded). ``running``: prompts whose next evaluation is under way, observed before or not.
    """

    space: PromptSpace
    gp: JointPromptGP
    prompts: tuple[Prompt, ...]
    z: Tensor
    mean: Tensor
    embed: Callable[[Sequence[Prompt]], Tensor]
    running: tuple[Prompt, ...] = ()

    @classmethod
    def fit(cls, gp: JointPromptGP, space: PromptSpace, request: Request) -> PromptPosterior:
        """Fit ``gp`` to every observation with an answer.

        Raises ``SurrogateError`` when no GP can be fitted to them.
        """
        embed = space.invert if request.stage == "invbo" else space.encode
        answered = [(prompt, observation) for prompt, observation in request.observed if observation.evaluated]
        prompts = tuple(dict.fromkeys(prompt for prompt, _ in answered))
        row = {prompt.id: i for i, prompt in enumerate(prompts)}
        z = embed(prompts)
        gp.fit(
            z,
            [observation.errors for _, observation in answered],
            [observation.evaluated for _, observation in answered],
            [row[prompt.id] for prompt, _ in answered],
        )
        with torch.no_grad():
            mean = gp.predict(z)[0]
        return cls(space, gp, prompts, z, mean, embed, request.running)

    @property
    def best(self) -> float:
        """Lowest posterior mean over the observed prompts."""
        return float(self.mean.min())

    def ranking(self) -> list[int]:
        """Indices of the observed prompts, lowest posterior mean first."""
        order: list[int] = torch.argsort(comparable(self.mean), stable=True).tolist()
        return order

    def choose_batch(self, candidates: Sequence[Prompt], q: int, chosen: Sequence[int] = ()) -> list[int]:
        """Indices of up to q of ``candidates``, by ``greedy_batch`` at their own latents, in the order of choice.

        Running prompts, and candidates whose indices are in ``chosen``, count as part of the batch and are not chosen.
        """
        if not candidates:
            return []
        mean, covariance = self.gp.joint(self.embed([*candidates, *self.running]))
        pending = [*chosen, *range(len(candidates), len(mean))]
        return greedy_batch(mean, covariance, self.best, q, pending)
