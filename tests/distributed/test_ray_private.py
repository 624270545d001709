"""The parts of Ray that have no public name; sessions, tokens and trials that use them have tests of their own."""

from types import SimpleNamespace

import grpc
import pytest
from ray._private import ray_constants

from lipo_e_ray.distributed import ray_private


@pytest.mark.parametrize("before", [True, False])
def test_loopback_ends_with_the_block(monkeypatch, before):
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", before)
    with pytest.raises(KeyError), ray_private.on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        raise KeyError
    assert ray_constants.ENABLE_RAY_CLUSTER is before


def test_nobody_answers_there(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    ray_private.forget_token()
    with pytest.raises(grpc.RpcError) as caught:
        ray_private.ask("127.0.0.1:1", ray_private.GCS_METHOD, 5.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    monkeypatch.undo()
    ray_private.forget_token()


def test_idle_actors_are_kept_for_the_trials_resources():
    kept = []
    cache = SimpleNamespace(increase_max=lambda resources, count: kept.append((resources, count)))
    controller = SimpleNamespace(_tune_controller=SimpleNamespace(_actor_cache=cache))
    ray_private.keep_idle_actors(controller, SimpleNamespace(placement_group_factory="resources"), 16)
    assert kept == [("resources", 16)]
