"""The scheduler against a controller that only notes what it is told; the real one is in test_runner.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lipo_e_ray.distributed.scheduler import ACTORS_KEPT, BracketScheduler
from lipo_e_ray.distributed.searcher import trial_config
from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.hyperband import Evaluate, Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import EngineError, Evaluation, Observation, Prompt, Request

BRACKETS = (
    Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(2, 8))),
    Bracket(1, "hyperband", 1, (Rung(2, 4), Rung(1, 8))),
    Bracket(2, "hyperband", 0, (Rung(1, 8),)),
)


class FakeTrial:
    placement_group_factory = "a hundredth of a CPU"

    def __init__(self, config):
        self.config = config
        self.status = Trial.RUNNING

    def set_config(self, config):
        self.config = config


class FakeController:
    def __init__(self):
        self.claimed = []
        cache = SimpleNamespace(increase_max=lambda key, by: self.claimed.append((key, by)))
        self._tune_controller = SimpleNamespace(_actor_cache=cache)

    def pause_trial(self, trial, should_checkpoint):
        assert not should_checkpoint
        assert trial.status == Trial.RUNNING
        trial.status = Trial.PAUSED

    def stop_trial(self, trial):
        assert trial.status == Trial.PAUSED
        trial.status = Trial.TERMINATED


@pytest.fixture
def controller():
    return FakeController()


@pytest.fixture
def scheduler():
    """Three brackets of two, two and one rungs, one rung apart."""
    return make_scheduler(BRACKETS)


def make_scheduler(brackets):
    hyperband = Hyperband(FixedSchedule(brackets), 0, overlap=1)
    scheduler = BracketScheduler(hyperband, lambda results: None)
    scheduler.hyperband = hyperband
    return scheduler


def start(scheduler, controller, texts):
    """Enter the proposals the walk waits for, and a trial for them."""
    request = scheduler.hyperband.actions()[0]
    assert isinstance(request, Request)
    scheduler.hyperband.enter(request.bracket, [Prompt(text) for text in texts])
    action = next(
        action
        for action in scheduler.hyperband.actions()
        if isinstance(action, Evaluate) and action.bracket == request.bracket
    )
    trial = FakeTrial(trial_config(action))
    scheduler.on_trial_add(controller, trial)
    return trial


def finish(scheduler, controller, trial):
    """The earlier in the alphabet, the fewer errors; from y on all answers are wrong."""
    n = trial.config["fidelity"]
    errors = {p.id: n if p.instruction >= "y" else min(n - 1, ord(p.instruction) - 97) for p in trial.config["prompts"]}
    counts = [Evaluation(Observation(key, wrong, n), 0, n) for key, wrong in errors.items()]
    decision = scheduler.on_trial_result(controller, trial, {"evaluations": counts})
    if decision == TrialScheduler.STOP:
        trial.status = Trial.TERMINATED
    return decision


def test_a_rung_is_paused_and_resumed_with_those_that_went_up(scheduler, controller):
    trial = start(scheduler, controller, "abcd")
    assert scheduler.choose_trial_to_run(controller) is None
    assert finish(scheduler, controller, trial) == TrialScheduler.NOOP
    assert trial.status == Trial.PAUSED
    assert scheduler.choose_trial_to_run(controller) is trial
    assert (trial.config["rung"], trial.config["fidelity"]) == (1, 8)
    assert trial.config["prompts"] == [Prompt("a"), Prompt("b")]
    trial.status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is None
    assert controller.claimed == [("a hundredth of a CPU", ACTORS_KEPT)]


def test_brackets_run_side_by_side_and_one_that_is_over_stops(scheduler, controller):
    first = start(scheduler, controller, "abcd")
    finish(scheduler, controller, first)
    second = start(scheduler, controller, "ef")
    scheduler.choose_trial_to_run(controller).status = Trial.RUNNING
    assert finish(scheduler, controller, second) == TrialScheduler.NOOP
    assert scheduler.choose_trial_to_run(controller) is second
    second.status = Trial.RUNNING
    assert finish(scheduler, controller, first) == TrialScheduler.STOP
    assert second.status == Trial.RUNNING


def test_the_last_live_trial_stays_until_the_next_bracket_comes_and_all_stop_at_the_end(scheduler, controller):
    first = start(scheduler, controller, "abcd")
    for decision in (TrialScheduler.NOOP, TrialScheduler.NOOP):
        assert finish(scheduler, controller, first) == decision
        if (again := scheduler.choose_trial_to_run(controller)) is not None:
            again.status = Trial.RUNNING
    assert first.status == Trial.PAUSED, "over, but no other trial is alive while the next bracket is proposed"
    second = start(scheduler, controller, "ef")
    assert first.status == Trial.TERMINATED
    finish(scheduler, controller, second)
    third = start(scheduler, controller, "g")
    scheduler.choose_trial_to_run(controller).status = Trial.RUNNING
    assert finish(scheduler, controller, second) == TrialScheduler.STOP
    assert finish(scheduler, controller, third) == TrialScheduler.STOP


def test_trials_without_a_process_are_named(scheduler, controller):
    first = start(scheduler, controller, "abcd")
    assert scheduler.waiting() == ""
    first.status = Trial.PENDING
    assert scheduler.waiting() == "bracket 1 waits for 0.001 CPU"
    first.status = Trial.RUNNING
    finish(scheduler, controller, first)
    second = start(scheduler, controller, "ef")
    first.status = second.status = Trial.PENDING
    assert scheduler.waiting() == "bracket 1 waits for 0.001 CPU; bracket 2 waits for 0.001 CPU"


def test_what_the_service_raised_ends_the_search(scheduler, controller):
    trial = start(scheduler, controller, "abcd")
    error = EngineError("the engines are gone")
    assert scheduler.on_trial_result(controller, trial, {"error": error}) == TrialScheduler.STOP
    assert scheduler.failed is error


def test_a_trial_that_died_is_tried_again_until_it_does_not_help(scheduler, controller):
    trial = start(scheduler, controller, "abcd")
    trial.num_failures, trial.get_pickled_error = 4, ActorDiedError
    trial.should_recover = lambda: True
    scheduler.on_trial_error(controller, trial)
    assert scheduler.failed is None
    trial.should_recover = lambda: False
    scheduler.on_trial_error(controller, trial)
    assert str(scheduler.failed).startswith("the trial of bracket 1 broke 4 times, last: ActorDiedError: ")


def enter(scheduler, texts):
    request = scheduler.hyperband.actions()[0]
    scheduler.hyperband.enter(request.bracket, [Prompt(text) for text in texts])


def test_a_trial_goes_on_with_the_next_chunk_once_it_is_proposed(controller):
    scheduler = make_scheduler((Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(2, 8)), chunk=2),))
    trial = start(scheduler, controller, "dc")
    assert finish(scheduler, controller, trial) == TrialScheduler.NOOP
    assert scheduler.choose_trial_to_run(controller) is None, "nothing to evaluate yet"
    enter(scheduler, "ab")
    assert scheduler.choose_trial_to_run(controller) is trial
    assert (trial.config["rung"], trial.config["step"], trial.config["prompts"]) == (0, 1, [Prompt("a"), Prompt("b")])
    trial.status = Trial.RUNNING
    assert finish(scheduler, controller, trial) == TrialScheduler.NOOP
    assert scheduler.choose_trial_to_run(controller) is trial
    assert (trial.config["rung"], trial.config["step"], trial.config["prompts"]) == (1, 2, [Prompt("a"), Prompt("b")])


def test_a_trial_whose_next_chunk_does_not_exist_ends(controller):
    """Here its bracket is over without a result that could end it: every prompt of its only chunk is wrong."""
    scheduler = make_scheduler((Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(2, 8)), chunk=2), *BRACKETS[1:]))
    trial = start(scheduler, controller, "zy")
    assert finish(scheduler, controller, trial) == TrialScheduler.NOOP
    enter(scheduler, "")
    assert scheduler.hyperband.is_over(0)
    other = start(scheduler, controller, "ab")
    while scheduler.hyperband.actions():
        finish(scheduler, controller, other)
        again = scheduler.choose_trial_to_run(controller)
        if again is not None:
            again.status = Trial.RUNNING
        elif scheduler.hyperband.actions():
            other = start(scheduler, controller, "c")
    scheduler.choose_trial_to_run(controller)
    assert trial.status == Trial.TERMINATED


def test_once_stopped_running_trials_end_and_paused_ones_are_ended(scheduler, controller):
    first = start(scheduler, controller, "abcd")
    finish(scheduler, controller, first)
    second = start(scheduler, controller, "ef")
    scheduler.hyperband.stop()
    assert scheduler.choose_trial_to_run(controller) is None
    assert first.status == Trial.TERMINATED
    assert finish(scheduler, controller, second) == TrialScheduler.STOP
