import json
import operator
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from lipo_e_ray.config import TaskConfig
from lipo_e_ray.task.loading import ARITHMETIC_SIZES, TASKS, load_task
from lipo_e_ray.task.metrics import user_metric
from lipo_e_ray.task.rows import Splits, python_rows
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def rows(prefix, n, answer="#### {i}"):
    return [{"question": f"{prefix} {i}?", "answer": answer.format(i=i)} for i in range(n)]


def write(folder, **splits):
    for name, records in splits.items():
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return TaskConfig(name=str(folder), pool_size=0, validation_size=0, test_size=0)


def fails(config, *parts, given=None):
    """Loading ends in one line that holds every part."""
    with pytest.raises(InputError) as caught:
        load_task(config, 0, given)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_a_folder_keeps_its_splits(tmp_path):
    task = load_task(write(tmp_path, train=rows("a", 9), validation=rows("b", 7), test=rows("c", 5)), 0)
    assert (len(task.pool), len(task.validation), len(task.test)) == (9, 7, 5)
    assert {example.question for example in task.validation} == {f"b {i}?" for i in range(7)}
    assert task.metric == "numeric" and task.name == tmp_path.name


def test_shuffles_are_fixed_by_the_seed_and_a_smaller_size_is_a_prefix(tmp_path):
    config = write(tmp_path, train=rows("a", 30), validation=rows("b", 30), test=rows("c", 30))
    full = load_task(config, 0)
    assert load_task(config, 0) == full
    assert load_task(config, 1).validation != full.validation
    cut = load_task(TaskConfig(config.name, pool_size=4, validation_size=6, test_size=100), 0)
    assert cut.pool == full.pool[:4] and cut.validation == full.validation[:6] and cut.test == full.test


def test_validation_is_split_off_train_in_the_proportion_of_gsm8k(tmp_path):
    config = write(tmp_path, train=rows("a", 100), test=rows("c", 3))
    task = load_task(config, 0)
    assert (len(task.pool) + len(task.reserve), len(task.validation)) == (83, 17)
    assert not {example.id for example in task.pool} & {example.id for example in task.validation}


@pytest.mark.parametrize(
    ("pool", "validation", "kept"), [(39, 30, 0), (40, 30, 8), (99, 30, 15), (100, 60, 20), (100, 1, 0)]
)
def test_the_end_of_a_pool_is_reserved_for_the_finalists(tmp_path, pool, validation, kept):
    """Half as many as validation has, a fifth of the pool at most, nothing of a small pool."""
    config = write(tmp_path, train=rows("a", pool), validation=rows("b", validation), test=rows("c", 3))
    task = load_task(config, 0)
    assert (len(task.pool), len(task.reserve)) == (pool - kept, kept)
    assert not set(task.pool) & set(task.reserve)
    assert {example.question for example in task.pool + task.reserve} == {row["question"] for row in rows("a", pool)}
    assert task.ladder == task.validation + task.reserve
    assert load_task(config, 0).reserve == task.reserve


@pytest.mark.skipif(not (SHARED / "gsm8k").is_dir(), reason="../shared/data/gsm8k is not there")
def test_gsm8k_from_a_folder_has_the_sizes_of_the_paper():
    task = load_task(TaskConfig(name=str(SHARED / "gsm8k")), 0)
    assert (len(task.pool), len(task.validation), len(task.test), len(task.reserve)) == (5495, 1319, 1319, 659)
    assert len(task.pool) + len(task.reserve) == 6154
    assert task.metric == "numeric"


@pytest.mark.skipif(not (SHARED / "instruction_induction").is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("name", "metric"),
    [("sentiment", 'choice:["negative", "positive"]'), ("larger_animal", "text"), ("singular_to_plural", "text")],
)
def test_the_metric_is_chosen_from_the_answers(name, metric):
    assert load_task(TaskConfig(name=str(SHARED / "instruction_induction" / name)), 0).metric == metric


def test_arithmetic_sizes_and_metric():
    task = load_task(TaskConfig(name="arithmetic", pool_size=10, validation_size=0, test_size=3), 5)
    assert (len(task.pool), len(task.validation), len(task.test)) == (10, ARITHMETIC_SIZES[1], 3)
    assert task.metric == "numeric"
    assert load_task(TaskConfig(name="arithmetic", pool_size=1, metric="text"), 5).metric == "text"


def test_a_byte_order_mark_and_blank_lines_are_no_error(tmp_path):
    config = write(tmp_path, train=rows("a", 3), validation=rows("b", 2), test=rows("c", 2))
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    assert len(load_task(config, 0).pool) == 3


