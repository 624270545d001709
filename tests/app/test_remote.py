"""What can be said without a cluster; the whole way is in tests/cluster/test_client.py."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from lipo_e_ray.app import remote
from lipo_e_ray.app.remote import Driver, _follow, remote_address, run_remotely, shipped
from lipo_e_ray.config import PROFILES, TaskConfig
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.types import EngineError, InputError
from tests.task_files import write_task


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A task and instructions of the user's own, named as seen from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    task = write_task(tmp_path / "mine", sizes=(8, 8, 8))
    (task / "notes.txt").write_text("not for the cluster")
    (tmp_path / "own.txt").write_text("Add one.\n")
    return replace(PROFILES["demo"], task=TaskConfig("mine"), instructions_file=str(tmp_path / "own.txt"))


def test_the_files_of_a_user_go_along_and_are_found_there(config, tmp_path, monkeypatch):
    from lipo_e_ray.config_tree import to_dict

    files = shipped(config)
    assert sorted(files) == ["instructions.txt", "mine/test.jsonl", "mine/train.jsonl", "mine/validation.jsonl"]
    here = load_task(config.task, 0)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    driver = Driver("run-1", "0.1.0")
    driver.prepare(to_dict(config), files)
    driver.prepare(to_dict(config), files)  # the same command again
    there = RunFolder(Path(driver.folder())).load_config()
    assert load_task(there.task, 0) == here
    assert Path(there.instructions_file).read_text() == "Add one.\n"
    assert Path(there.instructions_file).is_relative_to(driver.folder())
    with pytest.raises(InputError, match="another config"):
        driver.prepare(to_dict(replace(config, seed=1)), files)


def test_what_is_no_file_stays_a_name():
    assert shipped(PROFILES["demo"]) == {}


def test_another_version_there_is_refused():
    with pytest.raises(InputError, match="expected lipo_e_ray 9.9 on the cluster as here, found"):
        Driver("run-1", "9.9")


def test_a_folder_that_is_no_run_on_a_cluster(tmp_path):
    assert remote_address(tmp_path) is None
    with pytest.raises(InputError, match="expected the folder of a run on a cluster"):
        run_remotely("ray://head:10001", tmp_path, "resume", [])


def test_a_folder_of_a_run_here(tmp_path):
    RunFolder(tmp_path).claim(PROFILES["demo"]).close()
    with pytest.raises(InputError, match="holds a run on this machine; give another --output"):
        run_remotely("ray://head:10001", tmp_path, "resume", [], PROFILES["demo"])


def test_a_broken_pointer(tmp_path):
    (tmp_path / "remote.json").write_text("{")
    with pytest.raises(InputError, match="remote.json: expected the JSON"):
        remote_address(tmp_path)


def test_a_driver_that_falls_silent_is_not_waited_for(ray_cluster, tmp_path, monkeypatch):
    class Silent:
        def line(self):
            time.sleep(3600)

    monkeypatch.setattr(remote, "SILENCE_S", 1.0)
    driver = ray.remote(Silent).options(num_cpus=0).remote()
    with pytest.raises(EngineError, match="the driver on the head node: expected an answer within 1 s, got none"):
        _follow(driver, "there", tmp_path)
    ray.kill(driver)


def test_a_driver_that_has_said_all_and_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(remote, "EXIT_TIMEOUT_S", 0.1)
    driver = Driver("run-1", "0.1.0")
    driver._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    assert driver.ended() == (-9, {})
