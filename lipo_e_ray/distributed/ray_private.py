"""All uses of Ray 2.60 beyond its public interface. Check them first when Ray is upgraded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ray._private import ray_constants
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without types

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# gRPC methods that answer an empty request within milliseconds, and refuse one without a valid token. Given a wrong
# token, `ray.init` takes 20 to 30 s instead, prints a line per second and ends in "timeout".
GCS_METHOD, CLIENT_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"


def read_auth_mode() -> None:
    """Let Ray read ``RAY_AUTH_MODE`` again: it may have been imported before this package set it."""
    Config.initialize("")


def forget_token() -> None:
    """Let Ray read its token again: it caches the one it has read."""
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that starts in the block listens on 127.0.0.1 only, as it does by default on macOS and Windows.

    ``_node_ip_address`` cannot do this: given 127.0.0.1, Ray 2.60 uses the machine's address and listens on all.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def address_of_running_ray() -> str:
    """``host:port`` of the Ray that runs on this machine. Raises ``ConnectionError`` where none does."""
    address = canonicalize_bootstrap_address("auto")
    if address is None:
        raise ConnectionError("expected a Ray that runs on this machine, found none")
    return address


def ask(address: str, method: str, timeout_s: float) -> None:
    """Send an empty request to the gRPC ``method`` at ``host:port``, with this process's token.

    Raises ``grpc.RpcError``, and ``AuthenticationError`` where the mode asks for a token and there is none.
    """
    with init_grpc_channel(address) as channel:
        channel.unary_unary(method)(b"", timeout=timeout_s)


def keep_idle_actors(tune_controller: Any, trial: Trial, count: int) -> None:
    """Let Tune keep ``count`` idle actors like ``trial``'s for the next trial.

    There is no public setting for it. By default Tune ends idle actors, and a new process costs about a second.
    """
    cache = tune_controller._tune_controller._actor_cache
    cache.increase_max(trial.placement_group_factory, count)
