"""The whole job on simulated engines: real Ray, Tune, VAE, GP and ledger; the LLM and the encoder are formulas.

The real ones are in tests/test_end_to_end.py; only the real encoder, in tests/cluster.
"""

import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from lipo_e_ray.config import (
    PROFILES,
    APEConfig,
    HyperbandConfig,
    InvBOConfig,
    ProposalConfig,
    RunConfig,
    TaskConfig,
    VAEConfig,
)
from lipo_e_ray.config_tree import from_dict, to_dict
from lipo_e_ray.distributed import runner
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.replay import ReplayEngine
from lipo_e_ray.engine.simulated import Latency, SimulatedEngine
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import InputError
from tests.faults import job

CONFIG = replace(
    PROFILES["demo"],
    task=TaskConfig("arithmetic", pool_size=24, validation_size=32, test_size=32),
    ape=APEConfig(num_instructions=8),
    vae=VAEConfig(training_sets=32, max_epochs=5, batch_size=32),
    hyperband=HyperbandConfig(b_min=8),
    proposal=ProposalConfig(instructions=6, restarts=2, steps=3),
    invbo=InvBOConfig(iterations=2, q=2),
)
PAID = "SELECT seq, prompt_id, example_id, at FROM outcomes ORDER BY seq"


def no_engine() -> Engine:
    raise InputError("an engine was started, although everything was paid before")


def spec(make=SimulatedEngine) -> EngineSpec:
    return EngineSpec(make, SimulatedEngine().fingerprints, len, on_gpu=False)


def run(folder: Path, make=SimulatedEngine, config: RunConfig = CONFIG) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with job.hashed_words():
        job.run_shown(config, folder, spec(make))


def rows(folder: Path, sql: str) -> list[tuple]:
    """Nothing where the ledger, or its table, is not there yet."""
    try:
        with sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True) as db:
            return db.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def proposals(folder: Path) -> list[tuple]:
    return rows(folder, "SELECT bracket, position, prompt_id FROM proposals ORDER BY bracket, position")


def outcomes(folder: Path) -> set[tuple]:
    return set(rows(folder, "SELECT prompt_id, example_id, status FROM outcomes"))


