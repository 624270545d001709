import re

import pytest

from lipo_e_ray.data import arithmetic
from lipo_e_ray.data.answers import extract_number, numeric
from lipo_e_ray.data.arithmetic import generate_arithmetic
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


def test_every_step_is_true_and_leads_to_the_answer(task):
    for example in everything(task):
        *steps, last = example.answer.split("\n")
        assert len(steps) in (1, 2)
        for step in steps:
            left, right = re.fullmatch(r"(\d+ [-+*/] \d+) = (\d+)", step).groups()
            assert eval(left) == int(right)
        assert last == f"#### {right}"
        assert numeric(example.answer, example.answer) is Status.CORRECT


def test_a_second_step_uses_the_result_of_the_first(task):
    for example in everything(task):
        *steps, _ = example.answer.split("\n")
        if len(steps) == 2:
            assert steps[1].split()[0] == steps[0].split()[-1]


def test_the_numbers_of_the_first_step_stand_in_the_question(task):
    for example in everything(task):
        left, _, right, *_ = example.answer.split()
        assert {left, right} <= set(re.findall(r"\d+", example.question))


def test_answers_are_short_and_whole(task):
    for example in everything(task):
        assert len(example.answer) <= 45
        value = extract_number(example.answer)
        assert value == int(value) and value >= 2


def test_one_and_two_steps_and_all_operations_are_mixed(task):
    share = sum(example.answer.count("\n") == 2 for example in everything(task)) / 640
    assert abs(share - arithmetic.TWO_STEP_SHARE) < 0.06
    signs = [example.answer.split()[1] for example in everything(task)]
    assert all(signs.count(sign) > 40 for sign in "+-*/")
    assert len({example.question.split()[0] for example in task.pool}) > 15


def test_more_problems_than_there_are_is_an_input_error():
    with pytest.raises(InputError, match="100000"):
        generate_arithmetic(99_000, 500, 501, seed=0)


def test_gsm8k_sizes_can_be_generated():
    task = generate_arithmetic(6154, 1319, 1319, seed=3)
    assert len({example.question for example in everything(task)}) == 8792
