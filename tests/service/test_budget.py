from __future__ import annotations

import pytest

from lipo_e_ray.service.budget import CallBudget, Spent
from lipo_e_ray.types import SpentError


def budget(limit: int, reserve: int, writing: int = 0, validation: int = 0, asked: int = 0) -> CallBudget:
    return CallBudget(limit, reserve, {"writing": writing, "validation": validation, "test": 0}, asked)


def test_first_attempts_may_use_the_whole_limit_and_what_does_not_fit_is_not_counted():
    calls = budget(limit=40, reserve=0)
    calls.take("validation", 16, again=False)
    calls.take("writing", 16, again=False)
    with pytest.raises(SpentError) as caught:
        calls.take("validation", 9, again=False)
    assert str(caught.value) == (
        "--max-llm-calls 40: expected 9 calls or more to be left, got 8 (32 were sent); "
        "resume with a higher --max-llm-calls"
    )
    calls.take("test", 8, again=False)
    assert calls.spent() == Spent({"writing": 16, "validation": 16, "test": 8}, overhead=0, left=0)


def test_what_is_sent_again_comes_out_of_the_reserve_and_out_of_the_limit():
    calls = budget(limit=40, reserve=5)
    calls.take("validation", 16, again=False)
    calls.take("validation", 4, again=True)
    with pytest.raises(SpentError, match="expected 2 calls or more to be left of the 5 for retries, got 1;"):
        calls.take("validation", 2, again=True)
    assert (calls.calls, calls.spent().overhead, calls.spent().left) == (20, 4, 20)
    calls.take("test", 20, again=False)
    with pytest.raises(SpentError, match=r"expected 1 calls or more to be left, got 0 \(40 were sent\)"):
        calls.take("test", 1, again=True)


def test_earlier_processes_count_and_what_they_lost_takes_from_the_reserve():
    calls = budget(limit=100, reserve=30, writing=10, validation=50, asked=44)
    assert calls.spent() == Spent({"writing": 10, "validation": 50, "test": 0}, overhead=16, left=40)
    calls.take("validation", 16, again=False)  # the lost ones: nobody knows that they were asked for
    calls.take("validation", 14, again=True)
    with pytest.raises(SpentError, match="of the 30 for retries, got 0"):
        calls.take("validation", 1, again=True)


def test_without_a_limit_everything_is_counted_and_nothing_refused():
    calls = budget(limit=0, reserve=0)
    calls.take("test", 10**6, again=False)
    calls.take("test", 10**6, again=True)
    assert calls.spent() == Spent({"writing": 0, "validation": 0, "test": 2 * 10**6}, overhead=10**6, left=None)


def test_a_limit_below_what_was_sent_leaves_nothing():
    calls = budget(limit=10, reserve=10, validation=20, asked=20)
    assert calls.spent().left == 0
    with pytest.raises(SpentError, match=r"got 0 \(20 were sent\)"):
        calls.take("test", 1, again=False)
