"""Frozen configuration, one dataclass per component, checked at construction; profiles.

A setting's *key* is its path, ``model.max_tokens`` or ``seed``. Errors name the key and the flag that sets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NoReturn

from lipo_e_ray.types import InputError

MOST = 1_000_000  # of anything counted: more is a slip of the finger, and would take all memory or never end
MOST_CALLS, MOST_SEEDS, MOST_WIDTH, MOST_ENGINES = 10**9, 2**32 - 1, 4096, 4096
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")  # vLLM's
FLAGS = {
    "profile": "--profile",
    "seed": "--seed",
    "max_llm_calls": "--max-llm-calls",
    "time_limit": "--time-limit",
    "engines": "--engines",
    "instructions_file": "--instructions",
    "task.name": "--task",
    "task.metric": "--metric",
    "task.pool_size": "--qa-pool-size",
    "model.name": "--model",
    "model.tensor_parallel": "--tensor-parallel",
    "ape.num_instructions": "--ape-num-instructions",
    "ape.use": "--use-ape",
    "invbo.iterations": "--iterations",
}
"""Settings with a flag of their own; ``--set KEY=VALUE`` reaches every setting."""


def flag(key: str) -> str:
    """The flag that sets ``key``, as error messages name it."""
    return FLAGS.get(key, f"--set {key}=...")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


class Section:
    """A part of the configuration; ``SECTION`` is the first half of its settings' keys, empty for the top level."""

    SECTION: ClassVar[str] = ""

    @classmethod
    def key(cls, name: str) -> str:
        return f"{cls.SECTION}.{name}" if cls.SECTION else name

    def _refuse(self, name: str, expected: str) -> NoReturn:
        key = self.key(name)
        raise InputError(f"{key}: expected {expected}, got {getattr(self, name)!r:.60}; change it with {flag(key)}")

    def _at_least(self, minimum: float, *names: str, most: float = MOST) -> None:
        for name in names:
            value = getattr(self, name)
            if not minimum <= value <= most:
                self._refuse(name, f"{minimum} or more" if value < minimum else f"{most} or less")

    def _within(self, interval: str, accepted: bool, name: str) -> None:
        if not accepted:
            self._refuse(name, f"a number in {interval}")

    def _one_line(self, *names: str) -> None:
        """Names stand in messages of one line, and a NUL or half a surrogate pair is in no path."""
        for name in names:
            if not getattr(self, name).isprintable():
                self._refuse(name, "text without control characters")


@dataclass(frozen=True)
class TaskConfig(Section):
    """``name`` is ``arithmetic``, ``gsm8k`` or a folder; sizes of 0 mean "all there is".

    ``metric``: ``auto`` (chosen from the answers), ``numeric``, ``choice``, ``text`` or ``module:function``.
    """

    SECTION: ClassVar[str] = "task"

    name: str = "gsm8k"
    pool_size: int = 6154
    validation_size: int = 1319
    test_size: int = 1319
    metric: str = "auto"

    def __post_init__(self) -> None:
        self._at_least(0, "pool_size", "validation_size", "test_size")
        self._one_line("name", "metric")


