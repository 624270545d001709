"""The searcher against a BO actor whose answer comes when the test says so; the real one is in test_runner.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from lipo_e_ray.search import Walk
from lipo_e_ray.tune import searcher as module
from lipo_e_ray.tune.hyperband import Bracket, Hyperband, Rung
from lipo_e_ray.types import Evaluation, Observation, Origin, Prompt, Proposal

BRACKET = Bracket(0, "hyperband", 0, (Rung(3, 4),))
PROPOSALS = [Proposal(Prompt(text), Origin("ape", "hyperband", 0)) for text in "abc"]


class FakeActor:
    """``propose.remote`` as on a Ray actor; the reference is a list, which is ready when it is not empty."""

    def __init__(self):
        self.asked, self.reference = [], []
        self.propose = SimpleNamespace(remote=lambda *arguments: self.asked.append(arguments) or self.reference)


@pytest.fixture
def actor(monkeypatch):
    monkeypatch.setattr(module.ray, "wait", lambda references, timeout: ([r for r in references if r], None))
    monkeypatch.setattr(module, "result", lambda reference: reference)
    return FakeActor()


@pytest.fixture
def trials():
    return {}


@pytest.fixture
def events():
    return []


@pytest.fixture
def searcher(actor, trials, events):
    walk = Walk(Hyperband([BRACKET], 0), lambda results: None)
    searcher = module.ProposalSearcher(walk, actor, trials, 2, lambda: events.append("proposed"))
    searcher.walk = walk
    return searcher


def test_it_asks_once_and_waits_without_blocking(searcher, actor, events):
    assert searcher.suggest("t0") is None
    assert searcher.suggest("t1") is None
    assert actor.asked == [(BRACKET, 3, [])]
    assert events == []
    actor.reference += PROPOSALS
    assert searcher.suggest("t2") == {"prompt": Prompt("a"), "bracket": 0, "fidelity": 4}
    assert events == ["proposed"]


def test_it_hands_out_one_prompt_per_trial_within_its_limit_and_then_ends(searcher, actor, trials):
    actor.reference += PROPOSALS
    for i, proposal in enumerate(PROPOSALS):
        config = searcher.suggest(f"t{i}")
        assert config["prompt"] == proposal.prompt
        trials[proposal.prompt.id] = SimpleNamespace(status=Trial.RUNNING, config=config)
        if i == 1:
            assert searcher.suggest("too many") is None
            trials[Prompt("a").id].status = Trial.PAUSED
    trials[Prompt("b").id].status = Trial.PAUSED
    assert searcher.suggest("nothing new") is None
    for proposal in PROPOSALS:
        searcher.walk.observe(0, proposal.prompt.id, Evaluation(Observation(proposal.prompt.id, 1, 4), 0, 4))
    assert searcher.suggest("end") == Searcher.FINISHED


def test_a_trial_of_an_earlier_bracket_does_not_count_for_this_one(searcher, actor, trials):
    actor.reference += PROPOSALS
    trials[Prompt("a").id] = SimpleNamespace(status=Trial.PAUSED, config={"bracket": -1})
    assert searcher.suggest("t0")["prompt"] == Prompt("a")
