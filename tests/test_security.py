"""docs/security.md, held against the code and against a real run."""

import ast
import json
import os
import pickle
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import lipo_e_ray
from lipo_e_ray.config import PROFILES, HyperbandConfig, InvBOConfig, ProposalConfig, TaskConfig, VAEConfig
from lipo_e_ray.config_tree import to_dict

PACKAGE = Path(lipo_e_ray.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").glob("*.py")])
PICKLES = {"pickle", "cloudpickle", "_pickle", "dill", "joblib", "shelve", "marshal"}
LOADERS = {"load", "loads", "read_pickle", "restore", "unsafe_load", "full_load"}
SAFE = {"json", "tomllib", "OutcomeTable"}  # the benchmarks' own class, on safetensors


def called(node: ast.Call) -> tuple[str, str]:
    """Of ``a.b.c(...)`` "a.b" and "c"; of ``c(...)`` "" and "c"."""
    owner, _, name = ast.unparse(node.func).rpartition(".")
    return owner, name


def dangers(source: str) -> Iterator[str]:
    """What in ``source`` loads code, or data that can hold code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {word for alias in node.names for word in alias.name.split(".")}
            names |= set((getattr(node, "module", "") or "").split("."))
            yield from names & PICKLES
        elif isinstance(node, ast.Attribute) and node.attr in PICKLES:
            yield node.attr
        elif isinstance(node, ast.Call):
            owner, name = called(node)
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            safe = owner in SAFE or (owner == "torch" and given.get("weights_only") == "True")
            if (name in LOADERS and owner and not safe) or "allow_pickle" in given:
                yield f"{owner}.{name}"
            if given.get("trust_remote_code", "False") != "False":
                yield "trust_remote_code"
            if name in ("import_module", "__import__") or (not owner and name in ("eval", "exec")):
                yield name


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import cloudpickle",
        "from joblib import load",
        "import shelve as s",
        "ray.cloudpickle.loads(b)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "np.load(f)",
        "pandas.read_pickle(f)",
        "tune.Tuner.restore(f, t)",
        "yaml.load(f, yaml.Loader)",
        "eval(text)",
        "exec(text)",
        "importlib.import_module(name)",
        "__import__(name)",
        "f(x, trust_remote_code=True)",
    ],
)
def test_what_would_be_found(source):
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "json.loads(t)",
        "json.load(f)",
        "torch.load(f, weights_only=True)",
        "from safetensors.torch import load_file",
        "model.eval()",
        "AutoModel.from_pretrained(f)",
    ],
)
def test_what_is_safe(source):
    assert not list(dangers(source))


def test_nothing_loads_code_but_the_metric_the_user_named():
    found = {(path.name, danger) for path in SOURCES for danger in dangers(path.read_text(encoding="utf-8"))}
    assert found == {("metrics.py", "import_module"), ("__init__.py", "import_module")}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_loaded(tmp_path):
    from lipo_e_ray.latent.training import load_vae

    bomb, path = pickle.dumps(Bomb(tmp_path / "exploded")), tmp_path / "vae.safetensors"
    path.write_bytes(bomb)
    assert load_vae(path, 8, VAEConfig(), "f") is None
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists(), "no bomb at all"


def test_the_processes_of_an_engine_meet_on_loopback():
    from lipo_e_ray.engine.vllm import ENVIRONMENT

    assert {ENVIRONMENT[f"{library}_SOCKET_IFNAME"] for library in ("GLOO", "NCCL")} == {"lo"}


@pytest.mark.parametrize(
    ("given", "mode"),
    [({}, "token"), ({"RAY_ADDRESS": "10.0.0.1:6379"}, "token"), ({"RAY_AUTH_MODE": "disabled"}, "disabled")],
)
def test_a_token_is_the_default_for_every_ray(given, mode):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | given
    done = subprocess.run(
        [sys.executable, "-c", "import os, lipo_e_ray; print(os.environ['RAY_AUTH_MODE'])"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{mode}\n", done.stderr


CONFIG = replace(
    PROFILES["demo"],
    task=TaskConfig("arithmetic", pool_size=16, validation_size=8, test_size=8),
    ape=replace(PROFILES["demo"].ape, use=False),
    vae=VAEConfig(training_sets=64, patience=2, max_epochs=4, batch_size=32),
    hyperband=HyperbandConfig(b_min=8),
    proposal=ProposalConfig(instructions=4, restarts=1, steps=2),
    invbo=InvBOConfig(iterations=0),
)

# A whole run in a private Ray; beside it, what this process and those below it are and listen on.
DRIVER = """
import json, os, sys
from pathlib import Path
import ray
from lipo_e_ray.config_tree import (from_dict)
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.api import optimize
from lipo_e_ray.distributed.session import ray_session

def below(pid):
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from below(child)

def sockets(pid):
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = os.readlink(entry)
        except FileNotFoundError:
            continue
        if link.startswith("socket:["):
            yield link[8:-1]

LISTENING, ANYTHING_BOUND = "0A", "07"
def listeners():
    for kind, state in ("tcp", LISTENING), ("tcp6", LISTENING), ("udp", ANYTHING_BOUND), ("udp6", ANYTHING_BOUND):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == state:
                yield words[9], words[1].split(":")[0]

class Holder:
    pass

with ray_session("local"):
    spec = EngineSpec(SimulatedEngine, SimulatedEngine().fingerprints, len, on_gpu=False)
    optimize("arithmetic", config=from_dict(json.loads(sys.argv[1])), engine=spec, output=sys.argv[2])
    holder = ray.remote(Holder).options(num_cpus=0).remote()
    ray.get(holder.__ray_ready__.remote())
    bound = dict(listeners())
    seen = [{"command": Path(f"/proc/{pid}/cmdline").read_text().replace("\\0", " "),
             "hosts": sorted(bound[inode] for inode in sockets(pid) if inode in bound)} for pid in below("self")]
Path(sys.argv[3]).write_text(json.dumps(seen))
"""
SECRETS = {name: secrets.token_hex(32) for name in ("RAY_AUTH_TOKEN", "HF_TOKEN", "VLLM_API_KEY", "MY_PASSWORD")}
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def private_run(tmp_path_factory) -> Iterator[tuple[list[dict], str, list[Path]]]:
    """The processes of a run, what it printed, and all files it left: the run folder's and Ray's."""
    folder, of_ray = tmp_path_factory.mktemp("run"), Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= SECRETS | {"RAY_TMPDIR": str(of_ray)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(to_dict(CONFIG)), folder, folder.parent / "seen"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for top in (folder, of_ray) for path in top.rglob("*") if path.is_file()]
    yield json.loads((folder.parent / "seen").read_text()), done.stdout + done.stderr, files
    shutil.rmtree(of_ray, ignore_errors=True)


def test_a_private_ray_listens_on_loopback_only(private_run):
    processes, _, _ = private_run
    for name in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "Holder"):
        assert any(one["hosts"] for one in processes if name in one["command"]), f"{name}: not looked at"
    beyond = {one["command"][:80]: one["hosts"] for one in processes if set(one["hosts"]) - LOOPBACK}
    assert not beyond


def test_secrets_stay_in_the_environment(private_run):
    processes, said, files = private_run
    assert {"config.json", "report.html", "ledger.sqlite", "best_prompt.json"} <= {path.name for path in files}
    assert any(path.suffix == ".log" for path in files), "no log of Ray's"
    places = {path.name: path.read_bytes() for path in files} | {"output": said.encode()}
    places |= {one["command"][:80]: one["command"].encode() for one in processes}
    assert not [
        (name, place) for place, text in places.items() for name, value in SECRETS.items() if value.encode() in text
    ]
