"""The Ray cluster a command runs on, and the signals that end it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import ray


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """The cluster this process is connected to, else that of ``RAY_ADDRESS``, else a private one on this machine.

    A private one has no dashboard, asks for a token (file mode 0600; the package turned token mode on when it was
    imported) and ends with the block.
    """
    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lipo-") as private:
        address = os.environ.get("RAY_ADDRESS", "local")
        if address == "local" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            token = Path(private) / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        options = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGINT raise ``KeyboardInterrupt`` in the block, even where a shell had them ignored.

    ``ray job stop`` and schedulers send SIGTERM, and SIGKILL soon after: use the time to say how to go on.
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
