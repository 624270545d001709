import os
import signal
import subprocess
import sys

import pytest

from lipo_e_ray.session import signals_interrupt

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_interrupt_and_handlers_are_given_back(number):
    before = signal.signal(number, signal.SIG_IGN)  # as a shell does for a job in the background
    try:
        with pytest.raises(KeyboardInterrupt), signals_interrupt():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_private_cluster_with_a_token_only_its_owner_reads():
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], env=env, capture_output=True, text=True,
                          timeout=120)
    assert done.stdout.splitlines() == ["0o600 42", "False False"], done.stderr
