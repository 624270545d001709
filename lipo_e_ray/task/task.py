"""What is optimized for: three splits of question/answer pairs."""

from __future__ import annotations

from dataclasses import dataclass

from lipo_e_ray.types import Example


@dataclass(frozen=True)
class Task:
    """Three disjoint splits of question/answer pairs; ``metric`` names how answers are compared.

    ``validation`` is already in its one fixed shuffle: fidelity n is ``validation[:n]``.
    """

    name: str
    pool: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    metric: str
