"""Inversion of GTR-T5-Base embeddings with trained models: vec2text (Morris et al. 2023, "Text Embeddings Reveal
(Almost) As Much As Text", section 4) and the pair of ielabgroup, trained on what ``SentenceTransformer.encode`` gives.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch._logging._internal as torch_logging
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils.hub import cached_file

from lipo_e_ray.instructions.induction import clean_instruction
from lipo_e_ray.latent.encoder import Encoder
from lipo_e_ray.latent.inversion import MIN_RISE, Inversion, new_texts
from lipo_e_ray.types import InputError

INVERSION = "ielabgroup/vec2text_gtr-base-st_inversion"
CORRECTOR = "ielabgroup/vec2text_gtr-base-st_corrector"
STEPS = 10  # corrections of one target; it ends earlier when the cosine no longer rises


class Vec2TextInverter:
    """A first guess from the embedding, then corrections of it, as a beam search over whole texts.

    Bounded per target: ``STEPS`` corrections of ``beam`` texts, each with ``beam`` beams; texts of up to 32 tokens.
    ``device``: a torch device; by default the GPU if there is one. No LLM request, no randomness.
    Raises ``InputError`` when the models can't be found or their weights don't fit.
    """

    def __init__(self, encoder: Encoder, device: str | None = None, beam: int = 8) -> None:
        self._encoder, self._beam = encoder, beam
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._corrector = load_corrector(self._device)

    def invert(self, targets: np.ndarray, known_texts: Sequence[str], seed: int) -> list[list[Inversion]]:
        """See ``Inverter.invert``; ``seed`` changes nothing here."""
        return [
            self._best(target, self._texts(target), known_texts) for target in np.asarray(targets, dtype=np.float32)
        ]

    def _best(self, target: np.ndarray, texts: Sequence[str], known_texts: Sequence[str]) -> list[Inversion]:
        cleaned = [clean for text in texts if (clean := clean_instruction(text))]
        fresh = list(new_texts(cleaned, known_texts))
        if not fresh:
            return []
        cosines = self._encoder.encode(fresh) @ target
        order = np.lexsort((fresh, -cosines.round(5)))[: self._beam]
        return [Inversion(fresh[i], float(cosines[i])) for i in order]

    @torch.inference_mode()
    def _texts(self, target: np.ndarray) -> list[str]:
        """Every text that the beam saw on its way to ``target`` (e,)."""
        embedding = torch.from_numpy(target[None]).to(self._device)
        ids = self._corrector.inversion_trainer.generate({"frozen_embeddings": embedding}, self._generation(1))
        texts, reached = self._decode(ids), -1.0
        hypotheses, seen = self._encoder.encode(texts), list(texts)
        for _ in range(STEPS):
            ids = self._corrector.model.generate(
                {
                    "frozen_embeddings": embedding.repeat(len(ids), 1),
                    "hypothesis_input_ids": ids,
                    "hypothesis_attention_mask": (ids != self._corrector.pad_token_id).int(),
                    "hypothesis_embedding": torch.from_numpy(hypotheses).to(self._device),
                },
                self._generation(self._beam),
            )
            texts = self._decode(ids)
            seen += texts
            cosines = (hypotheses := self._encoder.encode(texts)) @ target
            if cosines.max() < reached + MIN_RISE:
                break
            reached = float(cosines.max())
            rows = _first_rows(texts, np.argsort(-cosines.round(5), kind="stable").tolist())[: self._beam]
            ids, hypotheses = ids[rows], hypotheses[rows]
        return list(dict.fromkeys(seen))

    def _generation(self, beams: int) -> dict[str, Any]:
        return {
            "num_beams": beams,
            "num_return_sequences": beams,
            "do_sample": False,
            "early_stopping": False,
            "no_repeat_ngram_size": 0,
            "min_length": 1,
            "max_length": self._corrector.model.config.max_seq_length,
        }

    def _decode(self, ids: torch.Tensor) -> list[str]:
        """Texts without the leading space that T5's word pieces give (it would change the embedding)."""
        return [text.strip() for text in self._corrector.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _first_rows(texts: Sequence[str], order: Sequence[int]) -> list[int]:
    """The rows of ``order`` without those whose text an earlier row has."""
    kept: dict[str, int] = {}
    for row in order:
        kept.setdefault(texts[row], int(row))
    return list(kept.values())


def load_corrector(device: torch.device) -> Any:
    """The ``vec2text.trainers.Corrector`` of the pair, on ``device``, ready to generate.

    Stock loading fails on transformers 5. Hence three changes: metrics stay unloaded (they come from the network),
    the models are built from their configs and the state dicts loaded into them, and ``length_penalty`` has the value
    that was transformers 4's default.
    """
    vec2text = _import_vec2text()
    try:
        inversion = _load(vec2text.models.InversionModel, INVERSION)
        model = _load(vec2text.models.CorrectorEncoderModel, CORRECTOR)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"vec2text: expected {INVERSION}, {CORRECTOR}, t5-base and sentence-transformers/gtr-t5-base "
            f"on the hub or in its cache, got {' '.join(str(error).split())[:200]!r}; download them once with "
            "a network, or name another encoder"
        ) from error
    model.config.dispatch_batches = None  # as vec2text.load_corrector does, for configs that older versions wrote
    with _without_metrics(), tempfile.TemporaryDirectory() as folder:
        # Not vec2text.load_corrector: it leaves a folder "tmp_trainer" behind, and takes a GPU where none is wanted.
        arguments = transformers.TrainingArguments(output_dir=folder, use_cpu=device.type == "cpu", report_to="none")
        trainer = vec2text.trainers.InversionTrainer(
            model=inversion, args=arguments, data_collator=transformers.DataCollatorForSeq2Seq(inversion.tokenizer)
        )
        corrector = vec2text.trainers.Corrector(
            model=model,
            inversion_trainer=trainer,
            args=arguments,
            data_collator=vec2text.collator.DataCollatorForCorrection(tokenizer=inversion.tokenizer),
        )
    for part in (inversion, model):
        part.to(device).eval()
        part.encoder_decoder.generation_config.length_penalty = 1.0
    return corrector


