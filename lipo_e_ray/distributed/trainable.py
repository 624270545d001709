"""The trial: one bracket, a chunk of its first rung or a later rung per step.

It holds no model, so its process must not import torch.

A trial per bracket and not per prompt: Tune's cost (some 10 ms, and a process) is then paid per rung, a rung goes to
the engines at once, and a handful of processes fills 64 engines (docs/log.md).
"""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.actor import ActorHandle

from lipo_e_ray.distributed.calls import slow_result
from lipo_e_ray.types import LipoError


class BracketTrial(tune.Trainable):
    """Evaluates ``config["prompts"]`` on the first ``config["fidelity"]`` validation examples, once per step."""

    def setup(self, config: dict[str, Any], service: ActorHandle[Any]) -> None:  # type: ignore[override]  # Tune's way
        """``service``: given by ``tune.with_parameters``."""
        self._service = service

    def step(self) -> dict[str, Any]:
        """One ``Evaluation`` per prompt, in order, under ``evaluations``; or under ``error`` what the service raised.

        Returned and not raised: Tune starts a trial that raises or dies again, and only the latter is worth it.
        """
        config = self.config
        requests = [
            self._service.evaluate.remote(prompt, "validation", config["fidelity"], config["wave"])
            for prompt in config["prompts"]
        ]
        try:
            return {
                "evaluations": slow_result(
                    requests, self._service, f"bracket {config['bracket'] + 1}, rung {config['rung'] + 1}"
                )
            }
        except LipoError as error:
            return {"error": error}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The process goes on with another rung; Tune has already put ``new_config`` into ``self.config``."""
        return True
