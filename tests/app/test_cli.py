import json
import sys
from dataclasses import replace

import pytest

from lipo_e_ray.app.cli import main
from lipo_e_ray.config import PROFILES, HyperbandConfig, TaskConfig
from lipo_e_ray.config_tree import setting_types, to_dict
from lipo_e_ray.store.run_folder import RunFolder
from tests.task_files import write_task


def ended(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, capsys.readouterr().err


@pytest.fixture
def resolved(monkeypatch):
    """What a command line resolves to, without the run."""
    seen = []
    monkeypatch.setattr("lipo_e_ray.app.cli._enter", lambda *arguments: "local")
    monkeypatch.setattr("lipo_e_ray.app.cli._print_result", lambda result: None)
    monkeypatch.setattr("lipo_e_ray.settings.fast_dtype", lambda: "bfloat16")
    monkeypatch.setattr("lipo_e_ray.api.optimize", lambda task, **named: seen.append(named))

    def of(*arguments: str) -> dict:
        with pytest.raises(SystemExit) as caught:
            main(["run", *arguments])
        assert caught.value.code == 0
        return seen[-1]

    return of


def test_flags_of_the_full_size_setting(resolved):
    flags = ("--qa-pool-size", "6154", "--ape-num-instructions", "2000", "--iterations", "50")
    assert resolved(*flags)["config"] == PROFILES["one-gpu"]


def test_flags_change_what_they_name(resolved):
    given = resolved("--profile", "demo", "--task", "gsm8k", "--model", "m", "--seed", "3", "--iterations", "0",
                     "--no-use-ape", "--engines", "4", "--tensor-parallel", "2", "--time-limit", "2.5",
                     "--metric", "mine:judge", "--max-llm-calls", "900", "--qa-pool-size", "9")  # fmt: skip
    config = given["config"]
    assert (config.task.name, config.task.metric, config.task.pool_size) == ("gsm8k", "mine:judge", 9)
    assert (config.model.name, config.model.tensor_parallel, config.engines) == ("m", 2, 4)
    assert (config.seed, config.invbo.iterations, config.ape.use) == (3, 0, False)
    assert (config.time_limit, config.max_llm_calls) == (2.5, 900)
    assert given["output"].name == "gsm8k-m-seed3"


def test_a_flag_wins_over_set_and_that_over_the_file(resolved, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 1\nprofile = 'demo'\nmax_exemplars = 1\n[model]\nmax_tokens = 1\n")
    arguments = ("--config", str(file), "--set", "seed=2", "--set", "model.max_tokens=2", "--seed", "3")
    config = resolved(*arguments)["config"]
    assert (config.seed, config.model.max_tokens, config.max_exemplars, config.profile) == (3, 2, 1, "demo")


def test_where_every_value_comes_from(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main(["plan", "--profile", "demo", "--seed", "4", "--set", "model.max_tokens=32", "--show-config"])
    assert caught.value.code == 0
    rows = [line.replace("┃", "│").strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
    shown = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 4}
    assert shown["seed"] == ["4", "--seed", "--seed"]
    assert shown["model.max_tokens"] == ["32", "--set", "--set model.max_tokens=..."]
    assert shown["hyperband.b_min"] == ["8", "profile demo", "--set hyperband.b_min=..."]
    assert shown["hyperband.eta"] == ["2", "default", "--set hyperband.eta=..."]
    assert len(shown) == len(setting_types()) + 1


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
    task = TaskConfig(str(write_task(tmp_path / "task")), 0, 0, 0, "mine:judge")
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["bogus"], "bogus"),
        (["run", "--bogus"], "No such option: --bogus"),
        (["run", "--seed", "one"], "--seed"),
        (["run", "--seed", "-1"], "expected 0 or more, got -1"),
        (["run", "--profile", "x"], "--profile: expected one of"),
        (["run", "--engines", "-1"], "engines: expected 0 or more, got -1"),
        (
            ["run", "--tensor-parallel", "0"],
            "model.tensor_parallel: expected 1 or more, got 0; change it with --tensor-parallel",
        ),
        (["run", "--set", "seed"], "--set: expected KEY=VALUE"),
        (["run", "--set", "model.max_token=3"], "did you mean model.max_tokens"),
        (["plan", "--config", "/nowhere.toml"], "--config: expected a TOML or JSON file"),
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
    task = write_task(tmp_path / "task")
    for name, text in files.items():
        (task / f"{name}.jsonl").write_text(text)
    output = tmp_path / "run"
    status, err = ended(capsys, "run", "--profile", "demo", "--task", str(task), "--output", str(output))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not output.exists()


def test_a_config_with_an_unknown_key(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"]) | {"sede": 1}))
    status, err = ended(capsys, "resume", str(tmp_path))
    assert (status, "unknown setting 'sede'" in err) == (2, True)


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


def test_a_command_on_a_cluster_sends_its_changes_along(monkeypatch):
    sent = []
    monkeypatch.setattr("lipo_e_ray.distributed.session.check_address", lambda address: address)
    monkeypatch.setattr("lipo_e_ray.app.remote.run_remotely", lambda *arguments: sent.extend(arguments[3]) or 0)
    with pytest.raises(SystemExit):
        main(["resume", "there", "--max-llm-calls", "900", "--iterations", "5", "--address", "ray://head:10001"])
    assert sent == ["--max-llm-calls", "900", "--iterations", "5"]


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
