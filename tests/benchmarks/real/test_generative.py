import asyncio
import json

import pytest

from benchmarks.real.generative import Seed, candidates, compare, difference
from lipo_e_ray.config import PROFILES
from lipo_e_ray.config_tree import to_dict
from lipo_e_ray.engine.base import generation_key
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, Inputs
from lipo_e_ray.instructions.induction import generate_instructions
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.types import Prompt
from tests.report.conftest import PROPOSALS, write_run

CONFIG = PROFILES["demo"]
ENGINE = SimulatedEngine()
INPUTS = Inputs(
    generate_arithmetic(16, 8, 10, 0),
    {"Think.": "seed", "Add.": "seed"},
    EngineSpec(SimulatedEngine, ENGINE.fingerprints, len, on_gpu=False),
)


def test_random_search_has_the_runs_instructions_and_calls(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    asked = 0
    with Ledger(tmp_path / "ledger.sqlite", ENGINE.fingerprints) as ledger:

        def generate(chats, samplings):
            nonlocal asked
            asked += len(chats)
            answers = asyncio.run(ENGINE.generate(chats, samplings))
            for *pair, answer in zip(chats, samplings, answers, strict=True):
                ledger.record_generation(generation_key(ENGINE.fingerprints, *pair), answer, "ape")
            return answers

        written = generate_instructions(generate, INPUTS.task, CONFIG.ape, CONFIG.seed)
    found = candidates(tmp_path, asked + 20 + 50 * 8 + 7, INPUTS, seed=0)
    assert len({prompt.id for prompt in found}) == len(found) == 50
    assert {prompt.instruction for prompt in found} <= {*INPUTS.instructions, *written}
    assert any(prompt.instruction in written for prompt in found)
    assert {6, 7, 8} < {len(prompt.exemplars) for prompt in found} <= set(range(9))
    assert (
        found
        == candidates(tmp_path, asked + 20 + 50 * 8, INPUTS, seed=0)
        != candidates(tmp_path, asked + 20 + 50 * 8, INPUTS, seed=1)
    )


def test_each_search_is_tested_and_hyperband_alone(tmp_path):
    write_run(tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        records = read(ledger)
    prompts = [Prompt("Think.", INPUTS.task.pool[:k]) for k in range(4)]
    with Ledger(tmp_path / "random.sqlite", ENGINE.fingerprints) as ledger:
        seed = asyncio.run(compare(records, INPUTS, prompts, ledger, ENGINE, 3))

        def accuracy(prompt, split):
            return 1 - ledger.observation(prompt.id, [example.id for example in getattr(INPUTS.task, split)]).error

        best = max(prompts, key=lambda prompt: accuracy(prompt, "validation"))
        assert ledger.answers() == 4 * 8 + 2 * 10  # random search's and D, of Hyperband and the best of all
        assert seed == Seed(
            3,
            records.usage.calls,
            0.3,
            accuracy(PROPOSALS["D"].prompt, "test"),
            accuracy(best, "test"),
            accuracy(PROPOSALS["D"].prompt, "test"),
            5 / 8,
            accuracy(best, "validation"),
            5 / 8,
        )


def test_a_difference_has_its_standard_error_and_p():
    mean, error, p = difference([0.5, 0.6, 0.7], [0.4, 0.4, 0.6])
    assert (mean, error) == pytest.approx((0.4 / 3, 0.1 / 3))
    assert p == pytest.approx(0.0572, abs=1e-3)  # t = 4 with two degrees of freedom
