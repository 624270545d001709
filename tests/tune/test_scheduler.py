"""The scheduler against a controller that only notes what it is told; the real one is in test_runner.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lipo_e_ray.search import Walk
from lipo_e_ray.tune.hyperband import Bracket, Hyperband, Rung
from lipo_e_ray.tune.scheduler import BracketScheduler
from lipo_e_ray.types import Origin, Prompt, Proposal

PROMPTS = [Prompt(text) for text in "abcd"]


class FakeTrial:
    placement_group_factory = "a hundredth of a CPU"

    def __init__(self, prompt, bracket=0, fidelity=4):
        self.config = {"prompt": prompt, "bracket": bracket, "fidelity": fidelity}
        self.status = Trial.PENDING

    def set_config(self, config):
        self.config = config


class FakeController:
    def __init__(self):
        self.claimed = []
        cache = SimpleNamespace(increase_max=lambda key, by: self.claimed.append((key, by)))
        self._tune_controller = SimpleNamespace(_actor_cache=cache, _resetting_trials=set())

    def pause_trial(self, trial, should_checkpoint):
        assert not should_checkpoint
        assert trial.status == Trial.RUNNING
        trial.status = Trial.PAUSED

    def stop_trial(self, trial):
        trial.status = Trial.TERMINATED


@pytest.fixture
def controller():
    return FakeController()


@pytest.fixture
def scheduler():
    """Four prompts in the first rung, two go up; two trials at a time."""
    bracket = Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(2, 8)))
    walk = Walk(Hyperband([bracket, Bracket(1, "hyperband", 0, (Rung(1, 8),))], 0), lambda results: None)
    walk.enter(bracket, [Proposal(prompt, Origin("ape", "hyperband", 0)) for prompt in PROMPTS])
    scheduler = BracketScheduler(walk, {}, concurrency=2)
    scheduler.walk = walk
    return scheduler


def started(scheduler, controller, *prompts, bracket=0, fidelity=4):
    trials = [FakeTrial(prompt, bracket, fidelity) for prompt in prompts]
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
        trial.status = Trial.RUNNING
    return trials


def finish(scheduler, controller, trial, errors):
    counts = {"errors": errors, "evaluated": trial.config["fidelity"], "unparseable": 0, "failed": 0, "new_calls": 0}
    decision = scheduler.on_trial_result(controller, trial, counts)
    if decision == TrialScheduler.STOP:
        trial.status = Trial.TERMINATED
    return decision


def test_a_rung_is_paused_and_the_best_are_resumed_at_the_next_fidelity(scheduler, controller):
    trials = started(scheduler, controller, *PROMPTS)
    for errors, trial in enumerate(trials):
        assert scheduler.choose_trial_to_run(controller) is None
        assert finish(scheduler, controller, trial, errors) == TrialScheduler.NOOP
    assert [trial.status for trial in trials] == [Trial.PAUSED, Trial.PAUSED, Trial.TERMINATED, Trial.TERMINATED]
    for expected in trials[:2]:
        assert scheduler.choose_trial_to_run(controller) is scheduler.choose_trial_to_run(controller) is expected
        assert expected.config["fidelity"] == 8
        expected.status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is None
    assert controller.claimed == [("a hundredth of a CPU", 2)]


def test_no_more_trials_are_resumed_than_may_run(scheduler, controller):
    trials = started(scheduler, controller, *PROMPTS)
    for errors, trial in enumerate(trials):
        finish(scheduler, controller, trial, errors)
    scheduler._concurrency = 1
    scheduler.choose_trial_to_run(controller).status = Trial.PENDING
    assert scheduler.choose_trial_to_run(controller) is None


def test_a_finished_trial_keeps_its_actor_while_another_ones_starts(scheduler, controller):
    first, second = started(scheduler, controller, *PROMPTS[:2])
    second.status = Trial.PENDING
    finish(scheduler, controller, first, 0)
    assert first.status == Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is None
    assert first.status == Trial.RUNNING
    controller._tune_controller._resetting_trials.add(second)  # it was given an actor that runs already
    scheduler.choose_trial_to_run(controller)
    assert first.status == Trial.PAUSED


def test_the_last_trial_of_a_bracket_stays_until_the_next_bracket_and_all_stop_at_the_end(scheduler, controller):
    trials = started(scheduler, controller, *PROMPTS)
    for errors, trial in enumerate(trials):
        finish(scheduler, controller, trial, errors)
    for trial in trials[:2]:
        scheduler.choose_trial_to_run(controller).status = Trial.RUNNING
        finish(scheduler, controller, trial, 1)
    assert [trial.status for trial in trials[:2]] == [Trial.PAUSED, Trial.PAUSED]
    walk = scheduler.walk
    walk.enter(walk.hyperband.next_action().bracket, [Proposal(PROMPTS[0], Origin("ape", "hyperband", 1))])
    assert scheduler.choose_trial_to_run(controller) is None, "the trial of the old bracket is not the new one's"
    [last] = started(scheduler, controller, PROMPTS[0], bracket=1, fidelity=8)
    assert [trial.status for trial in trials[:2]] == [Trial.TERMINATED, Trial.TERMINATED]
    assert finish(scheduler, controller, last, 1) == TrialScheduler.STOP
