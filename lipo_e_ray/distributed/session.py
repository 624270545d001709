"""Which Ray a command runs on, and how signals end the command."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import grpc
import ray
from ray.exceptions import AuthenticationError

from lipo_e_ray.distributed import ray_private
from lipo_e_ray.types import InputError

CLIENT = "ray://"
ANSWER_TIMEOUT_S = 10.0


def choose_address(address: str | None) -> str:
    """``address`` where given, else ``RAY_ADDRESS``, else ``local``. ``auto`` means ``RAY_ADDRESS`` where that is set.

    Raises ``InputError`` for an address that is neither ``local``, ``auto``, ``host:port`` nor ``ray://host:port``.
    """
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    if chosen == "auto":
        chosen = os.environ.get("RAY_ADDRESS") or chosen
    if chosen not in ("local", "auto") and not re.fullmatch(rf"({CLIENT})?[^/\s]+:\d+", chosen):
        raise InputError(
            f"--address: expected local, auto, host:port or ray://host:port, got {chosen!r}"
            f"{'' if address and address != 'auto' else ' from RAY_ADDRESS'}"
        )
    return chosen


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to the Ray at ``address`` (see ``choose_address``) for the block; keep a connection that exists already.

    ``local`` starts a private Ray on this machine, which ends with the block. It has no dashboard, listens on 127.0.0.1
    only and asks for a token, whose file has mode 0600 (importing the package turned token mode on).

    Raises ``InputError`` when no Ray answers at the address, when it refuses the token, when others can read the
    token's file, and for ``ray://`` (see ``app/remote.py``).
    """
    if ray.is_initialized():
        yield
        return
    address = choose_address(address)
    if address.startswith(CLIENT):
        raise InputError(
            f"{address}: a driver cannot run through Ray Client; use the command line, which runs it on "
            "the cluster, or cluster/submit.sh"
        )
    with _private_token() if address == "local" else contextlib.nullcontext():
        if address == "local":
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")  # 20 is too short on a busy machine
            with _sigterm_kept(), ray_private.on_loopback():
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            _join(address)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _private_token() -> Iterator[None]:
    """A new token for the block, unless the user has one. Ray caches the token it has read, so that is cleared."""
    ray_private.read_auth_mode()
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        _check_token_file()
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lipo-") as private:
        token = Path(private) / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        ray_private.forget_token()
        try:
            yield
        finally:
            del os.environ["RAY_AUTH_TOKEN_PATH"]
            ray_private.forget_token()


def _check_token_file() -> None:
    """Raises ``InputError`` where others can read the user's token file: `ray get-auth-token` obeys the umask only."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" not in os.environ and path.is_file() and (mode := path.stat().st_mode & 0o777) & 0o077:
        raise InputError(
            f"{path}: expected a token that only you can read (mode 600), got mode {mode:o}; run: chmod 600 {path}"
        )


def check_address(address: str | None) -> str:
    """``choose_address``, with ``auto`` replaced by the Ray found. Raises ``InputError`` where no Ray accepts us."""
    chosen = choose_address(address)
    if chosen == "auto":
        try:
            chosen = ray_private.address_of_running_ray()
        except ConnectionError:
            raise InputError(
                "--address auto: found no Ray that runs on this machine; start one with `ray start "
                "--head`, or leave --address away"
            ) from None
    if chosen != "local":
        _check_token_file()
        check_answers(chosen)
    return chosen


def _join(address: str) -> None:
    where = check_address(address)
    try:
        with _sigterm_kept():
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"--address {address}: cannot join this Ray: {reason}; from outside the cluster use "
            "ray://host:10001 or cluster/submit.sh"
        ) from error


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the SIGTERM handler after the block: `ray.init` installs one that ends the process at once."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def check_answers(address: str) -> None:
    """Ask ``host:port`` or ``ray://host:port`` whether it is a Ray that accepts our token.

    Raises ``InputError`` where nothing answers, something other than Ray answers, or the token is missing or wrong.
    """
    method = ray_private.CLIENT_METHOD if address.startswith(CLIENT) else ray_private.GCS_METHOD
    try:
        ray_private.ask(address.removeprefix(CLIENT), method, ANSWER_TIMEOUT_S)
    except AuthenticationError as error:
        raise InputError(
            f"--address {address}: expected a token, found none ({str(error).split('. ')[0]}); put the "
            "cluster's token in a file and its path in RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_MODE=disabled "
            "for a cluster without tokens"
        ) from None
    except grpc.RpcError as error:
        if (code := error.code()) is grpc.StatusCode.NOT_FOUND:
            return  # Ray Client's answer to an empty request
        if code is grpc.StatusCode.UNAUTHENTICATED:
            problem = (
                "the cluster refuses the token; give the cluster's own in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
            )
        elif code is grpc.StatusCode.UNIMPLEMENTED:
            problem = "another kind of port; expected host:6379, or ray://host:10001 for Ray Client"
        else:
            problem = f"no Ray answers there ({code.name.lower()}); check host, port and that the cluster runs"
        raise InputError(f"--address {address}: {problem}") from None


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGINT raise ``KeyboardInterrupt`` in the block, even where a shell had them ignored.

    ``ray job stop`` and schedulers send SIGTERM and soon after SIGKILL; in between the command says how to resume.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
