import json
from dataclasses import replace

import pytest

from lipo_e_ray.report.answer import best_prompt_document, final_line
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import LipoError, Status

from .conftest import PROPOSALS

A, D = (PROPOSALS[name].prompt.id for name in "AD")  # the baseline; the prompt with fewest errors


def test_final_line(records):
    line = final_line(records)
    assert line.startswith("test accuracy: baseline 30.0% [10.8, 60.3] -> best 80.0% [49.0, 94.3] ")
    assert "on 10 test examples" in line and "66 LLM calls" in line


def test_final_line_without_a_baseline(records):
    """Time was up before a plain instruction was seen."""
    alone = replace(records, scored=tuple(s for s in records.scored if not s.is_plain))
    line = final_line(alone)
    assert "best 80.0% [49.0, 94.3]" in line and "66 LLM calls" in line and "no baseline" in line
    assert best_prompt_document(alone)["baseline_test"] is None


def test_final_line_where_nothing_is_ahead_of_the_baseline(records):
    """Then the baseline is the answer, and the line says so."""
    behind = replace(records, compared={A: {"e": Status.CORRECT}, D: {"e": Status.WRONG}})
    line, document = final_line(behind), best_prompt_document(behind)
    assert "baseline 30.0% [10.8, 60.3]" in line and "80.0%" not in line and "it is the answer" in line
    assert document["prompt_id"] == A
    assert document["test"] == document["baseline_test"] != best_prompt_document(records)["test"]


def test_final_line_before_the_test(records):
    """The best prompt's is what counts."""
    untested = tuple(replace(s, test=None) if s.prompt.id == D else s for s in records.scored)
    assert final_line(replace(records, scored=untested)).startswith("test accuracy: not measured yet, 66 LLM calls")


def test_best_prompt_document_is_ready_to_send(records):
    document = json.loads(json.dumps(best_prompt_document(records)))
    assert [m["role"] for m in document["messages"]] == [*["user", "assistant"] * 3, "user"]
    assert document["messages"][-1]["content"] == "By the model.\n\n{question}"
    assert document["validation"] == {
        "correct": 5,
        "n": 8,
        "accuracy": 0.625,
        "fidelity": 8,
        "interval_95": pytest.approx([0.3057, 0.8632], abs=1e-4),
    }
    assert (document["test"]["correct"], document["baseline_test"]["correct"]) == (8, 3)
    assert document["fingerprints"] == {"model": "a-model", "sampling": "a-sampling", "template": "a-template"}


def test_what_ran_further_in_the_baselines_race_alone_is_not_the_answer_for_that(records):
    """The run ended before its finalists raced."""
    a = next(s for s in records.scored if s.prompt.id == A)
    further = [
        replace(r, stage="baseline", fidelity=16, observation=replace(r.observation, evaluated=16, errors=10))
        for r in records.rungs
        if r.observation.prompt_id == A
    ]
    scored = tuple(
        replace(s, fidelity=16, observation=further[-1].observation) if s is a else s for s in records.scored
    )
    ended = replace(records, scored=scored, rungs=(*records.rungs, *further))
    assert ended.full_fidelity == 16
    assert ended.winner.prompt.id == best_prompt_document(ended)["prompt_id"] == D


def test_a_run_without_results(empty):
    with Ledger(empty / "ledger.sqlite") as ledger:
        records = read(ledger)
    assert final_line(records) == "test accuracy: not measured yet, 0 LLM calls so far"
    with pytest.raises(LipoError, match="found none; resume"):
        best_prompt_document(records)
