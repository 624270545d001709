import json

import pytest

from lipo_e_ray.config import PROFILES, RunConfig, TaskConfig, from_dict, to_dict
from lipo_e_ray.types import InputError


@pytest.mark.parametrize("profile", PROFILES)
def test_json_round_trip(profile):
    config = PROFILES[profile]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert config.profile == profile


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed": 1}, "unknown key 'sed'"),
        ({"task": {"nam": "x"}}, "TaskConfig: unknown key 'nam'"),
        ({"seed": "one"}, "expected int, got 'one'"),
        ({"seed": True}, "expected int, got True"),
        ({"seed": -1}, "expected 0 or more, got -1"),
        ({"task": 3}, "TaskConfig: expected an object"),
        ([], "expected an object"),
        ({"max_exemplars": 9}, r"expected 0\.\.8, got 9"),
        ({"engines": -1}, "RunConfig.engines: expected 0 or more, got -1"),
        ({"model": {"tensor_parallel": 0}}, "ModelConfig.tensor_parallel: expected 1 or more, got 0"),
        ({"model": {"max_tokens": 9000, "max_model_len": 8192}}, "max_tokens < max_model_len, got 9000 and 8192"),
        ({"hyperband": {"eta": 1}}, "HyperbandConfig.eta: expected 2"),
        ({"proposal": {"random_fraction": 1.5}}, "random_fraction"),
    ],
)
def test_bad_config_is_one_clear_line(data, message):
    with pytest.raises(InputError, match=message) as caught:
        from_dict(data)
    assert "\n" not in str(caught.value)


def test_an_int_is_a_fine_float():
    assert from_dict({"model": {"temperature": 1}}).model.temperature == 1.0


def test_defaults_are_the_full_size_setting():
    assert RunConfig().task == TaskConfig("gsm8k", 6154, 1319, 1319)
    assert (RunConfig().ape.num_instructions, RunConfig().invbo.iterations) == (2000, 50)
