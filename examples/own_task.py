"""Your own rows. ``python examples/own_task.py`` searches with the embedded model; no GPU is needed."""

from __future__ import annotations

from typing import Any

import lipo_e_ray as lipo

SIZES = {"fly": 1, "mouse": 2, "hen": 3, "cat": 4, "goat": 5, "horse": 6, "elephant": 7, "whale": 8}


def rows() -> list[dict[str, str]]:
    """56 questions in a mixed order: which of two animals is larger?"""
    pairs = sorted(
        ((a, b) for a in SIZES for b in SIZES if a != b), key=lambda p: (31 * SIZES[p[0]] + SIZES[p[1]]) % 19
    )
    return [{"question": f"Which is larger, a {a} or a {b}?", "answer": max(a, b, key=SIZES.get)} for a, b in pairs]


def main(**settings: Any) -> lipo.Result:
    data = rows()
    task = lipo.Task.from_rows(train=data[:16], validation=data[16:36], test=data[36:], name="larger")
    result = lipo.optimize(task, **{"profile": "demo", "output": "runs/larger", "callback": print} | settings)
    print(f"instruction: {result.best.prompt.instruction}")
    print(f"messages to send: {result.best.messages('Which is larger, a bee or a bear?')}")
    print(f"test accuracy: {result.baseline.test} -> {result.best.test} with {result.calls} LLM calls")
    return result


if __name__ == "__main__":
    main()
