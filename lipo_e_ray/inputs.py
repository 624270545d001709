"""What a run starts from, loaded and checked before anything is paid: the task, the instructions, the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lipo_e_ray.config import ModelConfig, RunConfig
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.embedded import ENCODER, resolve_encoder
from lipo_e_ray.engine.model import HUB_ID, ChatTokenizer, context_length, fingerprints
from lipo_e_ray.engine.vllm import VLLMEngine
from lipo_e_ray.instructions.induction import MAX_WORDS, longest_request
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.task.context import ContextLimit, PromptTokens, fitting_task, up_to_block
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.metrics import Metric, get_metric
from lipo_e_ray.task.rendering import CountTokens
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Fingerprints, InputError, InstructionSource

WRITTEN_TOKENS = 8 * MAX_WORDS
"""Room for an instruction that the model writes: a text of ``MAX_WORDS`` words has about so many letters."""

MIN_CONTEXT = 2048
"""Tokens of the shortest context that is asked of a model that has more: rewriting instructions needs some as well."""


@dataclass(frozen=True)
class EngineSpec:
    """How to build an engine (picklable: it is built inside its Ray actor) and what can be known before.

    ``count_tokens``: tokens of a chat (picklable too); ``None``: nobody checks whether a prompt fits the context.
    ``context_length``: tokens that the model can read and write together; ``None``: nobody knows.
    """

    make: Callable[[], Engine]
    fingerprints: Fingerprints
    count_tokens: CountTokens | None = None
    on_gpu: bool = True  # take a GPU where the cluster has one
    context_length: int | None = None


@dataclass(frozen=True)
class Inputs:
    """``instructions``: text -> who wrote it, the user's first, then the shipped ones.

    ``context``: which prompts the model takes; ``max_model_len``: the context that the engine is built with, in tokens,
    0 where nobody counts. ``max_exemplars``: of a prompt in this run; fewer than configured where more never fit.
    ``notes``: lines that tell the user what was left out for it.
    """

    task: Task
    instructions: dict[str, InstructionSource]
    engine: EngineSpec
    context: ContextLimit = field(default_factory=ContextLimit)
    max_model_len: int = 0
    max_exemplars: int = 8
    notes: tuple[str, ...] = ()


def vllm_spec(
    model: ModelConfig, task: Task, metric: Metric | None = None, count_tokens: CountTokens | None = None
) -> EngineSpec:
    """A real engine. ``metric`` judges instead of the task's; ``count_tokens`` is the model's, if it was loaded before.

    Raises ``InputError`` when there is no such model.
    """
    make = partial(VLLMEngine, model, metric or get_metric(task.metric))
    count_tokens = count_tokens or ChatTokenizer(model).count
    return EngineSpec(make, fingerprints(model), count_tokens, context_length=context_length(model))


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


def load_inputs(
    config: RunConfig, engine: EngineSpec | None = None, given: Task | None = None, metric: Metric | None = None
) -> Inputs:
    """Load the task and the instructions, and find out which prompts fit the model's context.

    ``engine``: another one than vLLM; ``given``: a task's rows instead of what ``config.task.name`` names;
    ``metric``: a function that judges instead of the metric that ``config.task.metric`` names.
    Raises ``InputError``; nothing was written or paid by then.
    """
    own = read_instructions(Path(config.instructions_file)) if config.instructions_file else []
    _check_encoder(config.encoder.name)
    task = load_task(config.task, config.seed, given, metric)
    if (n := len(task.validation)) < config.hyperband.b_min:
        raise InputError(
            f"task {task.name}: expected {config.hyperband.b_min} validation examples or more (b_min), got {n}; add "
            f"examples, or begin with fewer: --set hyperband.b_min={n}"
        )
    instructions: dict[str, InstructionSource] = dict.fromkeys(own, "file")
    instructions |= {text: "seed" for text in SEED_INSTRUCTIONS if text not in instructions}
    spec = engine or vllm_spec(config.model, task, metric)
    if spec.count_tokens is None:
        return Inputs(task, instructions, spec, ContextLimit(), config.model.max_model_len, config.max_exemplars)
    tokens = PromptTokens(task, spec.count_tokens)
    context = config.model.max_model_len or _needed_context(config, task, tokens, list(instructions))
    if not config.model.max_model_len and spec.context_length:
        context = min(context, spec.context_length)
    limit = ContextLimit(tokens, context, config.model.max_tokens)
    fitting = fitting_task(task, instructions, config.max_exemplars, limit)
    if engine is None:
        spec = vllm_spec(replace(config.model, max_model_len=context), task, metric, spec.count_tokens)
    return Inputs(fitting.task, instructions, spec, limit, context, fitting.max_exemplars, fitting.notes)


def _needed_context(config: RunConfig, task: Task, tokens: PromptTokens, instructions: list[str]) -> int:
    """Tokens that the longest prompt and its answer need, or APE's longest request."""
    longest = sorted(task.pool, key=tokens.exemplar, reverse=True)
    written = max(WRITTEN_TOKENS, *map(tokens.instruction, instructions))
    needed = tokens.total(written, longest[: config.max_exemplars]) + config.model.max_tokens
    if config.ape.use:
        needed = max(needed, longest_request(longest[: config.ape.examples_per_request], tokens.count_tokens))
    return up_to_block(max(needed, MIN_CONTEXT))


def _check_encoder(name: str) -> None:
    """Whether this can be an encoder: it is loaded much later, in an actor, when much has been paid."""
    folder = Path(resolve_encoder(name)).expanduser()
    if not (HUB_ID.fullmatch(name) or any((folder / file).is_file() for file in ("modules.json", "config.json"))):
        raise InputError(
            f"encoder {name!r}: expected {ENCODER}, a sentence-transformers id or a folder with modules.json or "
            f"config.json, found none; name another: --set encoder.name={ENCODER}"
        )
