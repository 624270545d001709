"""The command line: ``lipo-e-ray run | plan | resume | report | evaluate``; ``python -m lipo_e_ray.run`` is ``run``.

A thin user of ``api``. Exit status: 0 done; 1 the run could not go on (nothing lost, ``resume`` continues); 2 bad
input; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from lipo_e_ray.app.options import Address, SameMetric, with_settings
from lipo_e_ray.install_check import check_install
from lipo_e_ray.settings import Settings
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import InputError, LipoError

# typer carries its own click and names only this branch of its usage errors in public
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the instruction and the exemplars with which your model errs least.",
)

Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@app.command()
@with_settings
def run(
    settings: Settings,
    output: Annotated[Path | None, typer.Option(help="The run folder; default runs/TASK-MODEL-seedN.")] = None,
    address: Address = None,
) -> None:
    """Search for the best prompt; the same command again continues where it stopped."""
    from lipo_e_ray.api import default_output, optimize

    folder = output or default_output(settings.config)
    metric = settings.config.task.metric if "task.metric" in settings.given else None
    # On a cluster `run` is `resume`: the folder there has the configuration.
    here = _enter(address, folder, "resume", {"--metric": metric}, settings)
    with _shown() as display:
        result = optimize(
            settings.config.task.name, config=settings.config, output=folder, address=here, callback=display
        )
    _print_result(result)


@app.command()
@with_settings
def plan(
    settings: Settings,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Show every setting, where its value comes from, and its flag.")
    ] = False,
) -> None:
    """Show the schedule and its cost in LLM calls, tokens and time; nothing is paid."""
    from lipo_e_ray.app.tables import print_plan, print_settings

    if show_config:
        print_settings(settings)
        return
    from lipo_e_ray import api

    print_plan(api.plan(settings.config.task.name, config=settings.config))


@app.command()
def resume(
    folder: Folder,
    max_llm_calls: Annotated[int | None, typer.Option(help="A higher limit than before; 0: none.")] = None,
    iterations: Annotated[int | None, typer.Option(help="More InvBO iterations than before, in all.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Minutes, from now on; 0: none.")] = None,
    engines: Annotated[int | None, typer.Option(help="Another number of engines.")] = None,
    address: Address = None,
    metric: SameMetric = None,
) -> None:
    """Continue an interrupted run, or a finished one with more; no LLM call that was answered is made again."""
    flags = {
        "--max-llm-calls": max_llm_calls,
        "--iterations": iterations,
        "--time-limit": time_limit,
        "--engines": engines,
        "--metric": metric,
    }
    here = _enter(address, folder, "resume", flags)
    from lipo_e_ray import api

    keys = ("max_llm_calls", "invbo.iterations", "time_limit", "engines")
    values = (max_llm_calls, iterations, time_limit, engines)
    changes = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
    with _shown() as display:
        result = api.resume(folder, changes=changes, metric=metric, address=here, callback=display)
    _print_result(result)


@app.command()
def report(folder: Folder) -> None:
    """Write report.html again, from the ledger alone."""
    from lipo_e_ray.report.html import write_report

    RunFolder(folder).load_config()
    print(write_report(folder))


@app.command()
def evaluate(
    folder: Folder,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    address: Address = None,
    metric: SameMetric = None,
) -> None:
    """Measure the best prompt on a whole split; what was answered before is not asked again."""
    if split not in ("validation", "test"):
        raise InputError(f"--split: expected validation or test, got {split!r}")
    here = _enter(address, folder, "evaluate", {"--split": split, "--metric": metric})
    from lipo_e_ray import api

    with _shown() as display:
        counts = api.evaluate(folder, split, metric=metric, address=here, callback=display)  # type: ignore[arg-type]
    seen = counts.observation
    print(
        f"{split} accuracy: {1 - seen.error:.1%} ({seen.evaluated - seen.errors} of {seen.evaluated} right, "
        f"{seen.unparseable} unparseable, {counts.failed} failed, {counts.new_calls} new LLM calls)"
    )


def _print_result(result: Any) -> None:
    from lipo_e_ray.report.answer import final_line

    if result.best is not None:
        print(f"best prompt: {RunFolder(result.folder).best_prompt_file}\nreport: {result.report}")
    print(final_line(result.records))


@contextmanager
def _shown() -> Iterator[Any]:
    from lipo_e_ray.app.display import Display

    with Display() as display:
        yield display


def _enter(
    address: str | None, folder: Path, command: str, flags: Mapping[str, Any], settings: Settings | None = None
) -> str:
    """The address to run on from here, checked. For ``ray://``, runs ``command`` on the cluster and exits.

    Raises ``InputError``. Torch and Ray load only now that there is something to run.
    """
    check_install()
    from lipo_e_ray.app.remote import remote_address, run_remotely
    from lipo_e_ray.distributed.session import CLIENT, check_address

    cluster = remote_address(folder)
    where = check_address(address or cluster)
    if where.startswith(CLIENT):
        options = [part for flag, value in flags.items() if value is not None for part in (flag, str(value))]
        sys.exit(run_remotely(where, folder, command, options, settings.config if settings else None))
    if cluster:
        raise InputError(
            f"--address {where}: this run lies on the cluster at {cluster}; leave --address away, or give "
            "its new ray:// address"
        )
    return where


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; every error on purpose is one line on standard error."""
    try:
        sys.exit(app(args=arguments, standalone_mode=False) or 0)  # typer turns an interrupt into a return value, 130
    except UsageError as error:
        _fail(f"{error.format_message()} (--help lists what there is)", 2)
    except InputError as error:
        _fail(str(error), 2)
    except LipoError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _fail(line: str, status: int) -> None:
    print("lipo-e-ray:", *line.split(), file=sys.stderr)  # one line, even where a file's name has line ends
    sys.exit(status)
