"""``python -m lipo_e_ray.app.head``: the command line in the process that ``remote.Driver`` starts on the head node.

It ends, as on Ctrl-C, when its standard input closes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from lipo_e_ray.app.cli import main
from lipo_e_ray.distributed.session import signals_interrupt


def _interrupt_at_end_of_input() -> None:
    os.read(0, 1)  # not sys.stdin: at exit the interpreter would wait for its lock
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    with signals_interrupt():
        try:
            threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
            main()
        except KeyboardInterrupt:  # before or after the command line, which has an answer to it of its own
            sys.exit(130)
