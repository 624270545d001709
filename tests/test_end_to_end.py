"""The real pipeline on a real LLM, SmolLM2 in vLLM, small enough for a test: run from Python, then from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lipo_e_ray as lipo
from lipo_e_ray.store.ledger import Ledger
from tests.conftest import DTYPE

pytestmark = pytest.mark.slow

SETTINGS = {
    "model.max_tokens": 16,
    "model.dtype": DTYPE,
    "ape.num_instructions": 4,
    "vae.training_sets": 64,
    "vae.patience": 5,
    "vae.max_epochs": 30,
    "vae.batch_size": 32,
    "invbo.iterations": 1,
    "invbo.q": 2,
    "hyperband.b_min": 2,  # for more prompts than the least that a GP is fitted to
}
# As in a notebook: an event loop runs in the thread that calls ``optimize``.
NOTEBOOK = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import own_task

async def cell():
    return own_task.main(config=json.loads(sys.argv[2]), output=sys.argv[3])

asyncio.run(cell())
"""
PATIENCE_S = 900  # seven minutes on two cores without AVX-512, with other tests beside


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_real_model_from_python_and_from_the_command_line(tmp_path):
    folder, examples = tmp_path / "run", Path(__file__).parents[1] / "examples"
    done = python("-c", NOTEBOOK, str(examples), json.dumps(SETTINGS), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("test accuracy: ")
    assert done.stderr == ""
    with Ledger(folder / "ledger.sqlite") as ledger:
        texts = [o.text for p in ledger.prompts() for o in ledger.outcomes(p).values()]
    result = lipo.load(folder)
    assert not result.records.failures
    assert len(set(texts)) > 10 and all(texts)
    assert result.records.usage.tokens["cached_tokens"] > 0
    assert {scored.origin.stage for scored in result.records.scored} >= {"hyperband", "invbo"}
    assert result.best.test.n == 20

    again = python("-m", "lipo_e_ray", "evaluate", str(folder), "--split", "test")
    assert again.returncode == 0, again.stderr
    assert "0 new LLM calls" in again.stdout.splitlines()[-1]
    assert lipo.load(folder).calls == result.calls
