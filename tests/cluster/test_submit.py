"""cluster/submit.sh against a real head node: real jobs, the real command line; only the LLM is a formula."""

import json
import shutil
import subprocess

import pytest

from tests.heads import BIN, ROOT, RUN, interrupt, outcomes

SUBMIT = ROOT / "cluster" / "submit.sh"


@pytest.mark.parametrize("command", [["bash", "-n"], ["shellcheck"]], ids=lambda command: command[0])
def test_the_script_is_clean(command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, SUBMIT], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("0" * 64, 0o600, "token is invalid"), ("", 0o600, "found no file"), ("0" * 64, 0o644, "chmod 600")],
)
def test_a_token_that_will_not_do_is_one_line_and_status_2(head, content, mode, message):
    status, out, err = head.run(SUBMIT, "run", environment=head.token(content, mode))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("submit.sh: ") and message in err
    assert not content or content not in err


@pytest.mark.parametrize(
    ("arguments", "address", "message"),
    [
        ((), None, "expected a lipo-e-ray command"),
        (("run",), "", "expected RAY_API_SERVER_ADDRESS"),
        (("run",), "http://127.0.0.1:1", "Failed to connect"),
    ],
)
def test_a_call_that_will_not_do_is_one_line_and_status_2(head, arguments, address, message):
    changed = {} if address is None else {"RAY_API_SERVER_ADDRESS": address}
    status, out, err = head.run(SUBMIT, *arguments, environment=head.environment | changed)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("submit.sh: ") and message in err


def test_a_job_that_fails_says_why(head):
    status, out, _ = head.run(SUBMIT, "run", "--profile", "none")
    assert status == 1
    assert "lipo-e-ray: --profile: expected one of" in out


def test_an_interrupted_job_goes_on_and_pays_nothing_twice(head):
    folder = head.folder / "runs" / "job"
    status, out, err, paid = interrupt(head, [SUBMIT, *RUN, "--output", folder], lambda: folder)
    assert status == 130
    assert "stopping the job" in err
    assert f"interrupted; nothing that was answered is lost: lipo-e-ray resume {folder}" in out
    assert "go on with: submit.sh resume" in out
    assert "Traceback" not in out + err and "SIGTERM" not in out + err
    assert not (folder / "best_prompt.json").exists()

    status, out, err = head.run(SUBMIT, "resume", folder)
    assert status == 0, out + err
    assert "test accuracy: baseline " in out, "the job's log was not followed to its end"
    after = outcomes(folder)
    assert len(paid) < len(after) and after[: len(paid)] == paid, "an outcome that was paid was lost or asked again"
    assert len({row[1:3] for row in after}) == len(after)
    assert json.loads((folder / "best_prompt.json").read_text())["test"]["n"] == 16

    # From the head node itself, without a job: all is paid.
    status, out, err = head.run(BIN / "lipo-e-ray", "resume", folder, "--address", head.address)
    assert (status, err) == (0, "")
    assert "test accuracy: baseline " in out and outcomes(folder) == after
