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
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import lipo_e_ray as lipo
from benchmarks.machine import write
from benchmarks.real.answers import StoredEngine
from benchmarks.real.comparison import METHODS, Key, Row, show, summary
from benchmarks.real.halving import Found, accuracy, random_halved
from lipo_e_ray.config import PROFILES, ModelConfig
from lipo_e_ray.engine.model import fast_dtype, fingerprints, sampling_of
from lipo_e_ray.inputs import EngineSpec, vllm_spec
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import InputError, LipoError

RESULTS = Path(__file__).parents[1] / "results" / "small_limits.json"
GROUPS = ("instruction_induction", "bbh")  # folders of tasks
DEMO = PROFILES["demo"]
CONTEXT = 4096  # tokens; room for eight exemplars of any of these tasks


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

    @property
    def settings(self) -> dict[str, Any]:
        """Of LIPO-E, over the profile ``demo``: the test is outside the limit."""
        return {"seed": self.seed, "test_share": 0.0, "model.max_model_len": CONTEXT}


def lipo_e(case: Case, limit: int) -> Found:
    """A run of the demo profile as a user starts it; a finished or interrupted one goes on in its folder."""
    result = lipo.optimize(
        case.path,
        engine=case.engine,
        max_llm_calls=limit,
        output=case.output / f"lipo_e-{case.path.name}-{limit}-seed{case.seed}",
        profile="demo",
        config=case.settings,
    )
    if result.best is None:
        raise LipoError(f"{result.folder}: expected a prompt, got none; run the same command again")
    return Found(result.best.prompt, result.best.accuracy, result.calls)


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
    known = [Row(**json.loads(line)) for line in lines]
    rows = {row.key: row for row in known if (row.model, row.test_size) == (fingerprint, arguments.test_size)}
    tasks = {task: task_folder(arguments.data, task) for task in arguments.tasks}
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


def parser(doc: str | None, results: Path) -> argparse.ArgumentParser:
    """The arguments that ``benchmarks.real.peers`` takes too."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {' and '.join(GROUPS)}")
    parser.add_argument("--model", type=Path, required=True, help="folder of an instruct model")
    parser.add_argument("--output", type=Path, default=Path("runs") / results.stem)
    parser.add_argument("--store", type=Path, help="file of the answers; default: answers.sqlite in --output")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--dtype", default=fast_dtype(), help="default: the one this machine is fast with")
    return parser


def main() -> None:
    arguments_of = parser(__doc__, RESULTS)
    tasks = "antonyms,letters_list,num_to_verbal,object_counting"
    arguments_of.add_argument("--tasks", type=_names, default=_names(tasks))
    arguments_of.add_argument("--seeds", type=int, default=3)
    arguments_of.add_argument("--limits", type=_numbers, default=[300, 1000], help="search calls")
    arguments_of.add_argument("--methods", type=_names, default=list(METHODS))
    arguments_of.add_argument("--test-size", type=int, default=0, help="test examples; 0: all there are")
    arguments = arguments_of.parse_args()
    arguments.store = (arguments.store or arguments.output / "answers.sqlite").absolute()
    if unknown := set(arguments.methods) - set(METHODS):
        arguments_of.error(f"--methods: expected some of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
    try:
        rows = compare(arguments)
    except LipoError as error:
        raise SystemExit(f"small_limits: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("small_limits: interrupted; nothing is lost, the same command goes on") from None
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
