import json
import operator
import pickle
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lipo_e_ray.task.extraction import extract_number
from lipo_e_ray.task.metrics import (
    METRICS,
    MetricKind,
    choice_name,
    choose_metric,
    full_name,
    get_metric,
    is_user_metric,
    user_metric,
)
from lipo_e_ray.types import Example, InputError, Status

# Outputs of SmolLM2-135M-Instruct through vLLM, greedy; the labels are a reader's, not the code's.
REAL = [json.loads(line) for line in (Path(__file__).parent / "real_outputs.jsonl").read_text("utf-8").splitlines()]
CORRECT, WRONG, UNPARSEABLE = Status.CORRECT, Status.WRONG, Status.UNPARSEABLE
LABELS = 'choice:["positive", "negative", "very positive"]'


def test_the_table_of_real_outputs_is_large_and_varied():
    assert len({row["output"] for row in REAL}) == len(REAL) >= 60
    statuses = [row["status"] for row in REAL]
    assert all(statuses.count(status) >= 5 for status in ("correct", "wrong", "unparseable"))


@pytest.mark.parametrize("row", REAL, ids=range(len(REAL)))
def test_real_outputs(row):
    number = extract_number(row["output"])
    assert number == (None if row["number"] is None else Decimal(row["number"]))
    assert get_metric("numeric")(row["output"], row["reference"]) == row["status"]


def test_numeric_compares_values_not_spellings():
    numeric = get_metric("numeric")
    assert numeric("It is 18.00", "9 * 2 = 18\n#### 18") is CORRECT
    assert numeric("#### 1,500", "1500") is CORRECT
    assert numeric("0.75", "#### 3/4") is CORRECT
    assert numeric("0.1", "#### 0.10000000000000001") is WRONG
    assert numeric("I do not know", "#### 3") is UNPARSEABLE


FRAGMENTS = [
    "####", "\\boxed{", "}", "{", "Question:", "Q:", "\n", "/", "-", "1e", "e9", ".", ",", "0", "99", "answer:",
    "answer is", "positive", "negative", "\\frac{1}{0}", "\u2212", "\u0663", "$", "=",
]  # fmt: skip
pieces = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=30).map("".join)


@given(pieces | st.text(), pieces)
@example("9e999/9e-999", "0/0")
@example("9" * 5000 + "e999", "1")
def test_no_built_in_metric_ever_raises(output, reference):
    for name in ("numeric", "text", LABELS):
        assert get_metric(name)(output, reference) in (CORRECT, WRONG, UNPARSEABLE)


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("positive", CORRECT),
        ("Positive.", CORRECT),
        ("  **POSITIVE**\n", CORRECT),
        ("The review is positive.", CORRECT),
        ("positive, really positive", CORRECT),
        ("negative", WRONG),
        ("very positive", WRONG),
        ("Answer: positive", CORRECT),
        ("It is not negative. The answer is positive", CORRECT),
        ("positive? negative?\n#### positive", CORRECT),
        ("The answer is positive, not negative.", CORRECT),
        ("positive\nQuestion: bad film\nnegative", CORRECT),
        ("positive or negative", UNPARSEABLE),
        ("neutral", UNPARSEABLE),
        ("nonpositive", UNPARSEABLE),
        ("", UNPARSEABLE),
        ("positive\n#### unclear", UNPARSEABLE),
    ],
)
def test_choice(output, status):
    assert get_metric(LABELS)(output, "positive") is status


def test_a_one_letter_label_is_no_article():
    choice = get_metric('choice:["a", "b"]')
    assert choice("It is a clear case of B", "B") is CORRECT
    assert choice("(b)", "B") is CORRECT
    assert choice("A or B", "B") is UNPARSEABLE


@pytest.mark.parametrize(
    ("output", "reference", "status"),
    [
        ("Cats.", "cats", CORRECT),
        ("\n  the   Cat \nsat", "The cat", CORRECT),
        ("Answer: cats", "cats", CORRECT),
        ("The plural is hard.\nThe answer is: **cats**", "cats", CORRECT),
        ("\u201ccats\u201d", "cats", CORRECT),
        ("cats\nQ: dog\nA: dogs", "cats", CORRECT),
        ("cats", "think first\n#### cats", CORRECT),
        ("the cats", "cats", WRONG),
        (" \n...", "cats", UNPARSEABLE),
        ("", "cats", UNPARSEABLE),
    ],
)
def test_text(output, reference, status):
    assert get_metric("text")(output, reference) is status


def examples(*answers):
    return [Example(f"{i}?", answer) for i, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["1 + 1 = 2\n#### 2", "#### 1,000", "#### -3.5"], "numeric"),
        (["4", "$5", "50%", "3/4"], "numeric"),
        (["Yes", "no", "yes.", "No"], 'choice:["no", "yes"]'),
        (["so\n#### yes", "thus\n#### no", "#### no", "#### yes"], 'choice:["no", "yes"]'),
        (["yes", "no", "maybe"], "text"),
        (["18 apples", "17 pears"], "text"),
        ([f"label {i % 21}" for i in range(210)], "text"),
        ([f"{i % 20:x} label" for i in range(40)], None),
    ],
)
def test_choose_metric(answers, metric):
    chosen = choose_metric(examples(*answers))
    assert chosen == metric if metric else chosen.startswith("choice:")


