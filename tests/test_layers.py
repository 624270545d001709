"""The layering of docs/architecture.md, read from the imports themselves."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lipo_e_ray

ROOT = Path(lipo_e_ray.__file__).parent
ORDER = [
    "types",
    "config",
    "config_tree",
    "install_check",
    "task",
    "instructions",
    "search",
    "surrogate",
    "latent",
    "proposal",
    "store",
    "progress",
    "engine",
    "settings",
    "service",
    "distributed",
    "report",
    "inputs",
    "budget",
    "recipe",
    "planning",
    "job",
    "api",
    "testing",
    "app",
    "run",
    "__main__",
]  # a package or module imports from those before it only
OWNERS = {
    "vllm": {"engine.vllm"},
    "ray": {"distributed", "app.remote", "job", "recipe"},
    "ray._private": {"distributed.ray_private"},
    "ray._raylet": {"distributed.ray_private"},
    "gpytorch": {"surrogate.gp", "proposal.acquisition"},
    "botorch": {"surrogate.gp", "proposal.acquisition"},
    "torch": {"latent", "surrogate", "proposal", "engine.embedded"},
    "sqlite3": {"store"},
    "vec2text": {"latent.vec2text"},
    "sentence_transformers": {"latent.encoder"},
    "matplotlib": {"report.plots"},
    "typer": {"app.cli", "app.options"},
    "rich": {"app.display", "app.tables"},
}
NOT_MIRRORED = {"__main__", "engine.base"}  # an alias, a protocol


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if path.name != "__init__.py"}


def imports(path: Path) -> set[str]:
    """Full names, those of what is imported from a module included; imports inside functions count as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    return {name.removeprefix("lipo_e_ray.") for name in imports(path)} & set(MODULES)


def within(name: str, area: str) -> bool:
    return name == area or name.startswith(f"{area}.")


def test_every_package_has_a_layer():
    assert {module.partition(".")[0] for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_from_lower_packages_only(module):
    package = module.partition(".")[0]
    others = {name.partition(".")[0] for name in own(MODULES[module])} - {package}
    assert not {other for other in others if ORDER.index(other) > ORDER.index(package)}


def test_no_module_is_in_a_circle_of_imports():
    tuple(TopologicalSorter({module: own(path) for module, path in MODULES.items()}).static_order())


def test_the_contracts_are_for_tests_only():
    assert not [module for module, path in MODULES.items() if "testing" in own(path)]


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_have_owners(module):
    used = {library for library in OWNERS for name in imports(MODULES[module]) if within(name, library)}
    assert not {library for library in used if not any(within(module, owner) for owner in OWNERS[library])}


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_mirrored_by_tests(module):
    if module in NOT_MIRRORED:
        return
    *folders, name = module.split(".")
    assert (ROOT.parent / "tests" / Path(*folders) / f"test_{name}.py").exists()
