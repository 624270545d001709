"""What every ``CandidateSource`` promises. Test classes inherit it and give the fixture ``source``."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.proposal.fakes import EXEMPLARS, GIVEN, OBSERVED, make_state, random_prompt


def rng(seed=0):
    return np.random.default_rng(seed)


class CandidateSourceContract:
    """``stage``: the one whose state the source is given. ``fills``: it fills a batch without a posterior too."""

    stage = "hyperband"
    fills = False

    @pytest.fixture
    def source(self):
        raise NotImplementedError

    def ask(self, source, count=6, seed=0, **state):
        return source.propose(make_state(stage=self.stage, **state), count, rng(seed))

    def test_a_batch_is_distinct_and_new(self, source):
        running = [random_prompt(rng(seed), list(GIVEN)) for seed in range(3)]
        for count in (1, 6, 12):
            candidates = self.ask(source, count, running=running)
            ids = [candidate.prompt.id for candidate in candidates]
            assert 0 < len(set(ids)) == len(ids) <= count
            assert not set(ids) & {prompt.id for prompt in (*running, *(prompt for prompt, _ in OBSERVED))}

    def test_every_prompt_fits_the_context(self, source):
        state = replace(make_state(stage=self.stage), fits=lambda prompt: len(prompt.exemplars) < 3)
        assert all(len(candidate.prompt.exemplars) < 3 for candidate in source.propose(state, 12, rng()))

    def test_what_is_in_the_batch_already_is_not_proposed(self, source):
        first = self.ask(source)
        again = source.propose(make_state(stage=self.stage).after(first), 6, rng())
        assert not {c.prompt.id for c in first} & {c.prompt.id for c in again}

    def test_it_is_a_function_of_state_count_and_generator(self, source):
        first = self.ask(source)
        self.ask(source, 3, seed=1, observed=OBSERVED[:20])  # an earlier call leaves nothing behind
        assert self.ask(source) == first

    def test_sets_are_the_pools_and_info_is_plain_json(self, source):
        for candidate in self.ask(source, 12):
            positions = [EXEMPLARS.examples.index(e) for e in candidate.prompt.exemplars]
            assert positions == sorted(set(positions)) and len(positions) <= EXEMPLARS.max_exemplars
            assert json.loads(json.dumps(candidate.info, allow_nan=False)) == candidate.info

    def test_without_a_posterior_it_fills_the_batch_or_proposes_nothing(self, source):
        assert len(self.ask(source, fitted=False)) == (6 if self.fills else 0)
