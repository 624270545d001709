"""What a model is before any engine runs: its folder, its fingerprints, its tokens. No vLLM in here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from lipo_e_ray.config import ModelConfig
from lipo_e_ray.engine.embedded import resolve_model
from lipo_e_ray.task.rendering import TEMPLATE
from lipo_e_ray.types import Fingerprints, InputError, Message, Sampling, digest

PROBES, PROBE_BYTES = 64, 1 << 14  # what is read of a weights file for its fingerprint: 1 MiB, whatever its size
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_VOLATILE = ("transformers_version", "_name_or_path", "_model_name_or_path")  # keys of config.json that change nothing
# Keys of config.json that say how many tokens a model can read, as vLLM knows them.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
            "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len")  # fmt: skip
_MARK = "\ue000"  # a character of private use: stands for a special token that data spelt out


def sampling_of(model: ModelConfig) -> Sampling:
    """How ``evaluate`` samples."""
    return Sampling(temperature=model.temperature, max_tokens=model.max_tokens)


def fingerprints(model: ModelConfig) -> Fingerprints:
    """What makes outcomes comparable: for a folder its content, wherever it lies; for a hub name that name.

    The length of the context is no part of it: an answer does not depend on the room that was left.

    Raises ``InputError`` when a folder holds no model.
    """
    folder = model_folder(model)
    weights = _folder_digest(folder) if folder else model.name
    return Fingerprints(
        model=digest("model", weights, model.dtype),
        sampling=sampling_of(model).fingerprint,
        template=digest("template", TEMPLATE, _chat_template(folder) if folder else ""),
    )


def fast_dtype(cpuinfo: Path = Path("/proc/cpuinfo"), gpus: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The number format in which a small model answers fastest on this machine: ``bfloat16`` or ``float32``.

    ``float32`` where there is no GPU and the processor is an x86 without AMX. With AVX-512 it is 1.3 times as fast
    there; without AVX-512 many times, as torch uses no vector instructions for bfloat16 (docs/log.md).
    """
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text() if cpuinfo.is_file() else "", re.MULTILINE)
    slow = flags is not None and "amx_bf16" not in flags[1].split() and not gpus.exists()
    return "float32" if slow else "bfloat16"


def model_folder(model: ModelConfig) -> Path | None:
    """The local folder of the model, or ``None`` for a hub name. Raises ``InputError`` when it holds no model."""
    name = resolve_model(model.name)
    folder = Path(name).expanduser()
    if not folder.exists() and HUB_ID.fullmatch(name):
        return None
    if not (folder / "config.json").is_file() or not _weights(folder):
        raise InputError(
            f"model {model.name!r}: expected a Hugging Face id or a folder with config.json and weights "
            f"(*.safetensors or *.bin), found {'neither' if folder.is_dir() else 'no such folder'}; check --model"
        )
    return folder


def _weights(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def _folder_digest(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = [json.dumps({key: value for key, value in config.items() if key not in _VOLATILE}, sort_keys=True)]
    for name in ("generation_config.json", "tokenizer.json", "tokenizer.model"):
        path = folder / name
        parts.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
    for path in _weights(folder):
        size = path.stat().st_size
        probe = hashlib.sha256()
        with path.open("rb") as file:
            for i in range(PROBES):
                file.seek(max(0, size - PROBE_BYTES) * i // (PROBES - 1))
                probe.update(file.read(PROBE_BYTES))
        parts += [path.name, str(size), probe.hexdigest()]
    return digest(*parts)


def _chat_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"  # where older models keep it
    return json.dumps(json.loads(config.read_text(encoding="utf-8")).get("chat_template")) if config.is_file() else ""


def context_length(model: ModelConfig) -> int | None:
    """Tokens that the model can read and write together, or ``None`` where its files do not say.

    A model that scales its positions (RoPE scaling) may be served with more: this is what it has without.
    Raises ``InputError`` when its files cannot be read.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    source = str(model_folder(model) or model.name)
    try:
        config, _ = PreTrainedConfig.get_config_dict(source)
        tokenizer = get_tokenizer_config(source)
    except (OSError, ValueError) as error:
        raise InputError(f"model {model.name!r}: cannot read its config.json: {first_line(error)}") from error
    text = config.get("text_config") or config  # of a model that reads more than text
    stated = [text.get(key) for key in _LENGTHS] + [tokenizer.get("model_max_length")]
    return min((int(length) for length in stated if isinstance(length, (int, float)) and length > 0), default=None)


class ChatTokenizer:
    """Chat messages to token ids by the model's own template, applied once: its BOS is the only one.

    Text from data stays text: a special token spelt out in a message's content ("<|im_end|>") becomes the tokens of
    its letters, so that no question can end its own turn. Raises ``InputError`` for a model without chat template.
    A pickled one is small: it loads the tokenizer again when it is first asked.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        if not self._tokenizer.chat_template:
            raise InputError(
                f"model {model.name!r}: expected a chat template, found none; give an instruct model: --model"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model}

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        name = self._model.name
        try:
            return AutoTokenizer.from_pretrained(model_folder(self._model) or name)
        except (OSError, ValueError) as error:
            raise InputError(f"model {name!r}: cannot load its tokenizer: {first_line(error)}") from error

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, [*sorted(tokens, key=len, reverse=True), _MARK])))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the chat, up to where the assistant's answer begins."""
        spelt_out: list[str] = []

        def mark(match: re.Match[str]) -> str:
            spelt_out.append(match[0])
            return f"{_MARK}{len(spelt_out) - 1}{_MARK}"

        marked = [message | {"content": self._special.sub(mark, message["content"])} for message in messages]
        text = self._tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        encode = cache(partial(self._tokenizer.encode, add_special_tokens=False))  # there may be 1e5 marks
        ids: list[int] = []
        for i, part in enumerate(text.split(_MARK)):  # in turn: a piece of text, the number of a special token
            if i % 2:
                ids += encode(spelt_out[int(part)], split_special_tokens=True)
            elif part:
                ids += encode(part)
        return ids

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the chat, up to where the assistant's answer begins."""
        return len(self.encode(messages))


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, else the error's type: for messages of one line."""
    lines = (re.sub(r" \[type=.*", "", line).strip() for line in str(error).splitlines())  # without pydantic's appendix
    return next((line for line in lines if line and "validation error for" not in line), type(error).__name__)
