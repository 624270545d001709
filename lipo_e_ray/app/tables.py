"""Tables on the terminal: a run's plan, and its settings with where each value came from."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lipo_e_ray.config import flag
from lipo_e_ray.config_tree import leaves, to_dict
from lipo_e_ray.planning import Plan
from lipo_e_ray.settings import DEFAULT, Settings


def print_plan(plan: Plan) -> None:
    """The schedule with its LLM calls, what the limit does not reach, then tokens and time."""
    console = Console()
    table = Table(title=f"{plan.task}, {plan.model}: upper bounds")
    table.add_column("part")
    table.add_column("prompts x examples")
    table.add_column("LLM calls", justify="right")
    for item in plan.items:
        table.add_row(item.name, item.schedule, f"{item.calls:,}")
    limit = f"--max-llm-calls {plan.limit:,}" if plan.limit else ""
    table.add_row("all", limit, f"{plan.calls:,}", style="bold")
    console.print(table)
    console.print(*plan.gains, plan.tokens, plan.time, sep="\n", highlight=False)


def print_settings(settings: Settings) -> None:
    """Every setting by its key, its value, where the value came from and the flag that changes it."""
    table = Table(title="settings")
    for heading in ("setting", "value", "from", "change it with"):
        table.add_column(heading, overflow="fold")
    for key, value in leaves(to_dict(settings.config)).items():
        source = settings.sources[key]
        table.add_row(key, str(value), source, flag(key), style=None if source == DEFAULT else "bold")
    Console().print(table)
