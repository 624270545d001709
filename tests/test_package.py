"""What ``import lipo_e_ray`` gives, and what it costs."""

import subprocess
import sys

import pytest

import lipo_e_ray


@pytest.mark.parametrize("name", lipo_e_ray.__all__)
def test_every_public_name_is_there(name):
    value = getattr(lipo_e_ray, name)
    assert name in {"Event", "Message"} or value.__name__ == name, "a module of the same name hides it"
    assert name in dir(lipo_e_ray)


def test_public_names_have_one_list():
    assert set(lipo_e_ray._HOME) == set(lipo_e_ray.__all__)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'lipo_e_ray' has no attribute 'optimise'"):
        _ = lipo_e_ray.optimise


@pytest.mark.parametrize(
    "statement", ["import lipo_e_ray", "from lipo_e_ray import Task, Example, RunConfig, LipoError"]
)
def test_importing_it_loads_nothing_heavy(statement):
    heavy = {"torch", "ray", "vllm", "transformers", "numpy"}
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
