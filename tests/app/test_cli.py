import json
import sys
from dataclasses import replace

import pytest

from lipo_e_ray.app.cli import configure, default_output, main
from lipo_e_ray.config import PROFILES, HyperbandConfig, TaskConfig, to_dict
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import InputError

FLAGS = {
    "task": None,
    "model": None,
    "seed": 0,
    "max_llm_calls": 0,
    "qa_pool_size": None,
    "ape_num_instructions": None,
    "iterations": None,
    "use_ape": True,
    "instructions": None,
}


def ended(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, capsys.readouterr().err


def write_task(folder, **files: str) -> str:
    folder.mkdir()
    for split, number in (("train", 0), ("validation", 100), ("test", 200)):
        rows = [{"question": f"What is {number + i} + 1?", "answer": f"{number + i + 1}"} for i in range(20)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in files.items():
        (folder / f"{name}.jsonl").write_text(text)
    return str(folder)


def test_flags_of_the_full_size_setting():
    config = configure("l40s", **FLAGS | {"qa_pool_size": 6154, "ape_num_instructions": 2000, "iterations": 50})
    assert config == PROFILES["l40s"]


def test_flags_change_what_they_name(tmp_path):
    config = configure("demo", **FLAGS | {"task": "gsm8k", "model": "m", "seed": 3, "iterations": 0, "use_ape": False})
    assert (config.task.name, config.model.name, config.seed) == ("gsm8k", "m", 3)
    assert (config.invbo.iterations, config.ape.use) == (0, False)
    assert default_output(config).name == "gsm8k-m-seed3"


@pytest.mark.parametrize(
    ("profile", "fast", "dtype"),
    [("demo", "float32", "float32"), ("demo", "bfloat16", "bfloat16"), ("l40s", "float32", "bfloat16")],
)
def test_the_demo_has_numbers_that_its_cpu_is_fast_with(monkeypatch, profile, fast, dtype):
    monkeypatch.setattr("lipo_e_ray.app.cli.fast_dtype", lambda: fast)
    assert configure(profile, **FLAGS).model.dtype == dtype


def test_engines_and_tensor_parallel():
    config = configure("demo", **FLAGS, engines=4, tensor_parallel=2)
    assert (config.engines, config.model.tensor_parallel) == (4, 2)
    assert config.model.name == PROFILES["demo"].model.name


def test_the_users_own_metric():
    assert configure("demo", **FLAGS, metric="mine:judge").task.metric == "mine:judge"
    assert configure("demo", **FLAGS).task.metric == "auto"


MINE = """
from pathlib import Path
Path("imported").touch()
def judge(output, reference):
    return True
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A run folder from somebody else beside a module, in the working directory, that tells when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(MINE)
    task = TaskConfig(write_task(tmp_path / "task"), 0, 0, 0, "mine:judge")
    config = replace(PROFILES["demo"], task=task, hyperband=HyperbandConfig(b_min=99))  # refused once the task is read
    RunFolder(tmp_path / "run").claim(config).close()
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("command", "imported", "message"),
    [
        (("resume", "run"), False, "expected --metric mine:judge"),
        (("evaluate", "run"), False, "expected --metric mine:judge"),
        (("report", "run"), False, "ledger"),
        (("resume", "run", "--metric", "mine:judge"), True, "b_min"),
    ],
)
def test_a_run_folder_alone_has_no_code_imported(capsys, hostile, command, imported, message):
    status, err = ended(capsys, *command)
    assert (status, (hostile / "imported").exists()) == (2, imported), err
    assert message in err and err.count("\n") == 1


def test_unknown_profile():
    with pytest.raises(InputError, match="expected one of l40s, cluster, demo, got 'x'"):
        configure("x", **FLAGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["bogus"], "bogus"),
        (["run", "--bogus"], "No such option: --bogus"),
        (["run", "--seed", "one"], "--seed"),
        (["run", "--seed", "-1"], "expected 0 or more, got -1"),
        (["run", "--profile", "x"], "--profile: expected one of"),
        (["run", "--engines", "-1"], "RunConfig.engines: expected 0 or more, got -1"),
        (["run", "--tensor-parallel", "0"], "tensor_parallel: expected 1 or more, got 0"),
        (["run", "--address", "somewhere"], "--address: expected local, auto, host:port or ray://host:port"),
        (["run", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1: "),
        (["resume", "there", "--address", "ray://127.0.0.1:1"], "--address ray://127.0.0.1:1: "),
        (["run", "--profile", "demo", "--task", "/nowhere"], "/nowhere"),
        (["run", "--profile", "demo", "--instructions", "/nowhere"], "--instructions: expected a text file"),
        (["plan", "--profile", "demo", "--model", "./no/such/model"], "./no/such/model"),
        (["resume"], "Missing argument"),
        (["resume", "/nowhere"], "expected a run folder"),
        (["report", "/nowhere"], "expected a run folder"),
        (["evaluate", "/nowhere"], "expected a run folder"),
        (["evaluate", "/nowhere", "--split", "x"], "expected validation or test, got 'x'"),
    ],
)
def test_bad_command_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, err = ended(capsys, *arguments)
    assert status == 2
    assert message in err
    assert err.startswith("lipo-e-ray: ") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "a run folder was left behind"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"validation": ""}, "validation.jsonl"),
        ({"train": "not json"}, "train.jsonl"),
        ({"test": '{"question": "q"}'}, "test.jsonl"),
        ({"test": '{"question": "What is 0 + 1?", "answer": "1"}'}, "What is 0 + 1?"),
        ({"validation": '{"question": "Is this all?", "answer": "5"}'}, "b_min"),
        ({"test": json.dumps({"question": "long " * 9000, "answer": "1"})}, "tokens"),
    ],
)
def test_bad_task_is_one_line_and_status_2(capsys, tmp_path, files, message):
    task = write_task(tmp_path / "task", **files)
    output = tmp_path / "run"
    status, err = ended(capsys, "run", "--profile", "demo", "--task", task, "--output", str(output))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not output.exists()


def test_a_config_with_an_unknown_key(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"]) | {"sede": 1}))
    status, err = ended(capsys, "resume", str(tmp_path))
    assert (status, "unknown key 'sede'" in err) == (2, True)


def test_report_without_a_ledger(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"])))
    status, err = ended(capsys, "report", str(tmp_path))
    assert (status, "ledger" in err) == (2, True)


@pytest.mark.parametrize("command", ["run", "resume", "evaluate"])
def test_an_interrupt_is_status_130(capsys, monkeypatch, tmp_path, command):
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lipo_e_ray.app.cli._enter", interrupted)
    arguments = [] if command == "run" else [str(tmp_path)]
    assert ended(capsys, command, *arguments) == (130, "")


@pytest.mark.parametrize("command", [("run",), ("resume", "there"), ("evaluate", "there")])
def test_a_command_on_a_cluster_names_the_metric_too(monkeypatch, command):
    sent = []
    monkeypatch.setattr("lipo_e_ray.distributed.session.check_address", lambda address: address)
    monkeypatch.setattr("lipo_e_ray.app.remote.run_remotely", lambda *arguments: sent.extend(arguments[3]) or 0)
    with pytest.raises(SystemExit):
        main([*command, "--metric", "mine:judge", "--address", "ray://head:10001"])
    assert sent[-2:] == ["--metric", "mine:judge"]


def test_a_run_on_a_cluster_does_not_start_again_here(capsys, tmp_path):
    (tmp_path / "remote.json").write_text(json.dumps({"address": "ray://head:10001", "name": "mine"}))
    status, err = ended(capsys, "run", "--profile", "demo", "--address", "local", "--output", str(tmp_path))
    assert (status, err.count("\n")) == (2, 1)
    assert "this run lies on the cluster at ray://head:10001" in err
    assert not (tmp_path / "config.json").exists()


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in ("run", "plan", "resume", "report", "evaluate"))
