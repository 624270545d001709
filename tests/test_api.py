"""The Python interface on simulated engines; on the embedded model in test_end_to_end.py."""

import asyncio
import sys

import pytest

import lipo_e_ray as lipo
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.progress import Message, Snapshot
from tests.conftest import SMALL
from tests.faults.job import hashed_words

pytestmark = pytest.mark.slow


def rows(split: str, n: int) -> list[dict[str, str]]:
    return [{"question": f"{split} {i}: what is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(n)]


TASK = lipo.Task.from_rows(train=rows("a", 16), validation=rows("b", 24), test=rows("c", 16), name="sums")


def right(output: str, reference: str) -> bool:
    return output == reference


def no_engine():
    raise lipo.InputError("an engine was started, although everything was paid before")


SPEC = lipo.EngineSpec(SimulatedEngine, SimulatedEngine().fingerprints, on_gpu=False)
NO_ENGINE = lipo.EngineSpec(no_engine, SimulatedEngine().fingerprints, on_gpu=False)


@pytest.fixture(scope="module", autouse=True)
def _by_value(ray_cluster):
    """Workers cannot import what pytest collected under a name of its own."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with hashed_words():
        yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A result and the events of its run."""
    events: list[lipo.Event] = []
    folder = tmp_path_factory.mktemp("run")
    return lipo.optimize(TASK, engine=SPEC, output=folder, config=SMALL, profile="demo", callback=events.append), events


def test_a_result_has_what_a_user_asks_for(finished):
    result, _ = finished
    assert result.best.messages("6 x 7?")[-1]["content"].endswith("6 x 7?")
    assert result.best.test.n == result.baseline.test.n == 16
    assert result.best.accuracy.value >= result.baseline.accuracy.value
    assert result.paired.n == 16
    assert result.report.read_text().startswith("<!doctype html>")
    assert result.calls > 100
    assert str(result.best.test).endswith("]")


def test_the_callback_hears_of_all_of_it(finished):
    _, events = finished
    said = [event.text for event in events if isinstance(event, Message)]
    assert said[0].startswith("task ./task") and said[-1].startswith("measuring")
    # A snapshot comes every half second: which stages are seen depends on the machine.
    assert {event.position.stage for event in events if isinstance(event, Snapshot)}


def test_the_same_call_again_pays_nothing(finished):
    result, _ = finished
    again = lipo.optimize(TASK, engine=NO_ENGINE, output=result.folder, config=SMALL, profile="demo")
    assert again.calls == result.calls
    assert again.best == result.best


def test_load_and_evaluate(finished):
    result, _ = finished
    assert lipo.load(result.folder).best == result.best
    again = lipo.evaluate(result.folder, "test", engine=NO_ENGINE)
    assert (again.new_calls, again.observation.evaluated) == (0, 16)


def test_an_engine_of_ones_own_is_asked_for_again(finished):
    result, _ = finished
    for go_on in (lipo.resume, lipo.evaluate):
        with pytest.raises(lipo.InputError, match="expected this run's own engine, .*engine="):
            go_on(result.folder)


def test_other_rows_are_another_run(finished):
    result, _ = finished
    other = lipo.Task.from_rows(train=rows("a", 16), validation=rows("b", 24), test=rows("d", 16))
    with pytest.raises(lipo.InputError, match="holds a run on other rows"):
        lipo.optimize(other, engine=NO_ENGINE, output=result.folder, config=SMALL, profile="demo")


def test_a_run_goes_on_with_more(tmp_path):
    settings = SMALL | {"invbo.iterations": 0}
    first = lipo.optimize(TASK, engine=SPEC, output=tmp_path, config=settings, profile="demo", max_llm_calls=250)
    with pytest.raises(lipo.InputError, match="max_llm_calls: 250, now 200"):
        lipo.resume(tmp_path, changes={"max_llm_calls": 200}, engine=SPEC)
    with pytest.raises(lipo.InputError, match="seed: 0, now 1"):
        lipo.resume(tmp_path, changes={"seed": 1}, engine=SPEC)
    more = lipo.resume(tmp_path, changes={"max_llm_calls": 600, "invbo.iterations": 1}, engine=SPEC)
    assert first.calls <= 250 < more.calls <= 600
    paid = {p.prompt.id for p in first.records.proposals}
    assert paid < {p.prompt.id for p in more.records.proposals}
    assert max(p.origin.bracket for p in more.records.proposals) > max(
        p.origin.bracket for p in first.records.proposals
    )


def test_more_iterations_stay_within_the_limit_and_what_is_left_of_it_is_told(tmp_path):
    """Of a limit at least 95% are spent, or a line says why not: here they may pay for no further race."""
    settings, told = SMALL | {"invbo.iterations": 0}, []
    first = lipo.optimize(
        TASK, engine=SPEC, output=tmp_path, config=settings, profile="demo", max_llm_calls=400, callback=told.append
    )
    assert first.calls >= 0.95 * 400 or any("of the 400 calls are left" in str(event) for event in told)
    more = lipo.resume(tmp_path, changes={"invbo.iterations": 3}, engine=SPEC)
    assert first.calls <= more.calls <= 400


def test_a_metric_of_ones_own_in_a_running_event_loop_and_nothing_is_printed(tmp_path, capsys):
    """As in a notebook."""

    async def cell() -> lipo.Result:
        return lipo.optimize(
            TASK, engine=SimulatedEngine, output=tmp_path, config=SMALL | {"invbo.iterations": 0}, profile="demo",
            metric=right,
        )  # fmt: skip

    result = asyncio.run(cell())
    # Ray itself warns of many processes on a busy machine.
    assert [line for line in "".join(capsys.readouterr()).splitlines() if "(raylet)" not in line] == []
    assert f'"metric": "{__name__}:right"' in (tmp_path / "config.json").read_text()
    with pytest.raises(lipo.InputError, match="expected --metric"):
        lipo.resume(tmp_path, engine=NO_ENGINE)
    assert lipo.resume(tmp_path, engine=NO_ENGINE, metric=right).calls == result.calls


def test_an_interrupt_leaves_a_folder_that_goes_on(tmp_path, finished):
    result, _ = finished
    heard: list[lipo.Event] = []

    def interrupt(event: lipo.Event) -> None:
        heard.append(event)
        if isinstance(event, Message) and event.text.startswith("searching over"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lipo.optimize(TASK, engine=SPEC, output=tmp_path, config=SMALL, profile="demo", callback=interrupt)
    assert "resume" in str(heard[-1])
    again = lipo.optimize(TASK, engine=SPEC, output=tmp_path, config=SMALL, profile="demo")
    assert (again.best, again.calls) == (result.best, result.calls)


def test_a_plan_pays_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = lipo.plan(TASK, engine=NO_ENGINE, config=SMALL, profile="demo", max_llm_calls=200)
    assert 190 <= plan.calls <= 200
    assert "Hyperband s=" in str(plan)
    assert not list(tmp_path.iterdir())


def test_a_method_of_a_built_in_type_is_a_metric():
    assert lipo.plan(TASK, engine=NO_ENGINE, config=SMALL, profile="demo", metric=str.endswith).calls > 0


def test_time_that_is_up_before_the_first_result_is_no_error(tmp_path):
    settings = SMALL | {"ape.use": False, "invbo.iterations": 0, "time_limit": 1e-5}
    result = lipo.optimize(TASK, engine=SPEC, output=tmp_path, config=settings, profile="demo")
    assert (result.best, result.calls) == (None, 0)
    assert lipo.resume(tmp_path, engine=SPEC, changes={"time_limit": 0.0}).best is not None


def test_a_limit_below_the_least_is_refused_before_anything_is_paid(tmp_path):
    with pytest.raises(lipo.InputError, match="call budget: expected .* got 10; raise --max-llm-calls"):
        lipo.optimize(TASK, engine=NO_ENGINE, output=tmp_path / "run", config=SMALL, profile="demo", max_llm_calls=10)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["tset", "pool"])
def test_a_split_that_cannot_be_measured(tmp_path, split):
    with pytest.raises(lipo.InputError, match=f"split: expected validation or test, got '{split}'"):
        lipo.evaluate(tmp_path, split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": rows("a", 300)}, "task: expected a Task, .*, got list; make a Task of rows with Task.from_rows"),
        ({"task": TASK, "metric": 3}, "metric: expected a metric's name or a function, got int"),
        ({"task": TASK, "engine": SimulatedEngine()}, "engine: expected an EngineSpec or what builds an engine"),
        ({"task": TASK, "engine": dict}, "engine: expected an Engine, .*, got dict with None"),
        ({"task": TASK, "config": 3}, "config: expected settings by name, got 3"),
        ({"task": "/nowhere"}, "expected .*folder"),
        ({"task": TASK, "config": {"sede": 1}}, "config: unknown setting 'sede': did you mean seed"),
        ({"task": TASK, "profile": "x"}, "--profile: expected one of"),
        ({"task": TASK, "metric": "nowhere:judge"}, "metric nowhere:judge: expected an importable module"),
        ({"task": TASK, "address": "ray://head:10001"}, "cannot run through Ray Client"),
    ],
)
def test_errors_are_the_packages_own(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(lipo.InputError, match=message):
        lipo.optimize(**{"engine": NO_ENGINE, "profile": "demo", "output": tmp_path / "run"} | arguments)
    assert isinstance(lipo.InputError("x"), lipo.LipoError)
