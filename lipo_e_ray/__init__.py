"""LIPO-E on Ray: finds the instruction and the exemplars with which a language model errs least on a task."""

import os

__version__ = "0.1.0"

# A Ray that this package starts or joins asks for a token. Here, because Ray reads the mode once, when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
