"""How the LLM calls of a run are divided, and the schedule that its search has: the same for a plan and for the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipo_e_ray.config import RunConfig
from lipo_e_ray.inputs import Inputs
from lipo_e_ray.instructions.induction import most_calls
from lipo_e_ray.latent.inversion import MAX_REQUESTS
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.schedule import LimitedSchedule, Schedule, full_schedule, more_iterations
from lipo_e_ray.store.run_folder import Spending
from lipo_e_ray.types import InputError, Prompt

BASELINE_SHARE = 0.1  # of a limit, at most, for the race that finds the baseline
WRITING_SHARE = 0.1  # of a limit, at most, for the instructions that the model writes
RESERVE_SHARE = 0.02  # of a limit, kept for calls that failed or were lost and are sent again
LEAST_RESERVE = 2
TESTED = 2  # prompts: the best one and the baseline


@dataclass(frozen=True)
class Budget:
    """``limit``: calls in all, 0: no limit. ``writing``: for APE, at most. ``test``: test examples for each of the
    two prompts. ``reserve``: for calls that are sent again.
    """

    limit: int
    writing: int
    test: int
    reserve: int

    def for_search(self, written: int) -> int:
        """What is left for the search after ``written`` calls of APE; 0: no limit."""
        return self.limit and max(0, self.limit - written - TESTED * self.test - self.reserve)


def divide(config: RunConfig, inputs: Inputs) -> Budget:
    """The budget of a run. With a limit, each part is a share of it at most."""
    limit, writing, test = config.max_llm_calls, most_calls(config.ape) if config.ape.use else 0, len(inputs.task.test)
    if not limit:
        return Budget(0, writing, test if config.test_share else 0, 0)
    reserve = max(LEAST_RESERVE, round(RESERVE_SHARE * limit))
    test = min(test, int(config.test_share * limit) // TESTED)
    return Budget(limit, min(writing, int(WRITING_SHARE * limit)), test, reserve)


def first_budget(config: RunConfig, inputs: Inputs, earlier: Sequence[Spending]) -> Budget:
    """The budget that the run began with, whose share for writing decides how many instructions there are."""
    return divide(replace(config, max_llm_calls=earlier[0].max_llm_calls) if earlier else config, inputs)


def plain_prompts(inputs: Inputs) -> tuple[Prompt, ...]:
    """The user's first instruction, which is the baseline; without one, the shipped ones. Those that fit the model."""
    for source in ("file", "seed"):
        prompts = [Prompt(text) for text, by in inputs.instructions.items() if by == source]
        if fitting := [prompt for prompt in prompts if inputs.context.fits(prompt)]:
            return tuple(fitting[:1] if source == "file" else fitting)
    return ()


def make_schedules(
    config: RunConfig, inputs: Inputs, written: int, earlier: Sequence[Spending] = (), lost: int = 0
) -> list[Schedule]:
    """The schedules of a search after ``written`` calls of APE: one for each time that the run was given more.

    ``lost``: see ``LimitedSchedule``; what was lost is missing to the last of the schedules.
    """
    schedules: list[Schedule] = []
    before, iterations = 0, 0
    for stage in (*earlier, Spending.of(config)):
        own = replace(
            config, max_llm_calls=stage.max_llm_calls, invbo=replace(config.invbo, iterations=stage.iterations)
        )
        schedules.append(_schedule(own, inputs, written, before, iterations if schedules else None))
        before, iterations = schedules[-1].limit, stage.iterations
    if isinstance(last := schedules[-1], LimitedSchedule):
        schedules[-1] = replace(last, lost=lost)
    return schedules


def _schedule(config: RunConfig, inputs: Inputs, written: int, before: int, iterated: int | None) -> Schedule:
    """``before`` and ``iterated``: the limit of the schedule before, and its iterations; 0 and ``None`` for none."""
    limit, task = divide(config, inputs).for_search(written), inputs.task
    ending = Ending(
        plain_prompts(inputs),
        len(task.validation),
        len(task.reserve),
        config.hyperband.b_min,
        BASELINE_SHARE * limit if limit else math.inf,
    )
    if config.max_llm_calls:
        return LimitedSchedule(config, limit, ending, config.invbo.q * MAX_REQUESTS, before)
    if iterated is not None and not before:
        return more_iterations(config, ending, iterated)
    return full_schedule(config, ending)


def check_limit(config: RunConfig, inputs: Inputs) -> None:
    """Raises ``InputError`` where ``max_llm_calls`` cannot pay for a race, with the least that can."""
    if config.max_llm_calls and not _can_race(config, inputs, config.max_llm_calls):
        least = next(limit for limit in range(config.max_llm_calls + 1, 10**6) if _can_race(config, inputs, limit))
        raise InputError(
            f"call budget: expected {least} calls or more (the least that pays for a race of prompts, and for what is "
            f"done besides), got {config.max_llm_calls}; raise --max-llm-calls"
        )


def _can_race(config: RunConfig, inputs: Inputs, limit: int) -> bool:
    config = replace(config, max_llm_calls=limit)
    [schedule] = make_schedules(config, inputs, divide(config, inputs).writing)
    return schedule.limit > 0 and schedule.following([], schedule.limit, False) is not None
