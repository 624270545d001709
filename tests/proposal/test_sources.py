from dataclasses import replace

import pytest

from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.sources import Grid, Plain, RandomPrompts, random_share
from lipo_e_ray.types import Observation, Prompt
from tests.proposal.fakes import EXEMPLARS, GIVEN, TEXTS, make_state, random_prompt
from tests.proposal.source_contract import CandidateSourceContract, rng

GRID = tuple({p.id: p for p in (random_prompt(rng(seed), list(GIVEN)) for seed in range(100, 140))}.values())


def first_bracket(observed=(), **changes):
    state = make_state(observed=observed, fitted=False)
    return replace(state, request=replace(state.request, **{"bracket": 0} | changes))


def texts(candidates):
    return [candidate.prompt.instruction for candidate in candidates]


class TestPlain:
    OWN, SHIPPED = TEXTS[1:60:6], TEXTS[2:60:6]  # ten each, none of them given

    def ask(self, count=8, own=OWN, shipped=SHIPPED, state=None):
        return Plain(own, shipped).propose(state or first_bracket(), count, rng())

    def test_the_users_own_are_half_of_a_chunk_of_the_first_bracket_and_come_in_order(self):
        candidates = self.ask()
        assert texts(candidates) == self.OWN[:4]
        assert all(not c.prompt.exemplars and c.info == {"way": "plain"} for c in candidates)

    def test_the_shipped_ones_are_a_quarter_with_those_of_the_user(self):
        assert texts(self.ask(own=[])) == self.SHIPPED[:2]
        assert texts(self.ask(own=self.OWN[:1])) == [self.OWN[0], self.SHIPPED[0]]
        assert texts(self.ask(own=self.OWN[:2])) == self.OWN[:2]

    def test_a_chunk_of_one_may_be_plain(self):
        assert len(self.ask(1)) == 1

    def test_chunk_by_chunk_all_of_them_come_once(self):
        state, found = first_bracket(), []
        while candidates := Plain(self.OWN, self.SHIPPED).propose(state, 8, rng()):
            found += texts(candidates)
            state = state.after(candidates)
        assert found == [*self.OWN, *self.SHIPPED]

    def test_later_brackets_have_none(self):
        assert self.ask(state=first_bracket(bracket=1)) == []

    def test_what_does_not_fit_the_context_is_passed_over(self):
        state = replace(first_bracket(), fits=lambda prompt: prompt.instruction != self.OWN[0])
        assert texts(self.ask(state=state)) == self.OWN[1:5]

    @pytest.mark.parametrize(
        ("seen", "more"), [([10], True), ([10, 10], False), ([10, 10, 9], True), ([10, 0], True), ([10, None], True)]
    )
    def test_none_come_once_two_or_more_erred_on_everything(self, seen, more):
        """``None``: it was not answered. A prompt with exemplars says nothing about those without."""
        prompts = [Prompt(text) for text in self.OWN]
        observed = [
            (prompt, Observation(prompt.id, errors or 0, 0 if errors is None else 10))
            for prompt, errors in zip(prompts, seen, strict=False)
        ]
        other = Prompt("x", EXEMPLARS.examples[:1])
        for right in (10, 0):
            state = first_bracket([*observed, (other, Observation(other.id, 10 - right, 10))])
            assert bool(self.ask(state=state)) is more


class TestRandomPrompts(CandidateSourceContract):
    fills = True

    @pytest.fixture
    def source(self):
        return RandomPrompts(EXEMPLARS)

    def test_any_known_text_may_come(self, source):
        found = {c.prompt.instruction for c in self.ask(source, 60, texts=("one", "two", "three"))}
        assert found == {"one", "two", "three"}

    def test_half_of_the_instructions_are_trusted_ones(self):
        state = make_state(fitted=False)
        found = [c.prompt.instruction for c in RandomPrompts(EXEMPLARS, ["mine"]).propose(state, 200, rng())]
        assert 70 < found.count("mine") < 130 and len(set(found)) > 10
        assert self.ask(RandomPrompts(EXEMPLARS), 1)[0].info == {"way": "random"}

    def test_they_end_when_there_are_no_more(self):
        source = RandomPrompts(ExemplarPool((), 8))
        assert {c.prompt.instruction for c in self.ask(source, 5, texts=("a", "b"))} == {"a", "b"}
        state = replace(make_state(("a",), fitted=False), fits=lambda prompt: prompt != Prompt("a"))
        assert source.propose(state, 1, rng()) == []


class TestGrid(CandidateSourceContract):
    fills = True

    @pytest.fixture
    def source(self):
        return Grid(GRID, 0.1)

    @pytest.mark.parametrize("fitted", [True, False])
    def test_only_its_prompts_are_proposed_until_none_is_left(self, source, fitted):
        ids = {c.prompt.id for c in self.ask(source, 99, running=GRID[:5], fitted=fitted)}
        assert ids == {prompt.id for prompt in GRID[5:]} - make_state().excluded

    def test_the_posterior_chooses_all_but_the_random_share(self):
        state = make_state()
        left = state.new(GRID)
        best = [left[i] for i in state.posterior.choose_batch(left, 6)]
        assert [c.prompt for c in Grid(GRID, 0.0).propose(state, 6, rng())] == best
        assert [c.prompt for c in Grid(GRID, 1.0).propose(state, 6, rng())] != best


def test_a_small_batch_gets_its_random_share_on_average():
    counts = [random_share(0.1, 4, rng(seed)) for seed in range(500)]
    assert set(counts) == {0, 1} and 0.3 < sum(counts) / 500 < 0.5
    assert random_share(1.0, 4, rng()) == 4
