from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.store.ledger import Failure, Ledger
from lipo_e_ray.types import (
    Batch,
    Completion,
    Example,
    Fingerprints,
    InputError,
    LipoError,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Status,
)

PRINTS = Fingerprints("model", "sampling", "template")
PROMPT = Prompt("Solve the problem.", (Example("1+1?", "#### 2"), Example("2+2?", "#### 4")))


def outcome(example: str, status: Status = Status.CORRECT, prompt: str = "p", **more: object) -> Outcome:
    return Outcome(prompt, example, status, **more)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path, PRINTS) as ledger:
        yield ledger


def test_answers_of_another_model_alone_are_refused(ledger, path):
    ledger.check_fingerprints()  # no answers yet
    ledger.record_outcomes("validation", [outcome("a")])
    ledger.check_fingerprints()
    ledger.close()
    refused = pytest.raises(InputError, match="answers are of another model, sampling or chat template; go on with")
    with Ledger(path, Fingerprints("other", "sampling", "template")) as other, refused:
        other.check_fingerprints()


def test_a_second_payment_raises_and_leaves_nothing_of_its_batch(ledger):
    ledger.record_outcomes("validation", [outcome("a")])
    with pytest.raises(LipoError, match="outcome paid twice"):
        ledger.record_outcomes("validation", [outcome("b"), outcome("a", Status.WRONG)])
    assert ledger.statuses("p", "validation") == {"a": Status.CORRECT}
    ledger.record_outcomes("validation", [outcome("b")])  # the ledger is usable after the refusal


def test_the_unique_key_is_prompt_example_and_fingerprints(ledger, path):
    ledger.close()
    for prints in (
        PRINTS,
        Fingerprints("other", "sampling", "template"),
        Fingerprints("model", "other", "template"),
        Fingerprints("model", "sampling", "other"),
    ):
        with Ledger(path, prints) as writer:
            assert writer.statuses("p", "validation") == {}
            writer.record_outcomes("validation", [outcome("a")])
    with Ledger(path) as reader:
        assert reader.asked() == 4
        assert reader.fingerprints == Fingerprints("model", "sampling", "other")
        assert reader.observations("validation") == {"p": Observation("p", 0, 1)}


def test_failed_is_not_wrong(ledger):
    ledger.record_outcomes(
        "validation",
        [
            outcome("a"),
            outcome("b", Status.WRONG),
            outcome("c", Status.UNPARSEABLE),
            outcome("d", Status.FAILED, error="x"),
        ],
    )
    assert ledger.observation("p", "abcd") == Observation("p", errors=2, evaluated=3, unparseable=1)
    assert [(f.prompt_id, f.example_id, f.error) for f in ledger.failures()] == [("p", "d", "x")]
    assert isinstance(ledger.failures()[0], Failure)
    assert (ledger.asked(), ledger.unanswered()) == (4, {("p", "d"): "x"})
    ledger.record_outcomes("validation", [outcome("d")])  # a retry that succeeds is no double payment
    assert ledger.observation("p", "abcd").evaluated == 4
    assert (ledger.asked(), ledger.unanswered()) == (4, {})


def test_observation_counts_only_the_examples_asked_for(ledger):
    ledger.record_outcomes("validation", [outcome("a", Status.WRONG), outcome("b"), outcome("c", Status.WRONG)])
    ledger.record_outcomes("test", [outcome("t")])
    assert ledger.observation("p", ["a", "b"]) == Observation("p", 1, 2)
    assert ledger.observation("p", ["c", "unknown"]) == Observation("p", 1, 1)
    assert ledger.statuses("p", "test") == {"t": Status.CORRECT}
    assert ledger.observations("validation") == {"p": Observation("p", 2, 3)}


def test_outcomes_come_back_whole_even_with_half_a_surrogate(ledger):
    whole = outcome("a", text="#### 4", prompt_tokens=9, cached_tokens=8, completion_tokens=7)
    ledger.record_outcomes("validation", [whole, outcome("b", text="\ud83d!")])
    assert ledger.outcomes("p") == {"a": whole, "b": outcome("b", text="?!")}


