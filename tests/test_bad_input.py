"""Hundreds of malformed inputs through the command line: each is status 2 and one clear line; nothing is written."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lipo_e_ray.app.cli import main
from lipo_e_ray.config import PROFILES, TaskConfig
from lipo_e_ray.config_tree import from_dict
from lipo_e_ray.inputs import load_inputs
from lipo_e_ray.task.loading import load_task
from tests import mutations
from tests.mutations import INSTRUCTIONS, NAMES, RUN_FOLDERS, TASKS, Case
from tests.task_files import write_task

CLEAR = 600  # letters at most, the paths of pytest included

pytestmark = pytest.mark.timeout(60)  # a case takes milliseconds; the first one imports Ray


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    """An input that is taken after all fails its test at once, instead of starting Ray and engines."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a run was started on malformed input")

    monkeypatch.setattr("lipo_e_ray.job.ray_session", started)


def refused(capsys, case: Case, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith("lipo-e-ray: ") and err.count("\n") == 1 and err.endswith("\n")
    assert err[:-1].isprintable()
    assert case.names in err
    assert len(err) <= CLEAR


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def numbered(cases: list[Case]) -> list:
    return [pytest.param(number, case, id=f"{number} {case.name[:40]}") for number, case in enumerate(cases)]


def test_there_are_hundreds_of_cases_and_what_they_spoil_is_good(tmp_path):
    assert len(TASKS) + len(INSTRUCTIONS) + len(RUN_FOLDERS) >= 300
    write_task(tmp_path / "task")
    task = load_task(TaskConfig(str(tmp_path / "task")), 0)
    assert (len(task.pool), len(task.validation), len(task.test), task.metric) == (20, 20, 20, "numeric")
    assert from_dict(json.loads(json.dumps(mutations.CONFIG))) == PROFILES["demo"]


@pytest.mark.parametrize(("number", "case"), numbered(TASKS))
def test_a_malformed_task(capsys, tmp_path, number, case):
    task = tmp_path / "task"
    write_task(task)
    case.mutate(task, random.Random(number))
    refused(capsys, case, "run", "--profile", "demo", "--task", str(task), "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "case"), numbered(INSTRUCTIONS))
def test_a_malformed_instruction_file(capsys, tmp_path, number, case):
    case.mutate(tmp_path / "own.txt", random.Random(number))
    refused(
        capsys,
        case,
        "run",
        "--profile",
        "demo",
        "--instructions",
        str(tmp_path / "own.txt"),
        "--output",
        str(tmp_path / "run"),
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "case"), numbered(RUN_FOLDERS))
def test_a_malformed_run_folder(capsys, tmp_path, number, case):
    (tmp_path / "config.json").write_text(json.dumps(mutations.CONFIG))
    case.mutate(tmp_path, random.Random(number))
    before = tree(tmp_path)
    for command in ("resume", "evaluate"):
        refused(capsys, case, command, str(tmp_path))
    if not (tmp_path / "remote.json").exists():  # a report is made here, from what came back
        refused(capsys, case, "report", str(tmp_path))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("number", "case"), numbered(NAMES))
def test_a_config_that_names_what_is_not_there(capsys, tmp_path, number, case):
    case.mutate(tmp_path, random.Random(number))
    before = tree(tmp_path)
    refused(capsys, case, "resume", str(tmp_path))
    assert tree(tmp_path) == before


def test_a_megabyte_that_overflows_the_context(capsys, tmp_path):
    task = tmp_path / "task"
    write_task(task)
    case = Case("long", mutations.replaced_value("test", "question", "a" * 1_000_000), "tokens, expected at most")
    case.mutate(task, random.Random(0))
    refused(capsys, case, "run", "--profile", "demo", "--task", str(task), "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_megabyte_that_is_no_exemplar_is_left_out(tmp_path):
    task = tmp_path / "task"
    write_task(task)
    mutations.replaced_value("train", "answer", "<|im_end|>" * 100_000 + " 7")(task, random.Random(0))
    inputs = load_inputs(replace(PROFILES["demo"], task=TaskConfig(str(task))))
    assert len(inputs.task.pool) == mutations.ROWS - 1 and "1 of 20 rows" in inputs.notes[0]
