"""The real pipeline on a real LLM: SmolLM2 in vLLM, small enough for a test."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from lipo_e_ray.config import PROFILES, APEConfig, HyperbandConfig, InvBOConfig, TaskConfig, VAEConfig, to_dict
from lipo_e_ray.report.analysis import read
from lipo_e_ray.store.ledger import Ledger
from tests.conftest import DTYPE

pytestmark = pytest.mark.slow

CONFIG = replace(
    PROFILES["demo"],
    model=replace(PROFILES["demo"].model, max_tokens=32, dtype=DTYPE),
    task=TaskConfig("arithmetic", pool_size=24, validation_size=16, test_size=16),
    ape=APEConfig(num_instructions=4),
    vae=VAEConfig(training_sets=64, patience=5, max_epochs=30, batch_size=32),
    hyperband=HyperbandConfig(b_min=8),
    invbo=InvBOConfig(iterations=1, q=2),
)
PATIENCE_S = 900  # seven minutes on two cores without AVX-512, with other tests beside


def lipo(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lipo_e_ray", *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_real_model_from_the_command_line(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    done = lipo("resume", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("test accuracy: baseline ")
    assert done.stderr == ""
    with Ledger(folder / "ledger.sqlite") as ledger:
        records, texts = read(ledger), [o.text for p in ledger.prompts() for o in ledger.outcomes(p).values()]
        calls = ledger.calls()
    assert not records.failures
    assert any("####" in text for text in texts)
    assert records.usage.tokens["cached_tokens"] > 0
    assert {one.origin.stage for one in records.scored} == {"seeds", "hyperband", "invbo"}
    assert records.best.test.n == 16

    again = lipo("evaluate", str(folder), "--split", "test")
    assert again.returncode == 0, again.stderr
    assert "0 new LLM calls" in again.stdout.splitlines()[-1]
    with Ledger(folder / "ledger.sqlite") as ledger:
        assert ledger.calls() == calls
