"""``LatentSpace``: the one refined latent space that is fitted, optimised and decoded in, never normalised."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lipo_e_ray.latent.encoder import Encoder, example_text
from lipo_e_ray.latent.vae import SLOTS, StructureAwareVAE
from lipo_e_ray.types import Example, Prompt

INVERSION_STEPS = 60  # gradient steps of one inversion
INVERSION_RATE = 0.05  # of Adam, in units of z, whose prior has a standard deviation of 1
INVERTED_TOGETHER = 32  # prompts of one batch; with a pool of 6154, 500 took 530 MiB more and 1.5 times as long


class LatentSpace:
    """Prompts to refined latents z (b, d), float64 on the CPU, and back. The VAE is copied and frozen.

    ``max_exemplars``: the most that a decoded set has, 8 at most.
    """

    def __init__(self, encoder: Encoder, vae: StructureAwareVAE, pool: Sequence[Example], max_exemplars: int) -> None:
        if not 0 <= max_exemplars <= SLOTS:
            raise ValueError(f"max_exemplars: expected 0..{SLOTS}, got {max_exemplars}")
        self._encoder = encoder
        self._vae = copy.deepcopy(vae).double().cpu().eval().requires_grad_(False)
        self._pool = tuple(pool)
        self._index = {example.id: i for i, example in enumerate(self._pool)}
        self._features = self._vae.features(self._embed([example_text(example) for example in self._pool]))
        self._max_exemplars = min(max_exemplars, len(self._pool))
        self._inverted: dict[tuple[str, int], Tensor] = {}
        self.inst_dim, self.dim = self._vae.inst_dim, self._vae.dim

    def encode(self, prompts: Sequence[Prompt]) -> Tensor:
        """The refined posterior mean (b, d). The order of a prompt's exemplars does not matter.

        Raises ``ValueError`` for an exemplar that is not in the pool.
        """
        instructions, chosen = self._targets(prompts)
        sets, own = torch.unique(chosen, dim=0, return_inverse=True)  # many prompts share few sets: each is read once
        with torch.no_grad():
            inst, _ = self._vae.inst_posterior(instructions)
            ex, _ = self._vae.ex_posterior(self._features[sets.clamp_min(0)], sets >= 0)
            return self._vae.refine(torch.cat([inst, ex[own]], -1))

    def decode_instruction(self, z: Tensor) -> np.ndarray:
        """Instruction embeddings (b, e), unit length, for refined latents (b, d)."""
        with torch.no_grad():
            return self._vae.decode_instruction(z).numpy()

    def decode_exemplars(self, z: Tensor) -> list[tuple[Example, ...]]:
        """One set per latent (b, d): 0..max_exemplars exemplars, none twice, in the order of the pool.

        The slots that are present choose together, each exemplar once, so that their joint likelihood is highest.
        """
        with torch.no_grad():
            slots, presence = self._vae.decode_slots(z)
            choices = self._vae.choices(slots, self._features)
        sets = []
        for scores, logits in zip(choices, presence, strict=True):
            count = min(int((logits > 0).sum()), self._max_exemplars)
            present = logits.argsort(descending=True, stable=True)[:count]
            _, chosen = linear_sum_assignment(scores[present].numpy(), maximize=True)
            sets.append(tuple(self._pool[i] for i in sorted(chosen)))
        return sets

    def distance(self, z: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """(b,) How far decode(z) is from each prompt, in nats: see ``StructureAwareVAE.reconstruction``."""
        with torch.no_grad():
            return self._vae.reconstruction(z, *self._targets(prompts), self._features).total

    def invert(self, prompts: Sequence[Prompt], steps: int = INVERSION_STEPS) -> Tensor:
        """z (b, d), found by ``steps`` of gradient from ``encode``'s, with decode(z) as near to the prompts as can be.

        Chu et al. 2024, "Inversion-Based Latent Bayesian Optimization": the decoder stays as it is and no LLM is asked.
        Each prompt is inverted once; a later call gives the same z.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt.id, steps) not in self._inverted]
        for start in range(0, len(new), INVERTED_TOGETHER):
            part = new[start : start + INVERTED_TOGETHER]
            keys = [(prompt.id, steps) for prompt in part]
            self._inverted.update(zip(keys, self._descend(part, steps), strict=True))
        return torch.stack([self._inverted[prompt.id, steps] for prompt in prompts]) if prompts else self.encode(())

    @torch.enable_grad()
    def _descend(self, prompts: Sequence[Prompt], steps: int) -> Tensor:
        targets = self._targets(prompts)
        z = self.encode(prompts).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=INVERSION_RATE)
        best, lowest = z.detach().clone(), torch.full((len(prompts),), torch.inf, dtype=z.dtype)
        for step in range(steps + 1):
            distance = self._vae.reconstruction(z, *targets, self._features).total
            better = distance.detach() < lowest
            lowest = torch.where(better, distance.detach(), lowest)
            best[better] = z.detach()[better]
            if step < steps:
                (z.grad,) = torch.autograd.grad(distance.sum(), z)
                optimiser.step()
        return best

    def _targets(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Instruction embeddings (b, e) and pool indices (b, 8), -1 where a prompt has fewer exemplars."""
        chosen = torch.full((len(prompts), SLOTS), -1)
        for row, prompt in zip(chosen, prompts, strict=True):
            if len(prompt.exemplars) > SLOTS:
                raise ValueError(f"expected {SLOTS} exemplars or fewer, got {len(prompt.exemplars)}; drop some")
            for slot, exemplar in enumerate(prompt.exemplars):
                if exemplar.id not in self._index:
                    raise ValueError(f"expected exemplars of the pool, got {exemplar.question[:60]!r}; add it")
                row[slot] = self._index[exemplar.id]
        return self._embed([prompt.instruction for prompt in prompts]), chosen

    def _embed(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self._encoder.encode(texts)).double()
