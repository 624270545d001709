"""Calls to Ray actors: waiting for an answer with a time-out, and errors without Ray's wrapping."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from lipo_e_ray.types import EngineError, LipoError

ANSWER_TIMEOUT_S = 120.0  # for an actor that answers at once; opening the ledger may take it 30 s


def result(reference: Any, what: str = "the evaluation service", timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    """``ray.get`` with a time-out. ``what`` names the actor or the work in error messages, as their subject.

    Raises this package's own errors as the actor raised them, without Ray's traceback in their text, and
    ``EngineError`` when no answer comes in time or the actor's process is gone.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(cause := cause_of(error), LipoError):
            raise cause from None
        raise
    except GetTimeoutError:
        raise EngineError(
            f"{what}: expected an answer within {timeout_s:.0f} s, got none; nothing that was answered "
            "is lost: look for a full machine and resume"
        ) from None
    except (RayActorError, ObjectLostError) as error:
        raise EngineError(
            f"{what}: expected an answer, got: {reason_of(error)}; nothing that was answered is lost: "
            "look for what ended the process (memory?) and resume"
        ) from None


def slow_result(reference: Any, service: ActorHandle[Any], what: str = "an evaluation") -> Any:
    """``result`` of one call to ``service`` or of a list of them, however long they take.

    Engines may wait for hours for a GPU, and the ledger for its disk, so the calls themselves have no time-out.
    Instead the service is asked every ``ANSWER_TIMEOUT_S`` whether it still answers; ``EngineError`` when it does not.
    """
    references = reference if isinstance(reference, list) else [reference]
    while len(ray.wait(references, num_returns=len(references), timeout=ANSWER_TIMEOUT_S)[0]) < len(references):
        result(service.progress.remote(), f"{what}: the evaluation service", ANSWER_TIMEOUT_S)
    return result(reference, what)


def cause_of(error: BaseException) -> BaseException:
    """What was raised in the actor, without Ray's wrapping."""
    return error.cause if isinstance(error, RayTaskError) else error


def reason_of(error: BaseException) -> str:
    """One line for the ledger's ``failures`` and for messages."""
    cause = cause_of(error)
    if cause is error and isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