def _import_vec2text() -> Any:
    """The package, without what its import does to the logging of the whole process."""
    verbosity = transformers.logging.get_verbosity()
    import vec2text

    torch_logging.set_logs(dynamo=logging.WARNING)  # it sets INFO: a report of every process on its exit
    transformers.logging.set_verbosity(verbosity)
    return vec2text


@contextmanager
def _without_metrics() -> Iterator[None]:
    """``evaluate.load`` returns nothing: the trainers fetch three metrics on construction, and none is used here."""
    import evaluate

    load = evaluate.load
    evaluate.load = lambda *_, **__: None
    try:
        yield
    finally:
        evaluate.load = load


def _load(kind: Any, name: str) -> Any:
    """The model ``name`` of class ``kind`` with the weights of its file. Raises ``InputError`` if these don't fit."""
    model = kind(kind.config_class.from_pretrained(name))
    weights = load_file(str(cached_file(name, "model.safetensors")))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    state = model.state_dict()
    # The embedder is frozen and comes with its own files; vec2text's checkpoints may or may not hold a copy of it.
    own = {key: value for key, value in weights.items() if key in state and not key.startswith("embedder.")}
    loaded = {state[key].data_ptr() for key in own}
    lost = [key for key in missing if not key.startswith("embedder.") and state[key].data_ptr() not in loaded]
    lost += [key for key in unexpected if not key.startswith("embedder.")]
    lost += [key for key, value in own.items() if not torch.equal(state[key], value.to(state[key].dtype))]
    if lost:
        raise InputError(
            f"{name}: expected weights for every parameter, got {len(lost)} that differ "
            f"({lost[0]}, ...); use the versions of pyproject.toml"
        )
    return model
