"""The ``Latency`` of a real engine, by least squares. Part of ``benchmarks/real/real_engine.py``."""

from __future__ import annotations

import asyncio
import random
import time

import numpy as np

from lipo_e_ray.config import ModelConfig
from lipo_e_ray.engine.base import Engine
from lipo_e_ray.engine.simulated import Latency
from lipo_e_ray.types import Sampling

LENGTHS, PREFILLS = (50, 100, 200, 400), 16  # words of a prompt; prompts at a time
BATCHES = (1, 8, 32, 64)  # requests that decode together
WORDS = ("one", "two", "red", "blue", "cat", "dog", "sun", "tree")


def fit_latency(model: ModelConfig, engine: Engine) -> Latency:
    """Prefills of several lengths, then decoding in several batches; closes ``engine``."""
    rng = random.Random(0)

    def ask(count: int, length: int, tokens: int) -> tuple[float, int, int]:
        """Seconds, prompt tokens in all, tokens of the longest answer."""
        chats = [[{"role": "user", "content": " ".join(rng.choices(WORDS, k=length))}] for _ in range(count)]
        start = time.perf_counter()
        done = runner.run(
            engine.generate(chats, [Sampling(temperature=1.0, seed=i, max_tokens=tokens) for i in range(count)])
        )
        seconds = time.perf_counter() - start
        return seconds, sum(c.prompt_tokens - c.cached_tokens for c in done), max(c.completion_tokens for c in done)

    with asyncio.Runner() as runner:
        ask(4, 50, 8)  # warms up
        prefills = [ask(PREFILLS, length, 1)[:2] for length in LENGTHS]
        rate = 1 / max(1e-9, np.polyfit([tokens for _, tokens in prefills], [s for s, _ in prefills], 1)[0])
        steps = []
        for batch in BATCHES:
            seconds, tokens, longest = ask(batch, 20, model.max_tokens)
            steps.append((batch, (seconds - tokens / rate) / longest))
        token_s, step_s = np.polyfit([b for b, _ in steps], [s for _, s in steps], 1)
        runner.run(engine.close())
    return Latency(rate, max(step_s, 0.0), max(token_s, 0.0), model.max_num_seqs, model.max_tokens // 2)
