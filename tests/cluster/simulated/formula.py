"""In the drivers of these tests the LLM is a formula, and the demo profile is a small one.

All else is real: the command line, the job, Ray, Tune, VAE, GP, encoder and ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lipo_e_ray import inputs
from lipo_e_ray.config import PROFILES, ModelConfig, ProposalConfig, VAEConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Outcome, Prompt

FREE_CHUNKS = 3


class GatedEngine(SimulatedEngine):
    """Answers a few chunks of examples; with the others it waits until there is no file ``~/gate`` (any more)."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks = 0

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        self._chunks += 1
        while self._chunks > FREE_CHUNKS and (Path.home() / "gate").exists():
            await asyncio.sleep(0.1)
        return await super().evaluate(prompt, examples)


def simulated_spec(model: ModelConfig, task: Task, *_: object) -> inputs.EngineSpec:
    return inputs.EngineSpec(GatedEngine, SimulatedEngine().fingerprints, len, on_gpu=False)


inputs.vllm_spec = simulated_spec
PROFILES["demo"] = replace(
    PROFILES["demo"],
    vae=VAEConfig(training_sets=32, max_epochs=5, batch_size=32),
    proposal=ProposalConfig(instructions=6, restarts=1, steps=3),
)
