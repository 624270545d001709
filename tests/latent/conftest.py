"""Lets the tests of this folder import its contract: with ``--import-mode=importlib`` pytest adds no folder itself."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