STORABLE = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["a\0b", "<|im_end|>", "'); DROP TABLE outcomes; --", "\u202e\u05e9", "NaN", "1e999", ""]
)
BATCHES = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.sampled_from(Status), STORABLE), max_size=6), max_size=5
)


@settings(max_examples=40)
@given(BATCHES)
def test_batches_count_each_answer_once_whole_or_not_at_all(tmp_path_factory, batches):
    """Held against a dictionary: a batch with one answer known before is refused, with all of it."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    answered: dict[str, Outcome] = {}
    failed, recorded = 0, []
    with Ledger(path, PRINTS) as writer:
        for batch in batches:
            outcomes = [outcome(e, status, text=text, error=text) for e, (status, text) in batch.items()]
            new = {o.example_id: replace(o, error="") for o in outcomes if o.status is not Status.FAILED}
            if new.keys() & answered.keys():
                with pytest.raises(LipoError, match="paid twice"):
                    writer.record_outcomes("validation", outcomes)
            else:
                writer.record_outcomes("validation", outcomes)
                recorded.append(batch)
                answered |= new
                failed += len(outcomes) - len(new)
    with Ledger(path) as reader:
        assert reader.outcomes("p") == answered
        assert (reader.answers(), len(reader.failures())) == (len(answered), failed)
        assert reader.asked() == len({o for batch in recorded for o in batch})
        assert reader.unanswered().keys() == {("p", o) for batch in recorded for o in batch} - {
            ("p", o) for o in answered
        }
        statuses = [o.status for o in answered.values()]
        assert reader.observation("p", "abcdef") == Observation(
            "p", len(statuses) - statuses.count(Status.CORRECT), len(statuses), statuses.count(Status.UNPARSEABLE)
        )


@settings(max_examples=40)
@given(STORABLE, st.lists(st.tuples(STORABLE, STORABLE), max_size=4))
def test_any_prompt_comes_back_letter_for_letter(tmp_path_factory, instruction, pairs):
    prompt = Prompt(instruction, tuple(Example(*pair) for pair in pairs))
    with Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite", PRINTS) as writer:
        writer.record_prompt(prompt)
        assert writer.prompts() == {prompt.id: prompt}


def test_generations(ledger):
    ledger.record_generation("k", Completion("", error="timeout"), "ape")
    assert ledger.generation("k") is None
    assert (ledger.asked(), ledger.unanswered()) == (1, {("k", ""): "timeout"})
    ledger.record_generation("k", Completion("text", "", 3, 2, 1), "ape")
    assert ledger.generation("k") == Completion("text", "", 3, 2, 1)
    assert [(f.prompt_id, f.example_id, f.error) for f in ledger.failures()] == [("k", "", "timeout")]
    assert (ledger.asked(), ledger.unanswered()) == (1, {})
    with pytest.raises(LipoError, match="paid twice"):
        ledger.record_generation("k", Completion("other"), "ape")
    ledger.record_outcomes("validation", [outcome("a", prompt_tokens=10, cached_tokens=4, completion_tokens=5)])
    assert ledger.tokens() == {"prompt_tokens": 13, "cached_tokens": 6, "completion_tokens": 6}


def test_texts_are_generations_with_an_answer(ledger):
    for key, completion in (("a", Completion("", error="x")), ("a", Completion("text")), ("b", Completion("text"))):
        ledger.record_generation(key, completion, "ape")
    ledger.record_generation("c", Completion("", error="x"), "ape")
    assert ledger.texts() == 2


def test_what_was_sent_adds_up_by_kind_and_stays(ledger, path):
    ledger.record_sent({"writing": 3})
    ledger.record_sent({"validation": 16, "writing": 2})
    ledger.record_sent({})
    ledger.close()
    with Ledger(path, PRINTS) as again:
        assert (again.sent(), again.calls()) == ({"writing": 5, "validation": 16, "test": 0}, 21)
        again.record_sent({"validation": 1, "test": 1})
        assert again.sent() == {"writing": 5, "validation": 17, "test": 1}


def test_an_empty_ledger_has_no_tokens_and_no_calls(ledger):
    assert ledger.tokens() == {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
    assert (ledger.calls(), ledger.asked()) == (0, 0)


def proposals(bracket, *texts, stage="hyperband"):
    return tuple(Proposal(Prompt(text), Origin("ape", stage, bracket)) for text in texts)


def test_prompts_and_proposals_come_back(ledger):
    other = Prompt('Think.\n"Quoted" ü')
    first = Proposal(PROMPT, Origin("invbo", "invbo", 3, 0.9), {"z": [0.1], "target": "t"})
    second = Proposal(other, Origin("seed", "invbo", 3))
    ledger.record_batch(3, 0, Batch((first, second), 7))
    ledger.record_batch(1, 0, Batch((second,)))
    ledger.record_batch(3, 0, Batch((first, second), 7))
    ledger.record_prompt(PROMPT)
    assert ledger.prompts() == {PROMPT.id: PROMPT, other.id: other}
    assert [bracket for bracket, _ in ledger.proposals()] == [1, 3, 3]
    assert ledger.proposals()[1] == (3, first)
    assert ledger.proposals()[1][1].info == first.info
    assert ledger.batch(3, 0) == Batch((first, second), 7)
    assert ledger.batch(3, 0).proposals[0].info == first.info


def test_a_bracket_gets_its_proposals_chunk_by_chunk(ledger, path):
    chunks = {0: Batch(proposals(2, "a", "b"), 3), 2: Batch(proposals(2, "c", "d")), 4: Batch((), 5)}
    for first, batch in chunks.items():
        assert ledger.batch(2, first) is None
        ledger.record_batch(2, first, batch)
    ledger.close()
    with Ledger(path, PRINTS) as again:
        assert {first: again.batch(2, first) for first in chunks} == chunks
        assert again.batch(2, 1) is None and again.batch(1, 0) is None
        assert [p.prompt.instruction for _, p in again.proposals()] == list("abcd")


def test_a_batch_without_a_proposal_is_recorded_as_one(ledger):
    """A resumed run must not ask again where no prompt was left, and must count what was written in vain."""
    ledger.record_batch(0, 0, Batch((), 12))
    ledger.record_batch(0, 0, Batch((), 12))
    assert ledger.batch(0, 0) == Batch((), 12) and ledger.proposals() == []
    with pytest.raises(LipoError, match="expected the 0 proposals recorded for bracket 0, got 1 others"):
        ledger.record_batch(0, 0, Batch(proposals(0, "a")))


def test_other_proposals_for_a_recorded_chunk_are_refused(ledger):
    ledger.record_batch(0, 0, Batch(proposals(0, "a")))
    for other in ((), proposals(0, "b"), proposals(0, "a", "b")):
        with pytest.raises(LipoError, match="bracket 0"):
            ledger.record_batch(0, 0, Batch(other))
    assert ledger.batch(0, 0) == Batch(proposals(0, "a"))
    assert list(ledger.prompts().values()) == [Prompt("a")]


def test_a_second_walk_replaces_a_rung_result_in_its_place(ledger):
    first = RungResult(0, "hyperband", 2, 0, 10, Observation("p", 3, 9, 1), False, 10)
    other = RungResult(0, "hyperband", 2, 0, 10, Observation("o", 3, 10), False, 20)
    again = RungResult(0, "hyperband", 2, 0, 10, Observation("p", 3, 10, 1), True, 10)
    for result in (first, other, again):
        ledger.record_rung(result)
    assert ledger.rungs() == [again, other]


def test_a_walk_that_begins_on_more_examples_replaces_the_fidelity_too(ledger):
    """With another limit, a bracket may begin higher: of an old fidelity, the result would count as failed."""
    higher = RungResult(0, "hyperband", 0, 0, 24, Observation("p", 6, 24), False, 24)
    for result in (RungResult(0, "hyperband", 1, 0, 12, Observation("p", 3, 12), True, 12), higher):
        ledger.record_rung(result)
    assert ledger.rungs() == [higher]


def test_a_reader_looks_on_while_the_writer_writes(ledger, path):
    with Ledger(path) as reader:
        assert reader.fingerprints == Fingerprints("", "", "")
        ledger.record_outcomes("validation", [outcome("a")])
        assert reader.observation("p", "a") == Observation("p", 0, 1)
        with pytest.raises(LipoError, match="readonly"):
            reader.record_prompt(PROMPT)
