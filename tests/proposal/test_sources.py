import pytest

from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.sources import Grid, RandomPrompts, Seeds, random_prompts, random_share
from lipo_e_ray.types import Prompt
from tests.proposal.fakes import EXEMPLARS, GIVEN, TEXTS, make_state, random_prompt
from tests.proposal.source_contract import CandidateSourceContract, rng

GRID = tuple({p.id: p for p in (random_prompt(rng(seed), list(GIVEN)) for seed in range(100, 140))}.values())


class TestSeeds(CandidateSourceContract):
    stage, fills = "seeds", True

    @pytest.fixture
    def source(self):
        return Seeds(TEXTS[1:60:6])

    def test_they_come_without_exemplars_in_order(self, source):
        assert [c.prompt for c in self.ask(source, 3)] == [Prompt(text) for text in TEXTS[1:18:6]]


class TestRandomPrompts(CandidateSourceContract):
    fills = True

    @pytest.fixture
    def source(self):
        return RandomPrompts(EXEMPLARS)

    def test_any_known_text_may_come(self, source):
        texts = {c.prompt.instruction for c in self.ask(source, 60, texts=("one", "two", "three"))}
        assert texts == {"one", "two", "three"}


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


def test_random_prompts_end_when_there_are_no_more():
    pool = ExemplarPool((), 8)
    assert {p.instruction for p in random_prompts(("a", "b"), pool, 5, rng())} == {"a", "b"}
    assert random_prompts(("a",), pool, 1, rng(), lambda prompt: prompt != Prompt("a")) == []