def test_a_line_separator_inside_a_question_does_not_end_the_row(tmp_path):
    record = '{"question": "one\u2028two", "answer": "1"}'
    task = load_task(write(tmp_path, train=[record], validation=rows("b", 2), test=rows("c", 2)), 0)
    assert task.pool == (Example("one\u2028two", "1"),)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("not json", ("train.jsonl line 2", "one JSON object", "not json")),
        ("[" * 100_000, ("train.jsonl line 2", "one JSON object")),
        ("[1, 2]", ("train.jsonl line 2", "object with question and answer", "list")),
        ('{"answer": "1"}', ("train.jsonl line 2", "'question'", "the keys ['answer']")),
        ('{"question": "x"}', ("train.jsonl line 2", "'answer'", "the keys ['question']")),
        ('{"question": "  ", "answer": "1"}', ("train.jsonl line 2", "non-empty string 'question'")),
        ('{"question": "x", "answer": ""}', ("train.jsonl line 2", "non-empty string 'answer'")),
        ('{"question": "x", "answer": 5}', ("train.jsonl line 2", "non-empty string 'answer'", "5")),
        ('{"question": null, "answer": "1"}', ("train.jsonl line 2", "'question'", "None")),
        ('{"question": "\\ud800", "answer": "1"}', ("train.jsonl line 2", "Unicode")),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, parts):
    fails(write(tmp_path, train=[rows("a", 1)[0], line], validation=rows("b", 2), test=rows("c", 2)), *parts)


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_file(tmp_path, split, content):
    config = write(tmp_path, train=rows("a", 3), validation=rows("b", 2), test=rows("c", 2))
    (tmp_path / f"{split}.jsonl").write_text(content)
    fails(config, f"{split}.jsonl", "empty file", "question")


def test_a_missing_folder_or_file(tmp_path):
    fails(TaskConfig(name=str(tmp_path / "nowhere")), "nowhere", "arithmetic, gsm8k or a folder")
    fails(write(tmp_path, test=rows("c", 2)), "train.jsonl", "No such file")
    (tmp_path / "test.jsonl").unlink()
    fails(write(tmp_path, train=rows("a", 3)), "test.jsonl", "No such file")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    config = write(tmp_path, train=rows("a", 3), test=rows("c", 2))
    (tmp_path / "validation.jsonl").mkdir()
    fails(config, "validation.jsonl", "directory")


def test_not_utf_8(tmp_path):
    config = write(tmp_path, train=rows("a", 3), validation=rows("b", 2), test=rows("c", 2))
    (tmp_path / "test.jsonl").write_bytes('{"question": "é?", "answer": "1"}'.encode("latin-1"))
    fails(config, "test.jsonl", "UTF-8", "0xe9 at offset 14")


def test_a_question_in_two_splits_names_both_places(tmp_path):
    config = write(tmp_path, train=rows("a", 3), validation=[*rows("b", 2), rows("a", 3)[2]], test=rows("c", 2))
    fails(config, "validation.jsonl line 3", "train.jsonl line 3")
    fails(write(tmp_path, test=[{"question": " a  1? ", "answer": "#### 9"}], validation=rows("b", 2)),
          "test.jsonl line 1", "train.jsonl line 2")  # fmt: skip


def test_a_question_twice_in_one_split(tmp_path):
    config = write(tmp_path, train=rows("a", 3) + rows("a", 1), validation=rows("b", 2), test=rows("c", 2))
    fails(config, "train.jsonl line 4", "train.jsonl line 1")


def test_one_row_cannot_be_split(tmp_path):
    fails(write(tmp_path, train=rows("a", 1), test=rows("c", 2)), "train.jsonl line 1", "2 rows or more")


def test_rows_given_from_python_lead_to_the_task_of_their_folder(tmp_path):
    sizes = TaskConfig(str(tmp_path / "task"), pool_size=20, validation_size=0, test_size=5)
    for validation in (rows("b", 9), None):
        given = Task.from_rows(train=rows("a", 30), validation=validation, test=rows("c", 9))
        given.save(tmp_path / "task")
        assert load_task(sizes, 3) == load_task(replace(sizes, name="gsm8k"), 3, given)


def test_rows_given_from_python_are_checked_like_those_of_a_file():
    def given(**splits):
        return Task.from_rows(**{"train": rows("a", 4), "test": rows("c", 3)} | splits)

    config = TaskConfig("gsm8k")
    fails(config, "row 2 of test", "row 1 of train", given=given(test=[rows("c", 1)[0], rows("a", 1)[0]]))
    fails(config, "row 1 of train", "2 rows or more", given=given(train=rows("a", 1)))
    fails(
        replace(config, metric="numeric"), "row 3 of test", "'none'", given=given(test=[*rows("c", 2), ("?", "none")])
    )
    unchecked = Task("t", (Example("a?", "1"), Example(" ", "1")), (), (Example("b?", "1"),), "auto")
    fails(config, "row 2 of train", "non-empty string 'question'", given=unchecked)
    fails(config, "test: expected one row or more", given=replace(unchecked, pool=unchecked.pool[:1], test=()))


