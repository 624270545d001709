"""Your own judgement of answers: a function of the model's output and the row's answer.

From the command line, in this file's folder:
``lipo-e-ray run --profile demo --task arithmetic --metric own_metric:close_enough``.
"""

from __future__ import annotations

import re
from typing import Any

import lipo_e_ray as lipo


def close_enough(output: str, reference: str) -> bool:
    """Whether the last number of the output is within 10% of the row's answer."""
    numbers = re.findall(r"-?\d+\.?\d*", output)
    wanted = float(reference.split()[-1])
    return bool(numbers) and abs(float(numbers[-1]) - wanted) <= 0.1 * abs(wanted)


def main(**settings: Any) -> lipo.Result:
    defaults = {"profile": "demo", "output": "runs/close", "callback": print}
    result = lipo.optimize("arithmetic", **defaults | settings, metric=close_enough)
    print(f"close enough on the test split: {result.baseline.test} -> {result.best.test}")
    return result


if __name__ == "__main__":
    main()
