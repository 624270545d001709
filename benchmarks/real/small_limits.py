"""Small limits: LIPO-E against the simplest rival, random prompts that are halved, with a real engine.

``python -m benchmarks.real.small_limits --data FOLDER --model FOLDER --tasks antonyms,letters_list`` lets each method
search with each seed and limit, then scores the prompt that it found on the whole test split, outside the limit, and
prints test accuracies and paired differences. FOLDER of ``--data`` has ``instruction_induction/TASK`` and ``bbh/TASK``.

``--output`` keeps the LIPO-E runs, all answers (``answers.sqlite``) and a row for each search that is done
(``rows.jsonl``): the same command goes on where it was cut off. To compare another version of a method, name another
``--output`` and the first one's answers with ``--store``: only what no version has asked yet is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t, wilcoxon

import lipo_e_ray as lipo
from benchmarks.machine import write
from benchmarks.real.answers import StoredEngine
from lipo_e_ray.config import PROFILES, ModelConfig, RunConfig
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.model import fast_dtype, fingerprints, sampling_of
from lipo_e_ray.inputs import EngineSpec, vllm_spec
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.statistics import Rate
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, LipoError, Prompt, Status

RESULTS = Path(__file__).parents[1] / "results" / "small_limits.json"
GROUPS = ("instruction_induction", "bbh")  # folders of tasks
DEMO = PROFILES["demo"]
CONTEXT = 4096  # tokens; room for eight exemplars of any of these tasks
FIDELITIES = (8, 16, 32, 64, 128)
EXEMPLARS = 8
ALL = "all tasks"
INSTRUCTIONS = SEED_INSTRUCTIONS[1:4]
"""Three shipped ones that suit any task: "Solve the problem." and two forms of "Answer the question."."""

Key = tuple[str, int, int, str]
"""Task, seed, limit, method."""


@dataclass(frozen=True)
class Found:
    """The prompt that a search ended with, its validation accuracy, and the answers that the search asked for."""

    prompt: Prompt
    validation: Rate
    calls: int


@dataclass(frozen=True)
class Row:
    """One search. Accuracies are rates in [0, 1]; ``model``: fingerprint; ``test_size``: as given, 0 for all."""

    task: str
    seed: int
    limit: int
    method: str
    model: str
    test_size: int
    calls: int
    validation: float
    validation_n: int
    test: float
    test_n: int

    @property
    def key(self) -> Key:
        """Which search of the comparison it is."""
        return self.task, self.seed, self.limit, self.method


@dataclass(frozen=True)
class Case:
    """A task cut and shuffled by a seed, and the model: what all methods have in common."""

    path: Path
    seed: int
    model: ModelConfig
    test_size: int
    output: Path
    store: Path

    @cached_property
    def task(self) -> Task:
        return load_task(replace(DEMO.task, name=str(self.path), test_size=self.test_size), self.seed)

    @cached_property
    def engine(self) -> EngineSpec:
        """The real engine behind the store."""
        spec = vllm_spec(self.model, self.task)
        sampling, metric = sampling_of(self.model), get_metric(self.task.metric)
        return replace(spec, make=partial(StoredEngine, self.store, spec.make, spec.fingerprints, sampling, metric))


async def accuracy(engine: Engine, prompt: Prompt, examples: Sequence[Example]) -> Rate:
    """How many are right. Raises ``LipoError`` for a failed answer: methods are compared on the same examples."""
    statuses = [outcome.status for outcome in await engine.evaluate(prompt, examples)]
    if failed := statuses.count(Status.FAILED):
        raise LipoError(f"expected {len(examples)} answers, {failed} failed; run the same command again")
    return Rate(statuses.count(Status.CORRECT), len(examples))


def races(count: int, fidelities: Sequence[int]) -> list[tuple[int, int]]:
    """(prompts, examples new to each of them) of each rung when ``count`` prompts begin."""
    new = np.diff([0, *fidelities]).tolist()
    return [(max(1, count >> rung), examples) for rung, examples in enumerate(new)]


def affordable(limit: int, fidelities: Sequence[int]) -> int:
    """The most prompts whose race costs no more calls than ``limit``. Raises ``InputError`` where there is none."""
    count = 0
    while sum(prompts * new for prompts, new in races(count + 1, fidelities)) <= limit:
        count += 1
    if not count:
        raise InputError(f"--limits: expected {fidelities[-1]} calls or more, the race of one prompt, got {limit}")
    return count


async def random_halved(task: Task, engine: Engine, limit: int, seed: int) -> Found:
    """Random prompts with eight exemplars, raced by successive halving; what is left of the limit buys nothing."""
    fidelities = sorted({min(n, len(task.validation)) for n in FIDELITIES})
    count, rng = affordable(limit, fidelities), np.random.default_rng(seed)
    sets = [rng.choice(len(task.pool), EXEMPLARS, replace=False) for _ in range(count)]
    prompts = [
        Prompt(INSTRUCTIONS[i % len(INSTRUCTIONS)], tuple(task.pool[j] for j in chosen))
        for i, chosen in enumerate(sets)
    ]
    right, seen, calls = dict.fromkeys(prompts, 0), 0, 0
    for alive, new in races(count, fidelities):
        prompts = sorted(prompts, key=lambda prompt: -right[prompt])[:alive]  # stable: of equals the first one
        examples = task.validation[seen : seen + new]
        rates = await asyncio.gather(*(accuracy(engine, prompt, examples) for prompt in prompts))
        for prompt, rate in zip(prompts, rates, strict=True):
            right[prompt] += rate.correct
        seen, calls = seen + new, calls + alive * new
    best = max(prompts, key=lambda prompt: right[prompt])
    return Found(best, Rate(right[best], seen), calls)


def lipo_e(case: Case, limit: int) -> Found:
    """A run of the demo profile as a user starts it; a finished or interrupted one goes on in its folder."""
    known = {field.name for field in dataclasses.fields(RunConfig)}
    untested = {"test_share": 0.0} if "test_share" in known else {"task.test_size": 1}  # else 2 calls of the limit
    result = lipo.optimize(
        case.path,
        engine=case.engine,
        max_llm_calls=limit,
        output=case.output / f"lipo_e-{case.path.name}-{limit}-seed{case.seed}",
        profile="demo",
        config={"seed": case.seed, "task.test_size": case.test_size, "model.max_model_len": CONTEXT} | untested,
    )
    if result.best is None:
        raise LipoError(f"{result.folder}: expected a prompt, got none; run the same command again")
    return Found(result.best.prompt, result.best.accuracy, result.calls)


METHODS = ("lipo_e", "random_halved")


def searched(case: Case, methods: Sequence[str], limits: Sequence[int], done: Collection[Key]) -> Iterator[Row]:
    """A row for each search of ``case`` that is not ``done``, as soon as its prompt has been tested."""
    left = [
        (limit, method)
        for method, limit in product(methods, limits)
        if (case.path.name, case.seed, limit, method) not in done
    ]
    if not left:
        return
    engine = case.engine.make()
    with asyncio.Runner() as runner:
        try:
            for limit, method in left:
                if method == "lipo_e":
                    runner.run(engine.close())  # the run starts one of its own: a GPU has no room for two
                    found = lipo_e(case, limit)
                else:
                    found = runner.run(random_halved(case.task, engine, limit, case.seed))
                test = runner.run(accuracy(engine, found.prompt, case.task.test))
                yield Row(
                    *(case.path.name, case.seed, limit, method, engine.fingerprints.model, case.test_size),
                    *(found.calls, found.validation.value, found.validation.n, test.value, test.n),
                )
        finally:
            runner.run(engine.close())


def paired(rows: Sequence[Row]) -> dict[str, float | None]:
    """LIPO-E's test accuracy less the rival's over all pairs of a task and a seed.

    Mean, half the width of its 95% interval (Student's t) and p (Wilcoxon's signed-rank test, two-sided); ``None`` for
    what so few pairs do not tell.
    """
    ours, theirs = ({(r.task, r.seed): r.test for r in rows if r.method == method} for method in METHODS)
    each = np.array([ours[pair] - theirs[pair] for pair in ours if pair in theirs])
    n = len(each)
    return {
        "pairs": n,
        "difference": float(each.mean()) if n else None,
        "interval": float(t.ppf(0.975, n - 1) * each.std(ddof=1) / n**0.5) if n > 1 else None,
        "p": (float(wilcoxon(each).pvalue) if each.any() else 1.0) if n else None,
    }


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each limit and task, and for all tasks: each method's mean test accuracy, and the paired difference."""
    table = []
    for limit in sorted({row.limit for row in rows}):
        for task in (*dict.fromkeys(row.task for row in rows), ALL):
            cell = [row for row in rows if row.limit == limit and task in (row.task, ALL)]
            tests = {method: [row.test for row in cell if row.method == method] for method in METHODS}
            means = {method: float(np.mean(values)) for method, values in tests.items() if values}
            table.append({"limit": limit, "task": task, **means, **paired(cell)})
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    """One line per limit and task."""

    def percent(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.1%}"

    print(f"{'test accuracy':>13s}  {'task':18s}" + "".join(f"{method:>15s}" for method in METHODS) + "  difference")
    for line in table:
        p = "-" if line["p"] is None else f"{line['p']:.3f}"
        print(
            f"{line['limit']:7,} calls  {line['task']:18s}"
            + "".join(f"{percent(line.get(method)):>15s}" for method in METHODS)
            + f"  {percent(line['difference'], '+')} +- {percent(line['interval'])}, p = {p}, {line['pairs']} pairs"
        )