def test_whose_metric_counts_for_rows_given_from_python():
    given = Task.from_rows(train=rows("a", 4, "7"), test=rows("c", 3, "7"), metric="text")
    assert load_task(TaskConfig("gsm8k"), 0, given).metric == "text"
    assert load_task(TaskConfig("gsm8k", metric="numeric"), 0, given).metric == "numeric"
    assert load_task(TaskConfig("gsm8k"), 0, replace(given, metric="auto")).metric == "numeric"


def test_a_function_that_judges_decides_what_a_reference_is():
    given = Task.from_rows(train=rows("a", 4, "..."), test=rows("c", 3, "..."))
    fails(TaskConfig("gsm8k"), "'...'", given=given)
    assert load_task(TaskConfig("gsm8k"), 0, given, user_metric(operator.eq, "mine")).metric == "mine"


def test_a_registered_task_is_loaded_by_its_name(monkeypatch):
    def squares(config, seed):
        return Splits("squares", *(python_rows([(f"{part} {i}?", str(i * i)) for i in range(9)], part)
                                   for part in ("train", "validation", "test")))  # fmt: skip

    monkeypatch.setitem(TASKS, "squares", squares)
    task = load_task(TaskConfig("squares", pool_size=4), 0)
    assert (len(task.pool), len(task.validation), task.metric, task.name) == (4, 9, "numeric", "squares")
    fails(TaskConfig("nowhere"), "--task: expected arithmetic, gsm8k, squares or a folder")


def with_metric(config, metric):
    return TaskConfig(config.name, 0, 0, 0, metric)


def test_the_metric_of_the_config_wins(tmp_path):
    config = write(tmp_path, train=rows("a", 4, "yes"), validation=rows("b", 4, "No."), test=rows("c", 2, "no"))
    assert load_task(with_metric(config, "text"), 0).metric == "text"
    assert load_task(with_metric(config, "choice"), 0).metric == 'choice:["no", "yes"]'
    assert load_task(with_metric(config, "operator:eq"), 0).metric == "operator:eq"


def test_a_metric_that_cannot_be_had(tmp_path):
    config = write(tmp_path, train=rows("a", 3), validation=rows("b", 2), test=rows("c", 2))
    fails(with_metric(config, "bleu"), "numeric, choice, text or module:function", "'bleu'")
    fails(with_metric(config, "no_such_module:f"), "no_such_module")


def test_an_answer_the_metric_cannot_read_is_named(tmp_path):
    config = write(tmp_path, train=rows("a", 3), validation=rows("b", 2), test=[*rows("c", 2), *rows("d", 1, "none")])
    fails(with_metric(config, "numeric"), "test.jsonl line 3", "'numeric'", "'none'")
    assert load_task(config, 0).metric != "numeric"


def test_an_answer_of_punctuation_alone_is_named(tmp_path):
    config = write(tmp_path, train=rows("a", 4, "yes"), validation=rows("b", 4, "no"), test=rows("c", 2, "..."))
    fails(config, "test.jsonl line 1", "'...'", "correct it")


@pytest.mark.parametrize(
    "text",
    ["<|im_start|>system", "[INST] x [/INST]", "</s>", "a\0b", "\u202eabc\u202c", "x" * 1_000_000],
    ids=["ChatML", "INST", "s", "NUL", "right to left", "megabyte"],
)
def test_data_comes_back_letter_for_letter(tmp_path, text):
    record = {"question": f"{text}?", "answer": text}
    task = load_task(write(tmp_path, train=[record], validation=rows("b", 2), test=rows("c", 2)), 0)
    assert task.pool == (Example(f"{text}?", text),)


@pytest.mark.parametrize("answer", ["1,234,567", "-0", "1e3", "3/4", "$5.00", "50%", "-$5", ".5"])
def test_numbers_of_every_kind_are_numeric_answers_and_stay_as_written(tmp_path, answer):
    task = load_task(write(tmp_path, train=rows("a", 3, answer), validation=rows("b", 2), test=rows("c", 2)), 0)
    assert task.metric == "numeric" and {example.answer for example in task.pool} == {answer}


def fake_datasets(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_gsm8k_from_the_hub(monkeypatch):
    def load_dataset(name, config, split):
        assert (name, config) == ("openai/gsm8k", "main")
        return rows(split, {"train": 7473, "test": 1319}[split])

    fake_datasets(monkeypatch, load_dataset)
    task = load_task(TaskConfig(), 0)
    assert (len(task.pool) + len(task.reserve), len(task.validation), len(task.test)) == (6154, 1319, 1319)
    assert task.name == "gsm8k" and task.metric == "numeric"


def test_gsm8k_without_the_hub_says_how_to_give_files(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach 'openai/gsm8k'\non the Hub")

    fake_datasets(monkeypatch, load_dataset)
    message = fails(TaskConfig(), "gsm8k", "ConnectionError", "train.jsonl and test.jsonl", "--task FOLDER")
    assert re.search(r"Couldn't reach 'openai/gsm8k' on the Hub", message)
