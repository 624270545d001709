"""Sentence embeddings: texts in, unit vectors out, each text encoded once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from lipo_e_ray.types import Example, InputError

logger = logging.getLogger(__name__)


def example_text(example: Example) -> str:
    """What is embedded for an exemplar: the question and the worked answer, as the model will see them."""
    return f"{example.question}\n{example.answer}"


class Encoder(Protocol):
    """What the latent space and the inverters need of ``TextEncoder``."""

    @property
    def width(self) -> int:
        """e, the length of an embedding."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for the same embeddings."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (b, e), float32, of unit length, in the order of ``texts``."""
        ...


class TextEncoder:
    """A sentence-transformers model, on the GPU where torch sees one. Every vector is kept for the encoder's lifetime.

    ``name_or_path``: a folder or a hub id. Raises ``InputError`` when it can't be loaded.
    """

    def __init__(self, name_or_path: str) -> None:
        from sentence_transformers import SentenceTransformer  # seconds to import: only processes that encode pay

        try:
            self._model = SentenceTransformer(name_or_path)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"encoder {name_or_path!r}: expected a sentence-transformers folder or id, got {reason};"
                " give the folder of a downloaded model, or all-minilm-l6-v2"
            ) from error
        self._embeddings: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (b, e), float32, of unit length, in the order of ``texts``.

        Zeros where the model gives no finite one; that is logged.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if new:
            rows = self._model.encode(new, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
            rows = rows.astype(np.float32)
            lost = np.flatnonzero(~np.isfinite(rows).all(1))
            if len(lost):
                logger.warning(
                    "encoder: expected finite embeddings, got none for %d of %d texts (the first: %.60r); "
                    "zeros stand for them, so the search goes on without what they say",
                    len(lost),
                    len(new),
                    new[lost[0]],
                )
                rows[lost] = 0
            self._embeddings.update(zip(new, rows, strict=True))
        if not texts:
            return np.empty((0, self.width), np.float32)
        return np.stack([self._embeddings[text] for text in texts])

    @cached_property
    def width(self) -> int:
        """e, the length of an embedding."""
        return int(self._model.get_embedding_dimension() or 0)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits over weights and modules, the same wherever the encoder lies on disk."""
        total = hashlib.sha256(repr([type(module).__name__ for module in self._model]).encode())
        total.update(str(self._model.max_seq_length).encode())
        for name, weight in sorted(self._model.state_dict().items()):
            total.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            total.update(weight.detach().cpu().float().contiguous().numpy().data)
        return total.hexdigest()[:16]