def task_folder(data: Path, task: str) -> Path:
    """Raises ``InputError`` where ``data`` has no such task."""
    found = [data / group / task for group in GROUPS if (data / group / task).is_dir()]
    if not found:
        raise InputError(f"--tasks: expected a folder {task} in {' or '.join(GROUPS)} of {data}, found none")
    return found[0]


def compare(arguments: argparse.Namespace) -> list[Row]:
    """The rows of all searches that were asked for; each is appended to ``rows.jsonl`` when it is done."""
    model = replace(DEMO.model, name=str(arguments.model), max_model_len=CONTEXT, dtype=arguments.dtype)
    fingerprint, path = fingerprints(model).model, arguments.output / "rows.jsonl"
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {row.key: row for row in (Row(**json.loads(line)) for line in lines)}
    tasks = {task: task_folder(arguments.data, task) for task in arguments.tasks}
    rows = {key: row for key, row in known.items() if (row.model, row.test_size) == (fingerprint, arguments.test_size)}
    for folder, seed in product(tasks.values(), range(arguments.seeds)):
        case = Case(folder, seed, model, arguments.test_size, arguments.output, arguments.store)
        for row in searched(case, arguments.methods, arguments.limits, rows):
            rows[row.key] = row
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            print(
                f"{row.task}, seed {seed}, {row.limit:,} calls, {row.method}: {row.calls:,} asked, "
                f"validation {row.validation:.1%} of {row.validation_n}, test {row.test:.1%} of {row.test_n}",
                flush=True,
            )
    wanted = product(tasks, range(arguments.seeds), arguments.limits, arguments.methods)
    return [rows[key] for key in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {' and '.join(GROUPS)}")
    parser.add_argument("--model", type=Path, required=True, help="folder of an instruct model")
    parser.add_argument("--tasks", type=_names, default=_names("antonyms,letters_list,num_to_verbal,object_counting"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limits", type=_numbers, default=[300, 1000], help="search calls")
    parser.add_argument("--methods", type=_names, default=list(METHODS))
    parser.add_argument("--test-size", type=int, default=0, help="test examples; 0: all there are")
    parser.add_argument("--output", type=Path, default=Path("runs") / "small_limits")
    parser.add_argument("--store", type=Path, help="file of the answers; default: answers.sqlite in --output")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dtype", default=fast_dtype(), help="default: the one this machine is fast with")
    arguments = parser.parse_args()
    arguments.store = (arguments.store or arguments.output / "answers.sqlite").absolute()
    if unknown := set(arguments.methods) - set(METHODS):
        parser.error(f"--methods: expected some of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    try:
        rows = compare(arguments)
    except LipoError as error:
        raise SystemExit(f"small_limits: {error}") from None
    table = summary(rows)
    show(table)
    result = {"model_name": arguments.model.name, "summary": table, "rows": [asdict(row) for row in rows]}
    write(arguments.results, result)


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
