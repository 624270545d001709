import re

import pytest

from lipo_e_ray.task import arithmetic
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import numeric
from lipo_e_ray.types import InputError, Status


@pytest.fixture(scope="module")
def task():
    return generate_arithmetic(256, 128, 256, seed=0)


def everything(task):
    return (*task.pool, *task.validation, *task.test)


def test_sizes_metric_and_no_question_twice(task):
    assert (len(task.pool), len(task.validation), len(task.test)) == (256, 128, 256)
    assert task.metric == "numeric"
    questions = {example.question for example in everything(task)}
    assert len(questions) == 256 + 128 + 256


def test_the_same_seed_gives_the_same_task_and_another_seed_another(task):
    assert generate_arithmetic(256, 128, 256, seed=0) == task
    assert generate_arithmetic(256, 128, 256, seed=1).pool != task.pool


def steps(example):
    """[(left, sign, right, result), ...] as written in the worked answer."""
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", example.answer)
    return [(int(left), sign, int(right), int(result)) for left, sign, right, result in found]


def test_every_step_is_true_and_leads_to_the_answer(task):
    do = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__truediv__}
    for example in everything(task):
        *lines, last = example.answer.split("\n")
        assert len(lines) == len(steps(example)) in (1, 2)
        assert all(do[sign](left, right) == result >= 2 for left, sign, right, result in steps(example))
        assert last == f"#### {steps(example)[-1][-1]}"
        assert numeric(example.answer, example.answer) is Status.CORRECT


def test_a_second_step_uses_the_result_of_the_first(task):
    for example in everything(task):
        if len(steps(example)) == 2:
            first, second = steps(example)
            assert second[0] == first[-1]


def test_the_numbers_of_the_steps_stand_in_the_question(task):
    for example in everything(task):
        left, _, right, _ = steps(example)[0]
        operands = [left, right, *(step[2] for step in steps(example)[1:])]
        assert sorted(operands) == sorted(map(int, re.findall(r"\d+", example.question)))


def test_placeholders_are_filled_and_answers_are_short(task):
    for example in everything(task):
        assert not set("[]{}") & set(example.question + example.answer)
        assert len(example.answer) <= 100


def test_one_and_two_steps_and_all_operations_are_mixed(task):
    share = sum(example.answer.count("\n") == 2 for example in everything(task)) / 640
    assert abs(share - arithmetic.TWO_STEP_SHARE) < 0.06
    signs = [steps(example)[0][1] for example in everything(task)]
    assert all(signs.count(sign) > 40 for sign in "+-*/")
    assert len({example.question.split()[0] for example in task.pool}) == 20  # the names


def test_more_problems_than_there_are_is_an_input_error():
    with pytest.raises(InputError, match="100000"):
        generate_arithmetic(99_000, 500, 501, seed=0)


def test_gsm8k_sizes_can_be_generated():
    task = generate_arithmetic(6154, 1319, 1319, seed=3)
    assert len({example.question for example in everything(task)}) == 8792
