import re
from dataclasses import replace

from lipo_e_ray.app.tables import print_plan
from lipo_e_ray.config import PROFILES
from lipo_e_ray.inputs import load_inputs
from lipo_e_ray.planning import make_plan
from tests.test_planning import SPEC


def test_what_a_user_sees_of_a_plan(capsys):
    config = replace(PROFILES["demo"], max_llm_calls=1000)
    plan = make_plan(config, load_inputs(config, SPEC))
    print_plan(plan)
    shown = " ".join(capsys.readouterr().out.split())  # as wide as the terminal is
    assert all(item.name.split()[0] in shown and f"{item.calls:,}" in shown for item in plan.items)
    assert re.search(r"all .*1,000", shown)
    assert len(plan.gains) == 3 and all(gain in shown for gain in plan.gains)
    assert "tokens: ~" in shown and "take ~2:05 with AMX (8 calls/s)" in shown
