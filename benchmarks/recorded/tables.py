"""``OutcomeTable``: what a real LLM answered to every prompt of a grid, as bits, in one safetensors file.

A table holds no text of a data set: an example is known by its id, and in a replay a stand-in whose question IS that
id takes its place. So a search on a table needs neither the model, nor the data, nor an encoder.

Letters beyond the glossary of ``lipo_e_ray.types``: ``i`` instructions and ``s`` exemplar sets of a grid, ``n``
validation and test examples together, validation first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lipo_e_ray.latent.encoder import example_text
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Completion, Example, Fingerprints, Observation, Outcome, Prompt, Status

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Grid:
    """What was asked: every instruction with every exemplar set (indices into ``pool``), on all examples.

    ``pool``, ``validation``, ``test``: ids of examples; ``model``, ``encoder``: names; ``max_tokens``: of an answer.
    """

    name: str
    model: str
    encoder: str
    max_tokens: int
    instructions: tuple[str, ...]
    exemplar_sets: tuple[tuple[int, ...], ...]
    pool: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class OutcomeTable:
    """``correct`` and ``parsed`` (i, s, n) bool; embeddings of instructions (i, e), of the pool's examples (p, e) and
    of whole exemplar sets, one text each (s, e), float32 of unit length (kept as float16)."""

    grid: Grid
    fingerprints: Fingerprints
    correct: np.ndarray
    parsed: np.ndarray
    instruction_embeddings: np.ndarray
    pool_embeddings: np.ndarray
    set_embeddings: np.ndarray

    def save(self, folder: Path = FOLDER) -> Path:
        """One file of bits and halves, its texts in the header."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.grid.name}.safetensors"
        save_file(
            {
                "correct": np.packbits(self.correct, axis=-1),
                "parsed": np.packbits(self.parsed, axis=-1),
                "instruction_embeddings": self.instruction_embeddings.astype(np.float16),
                "pool_embeddings": self.pool_embeddings.astype(np.float16),
                "set_embeddings": self.set_embeddings.astype(np.float16),
            },
            path,
            {"grid": json.dumps(asdict(self.grid)), "fingerprints": json.dumps(asdict(self.fingerprints))},
        )
        return path

    @classmethod
    def load(cls, path: Path) -> OutcomeTable:
        with safe_open(path, framework="numpy") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            header = file.metadata()
        raw = json.loads(header["grid"])
        grid = Grid(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
            | {"exemplar_sets": tuple(map(tuple, raw["exemplar_sets"]))}
        )
        n = len(grid.validation) + len(grid.test)
        bits = {name: np.unpackbits(values[name], axis=-1, count=n).astype(bool) for name in ("correct", "parsed")}
        embeddings = {name: value.astype(np.float32) for name, value in values.items() if name not in bits}
        return cls(grid, Fingerprints(**json.loads(header["fingerprints"])), **bits, **embeddings)

    # ---- as a task ----

    @cached_property
    def task(self) -> Task:
        """Stand-ins in the place of the examples; the prompts of the grid are ``prompts``."""
        pool, validation, test = (
            tuple(Example(example_id, "?") for example_id in ids)
            for ids in (self.grid.pool, self.grid.validation, self.grid.test)
        )
        return Task(self.grid.name, pool, validation, test, "text")

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """Instruction by instruction, (i * s) in all."""
        sets = [tuple(self.task.pool[j] for j in chosen) for chosen in self.grid.exemplar_sets]
        return tuple(Prompt(text, exemplars) for text in self.grid.instructions for exemplars in sets)

    def index(self, prompt: Prompt) -> int:
        """Its place in ``prompts``. Raises ``KeyError`` for a prompt that is not in the grid."""
        return self._places[prompt.id]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {prompt.id: i for i, prompt in enumerate(self.prompts)}

    @cached_property
    def _errors(self) -> np.ndarray:
        """(i * s, n + 1): errors on the first so many validation examples."""
        wrong = ~self.correct.reshape(len(self.prompts), -1)[:, : len(self.grid.validation)]
        return np.pad(wrong.cumsum(1), ((0, 0), (1, 0)))

    def observe(self, prompt: Prompt, n: int) -> Observation:
        """The first n validation examples."""
        row = self.index(prompt)
        parsed = self.parsed.reshape(len(self.prompts), -1)[row, :n]
        return Observation(prompt.id, int(self._errors[row, n]), n, int((~parsed).sum()))

    @cached_property
    def validation_error(self) -> np.ndarray:
        """(i * s,) error rates on all validation examples."""
        return np.asarray(self._errors[:, -1] / len(self.grid.validation))

    @cached_property
    def test_error(self) -> np.ndarray:
        """(i * s,) error rates on all test examples."""
        correct = self.correct.reshape(len(self.prompts), -1)[:, len(self.grid.validation) :]
        return np.asarray(1 - correct.mean(1))

    # ---- as recorded answers: see ``engine.replay.Recorded`` ----

    def outcomes(self, prompt_id: str) -> dict[str, Outcome]:
        """Stand-in's id -> outcome, without text."""
        if prompt_id not in self._places:
            return {}
        row = self._places[prompt_id]
        correct, parsed = (bits.reshape(len(self.prompts), -1)[row] for bits in (self.correct, self.parsed))
        statuses = [
            Status.CORRECT if c else Status.WRONG if p else Status.UNPARSEABLE
            for c, p in zip(correct, parsed, strict=True)
        ]
        examples = (*self.task.validation, *self.task.test)
        return {
            example.id: Outcome(prompt_id, example.id, status)
            for example, status in zip(examples, statuses, strict=True)
        }

    def generation(self, key: str) -> Completion | None:
        """A table holds none."""
        return None

    def close(self) -> None:
        """Nothing is open."""


class TableEncoder:
    """The embeddings of a table in the place of a ``TextEncoder``: of its instructions and of its pool's stand-ins."""

    def __init__(self, table: OutcomeTable) -> None:
        texts = [*table.grid.instructions, *(example_text(example) for example in table.task.pool)]
        rows = np.concatenate([table.instruction_embeddings, table.pool_embeddings])
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)  # half precision took a little
        self._rows = dict(zip(texts, rows, strict=True))
        self.width = rows.shape[1]
        self.fingerprint = table.grid.encoder

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (b, e), float32, of unit length. Raises ``KeyError`` for a text that is not in the table."""
        return np.stack([self._rows[text] for text in texts]) if texts else np.empty((0, self.width), np.float32)
