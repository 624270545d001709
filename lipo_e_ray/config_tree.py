"""A configuration as plain values: as a tree (JSON, TOML), and flat by key.

Unknown keys are errors: a misspelt key in a ``config.json`` must not silently mean "the default".
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from lipo_e_ray.config import ALIASES, RunConfig, Section, flag, require
from lipo_e_ray.types import InputError


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain JSON types; ``from_dict`` gives the same config back."""
    return dataclasses.asdict(config)


def from_dict(data: Any, kind: type[Section] = RunConfig) -> Any:
    """Build a ``RunConfig`` from JSON. Raises ``InputError`` for an unknown key, a wrong type or a bad value."""
    whose = kind.SECTION or "the configuration"
    require(isinstance(data, dict), f"{whose}: expected an object of settings, got {data!r:.60}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in {f.name for f in dataclasses.fields(kind)}:  # type: ignore[arg-type]
            raise unknown_key(kind.key(str(name)))
        wanted = hints[name]
        if dataclasses.is_dataclass(wanted):
            values[name] = from_dict(value, wanted)  # type: ignore[arg-type]
        else:
            values[name] = checked(kind.key(name), value, wanted)
    if kind is RunConfig and "profile" in values:
        values["profile"] = ALIASES.get(values["profile"], values["profile"])
    return kind(**values)


def checked(key: str, value: Any, wanted: type) -> Any:
    """``value`` as the type of the setting ``key``. Raises ``InputError`` for another type."""
    allowed, expected = ((int, float), "a finite number") if wanted is float else (wanted, wanted.__name__)
    finite = wanted is not float or (isinstance(value, (int, float)) and abs(value) < sys.float_info.max)
    require(
        isinstance(value, allowed) and (wanted is bool or not isinstance(value, bool)) and finite,
        f"{key}: expected {expected}, got {value!r:.60}; change it with {flag(key)}",
    )
    return wanted(value)


def unknown_key(key: str) -> InputError:
    """The error for a key that no setting has; it names the nearest ones."""
    keys = list(leaves(to_dict(RunConfig())))
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    near += [other for other in keys if other not in near and other.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"did you mean {' or '.join(near)}?" if near else "`lipo-e-ray plan --show-config` lists all settings"
    return InputError(f"unknown setting {key!r:.60}: {hint}")


def leaves(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``: every setting by its key."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def tree(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``leaves``."""
    top: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        branch = top
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value
    return top


def setting_types() -> dict[str, type]:
    """Every setting's key and type."""

    def walk(kind: type[Section]) -> Iterator[tuple[str, type]]:
        for name, wanted in get_type_hints(kind).items():
            if dataclasses.is_dataclass(wanted):
                yield from walk(wanted)  # type: ignore[arg-type]
            elif name != "SECTION":
                yield kind.key(name), wanted

    return dict(walk(RunConfig))
