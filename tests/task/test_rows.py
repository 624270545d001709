import pytest

from lipo_e_ray.task.rows import checked_row, python_rows, read_jsonl, write_jsonl
from lipo_e_ray.types import Example, InputError

ROWS = [{"question": "one\u2028two?", "answer": '"é"\nb'}, {"question": "\ufeffa\\n?", "answer": " 7 ", "more": [1]}]
EXAMPLES = [Example(row["question"], row["answer"]) for row in ROWS]


@pytest.mark.parametrize("form", [dict, Example, tuple, list])
def test_rows_come_in_every_form(form):
    given = {
        dict: ROWS,
        Example: EXAMPLES,
        tuple: [(e.question, e.answer) for e in EXAMPLES],
        list: [[e.question, e.answer] for e in EXAMPLES],
    }[form]
    rows = python_rows(iter(given), "train")
    assert [row.example for row in rows] == EXAMPLES
    assert [row.place for row in rows] == ["row 1 of train", "row 2 of train"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "test: expected one row or more, got none"),
        (None, "test: expected a list of rows with question and answer, got NoneType"),
        ("rows.jsonl", "test: expected a list of rows .*, got str"),
        ({"question": "a?"}, "test: expected a list of rows .*, got dict"),
        ([ROWS[0], 7], "row 2 of test: expected an object with question and answer, got int"),
        ([("a?", "1", "2")], "row 1 of test: expected an object with question and answer, got tuple"),
        (
            [{"question": "a?", 3: "1"}],
            r"row 1 of test: expected a non-empty string 'answer', got the keys \['3', 'que",
        ),
        ([ROWS[0], ("a?", 5)], "row 2 of test: expected a non-empty string 'answer', got 5"),
        ([("a?", float("nan"))], "row 1 of test: expected a non-empty string 'answer', got nan"),
        ([("\ud800", "1")], "row 1 of test: expected Unicode text in 'question', got half a surrogate pair"),
    ],
)
def test_rows_that_cannot_be_used(records, message):
    with pytest.raises(InputError, match=message) as caught:
        python_rows(records, "test")
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_back(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", EXAMPLES)
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [row.example for row in rows] == EXAMPLES
    assert rows[1].place == f"{tmp_path / 'rows.jsonl'} line 2"


def test_a_record_of_a_file_is_an_object():
    with pytest.raises(InputError, match="line 3: expected an object with question and answer, got list"):
        checked_row(["a?", "1"], "line 3")
