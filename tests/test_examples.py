"""Every example runs: three on a simulated engine or their own, one also on the embedded model (test_end_to_end.py)."""

import importlib.util
import sys
from pathlib import Path

import pytest

from lipo_e_ray.engine.simulated import SimulatedEngine
from tests.conftest import SMALL
from tests.faults.job import hashed_words

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

pytestmark = pytest.mark.slow


@pytest.fixture
def run_example(monkeypatch, tmp_path, ray_cluster):
    """An example's ``main``, as a module that the engine's process can get by value."""
    import ray

    loaded = []

    def run(name: str, **settings: object):
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        ray.cloudpickle.register_pickle_by_value(module)
        loaded.append(module)
        config = SMALL | {"invbo.iterations": 0} | settings.pop("config", {})
        return module.main(config=config, output=tmp_path / "run", **settings)

    with hashed_words():
        yield run
    for module in loaded:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) < 40


def test_there_are_four():
    assert [path.stem for path in EXAMPLES] == ["cluster", "own_engine", "own_metric", "own_task"]


def test_own_task(run_example, capsys):
    result = run_example("own_task", engine=SimulatedEngine)
    assert result.best.test.n == 20
    assert result.best.messages("Which is larger?")[-1]["content"].endswith("Which is larger?")
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: ")


def test_own_metric(run_example):
    result = run_example("own_metric", engine=SimulatedEngine)
    assert result.best.test.n == 20
    config = (result.folder / "config.json").read_text()
    assert "own_metric:close_enough" in config


def test_own_engine(run_example):
    result = run_example("own_engine")
    assert result.baseline.test.correct == 0
    assert result.best.test.correct == result.best.test.n == 20


def test_cluster(run_example, capsys):
    here = {"encoder.name": "all-minilm-l6-v2", "hyperband.b_min": 8}  # no hub
    result = run_example("cluster", task="arithmetic", engine=SimulatedEngine, max_llm_calls=300, config=here)
    assert result.calls <= 300
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {result.report}"
