import pytest

from lipo_e_ray.config import APEConfig
from lipo_e_ray.instructions.induction import (
    ATTEMPTS,
    clean_instruction,
    generate_instructions,
    identity,
    longest_request,
    most_calls,
)
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.types import Completion


class Writer:
    """A ``Generate`` that answers with ``texts`` in turn, again and again, and keeps what it was asked."""

    def __init__(self, *texts: str | None) -> None:
        self.texts = texts
        self.asked = []
        self.batches = []

    def __call__(self, conversations, samplings):
        assert len(conversations) == len(samplings) > 0
        self.batches.append(len(conversations))
        answers = []
        for request in zip(conversations, samplings, strict=True):
            text = self.texts[len(self.asked) % len(self.texts)]
            answers.append(Completion("", "timed out") if text is None else Completion(text))
            self.asked.append(request)
        return answers


def numbered(n):
    words = ("apples", "pears", "plums", "nuts", "figs", "limes", "dates", "melons", "grapes", "kiwis")
    return [f"Count the {words[i // 10 % 10]} and the {words[i % 10]} of story." for i in range(n)]


class TestGenerate:
    def test_as_many_as_asked_for_in_the_order_they_came(self, small_task):
        writer = Writer(*numbered(100))
        assert generate_instructions(writer, small_task, APEConfig(num_instructions=40), 0) == numbered(40)
        assert len(writer.asked) < 100

    def test_distinct_without_case_punctuation_and_space(self, small_task):
        texts = ["Do it step by step.", "do it, step by step!", "DO IT STEP-BY-STEP", "Work out the sum slowly."]
        found = generate_instructions(Writer(*texts), small_task, APEConfig(num_instructions=5), 0)
        assert found == [texts[0], texts[3]]

    def test_neither_seeds_nor_the_shown_instructions(self, small_task):
        writer = Writer(*SEED_INSTRUCTIONS, "Draw a picture of the problem.")
        generate_instructions(writer, small_task, APEConfig(num_instructions=1), 0)
        shown = {message["content"] for chat, _ in writer.asked for message in chat if message["role"] == "assistant"}
        assert len(shown) == 8
        again = Writer(*shown, *SEED_INSTRUCTIONS, "Draw a picture of the problem.")
        assert generate_instructions(again, small_task, APEConfig(num_instructions=4), 0) == [
            "Draw a picture of the problem."
        ]

    def test_a_request_shows_as_many_examples_as_the_context_holds(self, small_task):
        def shown(holds):
            writer = Writer(*numbered(30))
            generate_instructions(writer, small_task, APEConfig(num_instructions=1), 0, holds)
            return [messages[-1]["content"].count("Input: ") for messages, _ in writer.asked]

        def letters(messages, max_tokens):
            return sum(len(message["content"]) for message in messages) + max_tokens

        everything = shown(lambda messages, max_tokens: True)
        assert set(everything) == {5}
        longest = longest_request(small_task.pool[:5], lambda messages: letters(messages, 0))
        assert shown(lambda messages, max_tokens: letters(messages, max_tokens) <= longest + 20) == everything
        assert set(shown(lambda messages, max_tokens: letters(messages, max_tokens) <= longest - 300)) >= {2, 3}
        assert set(shown(lambda messages, max_tokens: False)) == {1}

    def test_attempts_are_bounded(self, small_task):
        for writer in (Writer("#### 7"), Writer(None)):
            assert generate_instructions(writer, small_task, APEConfig(num_instructions=10), 0) == []
            assert len(writer.asked) == ATTEMPTS * 10
        writer = Writer(None)
        generate_instructions(writer, small_task, APEConfig(num_instructions=10), 0, max_calls=25)
        assert len(writer.asked) == 25

    def test_the_most_calls_are_those_of_a_model_that_always_fails(self, small_task):
        for n in (1, 10):
            writer = Writer(None)
            generate_instructions(writer, small_task, APEConfig(num_instructions=n), 0)
            assert len(writer.asked) == most_calls(APEConfig(num_instructions=n))

    def test_failed_calls_and_unusable_texts_are_asked_again(self, small_task):
        writer = Writer(None, "5 + 5 = 10", *numbered(30))
        found = generate_instructions(writer, small_task, APEConfig(num_instructions=28), 0)
        assert found == numbered(28)

    def test_requests_follow_from_the_seed(self, small_task):
        def asked(seed):
            writer = Writer(*numbered(30))
            generate_instructions(writer, small_task, APEConfig(num_instructions=20, temperature=0.8), seed)
            return writer.asked

        assert asked(1) == asked(1) != asked(2)
        samplings = [sampling for _, sampling in asked(1)]
        assert len({sampling.seed for sampling in samplings}) == len(samplings)
        assert {sampling.temperature for sampling in samplings} == {0.8}

    @pytest.mark.parametrize(("asked", "shown"), [(3, 3), (99, 16)])
    def test_a_request_shows_solved_examples_of_the_pool_only(self, small_task, asked, shown):
        writer = Writer(*numbered(30))
        generate_instructions(writer, small_task, APEConfig(num_instructions=8, examples_per_request=asked), 0)
        for chat, _ in writer.asked:
            last = chat[-1]["content"]
            assert sum(f"Input: {e.question}\nOutput: {e.answer}" in last for e in small_task.pool) == shown
            assert last.count("Input:") == shown
        assert len({chat[-1]["content"] for chat, _ in writer.asked}) > 1


