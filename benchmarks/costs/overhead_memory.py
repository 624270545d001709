"""Peak memory of what runs beside the engines: the driver and the BO actor, each in a process of its own.

``bo``: all that ``lipo_e_ray.job`` imports, the MiniLM encoder, a trained latent space, a proposal by two stages and
one by InvBO from all prompts. ``driver``: the same imports, a ledger with every outcome of every prompt read, the
report written. Peaks are the kernel's ``VmHWM`` (Linux), which, unlike ``getrusage``, forgets the parent process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.costs.synthetic_search import instruction_texts, latent_space, observations
from lipo_e_ray.config import RunConfig
from lipo_e_ray.engine.embedded import ENCODER, resolve_encoder
from lipo_e_ray.latent.encoder import TextEncoder
from lipo_e_ray.latent.inversion import SearchInverter
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.report.html import write_report
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.types import (
    Batch,
    Completion,
    Fingerprints,
    InstructionSource,
    Message,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    Request,
    RungResult,
    Sampling,
    Stage,
    Status,
)

SEEDS = 12  # of the prompts, without exemplars: the report's baseline
ANSWER = "She has 5 + 7 = 12 stamps. She gives 4 of them away, so she has 12 - 4 = 8 stamps left. " * 3 + "#### 8"


@dataclass(frozen=True)
class Size:
    """By default the bar's prompts and outcomes, in a search at the full size of the ``one-gpu`` profile."""

    prompts: int = 500
    outcomes: int = 1319
    instructions: int = 2000
    pool: int = 6154
    epochs: int = 2


def memory_rows(size: Size) -> list[dict[str, Any]]:
    """MiB of both processes and, last, of their sum, which the bar is about."""
    with TemporaryDirectory() as folder:
        write_ledger(size, Path(folder))
        peaks = {side: _peak_in_child(side, size, Path(folder)) for side in ("driver", "bo")}
    peaks["both"] = sum(peaks.values())
    return [{"row": "memory", "process": side, "mib": round(mib)} for side, mib in peaks.items()]


def _peak_in_child(side: str, size: Size, folder: Path) -> float:
    arguments = [sys.executable, "-m", "benchmarks.costs.overhead_memory", side, json.dumps(asdict(size)), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as the actor has it; a thread costs memory too
    return float(subprocess.run(arguments, env=environment, check=True, capture_output=True).stdout.split()[-1])


def write_ledger(size: Size, folder: Path) -> None:
    """A finished run in ``folder``: every prompt at full fidelity, baseline and best measured on the test split."""
    RunFolder(folder).claim(RunConfig()).close()
    task = generate_arithmetic(size.pool, 1, 1, 0)
    prompts = [
        Prompt(text, () if i < SEEDS else task.pool[i % 50 : i % 50 + 8])
        for i, text in enumerate(instruction_texts(size.prompts))
    ]
    info = {"z": [0.12345] * 32, "mean": 0.4, "std": 0.1}
    with Ledger(folder / "ledger.sqlite", Fingerprints("model", "sampling", "template")) as ledger:
        stages: tuple[tuple[Stage, InstructionSource, int, list[Prompt]], ...] = (
            ("baseline", "seed", 500, prompts[:SEEDS]),
            ("hyperband", "ape", 300, prompts[SEEDS:]),
        )
        for bracket, (stage, source, least, chosen) in enumerate(stages):
            proposals = tuple(Proposal(p, Origin(source, stage, bracket), info) for p in chosen)
            ledger.record_batch(bracket, 0, Batch(proposals))
            for i, prompt in enumerate(chosen):
                wrong = size.outcomes * (least + i) // 1000
                _answer(ledger, prompt, "validation", size.outcomes, wrong)
                ledger.record_rung(
                    RungResult(
                        bracket,
                        stage,
                        0,
                        0,
                        size.outcomes,
                        Observation(prompt.id, wrong, size.outcomes),
                        False,
                        size.outcomes,
                    )
                )
        for prompt in (prompts[0], prompts[SEEDS]):
            _answer(ledger, prompt, "test", size.outcomes, size.outcomes // 3)


def _answer(ledger: Ledger, prompt: Prompt, split: str, count: int, wrong: int) -> None:
    ledger.record_outcomes(
        split,
        [
            Outcome(
                prompt.id, f"{split}-{i:08x}", Status.WRONG if i < wrong else Status.CORRECT, ANSWER, "", 900, 850, 90
            )
            for i in range(count)
        ],
    )


def driver_side(folder: Path) -> Path:
    """What the driver reads and writes at the end of a run."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        read(ledger)
    return write_report(folder)


def bo_side(size: Size, folder: Path, encoder: Any) -> tuple[list[Proposal], list[Proposal]]:
    """What the BO actor does: a latent space, then 32 prompts by two stages and 4 by InvBO, from all the others."""
    texts, task = instruction_texts(size.instructions), generate_arithmetic(size.pool, 1, 1, 0)
    space = latent_space(encoder, texts, task.pool, size.epochs, folder / "latent")
    latent = space, SearchInverter(encoder, _rewrite)
    proposer = Proposer(task, RunConfig(), dict.fromkeys(texts, "ape"), lambda: latent)
    observed = observations(space, texts, task.pool, size.prompts)
    requests = Request("hyperband", 1, 32, observed), Request("invbo", 2, 4, observed)
    two_stage, invbo = (list(proposer.propose(request).proposals) for request in requests)
    return two_stage, invbo


def _rewrite(chats: Sequence[Sequence[Message]], samplings: Sequence[Sampling]) -> list[Completion]:
    return [Completion("Write the calculation in one line, then give the result.") for _ in chats]


def peak_mib() -> float:
    """The most memory that this process has had resident, in MiB."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024


def main(side: str, size: str, folder: str) -> None:
    import lipo_e_ray.job  # noqa: F401, for its imports: Ray and all the rest, as in both processes of a run

    if side == "driver":
        driver_side(Path(folder))
    else:
        bo_side(Size(**json.loads(size)), Path(folder), TextEncoder(resolve_encoder(ENCODER)))
    print(peak_mib())


if __name__ == "__main__":
    main(*sys.argv[1:])
