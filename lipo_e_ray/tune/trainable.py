"""The trial: it asks the evaluation service and waits. It holds no model, so its process must not import torch."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.actor import ActorHandle

from lipo_e_ray.engine.pool import result
from lipo_e_ray.types import Evaluation, Observation


class PromptTrial(tune.Trainable):
    """Evaluates ``config["prompt"]`` on the first ``config["fidelity"]`` validation examples, once per step."""

    def setup(self, config: dict[str, Any], service: ActorHandle) -> None:
        self._service = service

    def step(self) -> dict[str, int]:
        """Integer counts, see ``evaluation_of``. Raises what the service raises."""
        reference = self._service.evaluate.remote(self.config["prompt"], "validation", self.config["fidelity"])
        evaluation: Evaluation = result(reference)
        observation = evaluation.observation
        return {"errors": observation.errors, "evaluated": observation.evaluated,
                "unparseable": observation.unparseable, "failed": evaluation.failed, "new_calls": evaluation.new_calls}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The process goes on with another prompt; Tune has already put ``new_config`` into ``self.config``."""
        return True


def evaluation_of(prompt_id: str, counts: dict[str, Any]) -> Evaluation:
    """The evaluation a trial reported."""
    observation = Observation(prompt_id, counts["errors"], counts["evaluated"], counts["unparseable"])
    return Evaluation(observation, counts["failed"], counts["new_calls"])
