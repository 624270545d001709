"""A run's settings: a profile, a file, ``--set`` and flags become one ``RunConfig``, in this one place.

Later layers win: the profile, what this machine is fast with, ``--config FILE``, ``--set KEY=VALUE``, flags.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipo_e_ray.config import RunConfig, get_profile
from lipo_e_ray.config_tree import checked, from_dict, leaves, setting_types, to_dict, tree, unknown_key
from lipo_e_ray.engine.embedded import ENCODER, MODEL
from lipo_e_ray.engine.model import fast_dtype
from lipo_e_ray.types import InputError

DEFAULT_PROFILE = "one-gpu"
DEFAULT = "default"
"""The source of a value that nothing and nobody changed."""
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Layer:
    """Values by key (``model.max_tokens``), and where they come from, in words."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """``sources``: where each of the configuration's values came from, by key."""

    config: RunConfig
    sources: dict[str, str]

    @property
    def given(self) -> set[str]:
        """Keys whose values neither a default nor a profile gave."""
        return {key for key, source in self.sources.items() if source not in (DEFAULT, _profile(self.config.profile))}


def resolve(layers: Iterable[Layer], profile: str | None = None) -> Settings:
    """The profile with ``layers`` over it, the last one on top.

    ``profile``: its name; ``None``: what a layer says of ``profile``, else ``one-gpu``. Folders and files become
    absolute, so that the run can go on from anywhere. Raises ``InputError``.
    """
    layers = list(layers)
    named = [layer.values["profile"] for layer in layers if "profile" in layer.values]
    base = get_profile(profile or str(named[-1] if named else DEFAULT_PROFILE))
    plain, values = leaves(to_dict(RunConfig())), leaves(to_dict(base))
    sources = {key: DEFAULT if values[key] == plain[key] else _profile(base.profile) for key in values}
    if base.profile == "demo" and (dtype := fast_dtype()) != values["model.dtype"]:
        layers.insert(0, Layer("fastest on this machine", {"model.dtype": dtype}))
    for layer in layers:
        for key, value in layer.values.items():
            if key not in values:
                raise unknown_key(key)
            if key != "profile":
                values[key], sources[key] = value, layer.source
    try:
        config = from_dict(tree(values))
    except InputError as error:
        source = sources.get(str(error).partition(":")[0], DEFAULT)  # the error begins with the setting's key
        raise error if source in (DEFAULT, _profile(base.profile)) else InputError(f"{source}: {error}") from None
    return Settings(_with_absolute_paths(config), sources)


def _profile(name: str) -> str:
    return f"profile {name}"


def read_file(path: Path) -> Layer:
    """The settings in a TOML or JSON file, any part of them. Raises ``InputError``."""
    try:
        text = path.read_text(encoding="utf-8")
        named = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise InputError(f"--config: expected a TOML or JSON file at {path}, found none") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--config: expected TOML (*.toml) or JSON in {path}, got: {error}") from None
    return from_mapping(named, str(path))


def from_mapping(named: Any, source: str) -> Layer:
    """Settings as ``{"model": {"max_tokens": 256}}`` or ``{"model.max_tokens": 256}``.

    Raises ``InputError`` for an unknown key or a wrong type. ``resolve`` checks the values: whether one is allowed may
    depend on a value that another layer gives.
    """
    if not isinstance(named, Mapping):
        raise InputError(f"{source}: expected settings by name, got {named!r:.60}")
    values, known = leaves(dict(named)), setting_types()
    try:
        for key, value in values.items():
            if key not in known:
                raise unknown_key(key)
            checked(key, value, known[key])
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return Layer(source, values)


def from_assignments(assignments: Iterable[str]) -> Layer:
    """What ``--set KEY=VALUE`` says, as often as it was given. Raises ``InputError``."""
    values: dict[str, Any] = {}
    types = setting_types()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set: expected KEY=VALUE, such as model.max_tokens=256, got {assignment!r:.60}")
        if key not in types:
            raise InputError(f"--set: {unknown_key(key)}")
        values[key] = _parsed(key, text, types[key])
    return Layer("--set", values)


def _parsed(key: str, text: str, wanted: type) -> Any:
    if wanted is bool and text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    try:
        if wanted is not bool:
            return wanted(text)
    except ValueError:
        pass
    expected = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
    raise InputError(f"--set {key}: expected {expected}, got {text!r:.60}")


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    task, model, encoder = config.task, config.model, config.encoder
    if os.path.isdir(task.name):
        config = replace(config, task=replace(task, name=os.path.realpath(task.name)))
    if os.path.isdir(model.name) and model.name != MODEL:
        config = replace(config, model=replace(model, name=os.path.abspath(model.name)))
    if os.path.isdir(encoder.name) and encoder.name != ENCODER:
        config = replace(config, encoder=replace(encoder, name=os.path.abspath(encoder.name)))
    if config.instructions_file:
        config = replace(config, instructions_file=os.path.realpath(config.instructions_file))
    return config
