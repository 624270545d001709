from dataclasses import replace

from lipo_e_ray.app.tables import print_plan
from lipo_e_ray.config import PROFILES
from lipo_e_ray.inputs import load_inputs
from lipo_e_ray.planning import make_plan
from tests.test_planning import SPEC


def test_what_a_user_sees_of_a_plan(capsys):
    config = replace(PROFILES["demo"], max_llm_calls=1000)
    print_plan(make_plan(config, load_inputs(config, SPEC)))
    shown = " ".join(capsys.readouterr().out.split())  # as wide as the terminal is
    assert "Hyperband s=4" in shown and "--max-llm-calls 1,000" in shown
    assert "tokens: ~" in shown and "take ~2:05 with AMX (8 calls/s)" in shown
