"""The composition root: puts data, engines, proposals and Ray Tune together for one run.

``python -m lipo_e_ray.run`` is ``lipo-e-ray run``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from lipo_e_ray.app.display import Display, Snapshot
from lipo_e_ray.config import RunConfig
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.calls import reason_of, result, slow_result
from lipo_e_ray.distributed.pools import EnginesConfig, start_service
from lipo_e_ray.distributed.runner import start_bo_actor, tune_search
from lipo_e_ray.distributed.session import ray_session, signals_interrupt
from lipo_e_ray.engine.embedded import resolve_encoder
from lipo_e_ray.inputs import EngineSpec, Inputs, load_inputs
from lipo_e_ray.instructions.induction import generate_instructions
from lipo_e_ray.latent.encoder import TextEncoder
from lipo_e_ray.latent.inversion import MAX_REQUESTS, Inverter
from lipo_e_ray.latent.inverters import make_inverter
from lipo_e_ray.latent.space import LatentSpace
from lipo_e_ray.latent.training import fit_latent
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.report.analysis import Records, read
from lipo_e_ray.report.html import best_prompt_document, final_line, write_report
from lipo_e_ray.search.hyperband import Hyperband, plan_brackets
from lipo_e_ray.search.hyperband import Position as Place
from lipo_e_ray.service.meter import Progress
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.store.salvage import damaged_copy
from lipo_e_ray.types import Completion, EngineError, InputError, InstructionSource, Message, Sampling

BO_GPU_SHARE = 0.1  # encoder and vec2text live beside an engine; `gpu_memory_utilization` leaves them the memory
POLL_S = 0.5
WARNINGS = "warnings.log"  # in the run folder, once there is one
CLOSE_TIMEOUT_S = 60.0


def run_search_job(
    config: RunConfig, folder: RunFolder, engine: EngineSpec | None = None, address: str | None = None
) -> None:
    """Run, or continue, the whole job in ``folder`` and print the final line.

    ``engine``: another one than vLLM; ``address``: the Ray to use, see ``ray_session``. Raises ``InputError``,
    ``EngineError`` and ``KeyboardInterrupt``; whatever was paid for by then is in the ledger.
    """
    with Display() as display:
        display.say(f"task {config.task.name}, model {config.model.name}: loading and checking")
        inputs = load_inputs(config, engine)
        try:
            with folder.claim(config), signals_interrupt(), ray_session(address):
                records = _Job(config, folder, inputs, display).run()
        except KeyboardInterrupt:
            display.say(f"interrupted; nothing that was answered is lost: lipo-e-ray resume {folder.path}")
            raise
    print(f"best prompt: {folder.best_prompt_file}\nreport: {folder.path / 'report.html'}\n{final_line(records)}")


def evaluate_best(folder: RunFolder, split: str, address: str | None = None, metric: str | None = None) -> None:
    """Measure the best prompt of a run on all of ``split`` and print its accuracy. Raises ``InputError``.

    ``metric``: see ``RunFolder.config_to_run``.
    """
    config = folder.config_to_run(metric)
    best = _read(folder).best
    if best is None:
        raise InputError(f"{folder.path}: expected an evaluated prompt, found none; resume the run first")
    with Display() as display:
        inputs = load_inputs(config)
        with folder.claim(config), signals_interrupt(), ray_session(address):
            job = _Job(config, folder, inputs, display)
            with job.service() as service:
                request = service.evaluate.remote(best.prompt, split, len(getattr(inputs.task, split)))
                counts = slow_result(request, service, f"the best prompt on {split}")
    seen = counts.observation
    print(
        f"{split} accuracy: {1 - seen.error:.1%} ({seen.evaluated - seen.errors} of {seen.evaluated} right, "
        f"{seen.unparseable} unparseable, {counts.failed} failed, {counts.new_calls} new LLM calls)"
    )


def _read(folder: RunFolder) -> Records:
    with Ledger(folder.ledger_file) as ledger:
        return read(ledger)


class _Job:
    """One run from its inputs to its report."""

    def __init__(self, config: RunConfig, folder: RunFolder, inputs: Inputs, display: Display) -> None:
        self._config = config
        self._folder = folder
        self._inputs = inputs
        self._display = display

    def run(self) -> Records:
        with self.service() as service:
            instructions, paid = self._instructions(service)
            self._search(service, instructions, paid)
            records = self._measure(service)
        self._folder.best_prompt_file.write_text(
            json.dumps(best_prompt_document(records), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        write_report(self._folder.path)
        return records

    @contextlib.contextmanager
    def service(self) -> Iterator[ActorHandle]:
        """The evaluation service with its engines; closed at the end of the block.

        One engine per GPU that the cluster has or gets, or as many as the configuration wants; one on the CPU where
        there is no GPU and none is wanted.
        """
        spec, wanted, model = self._inputs.engine, self._config.engines, self._config.model
        on_gpu = spec.on_gpu and bool(wanted or ray.cluster_resources().get("GPU"))
        share = model.tensor_parallel if model.tensor_parallel > 1 else 1 - BO_GPU_SHARE
        # Twice what the engine runs at a time: while a chunk of answers is on its way back, others are there to start.
        engines = EnginesConfig(
            count=wanted or (None if on_gpu else 1), num_gpus=share if on_gpu else 0, in_flight=2 * model.max_num_seqs
        )
        ledger = self._folder.ledger_file.absolute()  # the actor has a working directory of its own
        service = start_service(ledger, self._inputs.task, spec.fingerprints, spec.make, engines)
        if (copy := damaged_copy(ledger)).exists():
            self._display.say(f"the ledger was damaged: what could not be read is asked again; its copy: {copy}")
        try:
            with _Watch(self._display, service) as self._watch:
                yield service
        finally:
            self._close(service)

    def _close(self, service: ActorHandle) -> None:
        try:
            ray.get(service.close.remote(), timeout=CLOSE_TIMEOUT_S)
        except RayError as error:  # its death has ended the run, with its own message
            self._display.say(f"the evaluation service did not close: {reason_of(error)}")
            ray.kill(service)

    def _instructions(self, service: ActorHandle) -> tuple[dict[str, InstructionSource], int]:
        """Seeds, the user's own and APE's; and how many LLM calls APE asked for (this time or an earlier one)."""
        instructions, config, asked = dict(self._inputs.instructions), self._config, 0
        if config.ape.use:
            self._display.say(f"asking the model for {config.ape.num_instructions} instructions (starts the engine)")

            def generate(chats: Sequence[Sequence[Message]], samplings: Sequence[Sampling]) -> list[Completion]:
                nonlocal asked
                asked += len(chats)
                return slow_result(service.generate.remote(chats, samplings), service, "the model's instructions")

            written = generate_instructions(generate, self._inputs.task, config.ape, config.seed)
            instructions |= {text: "ape" for text in written if text not in instructions}
            self._display.say(f"{len(written)} instructions from {asked} answers of the model")
        return instructions, asked

    def _search(self, service: ActorHandle, instructions: dict[str, InstructionSource], paid: int) -> None:
        config, task = self._config, self._inputs.task
        brackets = plan_brackets(config, len(task.validation), len(self._inputs.instructions))
        hyperband = Hyperband(
            brackets, config.seed, self._search_budget(paid), config.hyperband.invbo_share, config.hyperband.overlap
        )
        here = ray.get_runtime_context().get_node_id()
        on_gpu = config.model.tensor_parallel == 1 and any(
            node["NodeID"] == here and node["Resources"].get("GPU", 0) for node in ray.nodes()
        )
        recipe = _ProposerRecipe(config, self._inputs, instructions, self._folder, service)
        bo = BOSlot(partial(start_bo_actor, recipe, service, gpus=BO_GPU_SHARE if on_gpu else 0.0))
        self._display.say(f"searching over {len(instructions)} instructions (the VAE is trained while the seeds race)")
        self._watch.moved(hyperband.position())
        tune_search(hyperband, service, bo, self._folder.path, self._watch.moved, self._watch.ask)
        bo.close()
        self._watch.moved(None)

    def _search_budget(self, paid: int) -> int:
        """What of ``max_llm_calls`` is left for validation: less APE, InvBO's rewriting and the test, each at most."""
        config = self._config
        if not config.max_llm_calls:
            return 0
        reserved = paid + 2 * len(self._inputs.task.test) + config.invbo.iterations * config.invbo.q * MAX_REQUESTS
        return max(1, config.max_llm_calls - reserved)

    def _measure(self, service: ActorHandle) -> Records:
        """The test split, once, for the baseline and the best prompt."""
        found = _read(self._folder)
        prompts = {scored.prompt.id: scored.prompt for scored in (found.baseline, found.best) if scored}
        self._display.say(f"measuring {len(prompts)} prompts on the {len(self._inputs.task.test)} test examples")
        requests = [service.evaluate.remote(prompt, "test", len(self._inputs.task.test)) for prompt in prompts.values()]
        slow_result(requests, service, "the test split")
        return _read(self._folder)


