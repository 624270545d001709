"""The real engine: SmolLM2 in vLLM, its process killed in the middle of a rung."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace

import pytest

from lipo_e_ray.config import APEConfig, HyperbandConfig
from lipo_e_ray.config_tree import to_dict

from .conftest import CONFIG, Driver, Harm, Run, alive, finish, processes, until

pytestmark = pytest.mark.slow
PATIENCE_S = 500


@pytest.mark.timeout(3 * PATIENCE_S)
def test_real_engine_killed(tmp_path, row):
    """No second run to compare with: a minute of vLLM's start. What was paid must stay, and what failed be answered."""
    task = replace(CONFIG.task, validation_size=16, test_size=8)
    model = replace(CONFIG.model, max_tokens=16)  # what the answers are is of no matter
    config = replace(CONFIG, task=task, model=model, ape=APEConfig(use=False), hyperband=HyperbandConfig(b_min=8))
    run = Run(tmp_path / "run", tmp_path, config=config)
    run.folder.mkdir()
    (run.folder / "config.json").write_text(json.dumps(to_dict(run.config)))
    driver = Driver([sys.executable, "-m", "lipo_e_ray", "resume", run.folder], tmp_path / "log")
    until(lambda: len(run.recorded()) > 40, driver, PATIENCE_S)
    [engine], cores = processes(driver.pid, "ray::EngineActor"), processes(driver.pid, "VLLM::")
    before = run.rows("SELECT seq, prompt_id, example_id, at FROM outcomes ORDER BY seq")
    os.kill(engine, signal.SIGKILL)
    finish(driver, PATIENCE_S)
    assert cores and not any(map(alive, cores)), "vLLM's own processes outlived the engine"
    assert run.rows("SELECT seq, prompt_id, example_id, at FROM outcomes ORDER BY seq")[: len(before)] == before
    failed = run.rows("SELECT prompt_id || ' ' || example_id FROM failures")
    assert 0 < len(failed) <= 32, "only what was in flight"
    row(Harm(sum(key not in run.recorded() for (key,) in failed), len(failed)))
