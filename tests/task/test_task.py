import pandas
import pytest

from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError

TRAIN, TEST = [("b?", "2"), ("a?", "1")], [("c?", "3")]


def test_rows_keep_their_order_and_the_metric_stays_open():
    task = Task.from_rows(train=TRAIN, validation=TEST, test=[("d?", "4")])
    assert task == Task("task", (Example("b?", "2"), Example("a?", "1")), (Example("c?", "3"),),
                        (Example("d?", "4"),), "auto")  # fmt: skip
    assert Task.from_rows(train=TRAIN, test=TEST, metric="text", name="mine") == Task(
        "mine", task.pool, (), task.validation, "text"
    )


def test_an_empty_validation_is_a_mistake_and_none_is_split_off_later():
    with pytest.raises(InputError, match="validation: expected one row or more, got none"):
        Task.from_rows(train=TRAIN, validation=[], test=TEST)


@pytest.mark.parametrize("validation", [TRAIN[:1], None])
def test_a_saved_task_is_the_same_again(tmp_path, validation):
    task = Task.from_rows(train=TRAIN[1:], validation=validation, test=TEST, name="mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "validation.jsonl").write_text("left by another task")
    task.save(tmp_path / "mine")
    assert Task.from_folder(tmp_path / "mine") == task
    task.save(str(tmp_path / "a" / "mine"))
    assert Task.from_folder(str(tmp_path / "a" / "mine")) == task


def test_where_nothing_can_be_saved(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder to write the task to, got: "):
        Task.from_rows(train=TRAIN, test=TEST).save(tmp_path / "file" / "mine")


def test_a_folder_names_file_and_line(tmp_path):
    Task.from_rows(train=TRAIN, test=TEST).save(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"question": "c?"}')
    with pytest.raises(InputError, match=r"test\.jsonl line 1: expected a non-empty string 'answer'"):
        Task.from_folder(tmp_path)


def frame(rows, columns=("question", "answer")):
    return pandas.DataFrame(rows, columns=list(columns))


def test_data_frames_are_rows():
    frames = {"train": frame(TRAIN), "validation": frame(TEST), "test": frame([("d?", "4")])}
    given = Task.from_pandas(**frames, name="mine", metric="numeric")
    assert given == Task.from_rows(train=TRAIN, validation=TEST, test=[("d?", "4")], name="mine", metric="numeric")
    assert Task.from_pandas(train=frame(TRAIN), test=frame(TEST)) == Task.from_rows(train=TRAIN, test=TEST)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (frame(TEST, ("input", "answer")), r"row 1 of test: expected a non-empty string 'question', got the keys"),
        (frame([("c?", 3)]), "row 1 of test: expected a non-empty string 'answer', got 3"),
        (frame([]), "test: expected one row or more, got none"),
        (TEST, "test: expected a data frame of pandas, got list"),
        (frame(TEST)["question"], "test: expected a data frame of pandas, got Series"),
    ],
)
def test_frames_that_cannot_be_used(test, message):
    with pytest.raises(InputError, match=message):
        Task.from_pandas(train=frame(TRAIN), test=test)


def test_a_function_is_no_metric_of_a_task():
    with pytest.raises(InputError, match=r"expected a metric's name for a task, got function; give .* to optimize\("):
        Task.from_rows(train=TRAIN, test=TEST, metric=lambda output, reference: True)
