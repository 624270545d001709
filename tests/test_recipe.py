"""The recipe before it is called for a latent space; what comes of it in a whole run is in tests/test_run.py."""

from __future__ import annotations

import logging
import subprocess
import sys

from lipo_e_ray.config import PROFILES
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, Inputs
from lipo_e_ray.recipe import WARNINGS, ProposerRecipe
from lipo_e_ray.store.run_folder import RunFolder


def test_what_the_proposer_warns_of_is_in_the_run_folder(tmp_path, small_task):
    package = logging.getLogger("lipo_e_ray")
    before = package.handlers[:]
    try:
        engine = EngineSpec(SimulatedEngine, SimulatedEngine().fingerprints, len, on_gpu=False)
        inputs = Inputs(small_task, {"Think.": "seed"}, engine)
        ProposerRecipe(PROFILES["demo"], inputs, inputs.instructions, RunFolder(tmp_path), None)()
        assert not (tmp_path / WARNINGS).exists()
        logging.getLogger("lipo_e_ray.surrogate.gp").warning("GP fit on %d prompts failed", 5)
    finally:
        for handler in {*package.handlers} - {*before}:
            package.removeHandler(handler)
            handler.close()
    (line,) = (tmp_path / WARNINGS).read_text().splitlines()
    assert line.endswith(" GP fit on 5 prompts failed")


def test_a_driver_imports_neither_torch_nor_the_encoder():
    script = "import sys, lipo_e_ray.run; print({'torch', 'transformers', 'sentence_transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
