from dataclasses import fields, is_dataclass

import pytest

from lipo_e_ray.config import FLAGS, PROFILES, ModelConfig, RunConfig, TaskConfig, flag, get_profile
from lipo_e_ray.types import InputError


def test_defaults_are_the_full_size_setting():
    assert RunConfig().task == TaskConfig("gsm8k", 6154, 1319, 1319)
    assert (RunConfig().ape.num_instructions, RunConfig().invbo.iterations) == (2000, 50)


def test_profiles_know_their_names_and_former_ones():
    assert [get_profile(name).profile for name in PROFILES] == list(PROFILES)
    assert get_profile("l40s") is PROFILES["one-gpu"]
    with pytest.raises(InputError, match="--profile: expected one of one-gpu, cluster, demo, got 'x'"):
        get_profile("x")


def test_a_section_knows_its_place_in_the_whole():
    for field in fields(RunConfig):
        section = getattr(RunConfig(), field.name)
        assert not is_dataclass(section) or section.key("x") == f"{field.name}.x"
    assert (RunConfig.key("seed"), ModelConfig.key("name")) == ("seed", "model.name")


def test_a_setting_without_a_flag_of_its_own_is_set_by_key():
    assert flag("seed") == FLAGS["seed"] == "--seed"
    assert flag("model.max_tokens") == "--set model.max_tokens=..."


def test_a_bad_value_is_refused_at_construction():
    with pytest.raises(
        InputError, match=r"model\.max_tokens: expected 1 or more, got 0; change it with --set model\.max"
    ):
        ModelConfig(max_tokens=0)
