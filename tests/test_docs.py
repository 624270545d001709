"""The documents, held against the tree: paths, links, commands, the drawing of the package, the length of lines."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.heads import ROOT
from tests.test_layers import MODULES, ORDER

DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern))
LATEST = [path for path in DOCUMENTS if path.name != "log.md"]  # the log has the paths and commands of its time
LINE_LENGTH = 110  # of prose; a row of a table is as long as it has to be


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_lines_are_short(path):
    lines = enumerate(path.read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > LINE_LENGTH and not line.lstrip().startswith("|")]


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("path", LATEST, ids=name)
def test_commands_name_modules(path):
    for module in re.findall(r"python -m ((?:benchmarks|lipo_e_ray)[\w.]*)", path.read_text()):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", LATEST, ids=name)
def test_paths_in_backticks_exist(path):
    """A path of several parts that ends in ``.py``, from the root, from the package or from the document's folder."""
    for file in re.findall(r"`([\w.]+(?:/[\w.]+)+\.py)`", path.read_text()):
        assert any((folder / file).is_file() for folder in (ROOT, ROOT / "lipo_e_ray", path.parent)), file


def test_architecture_draws_the_tree():
    """One line per module, and the packages in the order of the layers."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn, order, package = set(), [], ""
    for line in re.search(r"```text\nlipo_e_ray/\n(.*?)```", text, re.DOTALL)[1].splitlines():
        indent, entry = re.match(r"( +)(\S+)", line).groups()
        if len(indent) == 2:
            package = entry.removesuffix("/") if entry.endswith("/") else ""
            order.append(entry.removesuffix(".py").removesuffix("/"))
        if entry.endswith(".py"):
            drawn.add(".".join(filter(None, (package, entry.removesuffix(".py")))))
    assert drawn == set(MODULES)
    assert order == ORDER
