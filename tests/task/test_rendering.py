import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.task import rendering as prompts
from lipo_e_ray.task.rendering import TEMPLATE, check_context, render
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Prompt


def count_characters(messages):
    """A tokenizer with one token per character and ten per message for the template around it."""
    return sum(10 + len(message["content"]) for message in messages)


def make_task(pool=("ab", "abcd", "a", "abc"), questions=("q", "qqq")):
    examples = tuple(Example(f"{text}?", text) for text in pool)
    return Task("t", examples, (Example(questions[0], "1"),), (Example(questions[1], "1"),), "text")


def test_exemplars_are_alternating_turns_and_the_instruction_stands_before_the_question():
    messages = render(Prompt("Do it.", (Example("1+1?", "2"), Example("2+2?", "4"))), "3+3?")
    assert messages == [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Do it.\n\n3+3?"},
    ]


def test_an_empty_instruction_leaves_no_trace():
    assert render(Prompt(""), "q") == [{"role": "user", "content": "q"}]


@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=8), st.text())
def test_every_exemplar_adds_two_turns_and_nothing_is_changed(instruction, pairs, question):
    messages = render(Prompt(instruction, tuple(Example(q, a) for q, a in pairs)), question)
    assert len(messages) == 2 * len(pairs) + 1
    assert [turn["content"] for turn in messages[:-1]] == [text for pair in pairs for text in pair]
    assert messages[-1]["content"].startswith(instruction) and messages[-1]["content"].endswith(question)


def test_template_is_what_render_does():
    cases = json.loads(TEMPLATE)
    placeholders = (Example("<question 1>", "<answer 1>"), Example("<question 2>", "<answer 2>"))
    assert render(Prompt("<instruction>", placeholders), "<question>") in cases
    assert render(Prompt(""), "<question>") in cases


def test_context_that_fits_passes_at_the_exact_limit():
    # exemplars abcd?/abcd and abc?/abc (5+4+4+3 characters, 4 messages), "Do it", 2 line ends and "qqq" in one message
    worst = 16 + 40 + 5 + 2 + 3 + 10
    check_context(make_task(), "Do it", 2, worst + 7, 7, count_characters)
    with pytest.raises(InputError, match=rf"takes {worst} tokens, expected at most {worst - 1} "):
        check_context(make_task(), "Do it", 2, worst + 6, 7, count_characters)


def test_context_names_the_largest_number_of_exemplars_that_fits():
    with pytest.raises(InputError, match="set max_exemplars to 1 or less") as caught:
        check_context(make_task(), "Do it", 2, 80, 7, count_characters)
    assert "\n" not in str(caught.value)


def test_context_too_small_for_the_bare_question():
    with pytest.raises(InputError, match="not even a prompt without exemplars fits"):
        check_context(make_task(), "Do it", 2, 20, 7, count_characters)


@given(
    st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True),
    st.integers(0, 4),
    st.integers(1, 400),
    st.data(),
)
def test_a_passed_check_holds_for_every_prompt(pool, max_exemplars, length, data):
    task = make_task(tuple(pool))
    try:
        check_context(task, "Do it.", max_exemplars, length, 1, count_characters)
    except InputError:
        return
    chosen = data.draw(st.permutations(task.pool))[:max_exemplars]
    prompt = Prompt(data.draw(st.sampled_from(["", "Do", "Do it."])), tuple(chosen))
    for example in (*task.validation, *task.test):
        assert count_characters(prompts.render(prompt, example.question)) + 1 <= length
