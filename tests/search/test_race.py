"""One bracket, rung by rung, and what its rungs say; whole walks are in test_hyperband.py."""

import pytest

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.race import Known, Race
from lipo_e_ray.types import Evaluation, Observation


def seen(n, **errors):
    return {name: Evaluation(Observation(name, count, n), 0, n) for name, count in errors.items()}


def race(entrants, pace=None):
    return Race(Bracket(0, "invbo", 2, (Rung(4, 10), Rung(2, 20), Rung(1, 40))), tuple(entrants), pace)


def test_it_halves_by_errors_until_the_last_rung_is_complete():
    bracket = race("abcd")
    assert bracket.close(seen(10, a=4, b=1, c=2, d=3), "seed") == {"b", "c"}
    assert bracket.entrants == ("b", "c"), "in the order of the proposal"
    assert bracket.close(seen(20, b=5, c=4), "seed") == {"c"}
    assert bracket.close(seen(40, c=9), "seed") == set()
    assert bracket.entrants == ()
    assert [[(name, up) for name, _, up in rung] for rung in bracket.rungs] == [
        [("a", False), ("b", True), ("c", True), ("d", False)],
        [("b", False), ("c", True)],
        [("c", False)],
    ]


def test_it_knows_who_ran_when_some_rungs_were_complete():
    bracket = race("abcd")
    assert bracket.running_after(0) == tuple("abcd")
    bracket.close(seen(10, a=4, b=1, c=2, d=3), "seed")
    bracket.close(seen(20, b=5, c=4), "seed")
    assert [bracket.running_after(rungs) for rungs in (0, 1, 2)] == [tuple("abcd"), ("b", "c"), ("c",)]


@pytest.mark.parametrize(("pace", "passes"), [(3, True), (2, False)])
def test_the_gate_is_one_standard_error_over_the_pace(pace, passes):
    """sqrt(3 * 7 / 10) = 1.45, sqrt(2 * 8 / 10) = 1.26: four errors are one, and two, more."""
    bracket = race("a", "king")
    assert bracket.runners() == ("a", "king")
    assert bool(bracket.close(seen(10, a=4, king=pace), "seed")) is passes


def test_the_pace_does_not_run_in_the_last_rung_nor_twice():
    bracket = race("a", "king")
    bracket.close(seen(10, a=0, king=0), "seed")
    bracket.close(seen(20, a=0, king=0), "seed")
    assert bracket.runners() == ("a",)
    assert race(["a", "king"], "king").runners() == ("a", "king")


def test_known_keeps_what_each_rung_adds_and_charges_what_is_new():
    known = Known("seed", top=40)
    for fidelity, failed in ((10, 0), (40, 0), (20, 0)):
        known.add(fidelity, "a", Evaluation(Observation("a", fidelity // 4, fidelity), failed, 0))
    known.add(40, "b", Evaluation(Observation("b", 0, 39), 1, 0))
    known.add(10, "c", Evaluation(Observation("c", 0, 0), 10, 0))
    assert known.calls == 40 + 40 + 10
    assert known.observed == {"a": [Observation("a", 2, 10), Observation("a", 10, 40)], "b": [Observation("b", 0, 39)]}
    assert known.incumbent() == Observation("a", 10, 40), "a failed call is no complete score"
