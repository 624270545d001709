"""Vec2TextInverter on tiny models with random weights, saved under the real names: vec2text's whole load path."""

from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file, save_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from lipo_e_ray.latent import vec2text as module
from lipo_e_ray.latent.inverters import make_inverter
from lipo_e_ray.latent.vec2text import CORRECTOR, INVERSION, Vec2TextInverter
from lipo_e_ray.testing import InverterContract
from lipo_e_ray.types import InputError

pytestmark = pytest.mark.filterwarnings(
    # vec2text 0.0.13 asks its embedder for the width by the name that sentence-transformers 6 renamed
    "ignore:The `get_sentence_embedding_dimension` method has been renamed:FutureWarning"
)
VOCABULARY = [
    "add",
    "all",
    "answer",
    "ask",
    "before",
    "begin",
    "check",
    "compute",
    "count",
    "each",
    "end",
    "every",
    "explain",
    "find",
    "finish",
    "first",
    "give",
    "how",
    "know",
    "label",
    "list",
    "look",
    "make",
    "mark",
    "name",
    "note",
    "numbers",
    "order",
    "part",
    "plan",
    "question",
    "read",
    "result",
    "show",
    "solve",
    "start",
    "state",
    "step",
    "story",
    "sum",
    "take",
    "the",
    "then",
    "think",
    "total",
    "two",
    "use",
    "verify",
    "with",
    "word",
    "work",
    "write",
    "your",
]
SETTINGS = {
    "model_name_or_path": "t5-base",
    "embedder_model_name": "gtr_base_st",
    "embedder_model_api": None,
    "embedder_fake_with_zeros": False,
    "embedder_no_grad": True,
    "embedder_torch_dtype": "float32",
    "embeddings_from_layer_n": None,
    "embedder_gaussian_noise_level": 0.0,
    "use_frozen_embeddings_as_input": True,
    "encoder_dropout_disabled": False,
    "decoder_dropout_disabled": False,
    "use_lora": False,
    "max_seq_length": 10,
    "num_repeat_tokens": 4,
    "corrector_ignore_hypothesis_embedding": False,
}


def tiny_t5() -> transformers.T5ForConditionalGeneration:
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY) + 4,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        initializer_factor=3.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return transformers.T5ForConditionalGeneration(config)


def save_bases(folder) -> None:
    """t5-base and GTR: T5 encoder, mean pooling, Dense to the 768 that vec2text's corrector has built in, Normalize."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -9.0), *((f"▁{w}", -2.0) for w in VOCABULARY)]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0)
    for name in ("t5-base", "encoder"):
        tiny_t5().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    layers = [
        Transformer(str(folder / "encoder")),
        Pooling(16, "mean"),
        Dense(16, 768, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    ]
    SentenceTransformer(modules=layers, device="cpu").save(str(folder / "sentence-transformers" / "gtr-t5-base"))


def save_checkpoint(model, folder, name: str) -> None:
    """As transformers writes it: of tensors that share their memory, one name is kept."""
    model.config.save_pretrained(folder / name)
    save_model(model, str(folder / name / "model.safetensors"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder with all four models, and the two models as they were in memory before they were saved."""
    vec2text = module._import_vec2text()
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a folder of that name goes before the hub
        save_bases(folder)
        config = vec2text.models.config.InversionConfig(**SETTINGS)
        originals = []
        models = vec2text.models
        for kind, name in ((models.InversionModel, INVERSION), (models.CorrectorEncoderModel, CORRECTOR)):
            model = kind(config).eval()
            model.encoder_decoder.load_state_dict(tiny_t5().state_dict())  # not the weights that lie in t5-base
            save_checkpoint(model, folder, name)
            originals.append(model)
    return SimpleNamespace(folder=folder, inversion=originals[0], corrector=originals[1])


@pytest.fixture(scope="module")
def encoder(saved):
    model = SentenceTransformer(str(saved.folder / "sentence-transformers" / "gtr-t5-base"), device="cpu")
    return SimpleNamespace(encode=lambda texts: model.encode(list(texts), show_progress_bar=False))