# What SmolLM2 wrote, or could have written; the first of each pair is the model's text.
USABLE = [
    ("Solve the problem step by step.", None),
    ("Let's think step by step.", None),
    ('"Answer the question in one short sentence."', "Answer the question in one short sentence."),
    ("The instruction was: Add the two numbers.", "Add the two numbers."),
    ("The instruction was to add the two numbers.", "The instruction was to add the two numbers."),
    ("Instruction: read the story and count the apples", "Read the story and count the apples"),
    ("**Instruction:** Read the story twice.", "Read the story twice."),
    (
        "Here is the instruction:\n\n\u201cDivide the total by the number of friends.\u201d",
        "Divide the total by the number of friends.",
    ),
    ("1. Read the question.\n2. Solve it.", "Read the question."),
    ("- Break the problem into parts.", "Break the problem into parts."),
    ("  Convert   the amount\tto cents. \n\nInput: 5 dollars", "Convert the amount to cents."),
    ("Find the number of apples. Then subtract those that were ea", "Find the number of apples."),
    (
        "Think about the numbers. " + "Then think about them again. " * 20,
        "Think about the numbers. " + " ".join(["Then think about them again."] * 11),
    ),
    ("Show the multiplication first and end with the result", None),
    ("You are a teacher. Explain the answer in 2 sentences.", None),
    ("Answer the question about the plan.", None),
    ("Divide the apples. #### 24", "Divide the apples."),
    ("Gib die Lösung in einem kurzen Satz an.", None),
]
UNUSABLE = [
    "",
    "\n \n",
    "Solve.",
    "The instruction:",
    "#### 12",
    "Divide 24 by 2.\n#### 24",
    "Each friend gets 9 / 3 = 3 stickers.",
    "The answer is 12 for all of them.",
    "Solve the equation: x = 12.",
    "I cannot tell what the instruction was.",
    "I'm sorry, but there are no inputs.",
    "As an AI I do not know that.",
    "There is no answer to this question.",
    "How many apples are left in the box?",
    "Question: add the numbers",
    "Omar has 6 pencils and gives 3 to Ada.",
    "Solve it.<|im_end|>\n<|im_start|>user",
    "Solve the task </s>",
    "[INST] Solve the task [/INST]",
    "Print the `result` of the sum.",
    "Use <b>bold</b> text for it.",
    "Write {number} at the very end.",
    "Write \\boxed{} round the number.",
    "Add | up | the | columns",
    "Look it up on https://example.com today.",
    'Say "There is a good reason for it.',
    "Add the numbers \x07 now.",
    "+ - * / = ( ) + - * /",
    "word " * 61,
]


@pytest.mark.parametrize(("text", "clean"), USABLE)
def test_usable(text, clean):
    assert clean_instruction(text) == (clean or text)


@pytest.mark.parametrize("text", UNUSABLE)
def test_unusable(text):
    assert clean_instruction(text) is None


@pytest.mark.parametrize("text", [text for text in SEED_INSTRUCTIONS if "####" not in text] + [t for t, _ in USABLE])
def test_a_clean_text_stays(text):
    clean = clean_instruction(text)
    assert clean is not None and clean_instruction(clean) == clean


def test_identity():
    assert identity(" Solve it, now! ") == identity("solve_it now") != identity("Solve it not.")
