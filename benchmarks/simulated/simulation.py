"""One Hyperband pass on simulated engines in virtual time: the project's own walk, service, ledger and dispatcher.

Only three things are not the real ones: the engines (``SimulatedEngine`` with a latency model), the process borders
(Ray's and Tune's cost are delays, as measured by ``benchmarks/costs/overhead.py``) and the proposals (random texts,
after a delay as long as a real proposal takes).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulated.virtual_time import run
from benchmarks.workload import Workload, gsm8k_like
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.search.brackets import Bracket
from lipo_e_ray.search.hyperband import Evaluate, Hyperband
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.service.dispatch import Dispatcher
from lipo_e_ray.service.service import BeforeSend, EvaluationService
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Completion, Message, Outcome, Prompt, Request, Sampling

IN_FLIGHT = 2  # examples sent to an engine at a time, in units of its ``max_num_seqs``, as in ``run.py``


@dataclass(frozen=True)
class Costs:
    """Seconds of one rung in Tune and of one request to an engine actor; ``propose_s``: of the proposals for a bracket
    from that many observed prompts (without any they are random, and take no time)."""

    rung_s: float = 0.0
    request_s: float = 0.0
    propose_s: Callable[[int], float] = lambda m: 0.0


@dataclass(frozen=True)
class Job:
    """One simulated pass. ``work_s``: of one engine with a full batch, each prefix computed once; ``path_s``: of the
    longest chain of rungs that wait for each other, each as long as its slowest request alone takes."""

    engines: int
    evaluations: int
    answer_tokens: int
    makespan_s: float
    busy_share: float
    work_s: float
    path_s: float
    prefix_hits: float

    @property
    def lower_bound_s(self) -> float:
        return max(self.work_s / self.engines, self.path_s)

    @property
    def ratio(self) -> float:
        """Makespan / lower bound."""
        return self.makespan_s / self.lower_bound_s

    def even_bound_s(self, latency: Latency) -> float:
        """A higher lower bound: it takes work and path from batches of the same size.

        ``lower_bound_s`` counts the work as done in full batches, where it is cheapest, and the path as done in batches
        of one request, where it is shortest. Here all work is done in batches of one size, whichever is best.
        """

        def bound(batch: int) -> float:
            work = self.work_s + self.answer_tokens * latency.step_s * (1 / batch - 1 / latency.max_num_seqs)
            slower = (latency.step_s + latency.token_s * batch) / (latency.step_s + latency.token_s)
            return max(work / self.engines, self.path_s * slower)

        return min(bound(batch) for batch in range(1, latency.max_num_seqs + 1))

    @property
    def efficiency(self) -> float:
        """Total engine work over what the engines could have done in the time."""
        return self.work_s / (self.engines * self.makespan_s)


class LocalPool:
    """Simulated engines behind the real dispatcher, in this process."""

    def __init__(self, workload: Workload, engines: int, latency: Latency, request_s: float) -> None:
        self._examples = {example.id: example for example in workload.task.validation}
        self._request_s = request_s
        self.engines = [workload.make_engine(latency) for _ in range(engines)]
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self._dispatcher = Dispatcher()
        for number in range(engines):
            self._dispatcher.add(number, IN_FLIGHT * latency.max_num_seqs)

    async def evaluate(
        self, prompt: Prompt, example_ids: Sequence[str], avoid: int | None, wave: int, before_send: BeforeSend
    ) -> tuple[int, list[Outcome]]:
        async with self._dispatcher.turn(prompt.id, len(example_ids), wave, avoid) as number:
            await before_send()
            await asyncio.sleep(self._request_s)
            outcomes = await self.engines[number].evaluate(prompt, [self._examples[e] for e in example_ids])
        self.outcomes[prompt.id] += outcomes
        return number, outcomes

    async def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        samplings: Sequence[Sampling],
        avoid: int | None,
        before_send: BeforeSend,
    ) -> tuple[int, list[Completion]]:
        raise AssertionError("a simulated pass generates nothing")

    def sizes(self) -> tuple[int, int]:
        return len(self.engines), len(self.engines)

    def pause(self, paused: bool) -> None:
        self._dispatcher.pause(paused)

    def waiting(self) -> str:
        return ""

    async def close(self) -> None:
        pass


def simulate(
    brackets: Sequence[Bracket],
    engines: int,
    latency: Latency,
    costs: Costs,
    overlap: int,
    workload: Workload | None = None,
) -> Job:
    """Walk all ``brackets`` with Ray's shape: rungs side by side, proposals beside them, engines filled by chunks."""
    workload = workload or gsm8k_like(brackets)
    hyperband = Hyperband(FixedSchedule(tuple(brackets)), 0, overlap)

    async def main() -> tuple[float, LocalPool, list[Evaluate]]:
        pool = LocalPool(workload, engines, latency, costs.request_s)
        async with _service(pool, workload.task) as service:
            steps = await _drive(hyperband, service, workload, costs)
        return asyncio.get_running_loop().time(), pool, steps

    makespan, pool, steps = run(main())
    return _job(brackets, overlap, latency, makespan, pool, steps)


@dataclass(frozen=True)
class Step:
    """What the single-process baseline spends on evaluations that come ``examples`` at a time."""

    examples: int
    evaluations: int
    seconds: float


