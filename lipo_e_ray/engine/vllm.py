"""The real engine: vLLM's ``AsyncLLM`` in this process, its engine core in a child process."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from jinja2 import TemplateError

from lipo_e_ray.config import ModelConfig
from lipo_e_ray.engine.model import ChatTokenizer, fingerprints, first_line, model_folder, sampling_of
from lipo_e_ray.task.metrics import Metric
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import (
    Completion,
    EngineError,
    Example,
    Fingerprints,
    InputError,
    Message,
    Outcome,
    Prompt,
    Sampling,
    Status,
)

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

# Environment variables that are set before vLLM is imported, unless the user has set them.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB, on the CPU only; unset, vLLM takes most of the machine's memory
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # unset, a core computes nothing: of two, that is 40% of the answers
    "TOKENIZERS_PARALLELISM": "false",
    # An engine's processes are on one node. Without these two, torch would listen for them at the address of the host's
    # name, and NCCL on the first network interface.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
# Compiling the model would take longer than the demo. A prefix is cached in whole blocks: of 64 prompts with 8
# exemplars, blocks of 128 tokens (the default) left 26% of the tokens to compute, blocks of 32 leave 11%. A seeded
# request whose prefill is cut into chunks kills the engine ("CPU Generator does not use offset", vllm 0.32).
CPU_ARGUMENTS = {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}

# Settings that vLLM's errors advise to change, and that are settings of this package under the same name.
_SETTINGS = ("max_model_len", "gpu_memory_utilization", "max_num_seqs", "dtype")

# vLLM's processes outlive a parent that is killed. The guard is a process that waits for the pipe from the parent to
# close, which it does however the parent ends; then it kills all processes that write to the same log as itself. It
# spares multiprocessing's resource tracker, which then frees the shared memory.
GUARD = """
import os, sys
sys.stdin.buffer.read()
log = os.fstat(1)
for pid in {*filter(str.isdigit, os.listdir("/proc"))} - {str(os.getpid())}:
    try:
        tracker = b"resource_tracker" in open(f"/proc/{pid}/cmdline", "rb").read()
        if os.path.samestat(os.stat(f"/proc/{pid}/fd/1"), log) and not tracker:
            os.kill(int(pid), 9)
    except OSError:
        pass
