"""The BO actor: what it proposes is recorded, and never proposed twice."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import ray

from lipo_e_ray.distributed import bo_actor
from lipo_e_ray.distributed.bo_actor import BOSlot
from lipo_e_ray.distributed.runner import start_bo_actor
from lipo_e_ray.types import Batch, EngineError, InputError, Observation, Origin, Prompt, Proposal, Request

REQUEST = Request("hyperband", 7, 1)


class Records:
    """The service's part in it."""

    def __init__(self) -> None:
        self.batches = {}

    async def recorded_batch(self, bracket, first):
        return self.batches.get((bracket, first))

    async def record_batch(self, bracket, first, batch):
        self.batches[bracket, first] = batch

    async def all(self):
        return self.batches


class ReportingProposer:
    """Proposes prompts that tell about its process."""

    prepared = 0

    def prepare(self):
        self.prepared += 1

    def propose(self, request):
        import torch

        devices = os.environ["CUDA_VISIBLE_DEVICES"]
        text = f"{torch.get_num_threads()} thread, devices {devices!r}, {request.observed}, {self.prepared}"
        origin = Origin("ape", request.stage, request.bracket)
        return Batch(tuple(Proposal(Prompt(f"{text} {i}"), origin) for i in range(request.count)), written=5)


def no_proposer():
    raise InputError("nobody should be asked")


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_proposals_are_recorded_and_reused(cluster):
    records = ray.remote(Records).options(num_cpus=0).remote()
    batch = ray.get(start_bo_actor(ReportingProposer, records).propose.remote(REQUEST))
    assert [p.prompt.instruction for p in batch.proposals] == ["1 thread, devices '', (), 0 0"]
    assert batch.written == 5
    assert ray.get(records.all.remote()) == {(7, 0): batch}

    again = start_bo_actor(no_proposer, records)
    assert ray.get(again.propose.remote(REQUEST)) == batch
    with pytest.raises(InputError, match="nobody should be asked"):
        ray.get(again.prepare.remote())


def test_each_chunk_has_a_record_of_its_own(cluster):
    records = ray.remote(Records).options(num_cpus=0).remote()
    actor = start_bo_actor(ReportingProposer, records)
    chunks = [replace(REQUEST, first=first) for first in (0, 1)]
    batches = ray.get([actor.propose.remote(chunk) for chunk in chunks])
    assert ray.get(records.all.remote()) == {(7, 0): batches[0], (7, 1): batches[1]}
    again = start_bo_actor(no_proposer, records)
    assert ray.get([again.propose.remote(chunk) for chunk in chunks]) == batches


def test_while_the_first_prompts_race_the_proposer_is_prepared(cluster):
    actor = start_bo_actor(ReportingProposer, ray.remote(Records).options(num_cpus=0).remote())
    observed = ((Prompt("seen"), Observation(Prompt("seen").id, 1, 2)),)
    first, later = ray.get(
        [actor.propose.remote(Request("hyperband", i, 1, seen)) for i, seen in enumerate(((), observed))]
    )
    assert first.proposals[0].prompt.instruction.endswith("(), 0 0")
    third = ray.get(actor.propose.remote(Request("hyperband", 2, 1, observed)))
    assert third.proposals[0].prompt.instruction.endswith(", 1 0") and later.proposals


class BreakingProposer:
    """Takes its process with it, or hangs, once for each file in ``orders``."""

    def __init__(self, orders):
        self.orders = orders

    def prepare(self):
        pass

    def propose(self, request):
        for order in sorted(self.orders.iterdir()):
            order.unlink()
            if order.name.startswith("exit"):
                os._exit(1)
            time.sleep(3600)
        origin = Origin("ape", request.stage, request.bracket)
        return Batch(tuple(Proposal(Prompt(f"{request.bracket}.{i}"), origin) for i in range(request.count)))


@pytest.fixture
def broken_slot(cluster, tmp_path):
    """A slot whose actors carry out the orders given."""
    slots = []

    def broken_slot(*orders):
        for order in orders:
            (tmp_path / order).touch()
        service = ray.remote(Records).options(num_cpus=0).remote()
        slots.append(BOSlot(partial(start_bo_actor, partial(BreakingProposer, tmp_path), service)))
        return slots[-1]

    yield broken_slot
    for slot in slots:
        slot.close()


def answer(slot):
    deadline = time.monotonic() + 120
    while (batch := slot.propose(REQUEST)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [proposal.prompt.instruction for proposal in batch.proposals]


def test_an_actor_that_dies_or_hangs_is_replaced_and_the_next_one_answers(broken_slot, monkeypatch):
    slot = broken_slot("exit", "hang")
    first = slot.actor
    monkeypatch.setattr(bo_actor, "PROPOSAL_TIMEOUT_S", 10.0)
    assert answer(slot) == ["7.0"]
    assert slot.actor is not first
    assert slot.waiting() == ""


def test_when_actor_after_actor_dies_the_run_ends(broken_slot):
    slot = broken_slot("exit 1", "exit 2", "exit 3")
    with pytest.raises(EngineError, match="^the BO actor broke 3 times without an answer in between, last: ActorDied"):
        answer(slot)