@dataclass(frozen=True)
class ModelConfig(Section):
    """``name``: ``smollm2-135m`` (embedded), a folder, or a Hugging Face id that vLLM serves. Lengths in tokens.

    ``max_model_len``: of prompt and answer together; 0: what the model has and the data needs.
    ``tensor_parallel``: GPUs that one engine spreads the model over; without a GPU it has no effect.
    """

    SECTION: ClassVar[str] = "model"

    name: str = "Qwen/Qwen2.5-1.5B-Instruct"
    max_model_len: int = 0
    max_tokens: int = 512
    temperature: float = 0.0
    dtype: str = "bfloat16"
    gpu_memory_utilization: float = 0.8
    max_num_seqs: int = 256
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        self._one_line("name")
        self._at_least(0, "max_model_len", "temperature")
        self._at_least(1, "max_tokens", "max_num_seqs")
        self._at_least(1, "tensor_parallel", most=MOST_ENGINES)
        if self.max_model_len and self.max_tokens >= self.max_model_len:
            self._refuse("max_tokens", f"less than model.max_model_len, which is {self.max_model_len}")
        self._within("(0, 1]", 0 < self.gpu_memory_utilization <= 1, "gpu_memory_utilization")
        if self.dtype not in DTYPES:
            self._refuse("dtype", f"one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class EncoderConfig(Section):
    """``name``: ``all-minilm-l6-v2`` (embedded), a folder, or a sentence-transformers id."""

    SECTION: ClassVar[str] = "encoder"

    name: str = "sentence-transformers/gtr-t5-base"

    def __post_init__(self) -> None:
        self._one_line("name")


@dataclass(frozen=True)
class APEConfig(Section):
    """Instruction induction (Zhou et al. 2023, APE): ``num_instructions`` distinct ones from the LLM itself."""

    SECTION: ClassVar[str] = "ape"

    use: bool = True
    num_instructions: int = 2000
    examples_per_request: int = 5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self._at_least(1, "num_instructions", "examples_per_request")
        self._at_least(0, "temperature")


@dataclass(frozen=True)
class VAEConfig(Section):
    """Structure-aware VAE and its training; ``patience`` in epochs without a better validation loss."""

    SECTION: ClassVar[str] = "vae"

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
        self._at_least(1, "inst_dim", "ex_dim", "hidden", "heads", "inducing", most=MOST_WIDTH)
        self._at_least(1, "max_epochs", "patience", "batch_size", "training_sets")
        self._at_least(0, "beta")
        self._within("(0, 1]", 0 < self.learning_rate <= 1, "learning_rate")
        if self.hidden % self.heads:
            self._refuse("hidden", f"a multiple of vae.heads, which is {self.heads}")


@dataclass(frozen=True)
class HyperbandConfig(Section):
    """Fidelities are numbers of validation examples: ``b_min`` at the lowest rung, all of them at the highest.

    ``overlap``: rungs that a bracket has left when the next one opens. More keeps more engines busy; less tells the
    next bracket's proposals more. ``chunks``: in how many parts the first rung of a bracket is proposed, at most; each
    part's proposals know the results of those before it.
    """

    SECTION: ClassVar[str] = "hyperband"

    b_min: int = 10
    eta: int = 2
    overlap: int = 1  # one engine is busy 0.95 of the time with it, and each bracket is told almost all (docs/log.md)
    chunks: int = 8

    def __post_init__(self) -> None:
        self._at_least(1, "b_min")
        self._at_least(2, "eta")
        self._at_least(1, "chunks")
        self._at_least(0, "overlap")


@dataclass(frozen=True)
class ProposalConfig(Section):
    """Two-stage proposals: ``instructions`` x ``restarts`` points, ``steps`` of gradient on LogEI."""

    SECTION: ClassVar[str] = "proposal"

    instructions: int = 50
    restarts: int = 5
    steps: int = 20
    learning_rate: float = 0.1
    random_fraction: float = 0.1

    def __post_init__(self) -> None:
        self._at_least(1, "instructions", "restarts", "steps")
        self._within("(0, 1]", 0 < self.learning_rate <= 1, "learning_rate")
        self._within("[0, 1]", 0 <= self.random_fraction <= 1, "random_fraction")


@dataclass(frozen=True)
class InvBOConfig(Section):
    """InvBO (Chu et al. 2024): ``iterations`` of ``q`` candidates each; 0 iterations switch it off."""

    SECTION: ClassVar[str] = "invbo"

    iterations: int = 50
    q: int = 4

    def __post_init__(self) -> None:
        self._at_least(0, "iterations")
        self._at_least(1, "q")


@dataclass(frozen=True)
class RunConfig(Section):
    """Everything a run depends on. Two runs with equal configs and equal outcomes are the same run.

    ``max_llm_calls`` and ``time_limit`` (minutes; no rung begins after it): 0 means no limit. ``test_share``: of
    ``max_llm_calls``, at most, for the test; 0: no test, also without a limit. ``max_exemplars``: of a
    prompt, 0 to 8. ``instructions_file``: the user's own, empty for none.
    """

    profile: str = "one-gpu"
    seed: int = 0
    max_llm_calls: int = 0
    time_limit: float = 0.0
    test_share: float = 0.2
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
        self._at_least(0, "seed", most=MOST_SEEDS)
        self._at_least(0, "max_llm_calls", most=MOST_CALLS)
        self._at_least(0, "time_limit")
        self._within("[0, 0.5]", 0 <= self.test_share <= 0.5, "test_share")
        self._at_least(0, "engines", most=MOST_ENGINES)
        self._at_least(0, "max_exemplars", most=8)
        self._one_line("profile", "instructions_file")


PROFILES: dict[str, RunConfig] = {
    "one-gpu": RunConfig(),
    "cluster": RunConfig(profile="cluster", hyperband=HyperbandConfig(overlap=16, chunks=1)),
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


ALIASES = {"l40s": "one-gpu"}
"""Former names of profiles."""


def get_profile(name: str) -> RunConfig:
    """Raises ``InputError`` for a name that is no profile's."""
    name = ALIASES.get(name, name)
    require(name in PROFILES, f"--profile: expected one of {', '.join(PROFILES)}, got {name!r:.60}")
    return PROFILES[name]
