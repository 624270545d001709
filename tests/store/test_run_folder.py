from dataclasses import replace

import pytest

from lipo_e_ray.config import PROFILES, RunConfig, TaskConfig, VAEConfig
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import InputError


def test_claim_writes_the_config_and_the_same_run_may_come_back(tmp_path):
    folder = RunFolder(tmp_path / "new" / "run")
    folder.claim(PROFILES["demo"]).close()
    assert folder.load_config() == PROFILES["demo"]
    folder.claim(PROFILES["demo"]).close()


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.claim(RunConfig()), pytest.raises(InputError, match="another process"):
        folder.claim(RunConfig())
    folder.claim(RunConfig()).close()


def test_another_config_is_refused_and_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(RunConfig(seed=1)).close()
    with pytest.raises(InputError, match="seed: 1, now 2"):
        folder.claim(RunConfig(seed=2))
    with pytest.raises(InputError, match="vae.hidden: 128, now 64"):
        folder.claim(RunConfig(seed=1, vae=VAEConfig(hidden=64)))


def test_another_number_of_engines_is_the_same_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(RunConfig()).close()
    folder.claim(RunConfig(engines=4)).close()


def folder_with(path, metric):
    folder = RunFolder(path)
    folder.claim(replace(PROFILES["demo"], task=TaskConfig("arithmetic", metric=metric))).close()
    return folder


@pytest.mark.parametrize(
    ("own", "named"), [("auto", None), ("numeric", "numeric"), ('choice:["a"]', None), ("m:f", "m:f")]
)
def test_the_metric_to_run_with(tmp_path, own, named):
    assert folder_with(tmp_path, own).config_to_run(named).task.metric == own


@pytest.mark.parametrize(("own", "named"), [("m:f", None), ("m:f", "m:g"), ("m:f", "text"), ("auto", "m:f")])
def test_a_folder_alone_names_no_code(tmp_path, own, named):
    with pytest.raises(InputError, match=f"expected --metric {own}, .*, got {named or 'none'}"):
        folder_with(tmp_path, own).config_to_run(named)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        RunFolder(tmp_path).load_config()


def test_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        RunFolder(tmp_path).load_config()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another --output"):
        RunFolder(tmp_path / "file").claim(RunConfig())
