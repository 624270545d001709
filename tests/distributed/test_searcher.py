"""The searcher against a BO actor whose answer comes when the test says so; the real one is in test_runner.py."""

from __future__ import annotations

import pytest
from ray.tune.search import Searcher

from lipo_e_ray.distributed import searcher as module
from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Batch, EngineError, Evaluation, Observation, Origin, Prompt, Proposal, Request

BRACKETS = (Bracket(0, "hyperband", 1, (Rung(3, 4), Rung(1, 8))), Bracket(1, "hyperband", 0, (Rung(2, 8),)))


def proposals(bracket, texts):
    return [Proposal(Prompt(text), Origin("ape", "hyperband", bracket)) for text in texts]


class FakeSlot:
    """``propose`` as a ``BOSlot``'s: an answer is there when its list is not empty."""

    def __init__(self):
        self.asked, self.references = [], []
        self.answered = True

    def propose(self, request):
        if self.answered:
            self.asked.append(request)
            self.references.append([])
        self.answered = bool(self.references[-1])
        return Batch(tuple(self.references[-1])) if self.answered else None


@pytest.fixture
def actor():
    return FakeSlot()


@pytest.fixture
def events():
    return []


@pytest.fixture
def searcher(actor, events):
    return make_searcher(actor, events, BRACKETS)


def make_searcher(actor, events, brackets):
    hyperband = Hyperband(FixedSchedule(brackets), 0, overlap=1)
    searcher = module.ProposalSearcher(
        hyperband, actor, lambda: searcher.failed, lambda results: events.append("proposed")
    )
    searcher.hyperband, searcher.failed = hyperband, None
    return searcher


def observe(searcher, bracket, step, texts, n):
    evaluations = [Evaluation(Observation(Prompt(text).id, ord(text) - 97, n), 0, n) for text in texts]
    searcher.hyperband.observe(bracket, step, evaluations)


def test_it_asks_once_and_waits_without_blocking(searcher, actor, events):
    assert searcher.suggest("t0") is None
    assert searcher.suggest("t1") is None
    assert actor.asked == [Request("hyperband", 0, 3)]
    assert events == []
    actor.references[0] += proposals(0, "abc")
    assert searcher.suggest("t2") == {
        "prompts": [Prompt("a"), Prompt("b"), Prompt("c")],
        "bracket": 0,
        "rung": 0,
        "step": 0,
        "fidelity": 4,
        "wave": 0,
    }
    assert events == ["proposed"]


def test_a_bracket_is_handed_out_once_and_the_next_is_asked_for_while_it_runs(searcher, actor):
    searcher.suggest("t0")
    actor.references[0] += proposals(0, "abc")
    assert searcher.suggest("t1")["bracket"] == 0
    assert searcher.suggest("nothing new") is None
    observe(searcher, 0, 0, "abc", 4)
    assert searcher.suggest("asks") is None
    assert actor.asked[1].running == (Prompt("a"),)
    assert [prompt.instruction for prompt, _ in actor.asked[1].observed] == ["a", "b", "c"]
    observe(searcher, 0, 1, "a", 8)
    actor.references[1] += proposals(1, "de")
    assert searcher.suggest("t2")["prompts"] == [Prompt("d"), Prompt("e")]
    observe(searcher, 1, 0, "de", 8)
    assert searcher.suggest("end") == Searcher.FINISHED


def test_why_the_search_cannot_go_on_is_raised(searcher):
    searcher.failed = EngineError("the engines are gone")
    with pytest.raises(EngineError, match="the engines are gone"):
        searcher.suggest("t0")


def test_a_trial_is_started_for_the_first_chunk_only(actor, events):
    searcher = make_searcher(actor, events, (Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(1, 8)), chunk=2),))
    searcher.suggest("t0")
    actor.references[0] += proposals(0, "ab")
    assert searcher.suggest("t1")["prompts"] == [Prompt("a"), Prompt("b")]
    assert searcher.suggest("asks") is None
    assert (actor.asked[1].count, actor.asked[1].first) == (2, 2)
    actor.references[1] += proposals(0, "cd")
    assert searcher.suggest("the scheduler goes on with the same trial") is None
    observe(searcher, 0, 0, "ab", 4)
    observe(searcher, 0, 1, "cd", 4)
    observe(searcher, 0, 2, "a", 8)
    assert searcher.suggest("end") == Searcher.FINISHED
