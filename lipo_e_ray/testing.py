"""Contracts of the extension points, as tests to inherit; needs pytest, and no other module imports it.

The test of an engine of your own is:

    from lipo_e_ray.testing import EngineContract

    class TestMyEngine(EngineContract):
        @pytest.fixture
        def engine(self):
            return MyEngine()

Where your engine cannot answer arithmetic problems, override the other fixtures of ``EngineContract``. Where a failure
should show the values that were compared, put ``pytest.register_assert_rewrite("lipo_e_ray.testing")`` first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest

from lipo_e_ray.engine.base import Engine
from lipo_e_ray.instructions.induction import clean_instruction
from lipo_e_ray.latent.encoder import Encoder
from lipo_e_ray.latent.inversion import Inverter, identity
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.types import Example, Fingerprints, Outcome, Prompt, Sampling, Status

T = TypeVar("T")

CHATS = [[{"role": "user", "content": text}] for text in ("Say hello.", "Name a colour that you like, and say why.")]
GREEDY = Sampling(max_tokens=8)
HOT = Sampling(temperature=1.0, max_tokens=8, seed=1)


class EngineContract:
    """What every ``Engine`` promises. A test class inherits it and gives the fixture ``engine``.

    ``prompt`` and ``examples``, four or more, are what the engine can answer; ``bad`` is a prompt that it cannot
    answer, for instance one that overflows its context: without such a prompt that test is skipped.
    """

    deterministic = True
    """Whether the same request always gets the same text."""

    @pytest.fixture
    def prompt(self) -> Prompt:
        return Prompt("Solve the problem.")

    @pytest.fixture
    def examples(self) -> tuple[Example, ...]:
        return generate_arithmetic(pool=1, validation=8, test=1, seed=0).validation

    @pytest.fixture
    def bad(self) -> Prompt:
        pytest.skip("no fixture `bad`: a prompt that this engine cannot answer")

    def evaluate(self, engine: Engine, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        return self.wait(engine.evaluate(prompt, examples))

    def wait(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """The result of ``awaitable``; override it for an engine that lives in one event loop."""
        return asyncio.run(awaitable)

    def test_one_outcome_per_example_in_their_order(
        self, engine: Engine, prompt: Prompt, examples: Sequence[Example]
    ) -> None:
        for some in (examples, examples[::-1]):
            outcomes = self.evaluate(engine, prompt, some)
            assert [(o.prompt_id, o.example_id) for o in outcomes] == [(prompt.id, e.id) for e in some]
            assert all(o.status is not Status.FAILED and not o.error and o.text for o in outcomes)

    def test_an_example_given_twice_is_answered_twice(
        self, engine: Engine, prompt: Prompt, examples: Sequence[Example]
    ) -> None:
        outcomes = self.evaluate(engine, prompt, [examples[0], examples[1], examples[0]])
        assert [o.example_id for o in outcomes] == [examples[0].id, examples[1].id, examples[0].id]

    def test_failed_is_not_wrong(self, engine: Engine, bad: Prompt, examples: Sequence[Example]) -> None:
        for outcome in self.evaluate(engine, bad, examples):
            assert outcome.status is Status.FAILED and len(outcome.error.splitlines()) == 1

    def test_nothing_asked_nothing_answered(self, engine: Engine, prompt: Prompt) -> None:
        assert self.evaluate(engine, prompt, []) == []
        assert self.wait(engine.generate([], [])) == []

    def test_fingerprints_are_stable_digests(self, engine: Engine) -> None:
        prints = engine.fingerprints
        assert isinstance(prints, Fingerprints) and prints == engine.fingerprints
        assert all((prints.model, prints.sampling, prints.template))

    def test_one_text_per_conversation_in_their_order(self, engine: Engine) -> None:
        first, second = self.wait(engine.generate(CHATS, [GREEDY, GREEDY]))
        assert first.text and second.text and not first.error and not second.error
        reverse = self.wait(engine.generate(CHATS[::-1], [GREEDY, GREEDY]))
        assert [c.prompt_tokens for c in reverse] == [second.prompt_tokens, first.prompt_tokens]
        assert first.prompt_tokens < second.prompt_tokens

    def test_each_conversation_has_its_own_seed(self, engine: Engine) -> None:
        samplings = [HOT, replace(HOT, seed=2), HOT]
        first, other, again = self.wait(engine.generate([CHATS[0]] * 3, samplings))
        assert first.text != other.text
        assert first.text == again.text or not self.deterministic


class InverterContract:
    """What every ``Inverter`` promises. A test class inherits it and gives the fixtures.

    ``inverter``; ``encoder``, the one it was made with; ``targets`` (q, e), unit length; ``known``, the texts that it
    may not write again.
    """

    def test_one_list_per_target_best_first(
        self, inverter: Inverter, encoder: Encoder, targets: np.ndarray, known: Sequence[str]
    ) -> None:
        found = inverter.invert(targets, known, seed=0)
        assert len(found) == len(targets) and all(found)
        for target, inversions in zip(targets, found, strict=True):
            cosines = [inversion.cosine for inversion in inversions]
            assert cosines == sorted(cosines, reverse=True)
            np.testing.assert_allclose(cosines, encoder.encode([i.text for i in inversions]) @ target, atol=1e-4)

    def test_texts_are_new_clean_and_distinct(
        self, inverter: Inverter, targets: np.ndarray, known: Sequence[str]
    ) -> None:
        old = {identity(text) for text in known}
        for inversions in inverter.invert(targets, known, seed=0):
            names = [identity(inversion.text) for inversion in inversions]
            assert len(set(names)) == len(names)
            assert not old & set(names)
            assert all(clean_instruction(inversion.text) == inversion.text for inversion in inversions)

    def test_what_it_wrote_is_not_written_again_once_it_is_known(
        self, inverter: Inverter, targets: np.ndarray, known: Sequence[str]
    ) -> None:
        first = [inversion.text for inversion in inverter.invert(targets, known, seed=0)[0]]
        again = inverter.invert(targets[:1], [*known, *(f"  {text.upper()} " for text in first)], seed=0)[0]
        assert not {identity(text) for text in first} & {identity(inversion.text) for inversion in again}

    def test_same_arguments_same_texts(self, inverter: Inverter, targets: np.ndarray, known: Sequence[str]) -> None:
        assert inverter.invert(targets, known, seed=3) == inverter.invert(targets, known, seed=3)

    def test_no_targets(self, inverter: Inverter, targets: np.ndarray, known: Sequence[str]) -> None:
        assert inverter.invert(targets[:0], known, seed=0) == []
