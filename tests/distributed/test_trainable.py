"""The trial; what it does in a real Tune run is in test_runner.py."""

import subprocess
import sys


def test_the_module_needs_no_torch():
    code = (
        "import sys, lipo_e_ray.distributed.trainable\nprint(sorted({'torch', 'vllm', 'botorch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