def in_use(folder: Path) -> bool:
    """Whether a process has the ledger open for writing."""
    with (folder / "ledger.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def searched(folder: Path) -> set[tuple]:
    """The outcomes of the search alone."""
    return set(rows(folder, "SELECT prompt_id, example_id, status FROM outcomes WHERE split = 'validation'"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


def test_the_folder_holds_what_a_user_needs(finished, capsys):
    best = json.loads((finished / "best_prompt.json").read_text())
    assert "{question}" in best["messages"][-1]["content"]
    assert best["test"]["n"] == 32
    assert from_dict(json.loads((finished / "config.json").read_text())) == CONFIG
    page = (finished / "report.html").read_text()
    assert best["instruction"].split(".")[0] in page
    with Ledger(finished / "ledger.sqlite") as ledger:
        records = read(ledger)
    assert records.best.fidelity == records.baseline.fidelity == 32
    assert records.winner.observation.errors <= records.baseline.observation.errors
    assert records.best in (records.winner, records.baseline)
    stages = {one.origin.stage for one in records.scored}
    assert {"hyperband", "invbo"} <= stages <= {"hyperband", "invbo", "baseline"}


def test_an_instruction_in_no_input_was_written_and_evaluated(finished):
    generated = {text for (text,) in rows(finished, "SELECT text FROM generations")}
    written = rows(
        finished,
        "SELECT DISTINCT instruction FROM proposals JOIN prompts USING (prompt_id) "
        "JOIN outcomes USING (prompt_id) WHERE source = 'invbo'",
    )
    new = {text for (text,) in written} - generated - set(SEED_INSTRUCTIONS)
    assert new
    page = (finished / "report.html").read_text()
    assert any(text.split(".")[0] in page for text in new)


def test_the_same_command_again_pays_nothing_and_starts_no_engine(finished, capsys, monkeypatch):
    before, answers = proposals(finished), outcomes(finished)
    monkeypatch.chdir(finished.parent)  # as a user names it
    run(Path(finished.name), no_engine)
    assert (proposals(finished), outcomes(finished)) == (before, answers)
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: baseline ")


def test_same_seed_and_same_outcomes_give_the_same_proposals(finished, tmp_path):
    """Outcomes come from the record of the first run, proposals are computed anew."""
    run(tmp_path / "again", partial(ReplayEngine, finished / "ledger.sqlite"))
    assert proposals(tmp_path / "again") == proposals(finished)
    assert outcomes(tmp_path / "again") == outcomes(finished)
    assert len(proposals(finished)) > 10


def test_another_seed_gives_other_proposals(finished, tmp_path):
    run(tmp_path / "other", config=replace(CONFIG, seed=1, invbo=InvBOConfig(iterations=0)))
    known = {row[2] for row in proposals(finished)}
    assert sum(row[2] not in known for row in proposals(tmp_path / "other")) > 5


LIMIT = 200
LIMITED = replace(CONFIG, max_llm_calls=LIMIT)


@pytest.fixture(scope="module")
def limited(tmp_path_factory, ray_cluster) -> Path:
    folder = tmp_path_factory.mktemp("limited")
    run(folder, config=LIMITED)
    return folder


def test_a_limit_is_spent_and_not_exceeded(limited):
    with Ledger(limited / "ledger.sqlite") as ledger:
        sent, calls, records = ledger.sent(), ledger.calls(), read(ledger)
    assert 0.95 * LIMIT <= calls <= LIMIT
    assert calls == len(rows(limited, "SELECT 1 FROM outcomes")) + len(rows(limited, "SELECT 1 FROM generations"))
    assert 0 < sent["writing"] <= 0.1 * LIMIT
    assert 0 < sent["test"] <= 0.2 * LIMIT + 0.1 * LIMIT, "its share, and what the others left"
    assert records.best.test.n == records.baseline.test.n == sent["test"] // len({records.winner, records.baseline})


def test_a_limited_run_leaves_an_answer_and_a_report(limited):
    best = json.loads((limited / "best_prompt.json").read_text())
    assert best["test"]["n"] >= 10 and best["llm_calls"] <= LIMIT
    assert best["instruction"].split(".")[0] in (limited / "report.html").read_text()


def test_a_limited_run_that_was_killed_goes_on_within_its_limit(limited, tmp_path, capsys):
    """What was on its way when it was killed counts, though it is asked again: the test is so much shorter."""
    folder, asked = tmp_path / "run", tmp_path / "asked"
    killed_and_resumed(LIMITED, folder, asked, signal.SIGKILL, len(outcomes(limited)) // 3)
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: baseline ")
    with Ledger(folder / "ledger.sqlite") as ledger:
        assert len(asked.read_text().splitlines()) <= ledger.calls() <= LIMIT
    assert proposals(folder) == proposals(limited)
    assert searched(folder) == searched(limited)
    assert (folder / "best_prompt.json").exists() and (folder / "report.html").exists()


def test_calls_that_were_lost_are_missing_to_the_finalists_and_not_their_race_to_the_answer(
    tmp_path, capsys, ray_cluster
):
    """Without a test to shorten. The finalists' race could not be paid for, so the answer was the baseline, the only
    prompt that had raced so far."""
    folder, lost = tmp_path / "run", 20
    folder.mkdir()
    with Ledger(folder / "ledger.sqlite", SimulatedEngine().fingerprints) as ledger:
        ledger.record_sent({"writing": lost})
    run(folder, config=replace(LIMITED, test_share=0.0))
    said = capsys.readouterr().out
    assert f"{lost} calls had to be sent again, or were lost at a kill: the last races get " in said
    with Ledger(folder / "ledger.sqlite") as ledger:
        assert 0.95 * LIMIT <= ledger.calls() <= LIMIT
        records = read(ledger)
    assert {r.observation.evaluated for r in records.rungs if r.stage == "final"} == {records.full_fidelity}
    assert records.winner.fidelity == records.full_fidelity


def test_a_run_whose_time_is_up_has_an_answer_and_can_go_on(finished, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"

    def late() -> float:
        """In an hour, once some rungs are complete."""
        return time.monotonic() + 3600 * (len(rows(folder, "SELECT 1 FROM rungs WHERE rung > 0")) > 2)

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=late))
    run(folder, config=replace(CONFIG, time_limit=30))
    said = capsys.readouterr().out
    assert "30 minutes are over" in said and f"lipo-e-ray resume {folder}" in said
    assert said.splitlines()[-1].startswith("test accuracy: ")
    assert json.loads((folder / "best_prompt.json").read_text())["test"]["n"] == 32
    assert (folder / "report.html").exists()
    assert searched(folder) < searched(finished)

    monkeypatch.undo()
    run(folder)
    assert proposals(folder) == proposals(finished)
    assert searched(folder) == searched(finished)


def test_a_run_whose_time_is_up_before_its_first_rung_says_so(tmp_path, capsys, ray_cluster):
    config = replace(CONFIG, time_limit=1e-6, ape=APEConfig(use=False))
    run(tmp_path / "run", config=config)
    said = capsys.readouterr().out
    assert "minutes are over" in said and "not measured yet" in said.splitlines()[-1]
    assert not outcomes(tmp_path / "run")


def killed_and_resumed(config: RunConfig, folder: Path, asked: Path, how: signal.Signals, after: int) -> None:
    """Stop a run by the signal ``how`` when it has ``after`` outcomes; this process then runs it to its end.

    Both use the tests' Ray; tests/faults/test_driver.py starts a private one for each. ``asked``: the file that has a
    line for each call of the first.
    """
    import ray

    here = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-W", "ignore", job.__file__, json.dumps(to_dict(config)), folder, asked, here]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while len(outcomes(folder)) < after:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.2)
    first.send_signal(how)
    said, _ = first.communicate(timeout=60)
    if how is signal.SIGINT:
        assert first.returncode == 130
        assert f"lipo-e-ray resume {folder}" in said and "Traceback" not in said
    paid = rows(folder, PAID)
    assert after <= len(paid)
    while in_use(folder):  # on a Ray that stays, the service of a killed driver outlives it by a moment
        time.sleep(0.1)
    run(folder, config=config)
    assert rows(folder, PAID)[: len(paid)] == paid, "an outcome that was paid was lost or asked again"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_continues_and_repeats_no_call(finished, tmp_path, capsys, how):
    folder = tmp_path / "run"
    killed_and_resumed(CONFIG, folder, tmp_path / "asked", how, len(outcomes(finished)) // 3)
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: baseline ")
    assert outcomes(folder) == outcomes(finished)
    assert proposals(folder) == proposals(finished)


def test_two_drivers_on_one_folder(finished):
    with RunFolder(finished).claim(CONFIG), pytest.raises(InputError, match="another process"):
        run(finished)


def test_latency_does_not_change_results():
    slow = SimulatedEngine(0, Latency(1e9, 0.0, 0.0, 4, 0))
    assert slow.fingerprints == SimulatedEngine().fingerprints
