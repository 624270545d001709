import asyncio

import pytest

from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.engine.replay import ReplayEngine
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.testing import CHATS, GREEDY, HOT, EngineContract
from lipo_e_ray.types import Completion, InputError, Outcome, Prompt, Sampling, Status

PROMPT = Prompt("Solve the problem.")


@pytest.fixture
def recorded(small_task, tmp_path):
    """The path of a ledger, and what is in it: eight outcomes, one failure, the generations of the contract."""
    source, path = SimulatedEngine(), tmp_path / "ledger.sqlite"
    outcomes = asyncio.run(source.evaluate(PROMPT, small_task.validation[:8]))
    failed = Outcome(PROMPT.id, small_task.validation[8].id, Status.FAILED, error="overflow")
    with Ledger(path, source.fingerprints) as ledger:
        ledger.record_prompt(PROMPT)
        ledger.record_outcomes("validation", [*outcomes, failed])
        for chat in CHATS:
            for sampling in (GREEDY, HOT, Sampling(HOT.temperature, max_tokens=HOT.max_tokens, seed=2)):
                key = generation_key(source.fingerprints, chat, sampling)
                ledger.record_generation(key, Completion(f"text {key}", "", len(chat[0]["content"]), 0, 3), "ape")
    return path, outcomes


class TestContract(EngineContract):
    @pytest.fixture
    def engine(self, recorded):
        engine = ReplayEngine(recorded[0])
        yield engine
        asyncio.run(engine.close())

    @pytest.fixture
    def prompt(self):
        return PROMPT

    @pytest.fixture
    def bad(self):
        return Prompt("Never asked.")

    @pytest.fixture
    def examples(self, small_task):
        return small_task.validation[:8]

    def test_serves_what_was_recorded(self, engine, recorded, examples):
        assert self.evaluate(engine, PROMPT, examples) == recorded[1]
        assert engine.fingerprints == SimulatedEngine().fingerprints

    def test_a_recorded_failure_is_no_answer(self, engine, small_task):
        (outcome,) = self.evaluate(engine, PROMPT, small_task.validation[8:9])
        assert outcome.status is Status.FAILED and "holds no outcome of prompt" in outcome.error

    def test_a_text_never_written_is_an_error(self, engine):
        (completion,) = self.wait(engine.generate([CHATS[0]], [Sampling(seed=99)]))
        assert "holds no generation" in completion.error

    def test_closes_twice(self, engine):
        self.wait(engine.close())
        self.wait(engine.close())


def test_no_ledger(tmp_path):
    with pytest.raises(InputError):
        ReplayEngine(tmp_path / "nothing.sqlite")
