import json

import pytest

from lipo_e_ray.config import FLAGS, PROFILES, RunConfig, get_profile
from lipo_e_ray.config_tree import from_dict, leaves, setting_types, to_dict, tree
from lipo_e_ray.types import InputError


@pytest.mark.parametrize("profile", PROFILES)
def test_json_round_trip(profile):
    config = PROFILES[profile]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert config.profile == profile


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed": 1}, "unknown setting 'sed': did you mean seed"),
        ({"task": {"nam": "x"}}, "unknown setting 'task.nam': did you mean task.name"),
        ({"zzz": 1}, "unknown setting 'zzz': `lipo-e-ray plan --show-config` lists all"),
        ({"seed": "one"}, "expected int, got 'one'"),
        ({"seed": True}, "expected int, got True"),
        ({"seed": -1}, "expected 0 or more, got -1"),
        ({"task": 3}, "task: expected an object"),
        ([], "expected an object"),
        ({"max_exemplars": 9}, "max_exemplars: expected 8 or less, got 9"),
        ({"engines": -1}, "engines: expected 0 or more, got -1; change it with --engines"),
        (
            {"model": {"tensor_parallel": 0}},
            "model.tensor_parallel: expected 1 or more, got 0; change it with --tensor-parallel",
        ),
        ({"model": {"max_tokens": 9, "max_model_len": 9}}, "less than model.max_model_len, which is 9, got 9"),
        ({"hyperband": {"eta": 1}}, "hyperband.eta: expected 2 or more, got 1; change it with --set hyperband.eta=..."),
        ({"proposal": {"random_fraction": 1.5}}, "random_fraction"),
    ],
)
def test_bad_config_is_one_clear_line(data, message):
    with pytest.raises(InputError, match=message) as caught:
        from_dict(data)
    assert "\n" not in str(caught.value)


def test_an_int_is_a_fine_float():
    assert from_dict({"model": {"temperature": 1}}).model.temperature == 1.0


def test_the_former_name_of_a_profile_in_an_old_run_folder():
    assert from_dict({"profile": "l40s"}) == RunConfig() == get_profile("l40s")


def test_every_setting_has_a_key_and_every_flag_a_setting():
    flat = leaves(to_dict(RunConfig()))
    assert set(flat) == set(setting_types()) > set(FLAGS)
    assert tree(flat) == to_dict(RunConfig())
