from dataclasses import replace

import pytest

from lipo_e_ray.config import PROFILES, InvBOConfig, RunConfig, TaskConfig, VAEConfig
from lipo_e_ray.store.run_folder import OWN_TASK, RunFolder
from lipo_e_ray.task.task import Task
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


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (RunConfig(max_llm_calls=500), RunConfig(max_llm_calls=600)),
        (RunConfig(max_llm_calls=500), RunConfig(max_llm_calls=0)),
        (RunConfig(invbo=InvBOConfig(2)), RunConfig(invbo=InvBOConfig(3))),
        (RunConfig(time_limit=5), RunConfig(time_limit=1)),
    ],
)
def test_a_run_goes_on_with_more(tmp_path, before, now):
    folder = RunFolder(tmp_path)
    folder.claim(before).close()
    folder.claim(now).close()
    assert folder.load_config() == now


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (RunConfig(max_llm_calls=500), RunConfig(max_llm_calls=400), "max_llm_calls: 500, now 400.*with more of it"),
        (RunConfig(), RunConfig(max_llm_calls=400), "max_llm_calls: 0, now 400.*not with less"),
        (RunConfig(invbo=InvBOConfig(2)), RunConfig(invbo=InvBOConfig(1)), "invbo.iterations: 2, now 1"),
    ],
)
def test_a_run_does_not_go_on_with_less(tmp_path, before, now, message):
    folder = RunFolder(tmp_path)
    folder.claim(before).close()
    with pytest.raises(InputError, match=message):
        folder.claim(now)
    assert folder.load_config() == before


def test_changes_by_key(tmp_path):
    folder, config = RunFolder(tmp_path), RunConfig(max_llm_calls=500)
    extended = folder.extended(config, {"max_llm_calls": 600, "invbo.iterations": 60, "engines": 2})
    assert (extended.max_llm_calls, extended.invbo.iterations, extended.engines) == (600, 60, 2)
    for changes, message in [
        ({"seed": 1}, "seed: 0, now 1.*another run"),
        ({"sede": 1}, "unknown setting 'sede'"),
        ({"max_llm_calls": "many"}, "max_llm_calls: expected int"),
    ]:
        with pytest.raises(InputError, match=message):
            folder.extended(config, changes)


def test_rows_given_from_python_are_kept_and_found_wherever_the_folder_lies(tmp_path):
    config = RunConfig(task=TaskConfig(OWN_TASK))
    task = Task.from_rows(train=[("1?", "1")], validation=[("2?", "2")], test=[("3?", "3")])
    RunFolder(tmp_path / "run").claim(config, task).close()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    folder = RunFolder(tmp_path / "elsewhere")
    folder.claim(config, task).close()
    assert Task.from_folder(folder.with_its_paths(folder.load_config()).task.name).pool == task.pool
    other = Task.from_rows(train=[("1?", "1")], validation=[("2?", "2")], test=[("4?", "4")])
    with pytest.raises(InputError, match="holds a run on other rows"):
        folder.claim(config, other)


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
