import asyncio
import sys
import time

import pytest
import ray

from lipo_e_ray.distributed import calls as module
from lipo_e_ray.distributed.calls import reason_of, result, slow_result
from lipo_e_ray.types import EngineError


def test_reasons_are_one_line():
    assert reason_of(TimeoutError()) == "no answer in time"
    assert reason_of(EngineError("two\nlines")) == "EngineError: two lines"


class Slow:
    """A service whose evaluations take a while, and that can be made to hang."""

    async def evaluate(self, seconds):
        await asyncio.sleep(seconds)
        return seconds

    async def progress(self):
        return 1

    async def hang(self):
        time.sleep(3600)


@pytest.fixture
def slow(ray_cluster, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 1.0)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor = ray.remote(Slow).options(num_cpus=0, max_concurrency=10).remote()
    ray.get(actor.progress.remote())
    yield actor
    ray.kill(actor)
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_wait_has_an_end_and_says_what_it_waited_for(slow):
    with pytest.raises(EngineError, match="^the last rung: expected an answer within 1 s, got none; nothing"):
        result(slow.evaluate.remote(3600), "the last rung", timeout_s=1)


def test_work_may_take_long_as_long_as_the_service_lives(slow):
    assert slow_result([slow.evaluate.remote(2.5), slow.evaluate.remote(0)], slow) == [2.5, 0]
    request = slow.evaluate.remote(3600)
    slow.hang.remote()
    with pytest.raises(EngineError, match="^rung 2: the evaluation service: expected an answer within 1 s, got none"):
        slow_result(request, slow, "rung 2")


def test_an_actor_that_died_is_an_error_in_one_line(slow):
    request = slow.evaluate.remote(3600)
    ray.kill(slow)
    with pytest.raises(EngineError, match="^rung 2: expected an answer, got: ActorDiedError: ") as caught:
        slow_result(request, slow, "rung 2")
    assert "\n" not in str(caught.value)
