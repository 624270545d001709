"""Real vLLM on this machine: what the loop round it costs, what batching gives, and the latency model fitted to it.

``python -m benchmarks.real.real_engine`` prints tables and writes ``benchmarks/results/real_engine.json``:

- the same requests by one ``LLM.chat`` call and through the service and a Ray actor (without a GPU the engine is bound
  to one core in both, as the loop's own processes would take cores from it);
- one Hyperband pass with the same candidates, one by one in a single process and by Ray Tune on one engine;
- ``Latency``: prefill and decode rates, and what both passes should take by them: where the time goes.

Each measurement has a process of its own: an engine leaves too much behind to share one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, write
from benchmarks.real.latency_fit import fit_latency
from benchmarks.real.prediction import predict
from benchmarks.workload import RecordedEngine, Workload, full_pass
from lipo_e_ray.config import PROFILES, ModelConfig, TaskConfig
from lipo_e_ray.engine.model import fast_dtype
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.inputs import vllm_spec
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.rendering import render
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Batch, Evaluation, Observation, Origin, Prompt, Proposal, Request, Sampling

RESULTS = Path(__file__).parents[1] / "results" / "real_engine.json"
PROMPTS, EXAMPLES = 10, 48  # of the comparison with one call
N, B_MIN = 64, 8  # of the Hyperband pass
OVERLAP = PROFILES["demo"].hyperband.overlap
LEDGER = "ledger.sqlite"
BARS = {"loop_to_one_call": 0.90, "ray_to_single_process": 1.7}


def task(model: ModelConfig) -> Task:
    return load_task(TaskConfig("arithmetic", pool_size=256, validation_size=N, test_size=64), seed=0)


def candidates(request: Request, pool: Sequence[Any]) -> list[Proposal]:
    """The same prompts in every process: a seed instruction and 0 to 8 exemplars each."""
    rng = random.Random(request.bracket)
    return [
        Proposal(
            Prompt(rng.choice(SEED_INSTRUCTIONS), tuple(rng.sample(list(pool), rng.randint(0, 8)))),
            Origin("seed", request.stage, request.bracket),
        )
        for _ in range(request.first + request.count)
    ][request.first :]


# ---- what runs in processes of their own; each prints one line of JSON ----


def one_call(model: ModelConfig, folder: Path) -> dict[str, float]:
    """Evaluations/s of one ``LLM.chat`` with all requests."""
    llm, params = _llm(model)
    chats = [render(p.prompt, e.question) for p in _compared(model) for e in task(model).validation[:EXAMPLES]]
    _warm_up(llm, params)
    start = time.perf_counter()
    llm.chat(chats, params, use_tqdm=False)
    return {"rate": len(chats) / (time.perf_counter() - start)}


def loop(model: ModelConfig, folder: Path) -> dict[str, float]:
    """Evaluations/s of the same requests through the service and one engine actor."""
    import ray

    from lipo_e_ray.distributed.calls import slow_result

    with _service(model, folder) as service:
        prompts = [proposal.prompt for proposal in _compared(model)]
        start = time.perf_counter()
        slow_result([service.evaluate.remote(prompt, "validation", EXAMPLES) for prompt in prompts], service)
        seconds = time.perf_counter() - start
        progress = ray.get(service.progress.remote())
    return {"rate": len(prompts) * EXAMPLES / seconds, "prefix_hits": progress.cached_tokens / progress.prompt_tokens}


def single_process(model: ModelConfig, folder: Path) -> dict[str, float]:
    """Seconds of a Hyperband pass, one candidate at a time: ask the model, fit, propose the next."""
    from lipo_e_ray.task.metrics import get_metric
    from lipo_e_ray.types import Status

    llm, params = _llm(model)
    data, metric = task(model), get_metric(task(model).metric)
    statuses: dict[str, list[Status]] = {}  # of each prompt's answers so far
    fitting: list[float] = []

    def evaluate(prompt: Prompt, n: int) -> Evaluation:
        before = statuses.setdefault(prompt.id, [])
        examples = data.validation[len(before) : n]
        outputs = llm.chat([render(prompt, e.question) for e in examples], params, use_tqdm=False)
        before += [metric(o.outputs[0].text, e.answer) for o, e in zip(outputs, examples, strict=True)]
        fitting.append(fit(len(statuses)))
        wrong = sum(status is not Status.CORRECT for status in before)
        return Evaluation(Observation(prompt.id, wrong, n), 0, len(examples))

    _warm_up(llm, params)
    fit = _fitter()
    start = time.perf_counter()
    _walk(evaluate, data)
    return {
        "seconds": time.perf_counter() - start,
        "evaluations": sum(len(found) for found in statuses.values()),
        "fit_s": sum(fitting),
    }


def by_ray(model: ModelConfig, folder: Path) -> dict[str, float]:
    """Seconds of the same pass by Ray Tune on one engine."""
    import ray

    from lipo_e_ray.distributed.bo_actor import BOSlot
    from lipo_e_ray.distributed.runner import start_bo_actor, tune_search

    hyperband = Hyperband(FixedSchedule(tuple(full_pass(N, B_MIN))), 0, OVERLAP)
    with _service(model, folder) as service:
        bo = BOSlot(partial(start_bo_actor, _Proposer, service))
        bo.prepare()
        before = ray.get(service.progress.remote()).new_calls
        start = time.perf_counter()
        tune_search(hyperband, service, bo, folder)
        seconds = time.perf_counter() - start
        progress = ray.get(service.progress.remote())
    return {
        "seconds": seconds,
        "evaluations": progress.new_calls - before,
        "prefix_hits": progress.cached_tokens / progress.prompt_tokens,
    }


def latency(model: ModelConfig, folder: Path) -> dict[str, float]:
    return asdict(fit_latency(model, vllm_spec(model, task(model)).make()))


PARTS: dict[str, Callable[[ModelConfig, Path], dict[str, float]]] = {
    part.__name__: part for part in (one_call, loop, single_process, by_ray, latency)
}


# ---- helpers of the parts ----


class _Proposer:
    """Candidates as given, after as much fitting as their number takes in a real search."""

    def __init__(self) -> None:
        self._fit = _fitter()

    def prepare(self) -> None:
        pass

    def propose(self, request: Request) -> Batch:
        self._fit(len(request.observed))
        return Batch(tuple(candidates(request, task(PROFILES["demo"].model).pool)))


def _fitter() -> Callable[[int], float]:
    """Fits the GP to that many prompts of random latents; the seconds it took."""
    import torch

    from lipo_e_ray.surrogate.gp import JointPromptGP

    rng = np.random.default_rng(0)

    def fit(m: int) -> float:
        start = time.perf_counter()
        if m >= 4:
            counts = rng.integers(0, 9, m)
            JointPromptGP(16).fit(torch.from_numpy(rng.standard_normal((m, 32))), counts, np.full(m, 8))
        return time.perf_counter() - start

    return fit


def _walk(evaluate: Callable[[Prompt, int], Evaluation], data: Task) -> None:
    from lipo_e_ray.search.replay import run_search

    hyperband = Hyperband(FixedSchedule(tuple(full_pass(N, B_MIN))), 0, overlap=0)
    run_search(hyperband, lambda request: Batch(tuple(candidates(request, data.pool))), evaluate)


def _compared(model: ModelConfig) -> list[Proposal]:
    return candidates(Request("hyperband", 99, PROMPTS), task(model).pool)


def _llm(model: ModelConfig) -> tuple[Any, Any]:
    """vLLM's own synchronous engine, with the settings of ours."""
    from lipo_e_ray.engine.vllm import engine_arguments

    arguments = engine_arguments(model)  # sets vLLM's environment: before it is imported
    from vllm import LLM, SamplingParams

    return LLM(**arguments), SamplingParams(temperature=0.0, max_tokens=model.max_tokens)


