"""The process on the head node; what it does in a whole run is in tests/cluster/test_client.py."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HEAD = (sys.executable, "-m", "lipo_e_ray.app.head")


def test_it_is_the_command_line():
    with subprocess.Popen([*HEAD, "resume", "/nowhere"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        said = process.stderr.read().decode()  # its input stays open
        process.stdin.close()
    assert "expected a run folder" in said
    assert process.returncode == 2


def test_it_ends_as_on_ctrl_c_when_its_input_closes(tmp_path):
    """``plan`` reads the task: a pipe that nobody writes to keeps it waiting."""
    folder = tmp_path / "task"
    folder.mkdir()
    os.mkfifo(folder / "train.jsonl")
    (folder / "test.jsonl").touch()
    process = subprocess.Popen([*HEAD, "plan", "--profile", "demo", "--task", str(folder)], stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(60) == 130
