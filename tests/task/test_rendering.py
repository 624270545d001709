import json

from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.task.rendering import TEMPLATE, render
from lipo_e_ray.types import Example, Prompt


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