class _ProposerRecipe:
    """What the BO actor builds its proposer from; built there, so that the driver never loads the encoder."""

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        instructions: dict[str, InstructionSource],
        folder: RunFolder,
        service: ActorHandle,
    ) -> None:
        self._config = config
        self._task = inputs.task
        self._instructions = instructions
        self._folder = folder.latent_folder.absolute()
        self._service = service

    def __call__(self) -> Proposer:
        # Ray keeps what an actor logs to itself; what went wrong belongs beside the results.
        log = logging.FileHandler(self._folder.parent / WARNINGS, delay=True, encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("lipo_e_ray").addHandler(log)
        return Proposer(self._task, self._config, self._instructions, self._latent)

    def _latent(self) -> tuple[LatentSpace, Inverter]:
        config = self._config
        encoder = TextEncoder(resolve_encoder(config.encoder.name))
        space = fit_latent(
            encoder,
            list(self._instructions),
            self._task.pool,
            config.vae,
            config.seed,
            self._folder,
            config.max_exemplars,
        )

        def generate(chats: Sequence[Sequence[Message]], samplings: Sequence[Sampling]) -> list[Completion]:
            return slow_result(self._service.generate.remote(chats, samplings), self._service, "rewritten instructions")

        return space, make_inverter(config.encoder.name, encoder, generate)


class _Watch:
    """Feeds the display from a thread of its own while the main one waits."""

    def __init__(self, display: Display, service: ActorHandle) -> None:
        self._search_waits: Callable[[], str] = str
        self._display = display
        self._service = service
        self._place: tuple[Place, int] | None = None  # of the walk, and the calls when it came there
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

    def moved(self, walk: Place | None) -> None:
        """The walk has come a step further, or is over."""
        self._place = (walk, self._progress().new_calls) if walk else None

    def _progress(self) -> Progress:
        return result(self._service.progress.remote())

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_S):
            try:
                progress, place = self._progress(), self._place
            except EngineError as error:
                self._display.wait_for(str(error))  # the main thread's own wait ends the run, if it comes to that
                continue
            self._display.wait_for("; ".join(filter(None, (progress.waiting, self._search_waits()))))
            if place:
                walk, calls_then = place
                done = min(walk.planned, walk.done + max(0, progress.new_calls - calls_then))
                self._display.update(
                    Snapshot(
                        walk,
                        done,
                        progress.rate,
                        progress.calls,
                        progress.failed,
                        progress.engines_ready,
                        progress.engines,
                    )
                )


if __name__ == "__main__":
    from lipo_e_ray.app.cli import main

    main(["run", *sys.argv[1:]])
