"""``StructureAwareVAE``: an instruction and a set of exemplars in one latent, and back (Kingma & Welling 2014).

Letters beyond the glossary of ``types``: ``s`` = 8 slots, ``f`` the width of an exemplar's features, up to 64.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lipo_e_ray.config import VAEConfig
from lipo_e_ray.latent.set_transformer import MAB, SetEncoder

SLOTS = 8  # the most exemplars of a prompt
FEATURES = 64  # principal directions that exemplars are compared in
CONCENTRATION = 10.0  # nats that a cosine of 0 instead of 1 costs: the instruction's von Mises-Fisher likelihood


class StructureAwareVAE(nn.Module):
    """Encoders to the two halves of z, a refinement over both, and a decoder for each half of the REFINED z.

    Sentences of one kind are alike: what they share would drown what tells them apart. So instructions are seen from
    their mean, and exemplars in the pool's half-whitened principal directions; ``calibrate`` measures both.
    """

    inst_centre: Tensor  # (e,)
    ex_centre: Tensor  # (e,)
    ex_basis: Tensor  # (e, f)

    def __init__(self, width: int, config: VAEConfig) -> None:
        super().__init__()
        self.inst_dim, self.dim = config.inst_dim, config.inst_dim + config.ex_dim
        features, hidden = min(FEATURES, width), config.hidden
        self.register_buffer("inst_centre", torch.zeros(width))
        self.register_buffer("ex_centre", torch.zeros(width))
        self.register_buffer("ex_basis", torch.eye(width, features))
        self.encode_inst = _mlp(width, 256, 128, 2 * config.inst_dim)
        self.encode_set = SetEncoder(features, hidden, config.heads, config.inducing)
        self.encode_ex = nn.Linear(hidden, 2 * config.ex_dim)
        self.refinement = _mlp(self.dim, 128, self.dim)
        for parameter in self.refinement[-1].parameters():  # starts as the identity: the halves keep their meaning
            nn.init.zeros_(parameter)
        self.decode_inst = _mlp(config.inst_dim, 128, 256, width)
        self.slots = _SlotDecoder(config.ex_dim, hidden, config.heads, features)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())

    @torch.no_grad()
    def calibrate(self, instructions: Tensor, pool: Tensor) -> None:
        """Measure the means and directions of the embeddings (n, e) and (p, e). Once, before training."""
        self.inst_centre.copy_(instructions.mean(0))
        self.ex_centre.copy_(pool.mean(0))
        _, spread, directions = torch.linalg.svd(pool - self.ex_centre, full_matrices=False)
        spread, directions = spread[: self.ex_basis.shape[1]], directions[: self.ex_basis.shape[1]]
        scale = torch.where(spread > 1e-4 * spread[0], spread.rsqrt(), 0.0)  # a direction without spread is noise
        self.ex_basis.zero_()
        self.ex_basis[:, : len(scale)] = directions.T * scale

    def features(self, exemplars: Tensor) -> Tensor:
        """Exemplar embeddings (..., e) -> unit vectors (..., f): what the set encoder reads and the slots aim at."""
        return F.normalize((exemplars - self.ex_centre) @ self.ex_basis, dim=-1)

    def posterior(self, instructions: Tensor, exemplars: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (b, e), exemplar features (b, k, f) with mask (b, k) -> mean and log variance, both (b, d).

        Before refinement: the Kullback-Leibler term is about these.
        """
        inst, ex = self.inst_posterior(instructions), self.ex_posterior(exemplars, mask)
        return torch.cat([inst[0], ex[0]], -1), torch.cat([inst[1], ex[1]], -1)

    def inst_posterior(self, instructions: Tensor) -> tuple[Tensor, Tensor]:
        """The half of ``posterior`` that instructions (b, e) give: mean and log variance, (b, inst_dim) each."""
        # Unit vectors times the root of their length: coordinates of size 1, as the layers' initialisation expects.
        inst = self._direction(instructions) * instructions.shape[-1] ** 0.5
        mean, log_variance = self.encode_inst(inst).chunk(2, -1)
        return mean, log_variance

    def ex_posterior(self, exemplars: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The half that sets (b, k, f) with mask (b, k) give: mean and log variance, (b, ex_dim) each."""
        encoded = self.encode_set(exemplars * exemplars.shape[-1] ** 0.5, mask)
        mean, log_variance = self.encode_ex(encoded).chunk(2, -1)
        return mean, log_variance

    def refine(self, z: Tensor) -> Tensor:
        """(b, d) -> z_joint (b, d), the latent that everything outside works in."""
        refined: Tensor = z + self.refinement(z)
        return refined

    def decode_instruction(self, z: Tensor) -> Tensor:
        """Refined z (b, d) -> instruction embeddings (b, e) of unit length, from z[:, :inst_dim] alone."""
        direction = F.normalize(self.decode_inst(z[:, : self.inst_dim]), dim=-1)
        # Where the ray from the mean meets the unit sphere: the exact inverse of looking from the mean.
        along = direction @ self.inst_centre
        reach = -along + (along**2 + 1 - self.inst_centre.square().sum()).clamp_min(0).sqrt()
        return F.normalize(self.inst_centre + reach[:, None] * direction, dim=-1)

    def decode_slots(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Refined z (b, d) -> slots (b, s, f) of unit length and presence logits (b, s), from z[:, inst_dim:] alone."""
        slots, presence = self.slots(z[:, self.inst_dim :])
        return slots, presence

    def choices(self, slots: Tensor, pool: Tensor) -> Tensor:
        """Slots (b, s, f), pool features (p, f) -> log probability (b, s, p) of each slot's choice from the pool."""
        return (slots @ pool.T * self.log_sharpness.exp()).log_softmax(-1)

    def reconstruction(self, z: Tensor, instructions: Tensor, chosen: Tensor, pool: Tensor) -> Reconstruction:
        """How far what refined z (b, d) decodes to is from instructions (b, e) and exemplars ``chosen`` (b, k).

        ``chosen``: indices into the pool features (p, f), -1 for padding; k <= s.
        """
        mask = chosen >= 0
        direction = self._direction(self.decode_instruction(z))
        instruction = CONCENTRATION * (1 - (direction * self._direction(instructions)).sum(-1))
        slots, presence = self.decode_slots(z)
        index = chosen.clamp_min(0)[:, None, :].expand(-1, slots.shape[1], -1)
        cost = -self.choices(slots, pool).gather(2, index)  # (b, s, k)
        slot_of = match(cost - presence[..., None], mask)
        exemplars = (cost.gather(1, slot_of[:, None, :]).squeeze(1) * mask).sum(-1)
        present = torch.zeros_like(presence).scatter(1, slot_of, mask.to(presence.dtype))
        used = F.binary_cross_entropy_with_logits(presence, present, reduction="none").sum(-1)
        return Reconstruction(instruction, exemplars, used)

    def _direction(self, instructions: Tensor) -> Tensor:
        return F.normalize(instructions - self.inst_centre, dim=-1)


class Reconstruction(NamedTuple):
    """Negative log likelihoods per item, (b,) each, in nats: the instruction, its exemplars, which slots are used."""

    instruction: Tensor
    exemplars: Tensor
    presence: Tensor

    @property
    def total(self) -> Tensor:
        return self.instruction + self.exemplars + self.presence


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), (b, d) -> (b,), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def match(cost: Tensor, mask: Tensor) -> Tensor:
    """For each set element the slot of the cheapest one-to-one assignment (Carion et al. 2020, DETR, section 3.1).

    ``cost`` (b, s, k), ``mask`` (b, k) -> slots (b, k); padding gets some slot that no element has.
    """
    # Padding costs the same everywhere, so it takes what the elements leave.
    costs = cost.detach().masked_fill(~mask[:, None, :], 0.0).cpu().numpy()
    slot_of = torch.empty(mask.shape, dtype=torch.long)
    for row, own_cost in zip(slot_of, costs, strict=True):
        slots, elements = linear_sum_assignment(own_cost)
        row[torch.from_numpy(elements)] = torch.from_numpy(slots)
    return slot_of.to(cost.device)


class _SlotDecoder(nn.Module):
    """Eight learned slots, each moved by z, that attend to each other twice so as not to choose the same exemplar."""

    def __init__(self, width: int, hidden: int, heads: int, features: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, SLOTS, hidden))
        self.condition = _mlp(width, 4 * hidden, SLOTS * hidden)
        self.first, self.second = MAB(hidden, heads), MAB(hidden, heads)
        self.out, self.presence = nn.Linear(hidden, features), nn.Linear(hidden, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z_ex (b, width) -> slots (b, s, f) of unit length, presence logits (b, s)."""
        slots = self.queries + self.condition(z).unflatten(-1, (SLOTS, -1))
        slots = self.first(slots, slots)
        slots = self.second(slots, slots)
        return F.normalize(self.out(slots), dim=-1), self.presence(slots).squeeze(-1)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
