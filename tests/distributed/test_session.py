import os
import signal
import subprocess
import sys

import pytest

import lipo_e_ray.distributed.session
from lipo_e_ray.distributed.session import check_address, choose_address, ray_session, signals_interrupt
from lipo_e_ray.types import InputError

SCRIPT = """
import os
import ray  # first, when the package has not set Ray's mode yet
import lipo_e_ray
from lipo_e_ray.distributed.session import ray_session
for _ in range(2):
    with ray_session():
        path = os.environ["RAY_AUTH_TOKEN_PATH"]
        print(oct(os.stat(path).st_mode & 0o777), ray.get(ray.remote(lambda: 6 * 7).remote()))
    print(os.path.exists(path), ray.is_initialized(), "RAY_AUTH_TOKEN_PATH" in os.environ)
"""

STOPPED = """
import os, signal
import lipo_e_ray
import ray
from lipo_e_ray.distributed.session import ray_session, signals_interrupt
try:
    with signals_interrupt(), ray_session():
        os.kill(os.getpid(), signal.SIGTERM)
        ray.get(ray.remote(lambda: __import__("time").sleep(60)).remote())
except KeyboardInterrupt:
    print("interrupted", ray.is_initialized())
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_interrupt_and_handlers_are_given_back(number):
    before = signal.signal(number, signal.SIG_IGN)  # as a shell does for a job in the background
    try:
        with pytest.raises(KeyboardInterrupt), signals_interrupt():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_a_private_cluster_with_a_token_only_its_owner_reads():
    done = run_script(SCRIPT)
    assert done.stdout.splitlines() == 2 * ["0o600 42", "False False False"], done.stderr


@pytest.mark.parametrize("where", ["home", "variable"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_that_others_can_read_is_refused(monkeypatch, tmp_path, where, mode):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(mode)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("a Ray was started"))
    asked = []  # not the real one: Ray would keep this token for the tests to come
    monkeypatch.setattr("lipo_e_ray.distributed.session.check_answers", asked.append)
    if where == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
    else:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        with pytest.raises(InputError, match=f"got mode {mode:o}; run: chmod 600"), ray_session("local"):
            pass
    with pytest.raises(InputError, match=f"got mode {mode:o}; run: chmod 600"):
        check_address("127.0.0.1:1")
    assert not asked
    token.chmod(0o600)
    assert check_address("127.0.0.1:1") == "127.0.0.1:1" and asked


@pytest.mark.slow
def test_sigterm_interrupts_a_driver_too():
    """Ray's own handler would end the process on the spot, with a stack trace of its own."""
    done = run_script(STOPPED)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted False\n", "", 0)


@pytest.mark.parametrize(
    ("asked", "variable", "chosen"),
    [
        (None, None, "local"),
        (None, "", "local"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("local", "10.0.0.1:6379", "local"),
        ("auto", None, "auto"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("ray://head:10001", "10.0.0.1:6379", "ray://head:10001"),
        ("[::1]:6379", None, "[::1]:6379"),
    ],
)
def test_which_ray_is_meant(monkeypatch, asked, variable, chosen):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert choose_address(asked) == chosen


@pytest.mark.parametrize("address", ["head", "http://head:8265", "head:", "head:x", "ray://head", "a b:1"])
def test_what_is_no_address(monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="expected local, auto, host:port or ray://host:port, got '[^']*'$"):
        choose_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="from RAY_ADDRESS$"):
        choose_address(None)


def test_auto_without_a_ray(monkeypatch):
    def nothing(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(lipo_e_ray.distributed.ray_private, "canonicalize_bootstrap_address", nothing)
    with pytest.raises(InputError, match="--address auto: found no Ray that runs on this machine; start one"):
        check_address("auto")


def test_a_driver_does_not_run_through_ray_client(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(InputError, match="cluster/submit.sh"), ray_session("ray://head:10001"):
        pass
