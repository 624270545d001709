import json
from dataclasses import replace

import pytest

from lipo_e_ray.report.answer import best_prompt_document, final_line
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import LipoError


def test_final_line(records):
    assert final_line(records) == (
        "test accuracy: baseline 30.0% [10.8, 60.3] -> best 80.0% [49.0, 94.3] with 66 LLM calls"
    )


def test_final_line_without_a_baseline(records):
    """Time was up before a seed was on all examples."""
    alone = replace(records, scored=tuple(s for s in records.scored if s.origin.stage != "seeds"))
    assert final_line(alone).startswith("test accuracy: best 80.0% [49.0, 94.3] with 66 LLM calls; no baseline")
    assert best_prompt_document(alone)["baseline_test"] is None


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


def test_a_run_without_results(empty):
    with Ledger(empty / "ledger.sqlite") as ledger:
        records = read(ledger)
    assert final_line(records) == "test accuracy: not measured yet, 0 LLM calls so far"
    with pytest.raises(LipoError, match="found none; resume"):
        best_prompt_document(records)
