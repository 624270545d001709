import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.latent.clauses import MAX_SENTENCES, Clause, Phrasebook, _is_sentence, render, repeats_itself

KNOWN = [
    "Read the question carefully and give a short, correct answer.",
    "After each step, write the intermediate result in brackets.",
    "You are a careful expert. Justify every step before you state the answer.",
    "Keep the solution short and clear.",
]
BOOK = Phrasebook(KNOWN)


def clauses(text: str) -> list[list[str]]:
    return [[f"{clause.kind}: {clause.text}" for clause in sentence] for sentence in BOOK.parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Read the question carefully and give a short, correct answer.",
            [["main: read the question carefully", "main: give a short, correct answer"]],
        ),
        (
            "After each step, write the intermediate result in brackets.",
            [["opener: after each step", "main: write the intermediate result", "tail: in brackets"]],
        ),
        (
            "You are a careful expert. Justify every step before you state the answer.",
            [["whole: You are a careful expert"], ["main: justify every step", "tail: before you state the answer"]],
        ),
        ("Keep the solution short and clear.", [["main: keep the solution short and clear"]]),
        (
            "First list the facts, then compute the sum, and answer with a number!",
            [["main: list the facts", "main: compute the sum", "main: answer with a number"]],
        ),
        (
            "Check it twice by adding the numbers by hand",
            [["main: check it twice", "tail: by adding the numbers by hand"]],
        ),
        ("Work one step at a time.", [["main: work one step at a time"]]),
        ("Solve the problem step by step.", [["main: solve the problem", "tail: step by step"]]),
        ("If the sum is odd", [["whole: If the sum is odd"]]),
        ("  ... ", []),
        ("", []),
    ],
)
def test_parse(text, expected):
    assert clauses(text) == expected


def test_imperatives_are_learnt_from_the_known_texts():
    text = "Read it and juggle the numbers."
    assert [len(sentence) for sentence in Phrasebook([]).parse(text)] == [1]
    assert [len(sentence) for sentence in Phrasebook(["Juggle the words."]).parse(text)] == [2]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("After each step, write the result in brackets.", "After each step, write the result in brackets."),
        ("Read it, then solve it", "Read it and solve it."),
        ("List the facts, compute the sum and check it", "List the facts, compute the sum, and check it."),
    ],
)
def test_render(text, written):
    assert render(BOOK.parse(text)) == written


def test_every_recombination_is_grammatical_and_bounded():
    for text in KNOWN:
        for recombined in BOOK.recombinations(text, KNOWN):
            sentences = BOOK.parse(recombined)
            assert 1 <= len(sentences) <= MAX_SENTENCES
            assert all(sentence[0].kind == "whole" or _is_sentence(sentence) for sentence in sentences)


def test_recombinations_drop_replace_and_add_clauses():
    found = set(BOOK.recombinations(KNOWN[1], KNOWN))
    assert {
        "Write the intermediate result in brackets.",
        "After each step, write the intermediate result.",
        "After each step, write the intermediate result before you state the answer.",
        "After each step, justify every step in brackets.",
        "After each step, write the intermediate result in brackets and keep the solution short and clear.",
        "You are a careful expert. After each step, write the intermediate result in brackets.",
    } <= found


@given(st.lists(st.sampled_from("omtw"), max_size=6).map("".join))
def test_is_sentence_agrees_with_a_plain_reading(kinds):
    names = {"o": "opener", "m": "main", "t": "tail", "w": "whole"}
    body = kinds.removeprefix("o")
    expected = body.startswith("m") and set(body) <= set("mt") and body.count("m") <= 3 and "ttt" not in body
    assert _is_sentence(tuple(Clause(names[kind], "x") for kind in kinds)) == expected


@given(st.text(max_size=80))
def test_any_text_can_be_parsed_and_written(text):
    book = Phrasebook([text])
    written = render(book.parse(text))
    assert not written or written.endswith(".")
    list(book.recombinations(text, [text, *KNOWN]))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Calculate it and calculate.", True),
        ("Solve it step by step step by step.", True),
        ("Read each step and write the answer to each question.", False),
    ],
)
def test_repeats_itself(text, verdict):
    assert repeats_itself(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Examine the problem. Solve it.", True),
        ("In this example, I have modified the wording.", False),
        ("The user requested a new text.", False),
    ],
)
def test_instructs(text, verdict):
    assert BOOK.instructs(text) == verdict
