"""Frozen configuration, one dataclass per component, checked at construction; profiles; JSON round trip.

Unknown keys are errors: a misspelt key in a ``config.json`` must not silently mean "the default".
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from lipo_e_ray.types import InputError

T = TypeVar("T")

MOST = 1_000_000  # of anything counted: more is a slip of the finger, and would take all memory or never end
MOST_CALLS, MOST_SEEDS, MOST_WIDTH, MOST_ENGINES = 10**9, 2**32 - 1, 4096, 4096
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")  # vLLM's


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _at_least(owner: object, minimum: float, *names: str, most: float = MOST) -> None:
    for name in names:
        value = getattr(owner, name)
        expected = f"{minimum} or more" if value < minimum else f"{most} or less"
        _require(minimum <= value <= most, f"{type(owner).__name__}.{name}: expected {expected}, got {value!r:.60}")


def _one_line(owner: object, *names: str) -> None:
    """Names stand in messages of one line, and a NUL or half a surrogate pair is in no path."""
    for name in names:
        value = getattr(owner, name)
        _require(
            value.isprintable(),
            f"{type(owner).__name__}.{name}: expected text without control characters, got {value!r:.60}",
        )


@dataclass(frozen=True)
class TaskConfig:
    """``name`` is ``arithmetic``, ``gsm8k`` or a folder; sizes of 0 mean "all there is".

    ``metric``: ``auto`` (chosen from the answers), ``numeric``, ``choice``, ``text`` or ``module:function``.
    """

    name: str = "gsm8k"
    pool_size: int = 6154
    validation_size: int = 1319
    test_size: int = 1319
    metric: str = "auto"

    def __post_init__(self) -> None:
        _at_least(self, 0, "pool_size", "validation_size", "test_size")
        _one_line(self, "name", "metric")


@dataclass(frozen=True)
class ModelConfig:
    """``name``: ``smollm2-135m`` (embedded), a folder, or a Hugging Face id that vLLM serves. Lengths in tokens.

    ``max_model_len``: question and answer together; 0: what the data needs, as far as the model has it.
    ``tensor_parallel``: GPUs that one engine spreads the model over; without a GPU it has no effect.
    """

    name: str = "Qwen/Qwen2.5-1.5B-Instruct"
    max_model_len: int = 0
    max_tokens: int = 512
    temperature: float = 0.0
    dtype: str = "bfloat16"
    gpu_memory_utilization: float = 0.8
    max_num_seqs: int = 256
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        _one_line(self, "name")
        _at_least(self, 0, "max_model_len")
        _at_least(self, 1, "max_tokens", "max_num_seqs")
        _at_least(self, 1, "tensor_parallel", most=MOST_ENGINES)
        _require(
            self.max_tokens < self.max_model_len or not self.max_model_len,
            f"ModelConfig: expected max_tokens < max_model_len, got {self.max_tokens} and {self.max_model_len}",
        )
        _require(
            0 < self.gpu_memory_utilization <= 1,
            f"ModelConfig.gpu_memory_utilization: expected a share in (0, 1], got {self.gpu_memory_utilization}",
        )
        _at_least(self, 0, "temperature")
        _require(
            self.dtype in DTYPES, f"ModelConfig.dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r:.60}"
        )


@dataclass(frozen=True)
class EncoderConfig:
    """``name``: ``all-minilm-l6-v2`` (embedded), a folder, or a sentence-transformers id."""

    name: str = "sentence-transformers/gtr-t5-base"

    def __post_init__(self) -> None:
        _one_line(self, "name")


@dataclass(frozen=True)
class APEConfig:
    """Instruction induction (Zhou et al. 2023, APE): ``num_instructions`` distinct ones from the LLM itself."""

    use: bool = True
    num_instructions: int = 2000
    examples_per_request: int = 5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_instructions", "examples_per_request")
        _at_least(self, 0, "temperature")


@dataclass(frozen=True)
class VAEConfig:
    """Structure-aware VAE and its training; ``patience`` in epochs without a better validation loss."""

    inst_dim: int = 16
    ex_dim: int = 16
    hidden: int = 128
    heads: int = 4
    inducing: int = 8
    beta: float = 0.005
    max_epochs: int = 50_000
    patience: int = 50
    batch_size: int = 128
    training_sets: int = 2048
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        _at_least(self, 1, "inst_dim", "ex_dim", "hidden", "heads", "inducing", most=MOST_WIDTH)
        _at_least(self, 1, "max_epochs", "patience", "batch_size", "training_sets")
        _at_least(self, 0, "beta")
        _require(0 < self.learning_rate <= 1, f"VAEConfig.learning_rate: expected (0, 1], got {self.learning_rate}")
        _require(
            self.hidden % self.heads == 0,
            f"VAEConfig: expected hidden to be a multiple of heads, got {self.hidden} and {self.heads}",
        )


@dataclass(frozen=True)
class HyperbandConfig:
    """Fidelities are numbers of validation examples: ``b_min`` at the lowest rung, all of them at the highest.

    ``overlap``: rungs that a bracket has left when the next one opens. More keeps more engines busy; less tells the
    next bracket's proposals more.
    """

    b_min: int = 10
    eta: int = 2
    overlap: int = 1  # one engine is busy 0.95 of the time with it, and each bracket is told almost all (docs/log.md)
    invbo_share: float = 0.3  # of the LLM calls of a run with a call budget, kept for InvBO

    def __post_init__(self) -> None:
        _at_least(self, 1, "b_min")
        _at_least(self, 2, "eta")
        _at_least(self, 0, "overlap")
        _require(0 <= self.invbo_share < 1, f"HyperbandConfig.invbo_share: expected [0, 1), got {self.invbo_share}")


@dataclass(frozen=True)
class ProposalConfig:
    """Two-stage proposals: ``instructions`` x ``restarts`` points, ``steps`` of gradient on LogEI."""

    instructions: int = 50
    restarts: int = 5
    steps: int = 20
    learning_rate: float = 0.1
    random_fraction: float = 0.1

    def __post_init__(self) -> None:
        _at_least(self, 1, "instructions", "restarts", "steps")
        _require(
            0 < self.learning_rate <= 1, f"ProposalConfig.learning_rate: expected (0, 1], got {self.learning_rate}"
        )
        _require(
            0 <= self.random_fraction <= 1,
            f"ProposalConfig.random_fraction: expected [0, 1], got {self.random_fraction}",
        )


@dataclass(frozen=True)
class InvBOConfig:
    """InvBO (Chu et al. 2024): ``iterations`` of ``q`` candidates each; 0 iterations switch it off."""

    iterations: int = 50
    q: int = 4

    def __post_init__(self) -> None:
        _at_least(self, 0, "iterations")
        _at_least(self, 1, "q")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on. Two runs with equal configs and equal outcomes are the same run."""

    profile: str = "l40s"
    seed: int = 0
    max_llm_calls: int = 0  # 0: no limit
    max_exemplars: int = 8
    instructions_file: str = ""
    engines: int = 0  # 0: one per GPU that the cluster has or gets; changes no result
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    ape: APEConfig = field(default_factory=APEConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    hyperband: HyperbandConfig = field(default_factory=HyperbandConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    invbo: InvBOConfig = field(default_factory=InvBOConfig)

    def __post_init__(self) -> None:
        _at_least(self, 0, "seed", most=MOST_SEEDS)
        _at_least(self, 0, "max_llm_calls", most=MOST_CALLS)
        _at_least(self, 0, "engines", most=MOST_ENGINES)
        _one_line(self, "profile", "instructions_file")
        _require(0 <= self.max_exemplars <= 8, f"max_exemplars: expected 0..8, got {self.max_exemplars!r:.60}")


PROFILES: dict[str, RunConfig] = {
    "l40s": RunConfig(),
    "cluster": RunConfig(profile="cluster", hyperband=HyperbandConfig(overlap=16)),
    "demo": RunConfig(
        profile="demo",
        task=TaskConfig(name="arithmetic", pool_size=256, validation_size=128, test_size=256),
        model=ModelConfig(name="smollm2-135m", max_tokens=64, max_num_seqs=64),
        encoder=EncoderConfig(name="all-minilm-l6-v2"),
        ape=APEConfig(num_instructions=48),
        vae=VAEConfig(hidden=64, max_epochs=100, patience=30, batch_size=64, training_sets=512),
        hyperband=HyperbandConfig(b_min=8),
        invbo=InvBOConfig(iterations=3),
    ),
}


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types; ``from_dict`` gives the same config back."""
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any], kind: type[T] = RunConfig) -> T:  # type: ignore[assignment]
    """Build a config from JSON. Raises ``InputError`` for an unknown key, a wrong type or a bad value."""
    _require(isinstance(data, dict), f"{kind.__name__}: expected an object, got {type(data).__name__}")
    hints = get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in data:
        _require(key in known, f"{kind.__name__}: unknown key {key!r:.60}; expected one of {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for key, value in data.items():
        want = hints[key]
        if dataclasses.is_dataclass(want):
            values[key] = from_dict(value, want)
            continue
        allowed, expected = ((int, float), "a finite number") if want is float else (want, want.__name__)
        _require(
            isinstance(value, allowed)
            and (want is bool or not isinstance(value, bool))
            and (want is not float or abs(value) < sys.float_info.max),
            f"{kind.__name__}.{key}: expected {expected}, got {value!r:.60}",
        )
        values[key] = want(value)
    return kind(**values)
