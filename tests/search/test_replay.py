"""The walk in one process; that Ray Tune walks the same way is in tests/distributed/test_runner.py."""

from lipo_e_ray.search.brackets import Bracket, Rung, hyperband_brackets
from lipo_e_ray.search.hyperband import Hyperband
from lipo_e_ray.search.replay import run_search
from lipo_e_ray.search.schedule import FixedSchedule
from lipo_e_ray.types import Batch, Evaluation, Observation, Origin, Prompt, Proposal


def proposal(text, bracket=0):
    return Proposal(Prompt(text), Origin("ape", "hyperband", bracket))


def evaluate(prompt, n):
    """The later in the alphabet, the fewer errors."""
    return Evaluation(Observation(prompt.id, n * (ord("z") - ord(prompt.instruction[0])) // 26, n), 0, n)


def test_the_whole_walk_in_order():
    events, letters = [], iter("aiqzem")

    def propose(request):
        events.append(
            (
                "asked",
                request.bracket,
                request.count,
                [(p.instruction, o.evaluated) for p, o in request.observed],
                [p.instruction for p in request.running],
            )
        )
        return Batch(tuple(proposal(next(letters), request.bracket) for _ in range(request.count)))

    hyperband = Hyperband(FixedSchedule(tuple(hyperband_brackets(16, 4, 4))), seed=0, overlap=1)
    run_search(
        hyperband,
        propose,
        evaluate,
        lambda request, batch: events.append(
            ("recorded", request.bracket, [p.prompt.instruction for p in batch.proposals])
        ),
        lambda results: events.append(("rung", results[0].fidelity, [r.calls for r in results])),
    )
    assert events == [
        ("asked", 0, 4, [], []),
        ("recorded", 0, ["a", "i", "q", "z"]),
        ("rung", 4, [16, 16, 16, 16]),
        ("asked", 1, 2, [("a", 4), ("i", 4), ("q", 4), ("z", 4)], ["z"]),
        ("recorded", 1, ["e", "m"]),
        ("rung", 16, [28]),
        ("rung", 16, [60, 60]),
    ]
    assert hyperband.incumbent().prompt_id == Prompt("z").id


def test_a_rung_that_the_lack_of_prompts_completes_is_recorded():
    batches, rungs = iter(["ab", ""]), []
    hyperband = Hyperband(FixedSchedule((Bracket(0, "hyperband", 1, (Rung(4, 4), Rung(2, 16)), chunk=2),)), 0, 0)
    run_search(hyperband, lambda request: Batch(tuple(map(proposal, next(batches)))), evaluate, on_rung=rungs.append)
    assert [[(r.fidelity, r.promoted) for r in results] for results in rungs] == [
        [(4, False), (4, False)],
        [(4, False), (4, True)],
        [(16, False)],
    ]
