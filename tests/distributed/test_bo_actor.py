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
from lipo_e_ray.types import EngineError, InputError, Origin, Prompt, Proposal, Request

REQUEST = Request("hyperband", 7, 1)


class Records:
    """The service's part in it."""

    def __init__(self) -> None:
        self.proposals = {}

    async def recorded_proposals(self, bracket):
        return self.proposals.get(bracket)

    async def record_proposals(self, bracket, proposals):
        self.proposals[bracket] = proposals

    async def all(self):
        return self.proposals


class ReportingProposer:
    """Proposes prompts that tell about its process."""

    prepared = 0

    def prepare(self):
        self.prepared += 1

    def propose(self, request):
        import torch

        devices = os.environ["CUDA_VISIBLE_DEVICES"]
        text = f"{torch.get_num_threads()} thread, devices {devices!r}, {request.observed}, {self.prepared}"
        return [
            Proposal(Prompt(f"{text} {i}"), Origin("ape", request.stage, request.bracket)) for i in range(request.count)
        ]


class TellingProposer(ReportingProposer):
    def propose(self, request):
        text = f"{request.count} more beside {', '.join(prompt.id for prompt in request.running)}"
        return [Proposal(Prompt(f"{text} {i}"), Origin("ape", "hyperband", 7)) for i in range(request.count)]


def no_proposer():
    raise InputError("nobody should be asked")


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_proposals_are_recorded_and_reused(cluster):
    records = ray.remote(Records).options(num_cpus=0).remote()
    [proposal] = ray.get(start_bo_actor(ReportingProposer, records).propose.remote(REQUEST))
    assert proposal.prompt.instruction == "1 thread, devices '', (), 0 0"
    assert ray.get(records.all.remote()) == {7: [proposal]}

    again = start_bo_actor(no_proposer, records)
    assert ray.get(again.propose.remote(REQUEST)) == [proposal]
    with pytest.raises(InputError, match="nobody should be asked"):
        ray.get(again.prepare.remote())


def test_a_bracket_that_has_become_wider_gets_more(cluster):
    records = ray.remote(Records).options(num_cpus=0).remote()
    narrow = ray.get(start_bo_actor(ReportingProposer, records).propose.remote(REQUEST))
    wide = replace(REQUEST, count=3)
    wider = ray.get(start_bo_actor(TellingProposer, records).propose.remote(wide))
    assert wider[:1] == narrow and len(wider) == 3
    texts = [proposal.prompt.instruction for proposal in wider[1:]]
    assert texts == [f"2 more beside {narrow[0].prompt.id} {i}" for i in (0, 1)]
    assert ray.get(records.all.remote()) == {7: wider}


def test_while_the_seeds_race_the_proposer_is_prepared(cluster):
    actor = start_bo_actor(ReportingProposer, ray.remote(Records).options(num_cpus=0).remote())
    seeds, later = ray.get(
        [actor.propose.remote(Request(stage, i, 1)) for i, stage in enumerate(("seeds", "hyperband"))]
    )
    assert seeds[0].prompt.instruction.endswith(", 0 0")
    third = ray.get(actor.propose.remote(Request("hyperband", 2, 1)))
    assert third[0].prompt.instruction.endswith(", 1 0") and later


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
        return [
            Proposal(Prompt(f"{request.bracket}.{i}"), Origin("ape", request.stage, request.bracket))
            for i in range(request.count)
        ]


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
    while (proposals := slot.propose(REQUEST)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [proposal.prompt.instruction for proposal in proposals]


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
