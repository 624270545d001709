"""The contract finds each engine that breaks it, and a user's test of five lines is enough."""

import dataclasses
import textwrap

import pytest

from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.testing import EngineContract
from lipo_e_ray.types import Fingerprints

pytest_plugins = ("pytester",)


class Reversed(SimulatedEngine):
    async def evaluate(self, prompt, examples):
        return (await super().evaluate(prompt, examples))[::-1]


class Once(SimulatedEngine):
    async def evaluate(self, prompt, examples):
        return await super().evaluate(prompt, list(dict.fromkeys(examples)))


class Never(SimulatedEngine):
    async def evaluate(self, prompt, examples):
        return await super().evaluate(prompt, examples or [1])


class Guessed(SimulatedEngine):
    """What it cannot answer counts as wrong."""


class Nameless(SimulatedEngine):
    @property
    def fingerprints(self):
        return Fingerprints("model", "", "template")


class Swapped(SimulatedEngine):
    async def generate(self, conversations, samplings):
        answers = await super().generate(conversations, samplings)
        return sorted(answers, key=lambda completion: completion.prompt_tokens)


class Seedless(SimulatedEngine):
    async def generate(self, conversations, samplings):
        return await super().generate(conversations, [dataclasses.replace(one, seed=0) for one in samplings])


@pytest.mark.parametrize(
    ("engine", "broken"),
    [
        (SimulatedEngine, set()),
        (Reversed, {"one_outcome_per_example_in_their_order"}),
        (Once, {"an_example_given_twice_is_answered_twice"}),
        (Never, {"nothing_asked_nothing_answered"}),
        (Guessed, {"failed_is_not_wrong"}),
        (Nameless, {"fingerprints_are_stable_digests"}),
        (Swapped, {"one_text_per_conversation_in_their_order"}),
        (Seedless, {"each_conversation_has_its_own_seed"}),
    ],
)
def test_an_engine_that_breaks_the_contract_is_found(pytester, engine, broken):
    bad = "" if engine is not Guessed else "    bad = EngineContract.prompt\n"
    pytester.makepyfile(
        textwrap.dedent(f"""
            import pytest
            from lipo_e_ray.testing import EngineContract
            from tests.test_testing import {engine.__name__}

            class TestMyEngine(EngineContract):
                @pytest.fixture
                def engine(self):
                    return {engine.__name__}()
        """)
        + bad
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rfs")
    tests = [name for name in dir(EngineContract) if name.startswith("test_")]
    skipped = 0 if bad else 1
    result.assert_outcomes(passed=len(tests) - len(broken) - skipped, failed=len(broken), skipped=skipped)
    result.stdout.fnmatch_lines([f"FAILED *test_{name}*" for name in broken])
