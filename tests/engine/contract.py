"""What every ``Engine`` promises. A test class inherits it and gives ``engine``, ``prompt``, ``examples``, ``bad``.

``examples`` are four or more that the engine can answer under ``prompt``; ``bad`` is a prompt that it cannot answer.
"""

import asyncio
from dataclasses import replace

from lipo_e_ray.types import Fingerprints, Sampling, Status

CHATS = [[{"role": "user", "content": text}] for text in ("Say hello.", "Name a colour that you like, and say why.")]
GREEDY = Sampling(max_tokens=8)
HOT = Sampling(temperature=1.0, max_tokens=8, seed=1)


class EngineContract:
    deterministic = True  # whether the same request always gets the same text

    def evaluate(self, engine, prompt, examples):
        return self.wait(engine.evaluate(prompt, examples))

    def wait(self, awaitable):
        return asyncio.run(awaitable)

    def test_one_outcome_per_example_in_their_order(self, engine, prompt, examples):
        for some in (examples, examples[::-1]):
            outcomes = self.evaluate(engine, prompt, some)
            assert [(o.prompt_id, o.example_id) for o in outcomes] == [(prompt.id, e.id) for e in some]
            assert all(o.status is not Status.FAILED and not o.error and o.text for o in outcomes)

    def test_an_example_given_twice_is_answered_twice(self, engine, prompt, examples):
        outcomes = self.evaluate(engine, prompt, [examples[0], examples[1], examples[0]])
        assert [o.example_id for o in outcomes] == [examples[0].id, examples[1].id, examples[0].id]

    def test_failed_is_not_wrong(self, engine, bad, examples):
        for outcome in self.evaluate(engine, bad, examples):
            assert outcome.status is Status.FAILED and len(outcome.error.splitlines()) == 1

    def test_nothing_asked_nothing_answered(self, engine, prompt):
        assert self.evaluate(engine, prompt, []) == []
        assert self.wait(engine.generate([], [])) == []

    def test_fingerprints_are_stable_digests(self, engine):
        prints = engine.fingerprints
        assert isinstance(prints, Fingerprints) and prints == engine.fingerprints
        assert all((prints.model, prints.sampling, prints.template))

    def test_one_text_per_conversation_in_their_order(self, engine):
        first, second = self.wait(engine.generate(CHATS, [GREEDY, GREEDY]))
        assert first.text and second.text and not first.error and not second.error
        reverse = self.wait(engine.generate(CHATS[::-1], [GREEDY, GREEDY]))
        assert [c.prompt_tokens for c in reverse] == [second.prompt_tokens, first.prompt_tokens]
        assert first.prompt_tokens < second.prompt_tokens

    def test_each_conversation_has_its_own_seed(self, engine):
        samplings = [HOT, replace(HOT, seed=2), HOT]
        first, other, again = self.wait(engine.generate([CHATS[0]] * 3, samplings))
        assert first.text != other.text
        assert first.text == again.text or not self.deterministic
