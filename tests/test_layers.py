"""The layering of docs/architecture.md, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

import lipo_e_ray

ROOT = Path(lipo_e_ray.__file__).parent
LAYERS = [
    {"types", "config", "install_check"},
    {"rundir", "embedded", "data.tasks", "data.arithmetic", "data.answers", "data.prompts", "data.seeds", "engine.base",
     "results.ledger", "results.database", "results.salvage", "data.ape"},
    {"engine.vllm", "engine.replay", "engine.simulated", "engine.model", "engine.meter",
     "engine.service", "engine.actor", "engine.dispatch", "engine.pool"},
    {"latent.encoder", "latent.set_transformer", "latent.vae", "latent.training", "latent.space", "latent.inversion",
     "latent.clauses", "latent.vec2text"},
    {"surrogate.noise", "surrogate.exact", "surrogate.gp"},
    {"proposal.acquisition", "proposal.two_stage", "proposal.invbo", "proposal.proposer"},
    {"tune.brackets", "tune.race", "tune.hyperband", "search", "tune.scheduler", "tune.searcher",
     "tune.trainable", "tune.bo_actor", "tune.runner",
     "results.statistics", "results.analysis", "results.plots", "results.report", "results.display"},
    {"inputs", "plan", "session", "run", "remote", "cli", "__main__"},
]
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}
OWNERS = {
    "vllm": {"engine.vllm"},
    "ray": {"tune.scheduler", "tune.searcher", "tune.trainable", "tune.bo_actor", "tune.runner", "engine.pool",
            "engine.actor", "session", "run", "remote"},
    "gpytorch": {"surrogate.gp", "proposal.acquisition"},
    "botorch": {"surrogate.gp", "proposal.acquisition"},
    "vec2text": {"latent.vec2text"},
    "sentence_transformers": {"latent.encoder"},
    "matplotlib": {"results.plots"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if path.name != "__init__.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_layer():
    assert set(MODULES) == set(LAYER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module):
    ours = {name.removeprefix("lipo_e_ray.") for name in imports(MODULES[module])} & set(LAYER)
    upward = {name for name in ours if LAYER[name] > LAYER[module]}
    assert not upward


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_have_owners(module):
    used = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not {library for library in used & set(OWNERS) if module not in OWNERS[library]}


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_mirrored_by_tests(module):
    if module in {"engine.base", "__main__"}:
        pytest.skip("a protocol, an alias")
    parts = module.split(".")
    test = ROOT.parent / "tests" / Path(*parts[:-1]) / f"test_{parts[-1]}.py"
    assert test.exists()
