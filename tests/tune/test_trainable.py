"""The trial; what it does in a real Tune run is in test_runner.py."""

import subprocess
import sys

from lipo_e_ray.tune.trainable import evaluation_of
from lipo_e_ray.types import Evaluation, Observation


def test_counts_become_the_evaluation_again():
    reported = {"errors": 5, "evaluated": 15, "unparseable": 2, "failed": 1, "new_calls": 9, "trial_id": "x"}
    assert evaluation_of("p", reported) == Evaluation(Observation("p", 5, 15, 2), failed=1, new_calls=9)


def test_the_module_needs_no_torch():
    code = "import sys, lipo_e_ray.tune.trainable; print(sorted({'torch', 'vllm', 'botorch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
