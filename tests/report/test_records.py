"""Which prompt is the baseline, which one the winner, and which of the two the answer."""

from __future__ import annotations

import pytest

from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.records import read
from lipo_e_ray.report.statistics import Paired, Rate
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import (
    Batch,
    Example,
    Fingerprints,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Status,
)

ONE, TWO, THREE = (Prompt(text) for text in SEED_INSTRUCTIONS[:3])
BEST = Prompt("By the model.", (Example("1 + 1?", "2"),))
MARKS = {"c": Status.CORRECT, "w": Status.WRONG}


class Run:
    """A ledger that a test writes rung by rung; ``read`` gives its records."""

    def __init__(self, path):
        self._ledger = Ledger(path, Fingerprints("m", "s", "t"))
        self._seen = {}  # prompt id -> marks

    def propose(self, bracket, *prompts, source="seed"):
        origin = Origin(source, "hyperband", bracket)
        self._ledger.record_batch(bracket, 0, Batch(tuple(Proposal(p, origin) for p in prompts)))

    def rung(self, prompt, marks, bracket=0, stage="hyperband", rung=0):
        """``prompt`` on the first ``len(marks)`` examples; the marks begin with those of the rung before."""
        before = self._seen.get(prompt.id, "")
        assert marks.startswith(before)
        self._ledger.record_prompt(prompt)
        self._answers(prompt, "validation", marks, len(before))
        self._seen[prompt.id] = marks
        seen = Observation(prompt.id, marks.count("w"), len(marks))
        self._ledger.record_rung(RungResult(bracket, stage, 0, rung, len(marks), seen, False, len(marks)))

    def test(self, prompt, marks):
        self._answers(prompt, "test", marks)

    def _answers(self, prompt, split, marks, first=0):
        answers = [Outcome(prompt.id, f"{split}{i}", MARKS[mark]) for i, mark in enumerate(marks)]
        self._ledger.record_outcomes(split, answers[first:])

    def read(self):
        return read(self._ledger)

    def close(self):
        self._ledger.close()


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "ledger.sqlite")
    yield run
    run.close()


def chosen(run):
    records = run.read()
    return [scored and scored.prompt for scored in (records.baseline, records.winner, records.best)]


def test_the_user_s_first_instruction_is_the_baseline_however_it_did(run):
    mine, other = Prompt("Mine."), Prompt("Mine too.")
    run.propose(0, mine, other, source="file")
    run.propose(1, ONE)
    for prompt, marks in ((other, "cccc"), (mine, "wwww"), (ONE, "cccw")):  # in any order of arrival
        run.rung(prompt, marks)
    assert chosen(run) == [mine, other, other]


def test_without_one_it_is_the_shipped_one_that_won_the_last_race_of_such(run):
    """However lucky another one was on few examples."""
    run.propose(0, ONE, TWO, THREE)
    run.rung(ONE, "cccc")
    run.rung(TWO, "cccw")
    run.rung(THREE, "ccww")
    for prompt, marks in ((TWO, "cccwccww"), (THREE, "ccwwcccc")):
        run.rung(prompt, marks, bracket=1, stage="baseline")
    assert chosen(run)[0] == THREE


def test_without_such_a_race_it_is_the_one_with_the_lowest_error_rate(run):
    run.propose(0, ONE, TWO, THREE)
    run.rung(ONE, "cwww")
    run.rung(TWO, "ccww")
    run.rung(THREE, "ccww")
    run.rung(THREE, "ccwwccww", rung=1)
    assert chosen(run)[0] == THREE, "of equals the one on more examples"


def test_a_plain_instruction_that_only_the_last_race_saw_is_a_shipped_one(run):
    """It was never proposed."""
    run.propose(0, BEST, source="ape")
    run.rung(BEST, "cccc")
    run.rung(ONE, "ccww", bracket=1, stage="baseline")
    records = run.read()
    assert records.baseline.prompt == ONE
    assert records.baseline.origin == Origin("seed", "baseline", 1)


@pytest.mark.parametrize("exemplars", [(), BEST.exemplars])
def test_a_written_instruction_is_no_baseline_and_neither_is_one_with_exemplars(run, exemplars):
    prompt = Prompt(ONE.instruction, BEST.exemplars) if exemplars else Prompt("Written.")
    run.propose(0, prompt, source="seed" if exemplars else "ape")
    run.rung(prompt, "cccc")
    assert chosen(run) == [None, prompt, prompt]
    assert run.read().is_ahead


@pytest.mark.parametrize(
    ("plain", "other", "ahead"),
    [
        ("cwww", "ccwwwwww", True),
        ("ccww", "wwwwcccc", False),  # whatever it did on examples that the baseline did not see
        ("wwww", "wwwwccww", True),  # level on the few that both saw: 2 of 8 say more than 0 of 4
        ("ccww", "wccwwwww", False),
    ],
)
def test_the_answer_is_the_winner_only_if_it_is_ahead_on_the_examples_that_both_were_asked(run, plain, other, ahead):
    run.propose(0, ONE)
    run.propose(1, BEST, source="ape")
    run.rung(ONE, plain)
    run.rung(BEST, other[:4], bracket=1)
    run.rung(BEST, other, bracket=1, rung=1)
    records = run.read()
    assert records.is_ahead == ahead
    assert chosen(run) == [ONE, BEST, BEST if ahead else ONE]


def test_test_answers_count_as_well_when_it_is_decided_who_is_ahead(run):
    run.propose(0, ONE)
    run.propose(1, BEST, source="ape")
    run.rung(ONE, "ccww")
    run.rung(BEST, "cccw", bracket=1)
    assert chosen(run)[2] == BEST
    run.test(ONE, "cccc")
    run.test(BEST, "ccww")
    records = run.read()
    assert records.best is records.baseline
    assert records.paired == Paired(both=2, only_best=0, only_baseline=2, neither=0), "winner against baseline"
    assert (records.best.test, records.winner.test) == (Rate(4, 4), Rate(2, 4))


def test_where_the_baseline_wins_the_race_it_is_all_three(run):
    run.propose(0, ONE, TWO)
    run.rung(ONE, "cccc")
    run.rung(TWO, "ccww")
    records = run.read()
    assert records.baseline is records.winner is records.best
    assert records.is_ahead and records.paired is None
