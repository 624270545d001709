"""The real engine on the real model: one start for the whole module, and its death at the end."""

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lipo_e_ray.config import ModelConfig
from lipo_e_ray.engine import vllm as module
from lipo_e_ray.engine.model import ChatTokenizer, fingerprints
from lipo_e_ray.engine.vllm import VLLMEngine
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import numeric
from lipo_e_ray.testing import CHATS, GREEDY, EngineContract
from lipo_e_ray.types import EngineError, InputError, Prompt, Sampling, Status
from tests.conftest import DTYPE

pytestmark = [
    pytest.mark.slow,
    # Importing vLLM scripts functions of its own with torch.jit, which torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    # vLLM leaves its ZeroMQ context to the garbage collector.
    pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning"),
]

MODEL = ModelConfig(name="smollm2-135m", max_model_len=512, max_tokens=32, max_num_seqs=16, dtype=DTYPE)
TASK = generate_arithmetic(pool=8, validation=8, test=2, seed=0)


@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner
    gc.collect()  # what vLLM left open is found now, and not in another test


@pytest.fixture(scope="module")
def running(loop):
    engine = VLLMEngine(MODEL, numeric)
    yield engine
    loop.run(engine.close())


class TestContract(EngineContract):
    deterministic = False  # the sums of a batch depend on its company

    @pytest.fixture(autouse=True)
    def one_loop(self, loop):
        self.loop = loop  # the engine lives in one event loop

    def wait(self, awaitable):
        async def waited():
            return await awaitable

        return self.loop.run(waited())

    @pytest.fixture
    def engine(self, running):
        return running

    @pytest.fixture
    def prompt(self):
        return Prompt("Solve the problem.", TASK.pool[:4])

    @pytest.fixture
    def bad(self):
        return Prompt("too long " * 300)

    @pytest.fixture
    def examples(self):
        return TASK.validation

    def test_judges_and_counts(self, engine, prompt, examples):
        chat = ChatTokenizer(MODEL)
        outcomes = self.evaluate(engine, prompt, examples)
        for outcome, example in zip(outcomes, examples, strict=True):
            assert outcome.status is numeric(outcome.text, example.answer)
            assert 0 < outcome.completion_tokens <= MODEL.max_tokens
            assert outcome.prompt_tokens == chat.count(module.render(prompt, example.question))
        assert {o.status for o in outcomes} >= {Status.CORRECT, Status.WRONG}  # it can do some of it
        again = self.evaluate(engine, prompt, examples)
        assert all(o.cached_tokens > o.prompt_tokens / 2 for o in again)

    def test_an_overflow_says_by_how_much(self, engine, bad, examples):
        (outcome,) = self.evaluate(engine, bad, examples[:1])
        assert "overflows the context: expected at most 480 (max_model_len 512 less 32" in outcome.error

    def test_a_bad_sampling_fails_alone(self, engine):
        good, bad = self.wait(engine.generate(CHATS, [GREEDY, Sampling(top_p=7.0)]))
        assert good.text and not good.error and "top_p" in bad.error

    def test_stops_where_it_is_told(self, engine):
        chat = [{"role": "user", "content": "Count from one to ten in words."}]
        plain, stopped = self.wait(engine.generate([chat] * 2, [Sampling(), Sampling(stop=(" ",))]))
        assert stopped.text == plain.text.split(" ")[0]

    def test_the_fingerprints_need_no_engine(self, engine):
        assert engine.fingerprints == fingerprints(MODEL)

    def test_prints_nothing_while_it_answers(self, engine, prompt, examples, capfd):
        self.evaluate(engine, prompt, examples)
        assert capfd.readouterr() == ("", "")

    def test_a_dead_engine_raises(self, engine, prompt, examples):
        family = [process for process in psutil.Process().children(recursive=True) if "VLLM" in process.name()]
        assert {Path(f"/proc/{process.pid}/fd/1").stat().st_ino for process in family} == {
            os.fstat(engine._log.fileno()).st_ino
        }  # so the guard finds them all
        for process in family:
            process.kill()
        with pytest.raises(EngineError, match=r"engine died \(killed\)"):
            self.evaluate(engine, prompt, examples)


PARENT = """
import subprocess, sys, tempfile, time
from lipo_e_ray.engine.vllm import output_to, start_guard
log = tempfile.TemporaryFile("w+")
guard = start_guard(log)
with output_to(log):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
print(child.pid, guard.pid, flush=True)
time.sleep(60)
"""


def test_no_process_survives_a_killed_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child, guard = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
        assert child.is_running() and guard.is_running()
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([child, guard], timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_root_cause_is_the_first_exception():
    log = io.StringIO(
        "[W1122 utils.cpp:68] Warning: NUMA binding\n"
        "(Worker pid=1) ERROR 11-22 22:45:03 [multiproc_executor.py:953]     raise RuntimeError(\n"
        "(Worker pid=1) ERROR 11-22 22:45:03 [multiproc_executor.py:953] RuntimeError: Cannot find any model weights\n"
        "(EngineCore pid=2) ERROR 11-22 22:45:08 [core.py:1510] Exception: WorkerProc initialization failed\n"
        "Exception: WorkerProc initialization failed due to an exception in a background process.\n"
    )
    assert module.root_cause(log) == "RuntimeError: Cannot find any model weights"
    assert module.root_cause(io.StringIO("Loading\nall is well\n")) == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("RuntimeError: Cannot find any weights", InputError),
        ("ValueError: Available memory on node 0 is less", EngineError),
    ],
)
def test_what_does_not_load_is_said_in_one_line(monkeypatch, text, kind, capfd):
    def fail(model):
        os.write(2, f"(Worker pid=1) ERROR 11-22 22:45:03 [executor.py:9] {text}\nmore\n".encode())
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(module, "_async_llm", fail)
    with pytest.raises(kind) as error:
        VLLMEngine(MODEL, numeric)
    assert str(error.value) == f"model 'smollm2-135m' cannot be loaded: {text}"
    assert capfd.readouterr() == ("", "")


def test_vllms_own_checks_are_said_in_one_line():
    with pytest.raises(
        InputError, match=r"cannot be loaded: .*max_model_len \(9999\) .* \(the flags: --set model\.max_model_len\)$"
    ) as error:
        VLLMEngine(ModelConfig(name="smollm2-135m", max_model_len=9999), numeric)
    assert len(str(error.value).splitlines()) == 1