def _warm_up(llm: Any, params: Any) -> None:
    llm.chat([[{"role": "user", "content": f"How much is {i} + {i}?"}] for i in range(8)], params, use_tqdm=False)


@contextlib.contextmanager
def _service(model: ModelConfig, folder: Path) -> Iterator[Any]:
    """The real service and one engine actor on a private Ray, warm; its ledger stays in ``folder``."""
    import ray

    from lipo_e_ray.distributed.calls import slow_result
    from lipo_e_ray.distributed.pools import EnginesConfig, start_service
    from lipo_e_ray.distributed.session import ray_session

    spec, gpu = vllm_spec(model, task(model)), bool(machine()["gpus"])
    engines = EnginesConfig(count=1, num_gpus=float(gpu), in_flight=2 * model.max_num_seqs)
    with ray_session("local"):
        service = start_service(folder / LEDGER, task(model), spec.fingerprints, spec.make, engines)
        try:
            questions = [[{"role": "user", "content": f"How much is {i} + {i}?"}] for i in range(8)]
            samplings = [Sampling(max_tokens=model.max_tokens)] * 8
            slow_result(service.generate.remote(questions, samplings, "warm-up"), service)
            yield service
        finally:
            ray.get(service.close.remote())


def measure(part: str, model: ModelConfig, folder: Path, **environment: str) -> dict[str, float]:
    """One part in a process of its own, with ``folder`` for its files."""
    folder.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.real.real_engine",
            "--part",
            part,
            "--model",
            model.name,
            "--folder",
            str(folder),
        ],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{part}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=PROFILES["demo"].model.name, help="embedded, a folder, or a hub id")
    parser.add_argument("--runs", type=int, default=2, help="of each comparison")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # As the demo's command does.
    model = replace(PROFILES["demo"].model, name=arguments.model, max_model_len=2048, dtype=fast_dtype())
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](model, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(model, arguments.runs, Path(folder))


def compare(model: ModelConfig, runs: int, folder: Path) -> None:
    """Every part, ``runs`` times those that are compared; prints, and writes ``RESULTS``."""
    one_core = {} if machine()["gpus"] else {"VLLM_CPU_OMP_THREADS_BIND": "0"}
    calls = [
        tuple(measure(part, model, folder / f"{part}{i}", **one_core) for part in ("one_call", "loop"))
        for i in range(runs)
    ]
    passes = [
        tuple(measure(part, model, folder / f"{part}{i}") for part in ("single_process", "by_ray")) for i in range(runs)
    ]
    ratios = {
        "loop_to_one_call": [ours["rate"] / theirs["rate"] for theirs, ours in calls],
        "ray_to_single_process": [theirs["seconds"] / ours["seconds"] for theirs, ours in passes],
    }
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f} (bar {BARS[name]:.2f}; runs {[round(v, 2) for v in values]})")
    fitted = measure("latency", model, folder / "latency")
    fit_s = statistics.median(theirs["fit_s"] for theirs, _ in passes)
    workload = Workload(task(model), candidates, partial(RecordedEngine, folder / "by_ray0" / LEDGER))
    model_of_time = Latency(
        fitted["prefill_rate"],
        fitted["step_s"],
        fitted["token_s"],
        int(fitted["max_num_seqs"]),
        int(fitted["answer_tokens"]),
    )
    predicted = predict(full_pass(N, B_MIN), OVERLAP, workload, model_of_time, fit_s)
    print(
        "predicted, s: "
        + ", ".join(f"{name} {value:.1f}" for name, value in predicted.items() if name != "single_process_steps")
    )
    print(f"no schedule gains more than {(predicted['single_process']) / predicted['bound']:.2f}")
    write(
        RESULTS,
        {
            "model": model.name,
            "dtype": model.dtype,
            "ratios": ratios,
            "bars": BARS,
            "latency": fitted,
            "predicted": predicted,
            "loop_and_one_call": calls,
            "single_process_and_ray": passes,
        },
    )


if __name__ == "__main__":
    main()
