"""Every flag that a message of the package advises exists, and a message that names a setting names its flag."""

import ast
import re
from pathlib import Path

import pytest
import typer.main

import lipo_e_ray
from lipo_e_ray.app.cli import app
from lipo_e_ray.config import FLAGS, RunConfig
from lipo_e_ray.config_tree import leaves, setting_types, to_dict
from lipo_e_ray.settings import from_assignments

ROOT = Path(lipo_e_ray.__file__).parent
COMMANDS = typer.main.get_command(app).commands.values()
OPTIONS = {option for command in COMMANDS for p in command.params for option in (*p.opts, *p.secondary_opts)}
OF_OTHERS = {"--head", "--no-deps", "--help"}  # of `ray start`, `pip install` and every command
DEFAULTS = leaves(to_dict(RunConfig()))


def text_of(node: ast.AST) -> str | None:
    """A string as it is written; what is filled in stands as ``{}``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def messages() -> list[tuple[str, str]]:
    """(where, text) of every string in the package but docstrings."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        inside = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in ast.walk(n)} - {
            id(n) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)
        }
        for node in ast.walk(tree):
            if id(node) not in docs | inside and (text := text_of(node)):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


MESSAGES = messages()
ADVICE = [(where, text) for where, text in MESSAGES if re.search(r"(?<![\w-])--[a-z]", text) and "var(--" not in text]


def test_there_is_advice():
    assert len(ADVICE) > 40


@pytest.mark.parametrize(("where", "text"), ADVICE, ids=[where for where, _ in ADVICE])
def test_a_flag_that_is_named_exists(where, text):
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
        assert flag in OPTIONS | OF_OTHERS


@pytest.mark.parametrize(("where", "text"), ADVICE, ids=[where for where, _ in ADVICE])
def test_an_assignment_that_is_advised_is_accepted(where, text):
    for key, value in re.findall(r"--set ([a-z_.]+[a-z_])=(\{\}|[\w.]+)?", text):
        assert key in setting_types()
        plain = value if value and value not in ("{}", "...") else DEFAULTS[key]
        assert from_assignments([f"{key}={plain}"]).values


@pytest.mark.parametrize("key", [key for key in setting_types() if "." in key])
def test_a_setting_that_is_named_in_an_error_comes_with_its_flag(key):
    flag = FLAGS.get(key, f"--set {key}")
    for where, text in MESSAGES:
        if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text) and " " in text:
            assert flag in text or "--set" in text or text.endswith(", which is {}"), where


def test_every_flag_of_a_setting_sets_it():
    assert set(FLAGS.values()) <= OPTIONS
