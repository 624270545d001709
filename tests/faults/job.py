"""A driver process of the fault tests: the whole job, but the LLM's answers and the embeddings are formulas.

``python job.py CONFIG_JSON RUN_FOLDER PAID_FILE [ADDRESS]``. Every (prompt, example) and every conversation an engine
is asked is a line in ``PAID_FILE``, written before the answer: what was paid, whatever became of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lipo_e_ray import job as composed
from lipo_e_ray.app.display import Display
from lipo_e_ray.config import RunConfig
from lipo_e_ray.config_tree import from_dict
from lipo_e_ray.engine.base import Engine, generation_key
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.recipe import ProposerRecipe
from lipo_e_ray.report.answer import final_line
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import Completion, Example, LipoError, Message, Outcome, Prompt, Sampling, digest

ENGINE_TIMEOUT_S = 15.0  # for a chunk that takes half a second
LATENCY = Latency(1e9, step_s=0.02, token_s=0.0, max_num_seqs=16, answer_tokens=10)  # some 80 answers a second


class PaidEngine(SimulatedEngine):
    """Notes its process and what it is asked, a line each: ``pid prompt-id example-id``.

    A file ``*.oom`` beside the notes is an order to run out of memory, once.
    """

    def __init__(self, paid: Path) -> None:
        super().__init__(0, LATENCY)
        self._paid = paid

    def _note(self, keys: Iterable[str]) -> None:
        with self._paid.open("a") as file:
            file.write("".join(f"{os.getpid()} {key}\n" for key in keys))
        try:
            self._paid.with_suffix(".oom").unlink()
        except FileNotFoundError:
            return
        raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        self._note(f"{prompt.id} {example.id}" for example in examples)
        return await super().evaluate(prompt, examples)

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        self._note(generation_key(self.fingerprints, *pair) for pair in zip(conversations, samplings, strict=True))
        return await super().generate(conversations, samplings)


class WordEncoder:
    """Unit vectors from hashed words: the real encoder takes each process 5 s to import, and no fault depends on it."""

    width = 64
    fingerprint = "words"

    def __init__(self, name: str) -> None:
        """``name`` is that of the real one."""
        self._vectors: dict[str, np.ndarray] = {}  # InvBO embeds the same words tens of thousands of times

    def _vector(self, word: str) -> np.ndarray:
        if word not in self._vectors:
            self._vectors[word] = np.random.default_rng(int(digest(word), 16)).standard_normal(self.width)
        return self._vectors[word]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row += self._vector(word)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def spec(paid: Path, kind: type[Engine] = PaidEngine) -> EngineSpec:
    return EngineSpec(partial(kind, paid), SimulatedEngine().fingerprints, len, on_gpu=False)


@contextlib.contextmanager
def hashed_words() -> Iterator[None]:
    """Runs that this process starts in the block embed with ``WordEncoder``, in Ray's workers as well."""
    import ray

    here = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(here)  # which Ray's workers cannot import
    before = composed.ProposerRecipe
    composed.ProposerRecipe = partial(ProposerRecipe, make_encoder=WordEncoder)
    try:
        yield
    finally:
        composed.ProposerRecipe = before
        ray.cloudpickle.unregister_pickle_by_value(here)


def run_shown(config: RunConfig, folder: Path, engine: EngineSpec, address: str | None = None) -> None:
    """Run, or continue, the job and print what goes on and the last line."""
    with Display() as display:
        records = composed.search(config, RunFolder(folder), display, composed.Given(engine=engine), address)
    print(final_line(records))


if __name__ == "__main__":
    composed.EnginesConfig = partial(composed.EnginesConfig, timeout_s=ENGINE_TIMEOUT_S)
    composed.ProposerRecipe = partial(ProposerRecipe, make_encoder=WordEncoder)
    config, folder, paid, *address = sys.argv[1:]
    try:
        run_shown(from_dict(json.loads(config)), Path(folder), spec(Path(paid)), *address)
    except KeyboardInterrupt:
        sys.exit(130)
    except LipoError as error:
        sys.exit(f"lipo-e-ray: {error}")
