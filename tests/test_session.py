import os
import signal
import subprocess
import sys

import pytest

from lipo_e_ray.session import sigterm_is_ctrl_c

SCRIPT = """
import os
import lipo_e_ray
import ray
from lipo_e_ray.session import ray_session
with ray_session():
    path = os.environ["RAY_AUTH_TOKEN_PATH"]
    print(oct(os.stat(path).st_mode & 0o777), ray.get(ray.remote(lambda: 6 * 7).remote()))
print(os.path.exists(path), ray.is_initialized())
"""


def test_sigterm_interrupts_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_is_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_private_cluster_with_a_token_only_its_owner_reads():
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], env=env, capture_output=True, text=True,
                          timeout=120)
    assert done.stdout.splitlines() == ["0o600 42", "False False"], done.stderr
