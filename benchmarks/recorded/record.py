"""Records what a real LLM answers to every prompt of a grid: ``python -m benchmarks.recorded.record larger_animal``.

Answers go to a ledger in ``--work`` as they come, so a recording that is cut off goes on where it was; a ledger of
another model, template or sampling is refused. Once complete, the table is written to
``benchmarks/recorded/tables/``. A table of the first instructions only (``--instructions``) grows, on any machine,
when more of the grid is recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.recorded.grids import RECIPES, make_grid
from benchmarks.recorded.tables import FOLDER, Grid, OutcomeTable
from lipo_e_ray.config import PROFILES, ModelConfig
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.embedded import resolve_encoder
from lipo_e_ray.engine.model import fast_dtype
from lipo_e_ray.inputs import vllm_spec
from lipo_e_ray.latent.encoder import TextEncoder, example_text
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Fingerprints, InputError, LipoError, Prompt, Status

DATA = Path(__file__).parents[3] / "shared" / "data"
CHUNK = 50  # examples of one prompt in a request
AHEAD = 3  # so many times the answers that the engine computes at once are asked for: its queue is never empty
REPORT_S = 30.0


def grid_prompts(grid: Grid, task: Task) -> list[Prompt]:
    """Instruction by instruction, as in ``OutcomeTable.prompts``."""
    return [
        Prompt(text, tuple(task.pool[j] for j in chosen)) for text in grid.instructions for chosen in grid.exemplar_sets
    ]


def unrecorded(ledger: Ledger, prompts: Sequence[Prompt], task: Task) -> Iterator[tuple[Prompt, str, list[Example]]]:
    """Chunks that are still to be asked: prompt, split, examples."""
    for prompt in prompts:
        answered = ledger.outcomes(prompt.id)
        for split, examples in (("validation", task.validation), ("test", task.test)):
            left = [example for example in examples if example.id not in answered]
            for start in range(0, len(left), CHUNK):
                yield prompt, split, left[start : start + CHUNK]


async def record(ledger: Ledger, engine: Engine, prompts: Sequence[Prompt], task: Task, at_once: int = 64) -> None:
    """Ask for all that is not in ``ledger``, ``AHEAD`` times ``at_once`` answers at a time; progress every 30 s.

    Raises ``LipoError`` for a failed answer: a grid has no holes, and the same command goes on with it."""
    work = list(unrecorded(ledger, prompts, task))
    total, done, start = sum(len(examples) for _, _, examples in work), 0, time.monotonic()
    reported = start
    queue = iter(work)

    async def worker() -> None:
        nonlocal done, reported
        for prompt, split, examples in queue:
            outcomes = await engine.evaluate(prompt, examples)
            ledger.record_prompt(prompt)
            ledger.record_outcomes(split, outcomes)
            failed = [outcome.error for outcome in outcomes if outcome.status is Status.FAILED]
            if failed:
                raise LipoError(f"{len(failed)} answers failed, the first: {failed[0]}; run the same command again")
            done += len(examples)
            now = time.monotonic()
            if now - reported > REPORT_S or done == total:
                reported, rate = now, done / (now - start)
                print(
                    f"{done:,} of {total:,} answers, {rate:.1f}/s, {(total - done) / rate / 60:.0f} min left",
                    flush=True,
                )

    async with asyncio.TaskGroup() as group:
        for _ in range(math.ceil(AHEAD * at_once / CHUNK)):
            group.create_task(worker())


def take_over(table: OutcomeTable, ledger: Ledger, grid: Grid, fingerprints: Fingerprints, task: Task) -> None:
    """Put what a table of some of ``grid``'s instructions knows into ``ledger``: nothing is asked twice.

    Raises ``InputError`` for a table of another grid, model, template or sampling.
    """
    common = min(len(table.grid.instructions), len(grid.instructions))
    theirs, ours = (replace(whole, instructions=whole.instructions[:common]) for whole in (table.grid, grid))
    if (theirs, table.fingerprints) != (ours, fingerprints):
        raise InputError(
            f"{grid.name}: expected the table that is there to have the same grid, model, dtype, template "
            "and sampling as this recording, it has not; move the table away to record another"
        )
    for stand_in, prompt in zip(table.prompts, grid_prompts(ours, task), strict=False):  # instruction by instruction
        answered = ledger.outcomes(prompt.id)
        told = iter(table.outcomes(stand_in.id).values())
        for split, ids in (("validation", grid.validation), ("test", grid.test)):
            outcomes = [replace(next(told), prompt_id=prompt.id, example_id=example_id) for example_id in ids]
            if new := [outcome for outcome in outcomes if outcome.example_id not in answered]:
                ledger.record_prompt(prompt)
                ledger.record_outcomes(split, new)


def make_table(ledger: Ledger, grid: Grid, task: Task, encoder: TextEncoder) -> OutcomeTable:
    """The table of a complete ledger. Raises ``InputError`` for one with holes."""
    examples, statuses = [*task.validation, *task.test], []
    for prompt in grid_prompts(grid, task):
        answered = ledger.outcomes(prompt.id)
        if missing := sum(example.id not in answered for example in examples):
            raise InputError(
                f"{grid.name}: expected {len(examples)} answers to each prompt, {missing} of one are "
                "missing; run the same command again"
            )
        statuses.append([answered[example.id].status for example in examples])
    shape = (len(grid.instructions), len(grid.exemplar_sets), len(examples))
    correct, unparseable = (
        np.array([[s is wanted for s in row] for row in statuses]).reshape(shape)
        for wanted in (Status.CORRECT, Status.UNPARSEABLE)
    )
    texts = [example_text(example) for example in task.pool]
    sets = ["\n\n".join(texts[j] for j in chosen) for chosen in grid.exemplar_sets]
    return OutcomeTable(
        grid,
        ledger.fingerprints,
        correct,
        ~unparseable,
        encoder.encode(grid.instructions),
        encoder.encode(texts),
        encoder.encode(sets),
    )


def record_grid(name: str, instructions: int | None, data: Path, work: Path, model: ModelConfig, folder: Path) -> Path:
    """Record, or go on recording, the first ``instructions`` (``None``: all) of the grid ``name``; the table's path."""
    encoder, path = PROFILES["demo"].encoder.name, folder / f"{name}.safetensors"
    table = OutcomeTable.load(path) if path.is_file() else None
    model_name = Path(model.name).name if Path(model.name).is_dir() else model.name
    grid, task = make_grid(name, data, model_name, encoder)
    if instructions is not None:  # a table never shrinks
        instructions = max(instructions, len(table.grid.instructions) if table else 1)
    grid = replace(grid, instructions=grid.instructions[:instructions])
    spec = vllm_spec(model, task)
    work.mkdir(parents=True, exist_ok=True)
    with Ledger(work / f"{name}.sqlite", spec.fingerprints) as ledger:
        if table:
            take_over(table, ledger, grid, spec.fingerprints, task)
        prompts = grid_prompts(grid, task)
        if next(unrecorded(ledger, prompts, task), None):
            engine = spec.make()

            async def main() -> None:
                try:
                    await record(ledger, engine, prompts, task, model.max_num_seqs)
                finally:
                    await engine.close()

            asyncio.run(main())
        return make_table(ledger, grid, task, TextEncoder(resolve_encoder(encoder))).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=RECIPES)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of gsm8k and instruction_induction")
    parser.add_argument("--work", type=Path, default=Path("runs") / "tables", help="folder of the ledgers")
    parser.add_argument("--model", default=PROFILES["demo"].model.name, help="embedded, a folder, or a hub id")
    parser.add_argument("--instructions", type=int, help="only the first so many of the grid")
    parser.add_argument(
        "--dtype", default=fast_dtype(), help="a table has one; default: the one this machine is fast with"
    )
    parser.add_argument(
        "--max-num-seqs",
        type=int,
        default=PROFILES["demo"].model.max_num_seqs,
        help="answers the engine computes at once; a GPU: 256",
    )
    arguments = parser.parse_args()
    model = replace(
        PROFILES["demo"].model,
        name=arguments.model,
        max_tokens=RECIPES[arguments.grid].max_tokens,
        max_model_len=4096,
        max_num_seqs=arguments.max_num_seqs,
        dtype=arguments.dtype,
    )
    try:
        path = record_grid(arguments.grid, arguments.instructions, arguments.data, arguments.work, model, FOLDER)
        print(f"written: {path}")
    except* LipoError as group:
        raise SystemExit(f"record: {group.exceptions[0]}") from None


if __name__ == "__main__":
    main()
