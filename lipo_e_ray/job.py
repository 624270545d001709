"""One run from its inputs to its report: the only module that puts data, engines, proposals and Ray Tune together."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from lipo_e_ray.budget import TESTED, check_limit, divide, first_budget, make_schedules
from lipo_e_ray.config import RunConfig
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.calls import reason_of, result, slow_result
from lipo_e_ray.distributed.pools import EnginesConfig, start_service
from lipo_e_ray.distributed.runner import start_bo_actor, tune_search
from lipo_e_ray.distributed.session import ray_session, signals_interrupt
from lipo_e_ray.inputs import EngineSpec, Inputs, load_inputs
from lipo_e_ray.instructions.induction import generate_instructions
from lipo_e_ray.planning import summary
from lipo_e_ray.progress import Listener, Message, Snapshot, Waiting, one_at_a_time
from lipo_e_ray.recipe import ProposerRecipe
from lipo_e_ray.report.answer import best_prompt_document
from lipo_e_ray.report.html import write_report
from lipo_e_ray.report.records import Records, read_folder
from lipo_e_ray.search.hyperband import Hyperband, Position
from lipo_e_ray.service.meter import Reading
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.store.salvage import damaged_copy
from lipo_e_ray.task.metrics import Metric
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Completion, EngineError, Evaluation, InputError, InstructionSource, Sampling, SpentError
from lipo_e_ray.types import Message as ChatMessage

BO_GPU_SHARE = 0.1  # encoder and vec2text live beside an engine; `gpu_memory_utilization` leaves them the memory
POLL_S = 0.5
UNSPENT_SHARE = 0.05  # of a limit; more is told
CLOSE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Given:
    """What Python code gives as objects, which take the place of what the configuration names.

    ``task``: rows, which are saved in the run folder; ``metric``: a function; ``engine``: another one than vLLM.
    """

    task: Task | None = None
    metric: Metric | None = None
    engine: EngineSpec | None = None


def prepare(config: RunConfig, folder: RunFolder, given: Given) -> Inputs:
    """See ``load_inputs``; paths that ``config`` gives relative to the run folder are found there."""
    return load_inputs(folder.with_its_paths(config), given.engine, given.task, given.metric)


def search(config: RunConfig, folder: RunFolder, listener: Listener, given: Given, address: str | None) -> Records:
    """Run, or continue, the whole job in ``folder``; returns what it found.

    ``address``: the Ray to use, see ``ray_session``. Raises ``InputError``, ``EngineError`` and ``KeyboardInterrupt``;
    whatever was paid for by then is in the ledger.
    """
    listener = one_at_a_time(listener)
    listener(Message(f"task {config.task.name}, model {config.model.name}: loading and checking"))
    inputs = prepare(config, folder, given)
    check_limit(config, inputs)
    for note in (*inputs.notes, *summary(config, inputs)):
        listener(Message(note))
    try:
        with folder.claim(config, given.task), signals_interrupt(), ray_session(address):
            return _Job(replace(config, max_exemplars=inputs.max_exemplars), folder, inputs, listener).run(
                _how_to_go_on(folder, given)
            )
    except KeyboardInterrupt:
        listener(Message(f"interrupted; nothing that was answered is lost: {_how_to_go_on(folder, given)}"))
        raise


def _how_to_go_on(folder: RunFolder, given: Given) -> str:
    """What to do next, for a message; the command line knows neither engines nor functions that Python code gave."""
    own = "; with your own engine or metric function, make the same call again" if given.engine or given.metric else ""
    return f"lipo-e-ray resume {shlex.quote(str(folder.path))}{own}"


def evaluate_best(
    config: RunConfig, folder: RunFolder, split: str, listener: Listener, given: Given, address: str | None
) -> Evaluation:
    """Measure the best prompt of a run on all of ``split``. Raises as ``search`` does."""
    best = read_folder(folder).best
    if best is None:
        raise InputError(f"{folder.path}: expected an evaluated prompt, found none; resume the run first")
    listener = one_at_a_time(listener)
    inputs = prepare(config, folder, given)
    with folder.claim(config, given.task), signals_interrupt(), ray_session(address):
        job = _Job(config, folder, inputs, listener)
        with job.service(limited=False) as service:  # the whole split is asked for by name
            request: Any = service.evaluate.remote(best.prompt, split, len(getattr(inputs.task, split)))
            evaluation: Evaluation = slow_result(request, service, f"the best prompt on {split}")
    return evaluation


class _Job:
    """One run from its inputs to its report."""

    def __init__(self, config: RunConfig, folder: RunFolder, inputs: Inputs, listener: Listener) -> None:
        self._config = config
        self._folder = folder
        self._inputs = inputs
        self._tell = listener
        self._budget = divide(config, inputs)
        self._deadline = time.monotonic() + 60 * config.time_limit if config.time_limit else math.inf

    def run(self, how_to_go_on: str) -> Records:
        """``how_to_go_on``: what the user is told where the time limit ends the search."""
        with self.service() as service:
            instructions, paid = self._instructions(service)
            reason = self._search(service, instructions, paid)
            if reason:
                self._tell(Message(f"{reason}: no rung was begun after that; to go on: {how_to_go_on}"))
            records = self._measure(service, whole=not reason)
            if not reason:
                self._tell_what_is_left(service)
        if records.best is None:  # the time was up before the first rung was complete
            return records
        document = json.dumps(best_prompt_document(records), indent=2, ensure_ascii=False) + "\n"
        self._folder.best_prompt_file.write_text(document, encoding="utf-8")
        write_report(self._folder.path)
        return records

    @contextlib.contextmanager
    def service(self, limited: bool = True) -> Iterator[ActorHandle[Any]]:
        """The evaluation service with its engines; closed at the end of the block.

        One engine per GPU that the cluster has or gets, or as many as the configuration wants; one on the CPU where
        there is no GPU and none is wanted. ``limited``: whether ``--max-llm-calls`` holds.
        """
        spec, wanted, model = self._inputs.engine, self._config.engines, self._config.model
        on_gpu = spec.on_gpu and bool(wanted or ray.cluster_resources().get("GPU"))
        share = model.tensor_parallel if model.tensor_parallel > 1 else 1 - BO_GPU_SHARE
        # Twice what the engine runs at a time: while a chunk of answers is on its way back, others are there to start.
        engines = EnginesConfig(
            count=wanted or (None if on_gpu else 1), num_gpus=share if on_gpu else 0, in_flight=2 * model.max_num_seqs
        )
        ledger = self._folder.ledger_file.absolute()  # the actor has a working directory of its own
        limit, reserve = (self._budget.limit, self._budget.reserve) if limited else (0, 0)
        service = start_service(ledger, self._inputs.task, spec.fingerprints, spec.make, engines, limit, reserve)
        if (copy := damaged_copy(ledger)).exists():
            self._tell(
                Message(f"the ledger was damaged: what could not be read is asked again; the damaged file: {copy}")
            )
        try:
            with _Watch(self._tell, service) as self._watch:
                yield service
        finally:
            self._close(service)

    def _close(self, service: ActorHandle[Any]) -> None:
        try:
            ray.get(service.close.remote(), timeout=CLOSE_TIMEOUT_S)
        except RayError as error:  # its death has ended the run, with its own message
            self._tell(Message(f"the evaluation service did not close: {reason_of(error)}"))
        ray.kill(service)  # in a Ray that outlives the run, its process would stay as long as anything refers to it

    def _instructions(self, service: ActorHandle[Any]) -> tuple[dict[str, InstructionSource], int]:
        """Seeds, the user's own and APE's; and how many LLM calls APE asked for (this time or an earlier one)."""
        instructions, config, asked = dict(self._inputs.instructions), self._config, 0
        if self._budget.writing:
            self._tell(Message(f"asking the model for {config.ape.num_instructions} instructions (starts the engine)"))

            def generate(chats: Sequence[Sequence[ChatMessage]], samplings: Sequence[Sampling]) -> list[Completion]:
                nonlocal asked
                asked += len(chats)
                return _generated(service, chats, samplings, "ape", "the model's instructions")

            holds, most = (
                self._inputs.context.holds,
                first_budget(config, self._inputs, self._folder.earlier_spending()).writing,
            )
            written = generate_instructions(generate, self._inputs.task, config.ape, config.seed, holds, most)
            instructions |= {text: "ape" for text in written if text not in instructions}
            self._tell(Message(f"{len(written)} instructions from {asked} answers of the model"))
        return instructions, asked

    def _search(self, service: ActorHandle[Any], instructions: dict[str, InstructionSource], paid: int) -> str:
        """Why the search ended before its end; empty where it did not."""
        config = self._config
        overhead = result(service.spent.remote(), "the evaluation service").overhead
        spare = self._budget.reserve + TESTED * self._budget.test  # the test is shorter instead
        lost = max(0, overhead - spare) if self._budget.limit else 0
        if lost:
            self._tell(
                Message(
                    f"{overhead} calls had to be sent again, or were lost at a kill: the last races get {lost} fewer"
                )
            )
        schedules = make_schedules(config, self._inputs, paid, self._folder.earlier_spending(), lost)
        hyperband = Hyperband(schedules, config.seed, config.hyperband.overlap)
        here = ray.get_runtime_context().get_node_id()
        on_gpu = config.model.tensor_parallel == 1 and any(
            node["NodeID"] == here and node["Resources"].get("GPU", 0) for node in ray.nodes()
        )
        recipe = ProposerRecipe(config, self._inputs, instructions, self._folder, service)
        bo = BOSlot(partial(start_bo_actor, recipe, service, gpus=BO_GPU_SHARE if on_gpu else 0.0))
        self._tell(Message(f"searching over {len(instructions)} instructions"))
        spent = ""

        self._watch.reached(hyperband.position())
        try:
            tune_search(hyperband, service, bo, self._folder.path, self._watch.reached, self._watch.ask, self._deadline)
        except SpentError as error:  # more calls than the reserve were lost, or have to be asked again
            spent = str(error)
        bo.close()
        self._watch.reached(None)
        return spent or (f"{config.time_limit:g} minutes are over" if hyperband.stopped else "")

    def _measure(self, service: ActorHandle[Any], whole: bool) -> Records:
        """The test split, or as much of it as can be paid for: once for the baseline and the best prompt.

        ``whole``: the search has come to its end, so that the test may have what it left.
        """
        found, spent = read_folder(self._folder), result(service.spent.remote(), "the evaluation service")
        prompts = {scored.prompt.id: scored.prompt for scored in (found.baseline, found.winner) if scored}
        n = self._budget.test
        if self._budget.limit and prompts:
            most = len(self._inputs.task.test) if whole else n
            n = min(most, (spent.left + spent.sent["test"]) // len(prompts))
        if not prompts or not self._config.test_share or n < 1:
            return found
        self._tell(Message(f"measuring {len(prompts)} prompts on {n} of {len(self._inputs.task.test)} test examples"))
        with contextlib.suppress(SpentError):  # the calls that failed were more than the reserve
            requests = [service.evaluate.remote(prompt, "test", n) for prompt in prompts.values()]
            slow_result(requests, service, "the test")
        return read_folder(self._folder)

    def _tell_what_is_left(self, service: ActorHandle[Any]) -> None:
        """Where more than a twentieth of the limit was not spent, a line that says why."""
        left, limit = result(service.spent.remote(), "the evaluation service").left, self._budget.limit
        if limit and left > UNSPENT_SHARE * limit:
            self._tell(
                Message(
                    f"{left:,} of the {limit:,} calls are left: nothing else is there to try (no further race or test "
                    "examples that they pay for)"
                )
            )


def _generated(
    service: ActorHandle[Any],
    chats: Sequence[Sequence[ChatMessage]],
    samplings: Sequence[Sampling],
    purpose: str,
    what: str,
) -> list[Completion]:
    completions: list[Completion] = slow_result(service.generate.remote(chats, samplings, purpose), service, what)
    return completions


class _Watch:
    """Tells the listener, from a thread of its own while the main one waits, what comes in and what is waited for."""

    def __init__(self, listener: Listener, service: ActorHandle[Any]) -> None:
        self._search_waits: Callable[[], str] = str
        self._tell = listener
        self._service = service
        self._reached: tuple[Position, int] | None = None  # of the search, and the calls when it came there
        self._waiting = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=2 * POLL_S)  # an answer of the service may be on its way, or never come

    def ask(self, waiting: Callable[[], str]) -> None:
        """Whom to ask what the search waits for, besides the engines."""
        self._search_waits = waiting

    def reached(self, position: Position | None) -> None:
        """The search has come to ``position``; ``None``: it is over."""
        self._reached = (position, self._read().new_calls) if position else None

    def _read(self) -> Reading:
        reading: Reading = result(self._service.progress.remote())
        return reading

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_S):
            try:
                reading, reached = self._read(), self._reached
            except EngineError as error:
                self._wait_for(str(error))  # the main thread's own wait ends the run, if it comes to that
                continue
            self._wait_for("; ".join(filter(None, (reading.waiting, self._search_waits()))))
            if reached:
                position, calls_then = reached
                done = min(position.planned, position.done + max(0, reading.new_calls - calls_then))
                self._tell(
                    Snapshot(
                        position,
                        done,
                        reading.rate,
                        reading.calls,
                        reading.failed,
                        reading.engines_ready,
                        reading.engines,
                    )
                )

    def _wait_for(self, text: str) -> None:
        if text != self._waiting:
            self._waiting = text
            self._tell(Waiting(text))
