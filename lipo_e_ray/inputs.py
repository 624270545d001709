"""What a run starts from, loaded and checked before anything is paid: the task, the instructions, the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lipo_e_ray.config import ModelConfig, RunConfig
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.embedded import resolve_encoder
from lipo_e_ray.engine.model import HUB_ID, ChatTokenizer, fingerprints
from lipo_e_ray.engine.vllm import VLLMEngine
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.task.rendering import check_context
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Fingerprints, InputError, InstructionSource, Message


@dataclass(frozen=True)
class EngineSpec:
    """How to build an engine (picklable: it is built inside its Ray actor) and what can be known before."""

    make: Callable[[], Engine]
    fingerprints: Fingerprints
    count_tokens: Callable[[list[Message]], int]
    on_gpu: bool = True  # take a GPU where the cluster has one


@dataclass(frozen=True)
class Inputs:
    """``instructions``: text -> who wrote it, the shipped seeds first, then the user's."""

    task: Task
    instructions: dict[str, InstructionSource]
    engine: EngineSpec


def vllm_spec(model: ModelConfig, task: Task) -> EngineSpec:
    """A real engine. Raises ``InputError`` when the model's tokenizer cannot be loaded."""
    make = partial(VLLMEngine, model, get_metric(task.metric))
    return EngineSpec(make, fingerprints(model), ChatTokenizer(model).count)


def read_instructions(path: Path) -> list[str]:
    """One instruction a line; empty lines are skipped. Raises ``InputError``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"--instructions: expected a text file at {path}, found none") from None
    except (OSError, ValueError) as error:
        raise InputError(f"--instructions: expected UTF-8 text in {path}, got: {error}; save it as UTF-8") from None
    instructions = [line.strip() for line in lines if line.strip()]
    if not instructions:
        raise InputError(f"--instructions: expected one instruction a line in {path}, found no text")
    return instructions


def _check_encoder(name: str) -> None:
    """It loads much later, in an actor, when much has been paid: a name that can't be one is found now."""
    folder = Path(resolve_encoder(name)).expanduser()
    if not (HUB_ID.fullmatch(name) or any((folder / file).is_file() for file in ("modules.json", "config.json"))):
        raise InputError(
            f"encoder {name!r}: expected all-minilm-l6-v2, a sentence-transformers id or a folder with "
            "modules.json or config.json, found none; check encoder.name"
        )


def load_inputs(config: RunConfig, engine: EngineSpec | None = None) -> Inputs:
    """Load the task and the instructions and check that all of it fits the model's context.

    Raises ``InputError``; nothing was written or paid by then.
    """
    own = read_instructions(Path(config.instructions_file)) if config.instructions_file else []
    _check_encoder(config.encoder.name)
    task = load_task(config.task, config.seed)
    if len(task.validation) < config.hyperband.b_min:
        raise InputError(
            f"task {task.name}: expected {config.hyperband.b_min} validation examples or more (b_min), "
            f"got {len(task.validation)}; add examples"
        )
    instructions: dict[str, InstructionSource] = dict.fromkeys(SEED_INSTRUCTIONS, "seed")
    instructions |= {text: "file" for text in own if text not in instructions}
    engine = engine or vllm_spec(config.model, task)
    longest = max(instructions, key=lambda text: engine.count_tokens([{"role": "user", "content": text}]))
    check_context(
        task, longest, config.max_exemplars, config.model.max_model_len, config.model.max_tokens, engine.count_tokens
    )
    return Inputs(task, instructions, engine)
