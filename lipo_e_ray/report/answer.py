"""What a run found, in two short forms: ``best_prompt.json`` and the last line that a run prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lipo_e_ray.report.records import Records
from lipo_e_ray.report.statistics import Rate
from lipo_e_ray.task.rendering import render
from lipo_e_ray.types import LipoError

PLACEHOLDER = "{question}"


def final_line(records: Records) -> str:
    """The last line a run prints: both test accuracies with 95% intervals, and the number of LLM calls."""
    calls = f"{records.usage.calls:,} LLM calls"
    baseline, best = (scored.test if scored else None for scored in (records.baseline, records.best))
    if best is None:
        return f"test accuracy: not measured yet, {calls} so far"
    on = f"on {best.n} test examples with {calls}"
    if baseline is None:
        return f"test accuracy: best {best} {on}; no baseline was measured"
    if records.best is records.baseline:
        return f"test accuracy: baseline {baseline} {on}; no prompt was ahead of it, so it is the answer"
    return f"test accuracy: baseline {baseline} -> best {best} {on}"


def best_prompt_document(records: Records) -> dict[str, Any]:
    """The content of ``best_prompt.json``. To use it, replace ``{question}`` in the LAST message and send the chat.

    Raises ``LipoError`` when the ledger holds no result yet.
    """
    best = records.best
    if best is None:
        raise LipoError("expected a result in the ledger to take the best prompt from, found none; resume the run")
    return {
        "messages": render(best.prompt, PLACEHOLDER),
        "placeholder": f"replace {PLACEHOLDER} in the last message",
        "instruction": best.prompt.instruction,
        "exemplars": [asdict(e) for e in best.prompt.exemplars],
        "prompt_id": best.prompt.id,
        "origin": asdict(best.origin),
        "validation": _score(best.accuracy) | {"fidelity": best.fidelity},
        "test": _score(best.test) if best.test else None,
        "baseline_test": _score(base.test) if (base := records.baseline) and base.test else None,
        "llm_calls": records.usage.calls,
        "fingerprints": asdict(records.fingerprints),
    }


def _score(rate: Rate) -> dict[str, Any]:
    return {"correct": rate.correct, "n": rate.n, "accuracy": rate.value, "interval_95": list(rate.interval)}
