"""Set transformer blocks (Lee et al. 2019, "Set Transformer", sections 3.1 and 3.2), with a padding mask.

A set is a tensor of rows and a boolean mask, true where a row is an element and false where it is padding. What lies in
the padding is never read. ``h`` is the hidden width, ``i`` the number of inducing points, ``n`` and ``k`` are rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MAB(nn.Module):
    """Multihead attention block: every query attends to the elements of a set (Lee et al. 2019, equations 6 and 7).

    ``hidden`` must be a multiple of ``heads``; else ``ValueError``.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"expected hidden to be a multiple of heads, got hidden={hidden} and heads={heads}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.feed_forward = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.norm_attention, self.norm_out = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, queries: Tensor, elements: Tensor, mask: Tensor | None = None) -> Tensor:
        """``queries`` (b, n, h), ``elements`` (b, k, h), ``mask`` (b, k) -> (b, n, h).

        A query that sees only padding receives nothing: it passes on unchanged but for the feed-forward part.
        """
        hidden = self.norm_attention(queries + self.out(self._attend(queries, elements, mask)))
        out: Tensor = self.norm_out(hidden + self.feed_forward(hidden))
        return out

    def _attend(self, queries: Tensor, elements: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (self._split(t) for t in (self.query(queries), self.key(elements), self.value(elements)))
        # A query that sees no element gets zeros here, in value and in gradient; a plain softmax would give NaN.
        seen = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)

    def _split(self, rows: Tensor) -> Tensor:
        split: Tensor = rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


class ISAB(nn.Module):
    """Induced self-attention block: elements attend to each other through ``i`` learned inducing points.

    Equivariant: the rows of the output are in the order of the rows of the input.
    """

    def __init__(self, hidden: int, heads: int, inducing: int) -> None:
        super().__init__()
        self.inducing = nn.Parameter(torch.randn(1, inducing, hidden) / hidden**0.5)
        self.gather, self.spread = MAB(hidden, heads), MAB(hidden, heads)

    def forward(self, elements: Tensor, mask: Tensor | None = None) -> Tensor:
        """``elements`` (b, k, h), ``mask`` (b, k) -> (b, k, h); rows that are padding hold no meaning."""
        summary = self.gather(self.inducing.expand(len(elements), -1, -1), elements, mask)
        spread: Tensor = self.spread(elements, summary)
        return spread


class PMA(nn.Module):
    """Pooling by multihead attention with one learned seed: the set as one vector. Invariant to the order."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.seed = nn.Parameter(torch.randn(1, 1, hidden) / hidden**0.5)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.attention = MAB(hidden, heads)

    def forward(self, elements: Tensor, mask: Tensor | None = None) -> Tensor:
        """``elements`` (b, k, h), ``mask`` (b, k) -> (b, h)."""
        seeds = self.seed.expand(len(elements), -1, -1)
        pooled: Tensor = self.attention(seeds, self.feed_forward(elements), mask)
        return pooled.squeeze(1)


class SetEncoder(nn.Module):
    """A set of vectors as one vector: ISAB -> ISAB -> PMA, behind a learned element that every set contains.

    That element stands for the empty set, and it lets attention, which averages, tell a set's size: its share of the
    weight falls as elements join.
    """

    def __init__(self, width: int, hidden: int, heads: int, inducing: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, hidden)
        self.empty = nn.Parameter(torch.randn(1, 1, hidden) / hidden**0.5)
        self.first, self.second = ISAB(hidden, heads, inducing), ISAB(hidden, heads, inducing)
        self.pool = PMA(hidden, heads)

    def forward(self, elements: Tensor, mask: Tensor) -> Tensor:
        """``elements`` (b, k, width), ``mask`` (b, k) -> (b, h); k may be 0."""
        # Padding is zeroed first: NaN times a weight of zero would still be NaN.
        hidden = self.embed(elements.masked_fill(~mask[..., None], 0.0))
        hidden = torch.cat([self.empty.expand(len(hidden), -1, -1), hidden], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        pooled: Tensor = self.pool(self.second(self.first(hidden, mask), mask), mask)
        return pooled