def test_choice_name_is_all_a_metric_needs():
    name = choice_name(examples("Ja", "ja.", "Nein", "n\u00f6"))
    assert name == 'choice:["ja", "nein", "n\u00f6"]'
    assert get_metric(name)("N\u00d6!", "n\u00f6") is CORRECT


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module of the user's in the working directory."""
    (tmp_path / "my_metric_module.py").write_text(
        "from lipo_e_ray.types import Status\n"
        "NOT_A_FUNCTION = 3\n"
        "def same(output, reference):\n    return output == reference\n"
        "def unsure(output, reference):\n    return Status.UNPARSEABLE\n"
        "def score(output, reference):\n    return 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "my_metric_module"
    sys.modules.pop("my_metric_module", None)


def test_a_metric_of_the_user(user_module):
    same = get_metric(f"{user_module}:same")
    assert same("a", "a") is CORRECT and same("a", "b") is WRONG
    assert get_metric(f"{user_module}:unsure")("a", "a") is UNPARSEABLE
    with pytest.raises(InputError, match=r"expected bool or Status as its result, got 0\.5"):
        get_metric(f"{user_module}:score")("a", "a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bleu", "expected auto, numeric, choice, text or module:function, got 'bleu'"),
        ("", "module:function"),
        (":f", "module:function"),
        ("json:", "module:function"),
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
        ("json:no_such_function", "no_such_function"),
        ("my_metric_module:NOT_A_FUNCTION", "expected a function, got int"),
        ("choice:", "choice:"),
        ("choice:[]", "one label or more"),
        ("choice:[1]", "one label or more"),
        ('choice:["..."]', "one label or more"),
        ("choice:" + "[" * 100_000, "one label or more"),
        ("numeric:f", "--metric: expected numeric alone, got 'numeric:f'"),
    ],
)
def test_a_metric_that_does_not_exist(user_module, name, message):
    with pytest.raises(InputError) as caught:
        get_metric(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_given_from_python_is_wrapped_alike_and_travels(user_module):
    metric = pickle.loads(pickle.dumps(user_metric(operator.eq, "mine")))
    assert (metric("a", "a"), metric("a", "b")) == (CORRECT, WRONG)
    with pytest.raises(InputError, match=r"metric mine: expected bool or Status as its result, got 0\.5"):
        user_metric(lambda output, reference: 0.5, "mine")("a", "a")
    with pytest.raises(InputError, match="metric mine: expected a function, got str"):
        user_metric("operator.eq", "mine")


def test_whose_code_a_name_would_run():
    own = ("numeric", "text", 'choice:["a"]', "choice", "numeric:f")
    assert not any(is_user_metric(name) for name in own) and is_user_metric("operator:eq")


def test_a_registered_metric_is_found_named_and_completed(monkeypatch):
    def ends(end):
        return lambda output, reference: CORRECT if output.endswith(end) else WRONG

    monkeypatch.setitem(METRICS, "ends", MetricKind(ends, complete=lambda rows: f"ends:{rows[0].answer[-1]}"))
    assert full_name("ends", examples("yes")) == "ends:s" and full_name("ends:x", examples("yes")) == "ends:x"
    assert get_metric("ends:s")("cats", "") is CORRECT and get_metric("ends:s")("cat", "") is WRONG
    assert not is_user_metric("ends:s")
    with pytest.raises(InputError, match="numeric, choice, text, ends or module:function"):
        get_metric("bleu")


@pytest.mark.timeout(60)  # each takes a second or two; a pattern that runs over it again from every start takes hours
@pytest.mark.parametrize(
    "piece",
    [
        "1",
        ",111",
        "1,",
        "1/",
        "-",
        "1e",
        "$",
        "=1",
        "#### ",
        "answer is ",
        "\\boxed{",
        "\\frac{",
        "Question 1",
        " ",
        "\n",
        "\0",
        "\u05e9",
        "\u0301\u0316",
        "\u0f73",
    ],
)
def test_a_megabyte_is_judged_in_time(piece):
    text = "-1" + piece * (1_000_100 // len(piece))
    for name in ("numeric", "text", LABELS):
        assert get_metric(name)(text, "1") in (CORRECT, WRONG, UNPARSEABLE)
    assert choose_metric(examples(text))


def test_marks_that_a_language_writes_are_composed():
    assert get_metric("text")("e\u0301 and a\u0316\u0301", "\u00e9 and \u00e1\u0316") is CORRECT
    assert get_metric("text")("e" + 40 * "\u0301", "e" + 40 * "\u0301") is CORRECT
    assert get_metric("text")("e" + 40 * "\u0301", "e" + 41 * "\u0301") is WRONG


@pytest.mark.parametrize(
    "output",
    ["-" + "9" * 1_000_001, "1/" + "9" * 1_000_001, "9e999/9e-999", "0/0", "1/0"],
    ids=["digits", "fraction", "exponents", "0/0", "1/0"],
)
def test_a_number_beyond_all_bounds_is_judged_and_never_right(output):
    assert get_metric("numeric")(output, "1") in (WRONG, UNPARSEABLE)


@pytest.mark.parametrize("text", ["<|im_end|>", "[INST] 5 [/INST]", "5</s>", "a\0b", "\u202e5\u202c", "\u0665"])
def test_control_tokens_in_an_answer_are_text(text):
    """A reference with them is a text answer, right for itself and wrong for the text without them."""
    assert choose_metric(examples(text, "5")) == "text"
    judge = get_metric("text")
    assert judge(text, text) is CORRECT and judge(text, "other") is WRONG


@given(st.text(min_size=1))
def test_every_metric_that_is_chosen_reads_the_answer_it_was_chosen_for(answer):
    """Or calls it unparseable, which loading a task reports; it never calls a reference wrong for itself."""
    rows = examples(answer, answer)
    assert get_metric(choose_metric(rows))(answer, answer) in (CORRECT, UNPARSEABLE)
