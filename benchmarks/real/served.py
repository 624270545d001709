"""What the rivals that ask a server share: a task's examples, the calls they paid, and a line for what they found.

The server is of this package's environment, the rival of its own::

    python -m vllm.entrypoints.openai.api_server --model MODEL --served-model-name model --max-model-len 8192
"""

from __future__ import annotations

import argparse
import json
import re
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lipo_e_ray.config import PROFILES
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.task import Task

MODEL = "model"  # the name under which the server has it


@dataclass(frozen=True)
class Search:
    """A rival's search: the calls it paid, and the share of ``test_n`` test examples that its prompt has right."""

    method: str
    task: str
    seed: int
    test_size: int
    calls: int
    test: float
    test_n: int


def calls(url: str) -> int:
    """How many requests the server has ended."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as page:
        lines = page.read().decode()
    return int(sum(float(count) for count in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", lines, re.M)))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a task's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-size", type=int, default=256, help="test examples; 0: all there are")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--found", type=Path, help="file to which the search is appended, for benchmarks.real.peers")
    return parser


def load(arguments: argparse.Namespace) -> Task:
    """The examples of ``lipo-e-ray run --profile demo --task FOLDER --seed SEED``."""
    config = replace(PROFILES["demo"].task, name=arguments.folder, test_size=arguments.test_size)
    return load_task(config, arguments.seed)


def measure(method: str, arguments: argparse.Namespace, task: Task, search: Callable[[], Callable[[], float]]) -> None:
    """Let ``search`` search and return what scores its prompt, a rate in [0, 1]; print and keep what it found."""
    before = calls(arguments.url)
    score = search()
    paid = calls(arguments.url) - before
    name = Path(arguments.folder).name
    found = Search(method, name, arguments.seed, arguments.test_size, paid, score(), len(task.test))
    if arguments.found:
        with arguments.found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
    print(f"{method} on {name}, seed {found.seed}: {found.test:.1%} of {found.test_n} test examples, {paid:,} calls")
