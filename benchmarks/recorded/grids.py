"""The grids that are recorded: five tasks, 250 prompts each, as many instructions or as many exemplar sets.

The 5 x 50 of HbBoPs (Schneider et al. 2025, section 4), and 25 x 10, where the instruction matters more. The
instructions are the project's own; good, plain and misleading ones, as a search meets them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.recorded.tables import Grid
from lipo_e_ray.config import TaskConfig
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.task import Task

POOL, VALIDATION, TEST = 64, 200, 200
MAX_EXEMPLARS = 8

LARGER_ANIMAL = (
    "Which of the two animals is larger?",
    "Answer the question.",
    "Two animals are given. Write the name of the one that is bigger when fully grown, and nothing else.",
    "Copy the heavier animal.",
    "Compare the size of the animals.",
)
SINGULAR_TO_PLURAL = (
    "Write the plural of the word.",
    "Answer the question.",
    "Write the word as you would for more than one of them.",
    "Add an s, es or ies to the noun. Write only the new word.",
    "How would you write this word for many?",
)
SENTIMENT = (
    "Is the review positive or negative?",
    "Decide whether the sentence is positive or negative.",
    "Answer with one word: positive or negative.",
    "Answer the question.",
    "What is the sentiment of the text?",
    "Did the writer like the film? Write positive if so, negative if not.",
    "Classify the opinion of the film critic.",
    "positive or negative:",
    "You are a film critic. Say whether this sentence praises or blames the film.",
    "Read the sentence and think about its tone. Then answer positive or negative.",
    "Label the sentence.",
    "Say positive for a good review and negative for a bad one.",
    "Say negative for a bad review and positive for a good one.",
    "Would you watch this film after reading this?",
    "Tell me the mood of the writer in one word.",
    "If the sentence is a complaint, answer negative. Otherwise answer positive.",
    "If the sentence is a compliment, answer positive. Otherwise answer negative.",
    "Solve the problem.",
    "Give a short, correct answer.",
    "The text below is from a review. Output its polarity.",
    "Judge the review as a careful reader who notices irony.",
    "Let's think step by step.",
    "Sentiment analysis task. Possible labels: positive, negative.",
    "Sentiment analysis task. Possible labels: negative, positive.",
    "Repeat the last word of the sentence, then say how the sentence sounds.",
)
ARITHMETIC = (
    *SEED_INSTRUCTIONS,
    "Find the number that is asked for.",
    "Write only the number.",
    "Do the sum in your head and write the result.",
    "Use the numbers in the question to compute the answer.",
    "Decide whether to add, subtract, multiply or divide, then do it.",
    "Work out the answer and write it after ####.",
    "Tell a short story about the numbers, then give the answer.",
    "How many are there in the end?",
    "Solve this word problem for a child.",
    "Write one equation and its result.",
    "Check every number twice before you answer.",
    "The answer is a whole number. What is it?",
    "Explain nothing. Answer.",
)
GSM8K = (
    "Let's think step by step.",
    "Answer the question.",
    "Solve the word problem in a few short steps and write the final number after ####.",
    "Write only the final number.",
    "First list what is known, then say what is asked, then compute it.",
)


@dataclass(frozen=True)
class Recipe:
    """``task``: ``arithmetic`` or a folder of the data; ``sets``: how many exemplar sets are drawn."""

    task: str
    instructions: tuple[str, ...]
    sets: int
    max_tokens: int


RECIPES = {
    "larger_animal": Recipe("instruction_induction/larger_animal", LARGER_ANIMAL, 50, 12),
    "singular_to_plural": Recipe("instruction_induction/singular_to_plural", SINGULAR_TO_PLURAL, 50, 8),
    "sentiment": Recipe("instruction_induction/sentiment", SENTIMENT, 10, 8),
    "arithmetic": Recipe("arithmetic", ARITHMETIC, 10, 48),
    "gsm8k": Recipe("gsm8k", GSM8K, 50, 320),
}


def make_grid(name: str, data: Path, model: str, encoder: str) -> tuple[Grid, Task]:
    """The grid ``name`` and its task; ``data``: the folder of GSM8K and the instruction-induction tasks.

    Exemplar sets have every size from 0 to 8 about equally often, their members in the pool's order. Raises
    ``InputError`` when the task cannot be loaded.
    """
    recipe = RECIPES[name]
    source = recipe.task if recipe.task == "arithmetic" else str(data / recipe.task)
    task = load_task(TaskConfig(source, POOL, VALIDATION, TEST), seed=0)
    task = replace(task, pool=task.pool + task.reserve, reserve=())  # a search on a table has no fresh examples
    rng = random.Random(f"sets {name}")
    drawn: dict[tuple[int, ...], None] = {(): None}  # a dict: in order, each once
    while len(drawn) < recipe.sets:
        size = len(drawn) % (MAX_EXEMPLARS + 1) or 1  # there is only one set of size 0
        drawn[tuple(sorted(rng.sample(range(POOL), size)))] = None
    ids = [tuple(example.id for example in split) for split in (task.pool, task.validation, task.test)]
    return Grid(name, model, encoder, recipe.max_tokens, recipe.instructions, tuple(drawn), *ids), task