"""


class VLLMEngine:
    """One model served by vLLM with prefix caching, on ``tensor_parallel`` GPUs, or the CPU where there is none.

    The constructor blocks while it loads the model. It raises ``InputError`` for a model that cannot be loaded, and
    ``EngineError`` where memory is short, which may pass.
    """

    def __init__(self, model: ModelConfig, metric: Metric) -> None:
        self._model = model
        self._metric = metric
        self._fingerprints = fingerprints(model)
        self._chat = ChatTokenizer(model)
        self._log = tempfile.TemporaryFile("a+", errors="replace")  # noqa: SIM115
        self._guard = start_guard(self._log)
        try:
            self._llm: AsyncLLM | None = _load(model, self._log)
            self._max_model_len = model.max_model_len or self._llm.model_config.max_model_len
        except BaseException:
            self._end_processes()
            raise

    @property
    def fingerprints(self) -> Fingerprints:
        return self._fingerprints

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        sampling = sampling_of(self._model)
        completions = await self.generate(
            [render(prompt, example.question) for example in examples], [sampling] * len(examples)
        )
        return [self._judge(prompt, *pair) for pair in zip(examples, completions, strict=True)]

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        pairs = zip(conversations, samplings, strict=True)
        return list(await asyncio.gather(*(self._complete(messages, sampling) for messages, sampling in pairs)))

    async def close(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None  # its destructor would run while the interpreter ends, and complain
            self._end_processes()

    def _judge(self, prompt: Prompt, example: Example, completion: Completion) -> Outcome:
        status = Status.FAILED if completion.error else self._metric(completion.text, example.answer)
        return Outcome(
            prompt.id,
            example.id,
            status,
            completion.text,
            completion.error,
            completion.prompt_tokens,
            completion.cached_tokens,
            completion.completion_tokens,
        )

    async def _complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One request. ``error`` says what is wrong with it alone; a dead engine raises ``EngineError``."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise EngineError(f"model {self._model.name!r}: the engine is closed; start a new one")
        try:
            ids = self._chat.encode(messages)
        except TemplateError as error:
            return Completion("", f"the model's chat template refuses these messages: {first_line(error)}")
        room = self._max_model_len - sampling.max_tokens
        if len(ids) > room:
            return Completion(
                "",
                f"prompt of {len(ids)} tokens overflows the context: expected at most {room} "
                f"(max_model_len {self._max_model_len} less {sampling.max_tokens} to answer)",
            )
        try:
            params = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                max_tokens=sampling.max_tokens,
                stop=list(sampling.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            async for output in self._llm.generate({"prompt_token_ids": ids}, params, uuid.uuid4().hex):
                last = output
        except EngineDeadError as error:
            cause = root_cause(self._log) or "killed"
            raise EngineError(f"model {self._model.name!r}: the vLLM engine died ({cause}); start a new one") from error
        except (VLLMError, ValueError) as error:
            return Completion("", f"{type(error).__name__}: {first_line(error)}")
        return Completion(
            last.outputs[0].text, "", len(ids), last.num_cached_tokens or 0, len(last.outputs[0].token_ids)
        )

    def _end_processes(self) -> None:
        """Let the guard see the end of its pipe: it kills what is left of the engine, and ends."""
        self._guard.communicate()
        self._log.close()


def start_guard(log: IO[str]) -> subprocess.Popen[bytes]:
    """A process that kills all processes whose standard output is ``log`` once this process is gone.

    It has a session of its own: a Ctrl-C that ends the engine must not end its guard first.
    """
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", GUARD], stdin=subprocess.PIPE, stdout=log, start_new_session=True
    )


def engine_arguments(model: ModelConfig) -> dict[str, Any]:
    """What vLLM's ``EngineArgs`` get on this machine. Sets ``ENVIRONMENT``: to be called before vLLM is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    device: dict[str, Any] = (
        CPU_ARGUMENTS
        if current_platform.is_cpu()
        else {"gpu_memory_utilization": model.gpu_memory_utilization, "tensor_parallel_size": model.tensor_parallel}
    )
    return {
        "model": str(model_folder(model) or model.name),
        "dtype": model.dtype,
        "max_model_len": model.max_model_len or None,
        "max_num_seqs": model.max_num_seqs,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **device,
    }


def _load(model: ModelConfig, log: IO[str]) -> AsyncLLM:
    try:
        with output_to(log):
            return _async_llm(model)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        cause = (isinstance(error, RuntimeError) and root_cause(log)) or first_line(error)
        kind = EngineError if re.search(r"\bmemory\b", cause, re.IGNORECASE) else InputError
        named = [f"--set model.{name}" for name in _SETTINGS if name in cause]
        flags = f" (the flags: {', '.join(named)})" if named else ""
        raise kind(f"model {model.name!r} cannot be loaded: {cause}{flags}") from error


def _async_llm(model: ModelConfig) -> AsyncLLM:
    arguments = engine_arguments(model)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


@contextmanager
def output_to(log: IO[str]) -> Iterator[None]:
    """Send to ``log`` what this process prints, and what the children print that it starts.

    This works on file descriptors, as only the engine's own process prints why a model does not load.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    try:
        for fd, _ in saved:
            os.dup2(log.fileno(), fd)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in saved:
            os.dup2(copy, fd)
            os.close(copy)


def root_cause(log: IO[str]) -> str:
    """The first exception that the engine's processes printed; later ones only say that a process failed."""
    log.seek(0)
    found = re.search(
        r"^(?:\([^)]*\) ERROR [^\]]*\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", log.read(), re.MULTILINE
    )
    return found[1].strip() if found else ""
