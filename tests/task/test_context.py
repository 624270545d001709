import pickle
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_e_ray.config import ModelConfig
from lipo_e_ray.engine.model import ChatTokenizer
from lipo_e_ray.task.context import ContextLimit, PromptTokens, fitting_task, up_to_block
from lipo_e_ray.task.rendering import render
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, InputError, Prompt

TEMPLATES = {
    "its own": None,  # marks the turns by special tokens
    "letters": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    "nothing between": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "trims": "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}",
    "a space between": "{% for m in messages %}{{ m.content }} {% endfor %}",
    "more at later turns": "{% for m in messages %}{% if loop.index > 3 %}\n\n### {{ m.role }} says:\n\n{% endif %}"
    "{{ m.content }}{% endfor %}",
}
FRAGMENTS = ["\n", "\n\n", " ", "\t", "a", " the", "12", "...", ".", "é", "\u05e9\u05dc", "<|im_end|>", "####", "\r\n",
             "\u3000", "\u6f22", "'s", "xyzzyq", "_", "==", "http://", "\u00a0", "\U0001f642"]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map("".join) | st.text(min_size=1, max_size=8)


def count_characters(messages):
    """A tokenizer with one token per character and ten per message for the template around it."""
    return sum(10 + len(message["content"]) for message in messages)


def make_task(pool=("ab", "abcd", "a", "abc"), questions=("q", "qqq")):
    examples = tuple(Example(f"{text}?", text) for text in pool)
    return Task("t", examples, (Example(questions[0], "1"),), (Example(questions[1], "1"),), "text")


def limit(task, room, count=count_characters):
    return ContextLimit(PromptTokens(task, count), room + 7, 7)


def taken(prompt, task, count=count_characters):
    return max(count(render(prompt, example.question)) for example in (*task.validation, *task.test))


@pytest.fixture(scope="module")
def chat():
    return ChatTokenizer(ModelConfig(name="smollm2-135m", max_tokens=32))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_sum_is_never_below_what_the_models_tokenizer_counts(chat, template, monkeypatch):
    if TEMPLATES[template]:
        monkeypatch.setattr(chat._tokenizer, "chat_template", TEMPLATES[template])

    @settings(max_examples=60)
    @given(
        st.lists(st.tuples(texts, texts), min_size=1, max_size=8),
        st.lists(texts, min_size=1, max_size=2),
        texts,
        st.data(),
    )
    def bounded(pairs, questions, instruction, data):
        pool = tuple(Example(*pair) for pair in pairs)
        task = Task("t", pool, tuple(Example(question, "1") for question in questions), (), "text")
        tokens = PromptTokens(task, chat.count)
        exemplars = tuple(data.draw(st.permutations(pool))[: data.draw(st.integers(0, len(pool)))])
        prompt = Prompt(data.draw(st.sampled_from(["", instruction])), exemplars)
        assert taken(prompt, task, chat.count) <= tokens.of(prompt)

    bounded()
    # One that takes more tokens than its parts where the template puts a space between them.
    pairs = (("\n\t", "\n\n\n"), ("llll", "\t"), ("\xa0\tg", "xyz.\xa0"), ("xyz in", "."))
    pool = tuple(Example(*pair) for pair in pairs)
    task = Task("t", pool, (Example("g\xa0", "1"),), (), "text")
    assert taken(Prompt("lla ", pool), task, chat.count) <= PromptTokens(task, chat.count).of(Prompt("lla ", pool))


def test_the_sum_is_close(chat):
    rng = random.Random(0)
    pool = tuple(Example(f"How many {i} apples are there in {i} bags?", f"{i} * {i} = {i * i}") for i in range(8))
    task = Task("t", pool, pool[:2], (), "numeric")
    tokens = PromptTokens(task, chat.count)
    for k in range(9):
        prompt = Prompt("Solve the problem step by step.", tuple(rng.sample(pool, k)))
        assert 0 <= tokens.of(prompt) - taken(prompt, task, chat.count) <= 2 * k + 6


@given(st.integers(20, 200), st.sampled_from(["", "Do it.", "Do it, please: <b>", "D\u00f6 it"]), st.integers(0, 4))
def test_what_fits_never_overflows_and_what_does_not_is_close(room, instruction, k):
    task = make_task()
    prompt = Prompt(instruction, task.pool[:k])
    over = taken(prompt, task) - room
    assert not (limit(task, room).fits(prompt) and over > 0)
    assert limit(task, room).fits(prompt) or over > -2 * k - 8


def test_a_plain_instruction_is_measured_only_where_it_is_close():
    asked = []

    def count(messages):
        asked.append(messages)
        return count_characters(messages)

    task = make_task()
    bounds = limit(task, 200, count)
    asked.clear()
    prompt = Prompt("Write a short, correct answer!", task.pool[:2])
    assert bounds.fits(prompt) and not asked
    assert not bounds.fits(replace(prompt, instruction=prompt.instruction * 9)) and len(asked) == 1
    assert not bounds.fits(replace(prompt, instruction=prompt.instruction * 9)) and len(asked) == 1  # once measured
    assert (
        bounds.fits(replace(prompt, instruction="\u00c9cris.")) and len(asked) == 2
    )  # such letters may be many tokens


