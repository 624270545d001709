"""The embedded default, whole and with a real engine, against random search with as many LLM calls.

``python -m benchmarks.real.generative`` makes, for each seed, one run of the demo profile (task, search and VAE
differ by seed) and one random search over the same instructions and the same pool of exemplars: prompts in random
order, each on all validation examples, until the run's calls are spent. It prints the test accuracies and writes
``benchmarks/results/generative.json``. Whatever was answered is in ``--work``: the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks.machine import write
from benchmarks.recorded.record import record
from benchmarks.workload import random_prompts
from lipo_e_ray.config import PROFILES
from lipo_e_ray.engine.base import Engine, generation_key
from lipo_e_ray.inputs import Inputs, load_inputs
from lipo_e_ray.instructions.induction import generate_instructions
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.report.records import Records, ScoredPrompt, read
from lipo_e_ray.service.service import Split
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.types import Completion, LipoError, Message, Prompt, Sampling

RESULTS = Path(__file__).parents[1] / "results" / "generative.json"


@dataclass(frozen=True)
class Seed:
    """Accuracies of one seed's searches. ``hyperband``: the best prompt by validation before InvBO begins."""

    seed: int
    calls: int
    baseline_test: float
    lipo_e_test: float
    random_test: float
    hyperband_test: float
    lipo_e_validation: float
    random_validation: float
    hyperband_validation: float


def run_demo(folder: Path, seed: int) -> Records:
    """As a user runs it, or goes on with it."""
    if not RunFolder(folder).best_prompt_file.exists():
        command = ["resume"] if folder.exists() else ["run", "--profile", "demo", "--seed", str(seed), "--output"]
        subprocess.run([sys.executable, "-m", "lipo_e_ray", *command, str(folder)], check=True)
    with Ledger(RunFolder(folder).ledger_file) as ledger:
        return read(ledger)


def written_instructions(folder: Path, inputs: Inputs) -> tuple[list[str], int]:
    """Those the run in ``folder`` had its model write, and in how many calls."""
    config, calls = RunFolder(folder).load_config(), 0
    with Ledger(RunFolder(folder).ledger_file) as ledger:

        def recorded(chats: Sequence[Sequence[Message]], samplings: Sequence[Sampling]) -> list[Completion]:
            nonlocal calls
            calls += len(chats)
            keys = [generation_key(inputs.engine.fingerprints, *pair) for pair in zip(chats, samplings, strict=True)]
            return [ledger.generation(key) or Completion("", error="failed") for key in keys]

        return generate_instructions(recorded, inputs.task, config.ape, config.seed), calls


async def accuracies(
    ledger: Ledger, engine: Engine, inputs: Inputs, prompts: Sequence[Prompt], split: Split
) -> list[float]:
    """Of each prompt on all of ``split``; what is not in the ledger is asked."""
    task = replace(inputs.task, test=()) if split == "validation" else replace(inputs.task, validation=())
    different = list({prompt.id: prompt for prompt in prompts}.values())
    await record(ledger, engine, different, task)
    ids = [example.id for example in (*task.validation, *task.test)]
    return [1 - ledger.observation(prompt.id, ids).error for prompt in prompts]


def candidates(folder: Path, calls: int, inputs: Inputs, seed: int) -> list[Prompt]:
    """What a random search asks in as many calls: the same for the instructions, and the test of two prompts."""
    written, paid = written_instructions(folder, inputs)
    count = (calls - paid - 2 * len(inputs.task.test)) // len(inputs.task.validation)
    pool = ExemplarPool(inputs.task.pool, PROFILES["demo"].max_exemplars)
    texts = list(dict.fromkeys([*inputs.instructions, *written]))
    return random_prompts(texts, pool, count, np.random.default_rng(seed))


async def compare(
    records: Records, inputs: Inputs, prompts: Sequence[Prompt], ledger: Ledger, engine: Engine, seed: int
) -> Seed:
    """The random search over ``prompts``, then the test of what each search found, and LIPO-E before InvBO."""
    baseline = records.baseline.test if records.baseline else None
    if records.best is None or baseline is None:
        raise LipoError("expected a finished run, got one without a baseline; run the same command again")
    stages = {"lipo_e": records.best, "hyperband": before_invbo(records)}
    validation = await accuracies(ledger, engine, inputs, prompts, "validation")
    found = [prompts[int(np.argmax(validation))], *(scored.prompt for scored in stages.values())]
    random_test, *tests = await accuracies(ledger, engine, inputs, found, "test")
    return Seed(
        seed,
        records.usage.calls,
        baseline.value,
        random_test=random_test,
        random_validation=max(validation),
        **{f"{name}_test": test for name, test in zip(stages, tests, strict=True)},
        **{f"{name}_validation": scored.accuracy.value for name, scored in stages.items()},
    )


def before_invbo(records: Records) -> ScoredPrompt:
    """The prompt with the least error on all validation examples when InvBO began."""
    return min(
        (s for s in records.scored if s.origin.stage != "invbo" and s.fidelity == records.full_fidelity),
        key=lambda s: s.observation.errors,
    )


def difference(better: Sequence[float], worse: Sequence[float]) -> tuple[float, float, float]:
    """Mean over the seeds, its standard error, and p of the paired t-test, two-sided."""
    each = np.subtract(better, worse)
    return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5), float(ttest_1samp(each, 0.0).pvalue)


def show(seeds: Sequence[Seed]) -> dict[str, tuple[float, float, float]]:
    """Prints all of it; the differences."""
    print(f"{'test accuracy':15s}" + "".join(f"   seed {found.seed}" for found in seeds) + "     mean")
    for name in ("baseline", "random", "hyperband", "lipo_e"):
        values = [getattr(found, f"{name}_test") for found in seeds]
        print(f"{name:15s}" + "".join(f"{value:9.1%}" for value in values) + f"{np.mean(values):9.1%}")
    pairs = {
        "LIPO-E less random search, test": ("lipo_e_test", "random_test"),
        "InvBO's own gain over Hyperband's best, validation": ("lipo_e_validation", "hyperband_validation"),
        "the same, test": ("lipo_e_test", "hyperband_test"),
    }
    result = {
        title: difference([getattr(found, a) for found in seeds], [getattr(found, b) for found in seeds])
        for title, (a, b) in pairs.items()
    }
    for title, (mean, error, p) in result.items():
        print(f"{title}: {mean:+.1%} +- {error:.1%}, p = {p:.3f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs") / "generative", help="folder of the runs")
    arguments = parser.parse_args()
    folders = {seed: arguments.work / f"seed-{seed}" for seed in range(arguments.seeds)}
    records = {seed: run_demo(folder, seed) for seed, folder in folders.items()}
    inputs = {seed: load_inputs(RunFolder(folder).load_config()) for seed, folder in folders.items()}
    engine = inputs[0].engine.make()  # the seeds differ in their tasks' examples, not in the model

    async def search(seed: int) -> Seed:
        prompts = candidates(folders[seed], records[seed].usage.calls, inputs[seed], seed)
        with Ledger(folders[seed] / "random.sqlite", inputs[seed].engine.fingerprints) as ledger:
            return await compare(records[seed], inputs[seed], prompts, ledger, engine, seed)

    async def searches() -> list[Seed]:
        try:
            return [await search(seed) for seed in folders]
        finally:
            await engine.close()

    seeds = asyncio.run(searches())
    write(RESULTS, {"seeds": [asdict(found) for found in seeds], "differences": show(seeds)})


if __name__ == "__main__":
    main()