@pytest.fixture(scope="module")
def inverter(saved, encoder):
    def no_network(*args, **kwargs):
        raise AssertionError(f"evaluate.load{args} reaches the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(saved.folder)
        patch.setattr(evaluate, "load", no_network)
        made = make_inverter("sentence-transformers/gtr-t5-base", encoder, generate=None)
        assert evaluate.load is no_network
    return made


class TestVec2TextInverter(InverterContract):
    @pytest.fixture
    def known(self):
        return ["Solve the question.", "Read the question and answer."]

    @pytest.fixture
    def targets(self, encoder):
        return encoder.encode(["read the story then compute the total", "explain each step", "state the result"])

    def test_is_what_gtr_gets(self, inverter):
        assert isinstance(inverter, Vec2TextInverter)

    def test_weights_are_those_of_the_files(self, inverter, saved):
        loaded = {INVERSION: inverter._corrector.inversion_trainer.model, CORRECTOR: inverter._corrector.model}
        for name, model in loaded.items():
            state = model.state_dict()
            weights = load_file(saved.folder / name / "model.safetensors")
            for key, value in weights.items():
                assert torch.equal(state[key], value), key
            t5 = model.encoder_decoder
            tied = (t5.lm_head, t5.shared, t5.encoder.embed_tokens, t5.decoder.embed_tokens)
            assert len({layer.weight.data_ptr() for layer in tied}) == 1

    def test_generates_what_the_saved_models_generate(self, inverter, saved, targets):
        embedding = torch.from_numpy(targets[:1])
        inputs = {
            "frozen_embeddings": embedding,
            "hypothesis_embedding": torch.from_numpy(targets[1:2]),
            "hypothesis_input_ids": torch.tensor([[0, 5, 6, 7, 1]]),
            "hypothesis_attention_mask": torch.tensor([[0, 1, 1, 1, 1]]),
        }
        for ours, original in (
            (inverter._corrector.inversion_trainer.model, saved.inversion),
            (inverter._corrector.model, saved.corrector),
        ):
            original.encoder_decoder.generation_config.length_penalty = 1.0
            got, expected = (model.generate(dict(inputs), inverter._generation(8)) for model in (ours, original))
            assert torch.equal(got, expected)
            assert len(torch.unique(got)) > 5  # words, not one token again and again

    def test_first_steps_are_those_of_vec2text(self, inverter, targets, monkeypatch):
        """vec2text's own loop ends on a text that the beam saw: same models, same hypotheses, same choice by cosine."""
        monkeypatch.setattr(module, "MIN_RISE", -2.0)  # as many steps as vec2text, which does not stop early
        monkeypatch.setattr(module, "STEPS", 2)
        corrector = inverter._corrector
        monkeypatch.setattr(corrector, "return_best_hypothesis", True)
        ids = corrector.generate(
            {"frozen_embeddings": torch.from_numpy(targets[:1])},
            inverter._generation(8),
            num_recursive_steps=2,
            sequence_beam_width=8,
        )
        assert corrector.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip() in inverter._texts(targets[0])

    def test_number_of_corrections_is_bounded(self, inverter, targets, monkeypatch):
        calls = []
        generate = inverter._corrector.model.generate
        monkeypatch.setattr(module, "MIN_RISE", -2.0)
        monkeypatch.setattr(inverter._corrector.model, "generate", lambda *args: calls.append(1) or generate(*args))
        inverter._texts(targets[0])
        assert len(calls) == module.STEPS


def test_leaves_no_files_and_no_logging_behind(saved, encoder, monkeypatch):
    monkeypatch.chdir(saved.folder)
    before, verbosity = set(saved.folder.iterdir()), transformers.logging.get_verbosity()
    Vec2TextInverter(encoder, device="cpu")
    assert set(saved.folder.iterdir()) == before
    assert transformers.logging.get_verbosity() == verbosity


def test_tied_weights_may_lie_in_the_file_under_one_name(saved, monkeypatch, tmp_path):
    copy = {key: value for key, value in saved.corrector.state_dict().items() if "embed_tokens" not in key}
    save(tmp_path, saved, monkeypatch, copy)
    assert torch.equal(
        module._load(type(saved.corrector), CORRECTOR).encoder_decoder.encoder.embed_tokens.weight,
        copy["encoder_decoder.shared.weight"],
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("layernorm.weight"),
        lambda weights: weights.update({"layernorm.scale": torch.ones(16)}),
        lambda weights: weights.update(
            {"encoder_decoder.lm_head.weight": weights["encoder_decoder.lm_head.weight"] + 1}
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, monkeypatch, tmp_path, change):
    weights = saved.corrector.state_dict()
    change(weights)
    save(tmp_path, saved, monkeypatch, weights)
    with pytest.raises(InputError, match=f"{CORRECTOR}: expected weights for every parameter"):
        module._load(type(saved.corrector), CORRECTOR)


def save(tmp_path, saved, monkeypatch, weights) -> None:
    """A corrector with ``weights`` in ``tmp_path``, beside the models it is built on."""
    (tmp_path / CORRECTOR).mkdir(parents=True)
    (tmp_path / "t5-base").symlink_to(saved.folder / "t5-base")
    (tmp_path / CORRECTOR / "config.json").write_text((saved.folder / CORRECTOR / "config.json").read_text())
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / CORRECTOR / "model.safetensors")
    monkeypatch.chdir(tmp_path)


def test_models_that_are_nowhere_say_what_to_do(monkeypatch, tmp_path, encoder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"expected ielabgroup/vec2text.*download them once") as caught:
        Vec2TextInverter(encoder)
    assert "\n" not in str(caught.value)


def test_repeated_texts_keep_their_best_row():
    assert module._first_rows(["a", "b", "a", "c"], np.array([2, 3, 0, 1])) == [2, 3, 1]