def simulate_one_by_one(
    brackets: Sequence[Bracket], latency: Latency, propose_s: Callable[[int], float], workload: Workload | None = None
) -> tuple[float, list[Step]]:
    """The single-process baseline: propose one candidate, ask for its answers, fit, propose the next.

    ``propose_s``: seconds of a fit to that many prompts and one proposal. The same candidates and promotions.
    Returns its seconds, and those of its evaluations by how many a candidate brings.
    """
    workload = workload or gsm8k_like(brackets)
    steps: dict[int, list[float]] = defaultdict(list)
    hyperband = Hyperband(FixedSchedule(tuple(brackets)), 0, overlap=0)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        proposed: set[str] = set()
        async with _service(LocalPool(workload, 1, latency, 0.0), workload.task) as service:
            while actions := hyperband.actions():
                action = actions[0]
                if isinstance(action, Request):
                    # One fit for each candidate.
                    await asyncio.sleep(sum(propose_s(len(proposed) + i) for i in range(action.count)))
                    prompts = workload.prompts(action)
                    hyperband.enter(action.bracket, prompts)
                    proposed |= {prompt.id for prompt in prompts}
                    continue
                evaluations = []
                for prompt in action.prompts:
                    start = loop.time()
                    evaluations.append(await service.evaluate(prompt, "validation", action.fidelity))
                    steps[evaluations[-1].new_calls].append(loop.time() - start)
                hyperband.observe(action.bracket, action.step, evaluations)
        return loop.time()

    return run(main()), [Step(n, n * len(steps[n]), sum(steps[n])) for n in sorted(steps)]


@asynccontextmanager
async def _service(pool: LocalPool, task: Task) -> AsyncIterator[EvaluationService]:
    with tempfile.TemporaryDirectory() as folder:
        service = EvaluationService(Path(folder) / "ledger", task, pool.engines[0].fingerprints, lambda: pool)
        await service.start()
        yield service
        await service.close()


async def _drive(hyperband: Hyperband, service: EvaluationService, workload: Workload, costs: Costs) -> list[Evaluate]:
    """What searcher, scheduler and trials do; all steps, in the order they were complete."""
    # By bracket and: the step that is evaluated, or the number of the first prompt that is proposed.
    under_way: dict[tuple[type, int, int], asyncio.Task[None]] = {}
    steps: list[Evaluate] = []

    async def propose(request: Request) -> None:
        if request.observed:
            await asyncio.sleep(costs.propose_s(len(request.observed)))
        hyperband.enter(request.bracket, workload.prompts(request))

    async def evaluate(action: Evaluate) -> None:
        await asyncio.sleep(costs.rung_s)
        evaluations = await asyncio.gather(
            *(service.evaluate(prompt, "validation", action.fidelity, action.wave) for prompt in action.prompts)
        )
        hyperband.observe(action.bracket, action.step, evaluations)
        steps.append(action)

    while actions := hyperband.actions():
        for action in actions:
            place = action.first if isinstance(action, Request) else action.step
            key = (type(action), action.bracket, place)
            if key not in under_way:
                doing = propose(action) if isinstance(action, Request) else evaluate(action)
                under_way[key] = asyncio.create_task(doing)
        unfinished = [task for task in under_way.values() if not task.done()]
        await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
    for task in under_way.values():
        task.result()
    return steps


def _job(
    brackets: Sequence[Bracket],
    overlap: int,
    latency: Latency,
    makespan: float,
    pool: LocalPool,
    steps: Sequence[Evaluate],
) -> Job:
    outcomes = [outcome for answers in pool.outcomes.values() for outcome in answers]
    prefix = {prompt_id: max(o.cached_tokens for o in answers) for prompt_id, answers in pool.outcomes.items()}
    work = sum(latency.work(o.prompt_tokens - prefix[o.prompt_id], o.completion_tokens) for o in outcomes)
    work += sum(latency.work(tokens, 0) for tokens in prefix.values())

    def seconds(prompt_id: str, fidelity: int, below: int) -> float:
        answers = sorted(pool.outcomes[prompt_id], key=lambda o: order[o.example_id])[below:fidelity]
        first = 0 if below else prefix[prompt_id]
        return max(
            (latency.alone(o.prompt_tokens - prefix[prompt_id] + first, o.completion_tokens) for o in answers),
            default=0.0,
        )

    order = {example_id: i for i, example_id in enumerate(pool._examples)}
    length: dict[tuple[int, int], float] = {}
    for step in steps:
        below = brackets[step.bracket].rungs[step.rung - 1].fidelity if step.rung else 0
        length[step.bracket, step.step] = max(seconds(prompt.id, step.fidelity, below) for prompt in step.prompts)
    return Job(
        len(pool.engines),
        len(outcomes),
        sum(o.completion_tokens for o in outcomes),
        makespan,
        sum(engine.busy_s for engine in pool.engines) / (len(pool.engines) * makespan),
        work,
        _critical_path(brackets, overlap, length),
        sum(o.cached_tokens for o in outcomes) / sum(o.prompt_tokens for o in outcomes),
    )


def _critical_path(brackets: Sequence[Bracket], overlap: int, length: dict[tuple[int, int], float]) -> float:
    """``length``: seconds of each step of each bracket. See ``Hyperband`` for what waits for what."""
    opened = [0]
    for bracket in brackets[:-1]:
        opened.append(opened[-1] + max(1, bracket.steps - overlap))
    ends: dict[tuple[int, int], float] = {}  # when a bracket has that many steps complete

    def known(tick: int, k: int) -> float:
        """When all steps are complete that the schedule completes by ``tick`` in the first ``k`` brackets."""
        steps = ((j, min(brackets[j].steps, tick - opened[j])) for j in range(k))
        return max((ends[j, n] for j, n in steps if n > 0), default=0.0)

    for k, bracket in enumerate(brackets):
        ends[k, 0] = known(opened[k], k)
        for step in range(bracket.steps):
            start = ends[k, step]
            if 0 < step < len(bracket.chunks):  # a chunk that is proposed when those before it are known
                start = max(start, known(opened[k] + step - min(overlap, 1), k))
            ends[k, step + 1] = start + length[k, step]
    return max(ends.values())
