"""How flags become settings is in test_cli.py; here: that none is forgotten."""

import inspect

from lipo_e_ray.app import cli, options
from lipo_e_ray.config import FLAGS


def test_every_flag_that_messages_name_exists():
    assert set(options._HELP) | {"profile"} == set(FLAGS)


def test_run_and_plan_have_the_same_settings():
    run, plan = (set(inspect.signature(command).parameters) for command in (cli.run, cli.plan))
    assert run - plan == {"output", "address"}
    assert plan - run == {"show_config"}
