import asyncio
import random

import pytest

from benchmarks.real.answers import AnswerStore, StoredEngine
from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.testing import EngineContract
from lipo_e_ray.types import Completion, Fingerprints, Prompt, Sampling, Status

EXAMPLES = generate_arithmetic(pool=2, validation=8, test=1, seed=0).validation
PROMPT, BAD = Prompt("Solve the problem."), Prompt("bad")
SAMPLING = Sampling(max_tokens=16)
PRINTS = Fingerprints("model", SAMPLING.fingerprint, "template")


class Model:
    """Knows the answers to half of ``EXAMPLES``, continues other chats at random, and refuses ``BAD``."""

    fingerprints = PRINTS
    built = 0

    def __init__(self):
        Model.built += 1
        self.asked, self.closed = [], False

    async def evaluate(self, prompt, examples):
        raise AssertionError("the store renders and judges, so that it knows the chat")

    async def generate(self, conversations, samplings):
        self.asked += conversations
        return [
            self.answer(chat[-1]["content"], sampling) for chat, sampling in zip(conversations, samplings, strict=True)
        ]

    def answer(self, text, sampling):
        if text.startswith(BAD.instruction):
            return Completion("", "it does not fit")
        right = [example.answer for example in EXAMPLES[::2] if text.endswith(example.question)]
        number = random.Random(f"{text} {sampling.seed}").randrange(10**6)
        return Completion(right[0] if right else f"#### {number}", "", len(text), 0, 3)

    async def close(self):
        self.closed = True


def stored(path, prints=PRINTS):
    return StoredEngine(path / "answers.sqlite", Model, prints, SAMPLING, get_metric("numeric"))


def ask(engine, prompt=PROMPT, examples=EXAMPLES):
    return asyncio.run(engine.evaluate(prompt, examples))


class TestStoredEngine(EngineContract):
    @pytest.fixture
    def engine(self, tmp_path):
        return stored(tmp_path)

    @pytest.fixture
    def bad(self):
        return BAD


class TestReplayed(EngineContract):
    """An engine that never asks its model gives the same answers."""

    @pytest.fixture
    def engine(self, tmp_path):
        return stored(tmp_path)

    def evaluate(self, engine, prompt, examples):
        first = super().evaluate(engine, prompt, examples)
        missing = engine.missing
        assert super().evaluate(engine, prompt, examples) == first
        assert engine.missing == missing
        return first


def test_answers_are_judged_by_the_metric(tmp_path):
    statuses = [outcome.status for outcome in ask(stored(tmp_path))]
    assert statuses == [Status.CORRECT, Status.WRONG] * 4


def test_the_model_is_built_only_when_an_answer_is_missing(tmp_path):
    Model.built = 0
    first = stored(tmp_path)
    assert Model.built == 0
    outcomes = ask(first, examples=EXAMPLES[:6])
    assert (Model.built, first.asked, first.missing) == (1, 6, 6)
    second = stored(tmp_path)  # another method, another process
    assert ask(second, examples=EXAMPLES[:6]) == outcomes
    assert (Model.built, second.asked, second.missing) == (1, 6, 0)
    ask(second)
    assert (Model.built, second.asked, second.missing) == (2, 14, 2)


def test_a_closed_engine_is_built_again_for_what_is_missing(tmp_path):
    Model.built = 0
    engine = stored(tmp_path)
    ask(engine, examples=EXAMPLES[:1])
    asyncio.run(engine.close())
    asyncio.run(engine.close())
    ask(engine, examples=EXAMPLES[:1])
    assert Model.built == 1
    ask(engine)
    assert Model.built == 2


def test_what_differs_in_model_prompt_or_sampling_is_asked(tmp_path):
    ask(stored(tmp_path))
    for engine, prompt in (
        (stored(tmp_path, Fingerprints("other", SAMPLING.fingerprint, "template")), PROMPT),
        (stored(tmp_path), Prompt("Answer.")),
        (stored(tmp_path), Prompt(PROMPT.instruction, EXAMPLES[:1])),
    ):
        ask(engine, prompt, EXAMPLES[1:])
        assert engine.missing == len(EXAMPLES) - 1
    engine = stored(tmp_path)
    chats = [[{"role": "user", "content": "Say hello."}]] * 2
    texts = asyncio.run(engine.generate(chats, [Sampling(temperature=1, seed=seed) for seed in (0, 1)]))
    assert engine.missing == 2 and texts[0] != texts[1]


def test_a_failed_answer_is_asked_again(tmp_path):
    engine = stored(tmp_path)
    for _ in range(2):
        assert {outcome.status for outcome in ask(engine, BAD)} == {Status.FAILED}
    assert engine.missing == 2 * len(EXAMPLES)


def test_the_first_answer_stays(tmp_path):
    store, other = (AnswerStore(tmp_path / "new" / "answers.sqlite") for _ in range(2))
    key = generation_key(PRINTS, [], SAMPLING)
    assert store.get(key) is None
    store.add(key, Completion("one", "", 1, 2, 3))
    other.add(key, Completion("two"))
    assert store.get(key) == other.get(key) == Completion("one", "", 1, 2, 3)
    assert len(store) == 1
    store.close()
    store.close()
