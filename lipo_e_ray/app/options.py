"""Flags that several commands share, each defined once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lipo_e_ray.config import FLAGS, PROFILES
from lipo_e_ray.settings import Layer, from_assignments, read_file, resolve

Address = Annotated[
    str | None,
    typer.Option(
        help="The Ray to run on. local: one of its own; auto: the one running here; host:port, from a node of that "
        "cluster; ray://host:port, from anywhere. Default: RAY_ADDRESS, else local."
    ),
]
SameMetric = Annotated[str | None, typer.Option("--metric", help="The run's own module:function, if it has one.")]

_HELP: dict[str, tuple[type, str]] = {
    "task.name": (
        str,
        "arithmetic, gsm8k, or a folder with train.jsonl, validation.jsonl, test.jsonl of question and answer.",
    ),
    "model.name": (str, "smollm2-135m (embedded), a folder, or a Hugging Face id."),
    "task.metric": (
        str,
        "How answers are judged: numeric, choice, text, or your own module:function; default: what fits the answers.",
    ),
    "seed": (int, "Same seed and same outcomes: same run."),
    "max_llm_calls": (int, "Hard limit for all LLM calls; 0: none."),
    "time_limit": (float, "Minutes after which no new rung begins; 0: none."),
    "task.pool_size": (int, "Exemplars to choose from."),
    "ape.num_instructions": (int, "Instructions the LLM writes."),
    "invbo.iterations": (int, "InvBO iterations; 0: none."),
    "ape.use": (bool, "Let the LLM write instructions."),
    "instructions_file": (Path, "Your own instructions, one a line."),
    "engines": (int, "vLLM engines; 0: one per GPU that the cluster has or gets."),
    "model.tensor_parallel": (int, "GPUs per engine."),
}


def _parameters() -> dict[str, inspect.Parameter]:
    """One keyword parameter per flag, all ``None`` by default: the profile has the defaults."""
    annotations: dict[str, Any] = {
        "profile": Annotated[str | None, typer.Option(help=f"Where it runs: {', '.join(PROFILES)}; default one-gpu.")],
        "config": Annotated[
            Path | None, typer.Option("--config", help="A TOML or JSON file with settings, any part of them.")
        ],
        "assignments": Annotated[
            list[str] | None,
            typer.Option(
                "--set", metavar="KEY=VALUE", help="Any setting (`plan --show-config` lists them); repeatable."
            ),
        ],
    }
    for key, (kind, text) in _HELP.items():
        flag = "--use-ape/--no-use-ape" if key == "ape.use" else FLAGS[key]
        annotations[_name(key)] = Annotated[kind | None, typer.Option(flag, help=text)]
    return {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    }


def _name(key: str) -> str:
    return key.replace(".", "_")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the flags of ``_HELP``, ``--profile``, ``--config`` and ``--set``.

    Its first parameter gets what they say as resolved ``Settings``.
    """
    shared = _parameters()
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def wrapper(**given: Any) -> None:
        profile, file, assignments = (given.pop(name) for name in ("profile", "config", "assignments"))
        layers = [read_file(file)] if file else []
        layers.append(from_assignments(assignments or []))
        flags = {key: given.pop(_name(key)) for key in _HELP}
        for key, value in flags.items():
            if value is not None:
                layers.append(Layer(FLAGS[key], {key: str(value) if isinstance(value, Path) else value}))
        command(resolve(layers, profile), **given)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [*shared.values(), *keywords]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
