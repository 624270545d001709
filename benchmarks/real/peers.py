"""LIPO-E against other optimizers, with as many LLM calls as each of their searches paid.

``python -m benchmarks.real.peers --data FOLDER --model FOLDER --found FILE`` reads the searches that
``benchmarks.real.capo`` and ``benchmarks.real.miprov2`` appended to FILE. For each, LIPO-E searches the same task and
seed, is told the calls that the other paid as its limit, and is scored on the same test examples, outside the limit.

``--output`` and ``--store`` are those of ``benchmarks.real.small_limits``; the same command goes on where it was cut
off.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.machine import write
from benchmarks.real.comparison import Row, paired
from benchmarks.real.halving import accuracy
from benchmarks.real.served import Search
from benchmarks.real.small_limits import CONTEXT, DEMO, Case, lipo_e, parser, task_folder
from lipo_e_ray.types import LipoError

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"


def beside(case: Case, found: Search) -> tuple[Row, Row]:
    """LIPO-E's search and the other one, as rows with the same limit; the other one's validation is not known."""
    result = lipo_e(case, found.calls)
    engine = case.engine.make()
    with asyncio.Runner() as runner:
        try:
            test = runner.run(accuracy(engine, result.prompt, case.task.test))
        finally:
            runner.run(engine.close())
    ours = Row(
        *(found.task, found.seed, found.calls, "lipo_e", engine.fingerprints.model, case.test_size),
        *(result.calls, result.validation.value, result.validation.n, test.value, test.n),
    )
    theirs = replace(ours, method=found.method, calls=found.calls, validation=0.0, validation_n=0, test=found.test)
    return ours, theirs


def show(rows: Sequence[Row]) -> list[dict[str, float | str | None]]:
    """A line per rival: the mean test accuracies, and the paired difference."""
    table = []
    for rival in sorted({row.method for row in rows} - {"lipo_e"}):
        theirs = {row.key[:3]: row for row in rows if row.method == rival}
        both = [row for row in rows if row.key[:3] in theirs and row.method in ("lipo_e", rival)]
        line = {"rival": rival, **paired(both, rival)}
        for method in ("lipo_e", rival):
            tests = [row.test for row in both if row.method == method]
            line[method] = sum(tests) / len(tests)
        table.append(line)
        interval = "-" if line["interval"] is None else f"{line['interval']:.1%}"
        print(
            f"LIPO-E {line['lipo_e']:.1%}, {rival} {line[rival]:.1%}: {line['difference']:+.1%} +- {interval}, "
            f"p = {line['p']:.3f}, {line['pairs']} pairs"
        )
    return table


def main() -> None:
    arguments_of = parser(__doc__, RESULTS)
    arguments_of.add_argument("--found", type=Path, required=True, help="lines of capo and miprov2")
    arguments = arguments_of.parse_args()
    store = (arguments.store or arguments.output / "answers.sqlite").absolute()
    model = replace(DEMO.model, name=str(arguments.model), max_model_len=CONTEXT, dtype=arguments.dtype)
    searches = [Search(**json.loads(line)) for line in arguments.found.read_text(encoding="utf-8").splitlines()]
    rows: list[Row] = []
    try:
        for found in searches:
            folder = task_folder(arguments.data, found.task)
            case = Case(folder, found.seed, model, found.test_size, arguments.output, store)
            pair = beside(case, found)
            rows += pair
            print(
                f"{found.task}, seed {found.seed}, {found.calls:,} calls: LIPO-E {pair[0].test:.1%}, "
                f"{found.method} {found.test:.1%} of {found.test_n}",
                flush=True,
            )
    except LipoError as error:
        raise SystemExit(f"peers: {error}") from None
    table = show(rows)
    write(arguments.results, {"model_name": arguments.model.name, "summary": table, "rows": [asdict(r) for r in rows]})


if __name__ == "__main__":
    main()
