"""LIPO-E on Ray: finds the instruction and the exemplars with which a language model errs least on a task.

``import lipo_e_ray as lipo``, then ``lipo.optimize(task, model=...)``: see ``lipo_e_ray.api``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipo_e_ray.api import Result, evaluate, load, optimize, plan, resume
    from lipo_e_ray.config import RunConfig
    from lipo_e_ray.engine.base import Engine
    from lipo_e_ray.inputs import EngineSpec
    from lipo_e_ray.planning import Plan
    from lipo_e_ray.progress import Event
    from lipo_e_ray.task.task import Task
    from lipo_e_ray.types import (
        Completion,
        EngineError,
        Example,
        Fingerprints,
        InputError,
        LipoError,
        Message,
        Outcome,
        Prompt,
        Sampling,
        Status,
    )

__version__ = "0.1.0"

# A Ray that this package starts or joins asks for a token. Here, because Ray reads the mode once, when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")

_HOMES = {
    "lipo_e_ray.api": ("Result", "evaluate", "load", "optimize", "plan", "resume"),
    "lipo_e_ray.config": ("RunConfig",),
    "lipo_e_ray.engine.base": ("Engine",),
    "lipo_e_ray.inputs": ("EngineSpec",),
    "lipo_e_ray.planning": ("Plan",),
    "lipo_e_ray.progress": ("Event",),
    "lipo_e_ray.task.task": ("Task",),
    "lipo_e_ray.types": (
        "Completion",
        "EngineError",
        "Example",
        "Fingerprints",
        "InputError",
        "LipoError",
        "Message",
        "Outcome",
        "Prompt",
        "Sampling",
        "Status",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Completion",
    "Engine",
    "EngineError",
    "EngineSpec",
    "Event",
    "Example",
    "Fingerprints",
    "InputError",
    "LipoError",
    "Message",
    "Outcome",
    "Plan",
    "Prompt",
    "Result",
    "RunConfig",
    "Sampling",
    "Status",
    "Task",
    "evaluate",
    "load",
    "optimize",
    "plan",
    "resume",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: importing the package loads no torch, Ray or vLLM."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
