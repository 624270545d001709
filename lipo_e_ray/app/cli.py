"""The command line: ``lipo-e-ray run | plan | resume | report | evaluate``; ``python -m lipo_e_ray.run`` is ``run``.

Exit status: 0 done; 1 the run could not go on (nothing lost, ``resume`` continues); 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lipo_e_ray.app.install_check import check_install
from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.engine.model import fast_dtype
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import InputError, LipoError

# typer carries its own click and names only this branch of its usage errors in public
UsageError = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the instruction and the exemplars with which your model errs least.",
)

Profile = Annotated[str, typer.Option(help=f"Where it runs: {', '.join(PROFILES)}.")]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help=("arithmetic, gsm8k, or a folder with train.jsonl, validation.jsonl, test.jsonl of question and answer."),
    ),
]
Model = Annotated[str | None, typer.Option(help="smollm2-135m (embedded), a folder, or a Hugging Face id.")]
Seed = Annotated[int, typer.Option(help="Same seed and same outcomes: same run.")]
MaxCalls = Annotated[int, typer.Option("--max-llm-calls", help="Hard limit for the search; 0: none.")]
PoolSize = Annotated[int | None, typer.Option("--qa-pool-size", help="Exemplars to choose from.")]
NumInstructions = Annotated[int | None, typer.Option("--ape-num-instructions", help="Instructions the LLM writes.")]
Iterations = Annotated[int | None, typer.Option("--iterations", help="InvBO iterations; 0: none.")]
UseApe = Annotated[bool, typer.Option("--use-ape/--no-use-ape", help="Let the LLM write instructions.")]
Instructions = Annotated[Path | None, typer.Option("--instructions", help="Your own instructions, one a line.")]
Metric = Annotated[
    str | None,
    typer.Option(
        help=(
            "How answers are judged: numeric, choice, text, or your own module:function; default: what fits the answers."
        )
    ),
]
SameMetric = Annotated[str | None, typer.Option("--metric", help="The run's own module:function, if it has one.")]
Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Engines = Annotated[int, typer.Option(help="vLLM engines; 0: one per GPU that the cluster has or gets.")]
TensorParallel = Annotated[int, typer.Option("--tensor-parallel", help="GPUs per engine.")]
Address = Annotated[
    str | None,
    typer.Option(
        help=(
            "The Ray to run on. local: one of its own; auto: the one running here; host:port, from a node of that cluster; "
            "ray://host:port, from anywhere. Default: RAY_ADDRESS, else local."
        )
    ),
]


def configure(
    profile: str,
    task: str | None,
    model: str | None,
    seed: int,
    max_llm_calls: int,
    qa_pool_size: int | None,
    ape_num_instructions: int | None,
    iterations: int | None,
    use_ape: bool,
    instructions: Path | None,
    engines: int = 0,
    tensor_parallel: int = 1,
    metric: str | None = None,
) -> RunConfig:
    """The profile with what the flags change; the demo's numbers are of a kind its CPU is fast with. Raises
    ``InputError``."""
    if profile not in PROFILES:
        raise InputError(f"--profile: expected one of {', '.join(PROFILES)}, got {profile!r}")
    base = PROFILES[profile]
    dtype = fast_dtype() if profile == "demo" else base.model.dtype
    given = {"name": task, "pool_size": qa_pool_size, "metric": metric}
    return replace(
        base,
        seed=seed,
        max_llm_calls=max_llm_calls,
        engines=engines,
        instructions_file=os.path.realpath(instructions) if instructions else "",
        task=replace(base.task, **{key: value for key, value in given.items() if value is not None}),
        model=replace(base.model, name=model or base.model.name, dtype=dtype, tensor_parallel=tensor_parallel),
        ape=replace(base.ape, use=use_ape, num_instructions=ape_num_instructions or base.ape.num_instructions),
        invbo=base.invbo if iterations is None else replace(base.invbo, iterations=iterations),
    )


def default_output(config: RunConfig) -> Path:
    """One folder per task, model and seed, so that the same command again continues the same run."""
    names = [Path(name).name for name in (config.task.name, config.model.name)]
    return Path("runs") / f"{'-'.join(names)}-seed{config.seed}"


@app.command()
def run(
    profile: Profile = "l40s",
    task: TaskName = None,
    model: Model = None,
    seed: Seed = 0,
    max_llm_calls: MaxCalls = 0,
    qa_pool_size: PoolSize = None,
    ape_num_instructions: NumInstructions = None,
    iterations: Iterations = None,
    use_ape: UseApe = True,
    instructions: Instructions = None,
    engines: Engines = 0,
    tensor_parallel: TensorParallel = 1,
    address: Address = None,
    metric: Metric = None,
    output: Annotated[Path | None, typer.Option(help="The run folder; default runs/TASK-MODEL-seedN.")] = None,
) -> None:
    """Search for the best prompt; the same command again continues where it stopped."""
    config = configure(
        profile,
        task,
        model,
        seed,
        max_llm_calls,
        qa_pool_size,
        ape_num_instructions,
        iterations,
        use_ape,
        instructions,
        engines,
        tensor_parallel,
        metric,
    )
    folder = output or default_output(config)
    # On a cluster `run` is `resume`: the folder there has the config.
    here = _enter(address, folder, "resume", *_named(metric), config=config)
    from lipo_e_ray.run import run_search_job

    run_search_job(config, RunFolder(folder), address=here)


@app.command()
def plan(
    profile: Profile = "l40s",
    task: TaskName = None,
    model: Model = None,
    seed: Seed = 0,
    max_llm_calls: MaxCalls = 0,
    qa_pool_size: PoolSize = None,
    ape_num_instructions: NumInstructions = None,
    iterations: Iterations = None,
    use_ape: UseApe = True,
    instructions: Instructions = None,
    metric: Metric = None,
) -> None:
    """Show the schedule and its cost in LLM calls, tokens and time; nothing is paid."""
    from lipo_e_ray.app.plan import print_plan

    check_install()
    print_plan(
        configure(
            profile,
            task,
            model,
            seed,
            max_llm_calls,
            qa_pool_size,
            ape_num_instructions,
            iterations,
            use_ape,
            instructions,
            metric=metric,
        )
    )


@app.command()
def resume(folder: Folder, address: Address = None, metric: SameMetric = None) -> None:
    """Continue an interrupted run; no LLM call that was answered is made again."""
    here = _enter(address, folder, "resume", *_named(metric))
    from lipo_e_ray.run import run_search_job

    run_search_job(RunFolder(folder).config_to_run(metric), RunFolder(folder), address=here)


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
    """Measure the best prompt on a whole split; what the ledger knows is not asked again."""
    if split not in ("validation", "test"):
        raise InputError(f"--split: expected validation or test, got {split!r}")
    here = _enter(address, folder, "evaluate", "--split", split, *_named(metric))
    from lipo_e_ray.run import evaluate_best

    evaluate_best(RunFolder(folder), split, here, metric)


def _named(metric: str | None) -> tuple[str, ...]:
    """``--metric`` for the command that runs on the cluster instead."""
    return () if metric is None else ("--metric", metric)


def _enter(address: str | None, folder: Path, command: str, *options: str, config: RunConfig | None = None) -> str:
    """The address to run on from here, checked. For ``ray://``, runs ``command`` on the cluster and exits.

    Raises ``InputError``. Torch and Ray load only now that there is something to run.
    """
    check_install()
    from lipo_e_ray.app.remote import remote_address, run_remotely
    from lipo_e_ray.distributed.session import CLIENT, check_address

    cluster = remote_address(folder)
    where = check_address(address or cluster)
    if where.startswith(CLIENT):
        sys.exit(run_remotely(where, folder, command, list(options), config))
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