def test_a_limit_travels_with_what_was_measured(chat):
    task = make_task()
    bounds = limit(task, 100, chat.count)
    there = pickle.loads(pickle.dumps(bounds))
    assert "_tokenizer" not in vars(there.tokens.count_tokens.__self__)
    for prompt in (Prompt("Do it.", task.pool), Prompt("D\u00f6 it.", task.pool[:1]), Prompt("Do it. " * 40)):
        assert there.fits(prompt) == bounds.fits(prompt) and there.tokens.of(prompt) == bounds.tokens.of(prompt)


def test_without_a_tokenizer_everything_fits():
    task = make_task()
    assert ContextLimit().fits(Prompt("x" * 10**6, task.pool)) and ContextLimit().holds([], 10**9)
    assert fitting_task(task, ["x" * 10**6], 8, ContextLimit()).task is task


def test_a_chat_and_its_answer():
    chat = [{"role": "user", "content": "abcde"}]
    bounds = limit(make_task(), 20)  # a context of 27
    assert bounds.holds(chat, 12) and not bounds.holds(chat, 13)


def test_the_most_exemplars_fall_only_where_not_even_the_shortest_fit():
    task = make_task()
    tokens = PromptTokens(task, count_characters)
    short = sorted(task.pool, key=tokens.exemplar)
    three = tokens.of(Prompt("Do", tuple(short[:3])))
    for room, most in ((three, 3), (three - 1, 2), (tokens.of(Prompt("Do", task.pool)), 4)):
        fitting = fitting_task(task, ["Do it now", "Do"], 4, limit(task, room))
        assert (fitting.max_exemplars, fitting.task) == (most, task)
        assert len(fitting.notes) == (most < 4)
    (note,) = fitting_task(task, ["Do"], 4, limit(task, three)).notes
    assert note.startswith("prompts get at most 3 exemplars instead of 4") and "\n" not in note
    longer = int(note.rpartition("--set model.max_model_len=")[2])
    assert not fitting_task(task, ["Do"], 4, limit(task, longer - 7)).notes
    assert fitting_task(task, ["Do"], 8, limit(task, 1000)).max_exemplars == 8  # more than there are in the pool


def test_rows_too_long_for_an_exemplar_are_left_out_and_counted():
    task = make_task(pool=("a", "x" * 90, "b", "y" * 90, "c"))
    fitting = fitting_task(task, ["Do"], 2, limit(task, 120))
    assert fitting.task.pool == (task.pool[0], task.pool[2], task.pool[4]) and fitting.max_exemplars == 2
    (note,) = fitting.notes
    assert note.startswith("2 of 5 rows of the pool are left out") and "\n" not in note
    without = fitting_task(task, ["Do"], 0, limit(task, 120))
    assert without.task == task and not without.notes


def test_where_no_exemplar_fits_the_pool_stays_for_those_who_show_it_otherwise():
    task = make_task(pool=("x" * 90, "y" * 90))
    fitting = fitting_task(task, ["Do"], 8, limit(task, 60))
    assert fitting.task == task and fitting.max_exemplars == 0 and len(fitting.notes) == 1


def test_a_question_too_long_for_any_prompt_names_the_flags():
    task = make_task(questions=("q", "why" * 10))
    needed = PromptTokens(task, count_characters).of(Prompt("Do it"))
    fitting_task(task, ["Do", "Do it"], 0, limit(task, needed))
    with pytest.raises(InputError) as caught:
        fitting_task(task, ["Do", "Do it"], 0, limit(task, needed - 1))
    message = str(caught.value)
    assert f"takes {needed} tokens, expected at most {needed - 1} " in message and "'whywhy" in message
    assert f"--set model.max_model_len={up_to_block(needed + 7)}" in message and "\n" not in message
    assert message.endswith("--set model.max_tokens=6")
    with pytest.raises(InputError) as caught:
        fitting_task(task, ["Do it"], 0, limit(task, needed - 7))
    assert "max_tokens=" not in str(caught.value)


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True), st.integers(0, 4),
       st.integers(30, 400))  # fmt: skip
def test_of_the_most_exemplars_some_set_fits(pool, max_exemplars, room):
    task = make_task(tuple(pool))
    try:
        fitting = fitting_task(task, ["Do it."], max_exemplars, limit(task, room))
    except InputError:
        return
    k = min(fitting.max_exemplars, len(fitting.task.pool))
    shortest = sorted(fitting.task.pool, key=lambda example: len(example.question))[:k]
    assert limit(task, room).fits(Prompt("Do it.", tuple(shortest)))


def test_no_question_of_the_reserve_is_longer_than_those_that_were_measured():
    """The context was fitted to the questions of validation and test; a finalist is asked the reserve's as well."""
    task = make_task()
    reserve = tuple(Example(question, "1") for question in ("q", "qqq", "qqqq"))
    fitting = fitting_task(replace(task, reserve=reserve), ["do"], 4, limit(task, 10**6))
    assert fitting.task.reserve == reserve[:2] and not fitting.notes
