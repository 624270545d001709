import logging
import subprocess
import sys

from lipo_e_ray.config import PROFILES
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, load_inputs
from lipo_e_ray.recipe import WARNINGS, ProposerRecipe
from lipo_e_ray.store.run_folder import RunFolder


def test_what_the_proposer_warns_of_is_in_the_run_folder(tmp_path):
    package = logging.getLogger("lipo_e_ray")
    before = package.handlers[:]
    inputs = load_inputs(PROFILES["demo"], EngineSpec(SimulatedEngine, SimulatedEngine().fingerprints))
    try:
        ProposerRecipe(PROFILES["demo"], inputs, inputs.instructions, RunFolder(tmp_path), None)()
        assert not (tmp_path / WARNINGS).exists()
        logging.getLogger("lipo_e_ray.surrogate.gp").warning("GP fit on %d prompts failed", 5)
    finally:
        for handler in {*package.handlers} - {*before}:
            package.removeHandler(handler)
            handler.close()
    (line,) = (tmp_path / WARNINGS).read_text().splitlines()
    assert line.endswith(" GP fit on 5 prompts failed")


def test_the_driver_that_makes_it_needs_no_torch():
    heavy = {"torch", "botorch", "sentence_transformers"}
    code = f"import sys, lipo_e_ray.job; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
