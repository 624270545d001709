"""The launcher files, without a cloud: against Ray's own checks, KubeRay's schema and this package's command line."""

from __future__ import annotations

import copy
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from lipo_e_ray.app.cli import app
from tests.heads import ROOT

CLUSTER = ROOT / "cluster"
CRD = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"
FILES = sorted(path for path in CLUSTER.iterdir() if path.is_file())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPEN = ("x-kubernetes-preserve-unknown-fields", "additionalProperties")


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def pinned(requirements: list[str]) -> dict[str, str]:
    """Package -> version of what is pinned with ``==``."""
    return dict(re.match(r"([\w-]+)(?:\[[^]]*\])?==(.*)", one).groups() for one in requirements if "==" in one)


def closed(schema: dict) -> dict:
    """An OpenAPI schema that refuses unknown fields, as ``kubectl`` does."""
    schema = copy.deepcopy(schema)
    pending = [schema]
    while pending:
        part = pending.pop()
        if "properties" in part and not any(key in part for key in OPEN):
            part["additionalProperties"] = False
        pending += part.get("properties", {}).values()
        pending += [part[key] for key in ("items", "additionalProperties") if isinstance(part.get(key), dict)]
    # The API server's own fields, which the CRD leaves open
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


@pytest.fixture(scope="module")
def rayjob_schema() -> dict:
    if not CRD.exists():
        pytest.skip(f"no KubeRay CRD at {CRD}")
    versions = yaml.load(CRD.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    return closed(next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"))


@pytest.fixture
def rayjob() -> dict:
    return documents("rayjob.yaml")[0]


def launcher_config() -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(documents("ray-cluster.yaml")[0])
    validate_config(config)
    return config


def test_ray_takes_the_launcher_file():
    config = launcher_config()
    nodes = config["available_node_types"]
    assert config["head_node_type"] == "head" and nodes["head"]["max_workers"] == 0
    assert (nodes["l40s"]["min_workers"], nodes["l40s"]["max_workers"], config["max_workers"]) == (0, 8, 8)
    assert nodes["l40s"]["node_config"]["InstanceType"] == "g6e.xlarge"


def test_ray_would_refuse_a_misspelt_field():
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(documents("ray-cluster.yaml")[0] | {"max_wokers": 3}))


def test_every_node_of_the_launcher_asks_for_the_token():
    config = launcher_config()
    assert list(config["file_mounts"]) == ["/home/ray/.ray/auth_token"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/home/ray/.ray/auth_token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert config["setup_commands"] == ["chmod 600 /home/ray/.ray/auth_token"]


def test_kuberay_takes_the_job(rayjob, rayjob_schema):
    jsonschema.Draft7Validator(rayjob_schema).validate(rayjob)


@pytest.mark.parametrize(
    "path",
    [
        ("spec",),
        ("spec", "rayClusterSpec"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0),
        ("spec", "submitterPodTemplate", "spec", "containers", 0),
    ],
)
def test_kuberay_would_refuse_a_misspelt_field(rayjob, rayjob_schema, path):
    part = rayjob
    for key in path:
        part = part[key]
    part["entryponit"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="entryponit"):
        jsonschema.Draft7Validator(rayjob_schema).validate(rayjob)


def test_the_job_asks_for_gpus_a_token_and_a_volume(rayjob):
    spec, cluster = rayjob["spec"], rayjob["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pinned(PROJECT["dependencies"])["ray"]
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] > 0
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    [group] = cluster["workerGroupSpecs"]
    worker = group["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 8)
    mounts = [mount["mountPath"] for mount in head["volumeMounts"]]
    output = Path(options(spec["entrypoint"])["output"])
    assert any(output.is_relative_to(mount) for mount in mounts)


def test_only_its_own_pods_and_the_operator_reach_a_cluster(rayjob):
    own, operator = documents("network-policy.yaml")
    for policy in (own, operator):
        assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
        assert policy["spec"]["policyTypes"] == ["Ingress"]
    label = own["spec"]["podSelector"]["matchLabels"]
    assert own["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": label}}]}]
    cluster = rayjob["spec"]["rayClusterSpec"]
    templates = [
        cluster["headGroupSpec"]["template"],
        rayjob["spec"]["submitterPodTemplate"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]
    for template in templates:
        assert label.items() <= template["metadata"]["labels"].items(), "a pod that the policy does not cover"
    heads = operator["spec"]["podSelector"]["matchLabels"].items()
    assert [heads <= template["metadata"]["labels"].items() for template in templates] == [True, False, False]
    assert operator["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_the_image_has_the_versions_of_the_package():
    text = (CLUSTER / "Dockerfile").read_text()
    wanted = pinned(PROJECT["optional-dependencies"]["gpu"]) | {"ray": pinned(PROJECT["dependencies"])["ray"]}
    assert re.search(r"^FROM vllm/vllm-openai:v(.*)$", text, re.MULTILINE)[1] == wanted["vllm"]
    assert pinned(re.findall(r"'([^']*==[^']*)'", text)) == wanted
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    assert copied == {"pyproject.toml", "lipo_e_ray", PROJECT["readme"], *PROJECT["license-files"]}
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] not in ("root", "0")
    images = {*re.findall(r"REGISTRY/[\w.:-]+", "".join(path.read_text() for path in FILES))}
    assert images == {f"REGISTRY/lipo-e-ray:{PROJECT['version']}"}


def commands(path: Path) -> list[str]:
    """The calls of our command line in a file: its entry point, and those in comments."""
    if path.suffix == ".yaml" and "entrypoint" in (spec := documents(path.name)[0].get("spec", {})):
        yield spec["entrypoint"]
    for line in path.read_text().splitlines():
        if found := re.search(r"cluster/submit\.sh (.*)|^#\s+lipo-e-ray (.*)", line):
            yield f"lipo-e-ray {found[1] or found[2]}"


def options(command: str) -> dict:
    """What our command line makes of it, without running it. Raises typer's usage errors."""
    program, *arguments = shlex.split(command)
    assert program == "lipo-e-ray"
    group = typer.main.get_command(app)
    name, subcommand, rest = group.resolve_command(
        group.make_context(program, [arguments[0]], resilient_parsing=True), arguments
    )
    return subcommand.make_context(name, rest).params


@pytest.mark.parametrize(("path", "command"), [(path.name, command) for path in FILES for command in commands(path)])
def test_the_commands_are_ours(path, command):
    assert options(command)


def test_a_command_that_is_not_ours_would_be_found():
    with pytest.raises(typer.BadParameter.__base__, match="--out"):
        options("lipo-e-ray run --out x")


def test_every_file_has_its_commands():
    assert {path.name for path in FILES if list(commands(path))} == {"ray-cluster.yaml", "rayjob.yaml", "submit.sh"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secrets(path):
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_\w{20}|-----BEGIN|\b[0-9a-fA-F]{32,}\b", text)
    assert not re.search(r"(?i)(aws_secret\w*|password|token|secret)\s*[:=]\s*[\"']?[\w/+]{20,}", text)
