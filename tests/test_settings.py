import json
from pathlib import Path

import pytest

from lipo_e_ray import settings
from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.config_tree import leaves, setting_types, to_dict
from lipo_e_ray.settings import Layer, from_assignments, from_mapping, read_file, resolve
from lipo_e_ray.types import InputError


@pytest.fixture(autouse=True)
def _one_machine(monkeypatch):
    monkeypatch.setattr(settings, "fast_dtype", lambda: "bfloat16")


def test_without_layers_it_is_the_profile():
    assert resolve([]).config == RunConfig()
    assert resolve([], "demo").config == PROFILES["demo"]
    assert resolve([], "l40s").config == RunConfig(), "the former name of one-gpu"


def test_the_last_layer_wins_and_the_source_of_each_value_is_known():
    resolved = resolve(
        [Layer("mine.toml", {"seed": 1, "model.max_tokens": 100}), Layer("--set", {"model.max_tokens": 200})], "demo"
    )
    assert (resolved.config.seed, resolved.config.model.max_tokens) == (1, 200)
    sources = {key: resolved.sources[key] for key in ("seed", "model.max_tokens", "encoder.name", "hyperband.eta")}
    assert sources == {
        "seed": "mine.toml",
        "model.max_tokens": "--set",
        "encoder.name": "profile demo",
        "hyperband.eta": "default",
    }
    assert resolved.given == {"seed", "model.max_tokens"}
    assert set(resolved.sources) == set(setting_types())


@pytest.mark.parametrize("name", ["default.toml", "profile demo.json"])
def test_what_a_file_says_is_given_whatever_the_file_is_called(name):
    assert resolve([Layer(name, {"task.metric": "mine:judge"})], "demo").given == {"task.metric"}


@pytest.mark.parametrize(("profile", "dtype"), [("demo", "float32"), ("one-gpu", "bfloat16")])
def test_the_demo_has_numbers_that_its_cpu_is_fast_with(monkeypatch, profile, dtype):
    monkeypatch.setattr(settings, "fast_dtype", lambda: "float32")
    assert resolve([], profile).config.model.dtype == dtype
    assert resolve([Layer("--set", {"model.dtype": "half"})], profile).config.model.dtype == "half"


def test_a_layer_may_name_the_profile_and_a_flag_overrules_it():
    layer = from_mapping({"profile": "demo", "seed": 5}, "mine.json")
    assert resolve([layer]).config.profile == "demo"
    assert resolve([layer], "cluster").config.profile == "cluster"


def test_what_a_user_names_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    config = resolve([Layer("flags", {"task.name": "mine", "instructions_file": "own.txt"})]).config
    assert (config.task.name, config.instructions_file) == (str(tmp_path / "mine"), str(tmp_path / "own.txt"))
    assert resolve([Layer("flags", {"task.name": "gsm8k"})]).config.task.name == "gsm8k"
    config = resolve([Layer("flags", {"model.name": "mine", "encoder.name": "mine"})]).config
    assert (config.model.name, config.encoder.name) == (str(tmp_path / "mine"), str(tmp_path / "mine"))
    for name in (PROFILES["demo"].model.name, PROFILES["demo"].encoder.name):
        Path(name).mkdir()
    assert resolve([], "demo").config == PROFILES["demo"], "embedded models come from their packages"


def test_files_in_toml_and_json_say_the_same(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 3\n[model]\nmax_tokens = 256\ntemperature = 1\n")
    (tmp_path / "mine.json").write_text(json.dumps({"seed": 3, "model": {"max_tokens": 256, "temperature": 1}}))
    toml, plain = (read_file(tmp_path / f"mine.{kind}") for kind in ("toml", "json"))
    assert toml.values == plain.values == {"seed": 3, "model.max_tokens": 256, "model.temperature": 1}
    assert toml.source == str(tmp_path / "mine.toml")


def test_a_whole_configuration_is_a_file_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"])))
    assert resolve([read_file(tmp_path / "config.json")]).config == PROFILES["demo"]


def test_keys_may_be_written_as_paths():
    assert from_mapping({"model.max_tokens": 256}, "config").values == {"model.max_tokens": 256}


def test_every_setting_can_be_set():
    values = leaves(to_dict(PROFILES["demo"]))
    layer = from_assignments(f"{key}={value}" for key, value in values.items())
    assert layer.values == values
    assert {key: type(value) for key, value in layer.values.items()} == setting_types()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), ("1", True), ("Off", False)])
def test_booleans(text, value):
    assert from_assignments([f"ape.use={text}"]).values == {"ape.use": value}


def test_a_value_may_hold_an_equals_sign():
    assert from_assignments(["task.name=a=b"]).values == {"task.name": "a=b"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "--set: expected KEY=VALUE, such as model.max_tokens=256, got 'seed'"),
        ("model.max_token=3", "--set: unknown setting 'model.max_token': did you mean model.max_tokens"),
        ("max_tokens=3", "did you mean model.max_tokens"),
        ("seed=x", "--set seed: expected a whole number, got 'x'"),
        ("model.temperature=warm", "--set model.temperature: expected a number, got 'warm'"),
        ("ape.use=maybe", "--set ape.use: expected true or false, got 'maybe'"),
    ],
)
def test_bad_assignments_are_one_clear_line(assignment, message):
    with pytest.raises(InputError) as caught:
        from_assignments([assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "seed = ", "--config: expected TOML (*.toml) or JSON in"),
        ("a.json", "{", "--config: expected TOML (*.toml) or JSON in"),
        ("a.json", "[1]", "expected settings by name, got [1]"),
        ("a.toml", "[modl]\nname = 'x'", "a.toml: unknown setting 'modl.name': did you mean model.name"),
        ("a.toml", "[model]\nmax_tokens = 'many'", "a.toml: model.max_tokens: expected int, got 'many'"),
        ("a.toml", "model = 3", "a.toml: "),
        ("a.json", '{"hyperband": {"eta": 1}}', "a.json: hyperband.eta: expected 2 or more, got 1"),
        ("none.toml", None, "--config: expected a TOML or JSON file at"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        resolve([read_file(tmp_path / name)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_is_judged_beside_those_of_the_other_layers():
    file = from_mapping({"model": {"max_model_len": 400}}, "mine.toml")  # fewer than one-gpu's 512 tokens of an answer
    assert resolve([file], "demo").config.model.max_model_len == 400
    with pytest.raises(InputError, match=r"^model.max_tokens: expected less than model.max_model_len, which is 400"):
        resolve([file])


def test_an_unknown_profile():
    with pytest.raises(InputError, match="--profile: expected one of one-gpu, cluster, demo, got 'x'"):
        resolve([], "x")
