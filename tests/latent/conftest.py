"""Lets the tests of this folder import its contract: with ``--import-mode=importlib`` pytest adds no folder itself.
And one torch thread: on a busy machine two that wait for each other take many times as long."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
