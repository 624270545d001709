"""Your own engine: anything that answers questions under a prompt. This one says the names of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lipo_e_ray as lipo

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class NamesOfNumbers:
    """Answers correctly where an exemplar shows how."""

    fingerprints = lipo.Fingerprints(model="names-of-numbers", sampling="fixed", template="plain")

    async def evaluate(self, prompt: lipo.Prompt, examples: Sequence[lipo.Example]) -> list[lipo.Outcome]:
        right, wrong = lipo.Status.CORRECT, lipo.Status.WRONG
        return [lipo.Outcome(prompt.id, e.id, right if prompt.exemplars else wrong, e.answer) for e in examples]

    async def generate(
        self, conversations: Sequence[Sequence[lipo.Message]], samplings: Sequence[lipo.Sampling]
    ) -> list[lipo.Completion]:
        return [lipo.Completion("Write the name of every digit.") for _ in conversations]

    async def close(self) -> None: ...


def main(**settings: Any) -> lipo.Result:
    rows = [(f"{n}", " ".join(WORDS[int(digit)] for digit in str(n))) for n in range(100, 160)]
    task = lipo.Task.from_rows(train=rows[:20], validation=rows[20:40], test=rows[40:], name="names", metric="text")
    result = lipo.optimize(task, engine=NamesOfNumbers, **{"profile": "demo", "output": "runs/names"} | settings)
    print(f"test accuracy: {result.baseline.test} -> {result.best.test}")
    return result


if __name__ == "__main__":
    main()
