"""Calls to Ray actors: waiting for an answer with a time-out, and errors without Ray's wrapping."""

from __future__ import annotations

from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from lipo_e_ray.types import EngineError, LipoError

ANSWER_TIMEOUT_S = 120.0  # of an actor that has nothing long to do; the ledger waits up to 30 s for its file


def result(reference: Any, what: str = "the evaluation service", timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    """``ray.get`` of ``what``, which is a sentence's subject.

    Raises this package's own errors as they were raised, without Ray's traceback in their text, and ``EngineError``
    when there is no answer in time, or its process is gone.
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


def slow_result(reference: Any, service: ActorHandle, what: str = "an evaluation") -> Any:
    """``result`` of calls to ``service`` that take as long as engines, their resources and the ledger's disk take: what
    has a time-out is the service's sign of life."""
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
