from lipo_e_ray.proposal.candidates import Candidate, SearchState
from lipo_e_ray.types import Prompt, Request

A, B, C = map(Prompt, "abc")


def test_new_prompts_are_distinct_and_not_excluded_in_their_order():
    state = SearchState(Request("hyperband", 0, 3), (), frozenset({B.id}))
    assert state.new([C, A, B, Prompt("c")]) == [C, A]


def test_what_is_in_the_batch_is_excluded_for_the_next_source():
    state = SearchState(Request("hyperband", 0, 3), (), frozenset({B.id}))
    assert state.after([Candidate(C)]).new([A, B, C]) == [A]
    assert state.new([A, B, C]) == [A, C], "the state itself stays"
