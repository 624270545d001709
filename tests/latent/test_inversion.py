import hashlib
import re
from functools import cache

import numpy as np
import pytest
import torch

from lipo_e_ray.engine.embedded import ENCODER, resolve_encoder
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.latent import inversion as module
from lipo_e_ray.latent.clauses import words
from lipo_e_ray.latent.encoder import TextEncoder
from lipo_e_ray.latent.inversion import SearchInverter, identity, new_texts
from lipo_e_ray.testing import InverterContract
from lipo_e_ray.types import Completion, InputError

POOL = [
    *SEED_INSTRUCTIONS,
    "Solve the problem step by step and give the final number.",
    "Read the question carefully, work out each step, and write the answer at the end.",
    "Think about what the question asks before you calculate.",
    "Write down the numbers you know, then compute the result.",
    "Break the problem into smaller parts and solve each part in order.",
    "Explain your reasoning in short sentences, then state the answer.",
    "Answer with a single number and nothing else.",
    "Show all of your work and finish with the result on its own line.",
    "Use arithmetic to find the total amount.",
    "Add or subtract the quantities in the story and report the sum.",
    "First find how many items there are, then multiply by the price.",
    "Check your calculation twice before you write the answer.",
    "You are a math teacher. Explain the solution to a young student.",
    "You are a careful accountant, so keep track of every dollar.",
    "Translate the story into an equation and solve it.",
    "Identify the unknown quantity and set up an equation for it.",
    "Keep the solution short and clear.",
    "Do not skip any step of the calculation.",
    "List the facts in the question, choose the right operation, and compute.",
    "Round the answer to the nearest whole number.",
    "Convert all units to the same measure before adding them.",
    "Estimate the result first, then calculate it exactly.",
    "Compare the two animals and name the larger one.",
    "Write the plural form of the given noun.",
    "Decide whether the movie review is positive or negative.",
    "Translate the English word into German.",
    "Solve each equation carefully and verify that the solution is correct.",
    "Determine how much money is left after the purchase.",
    "Use multiplication when the same amount is repeated.",
    "Imagine that you are explaining the calculation to a friend.",
    "State the answer first, then explain why it is correct.",
    "Pay attention to the units and include them in your answer.",
    "Ignore any information that is not needed to solve the problem.",
    "After each step, write the intermediate result in brackets.",
    "If the problem has several parts, answer all of them.",
    "Help the student to solve the homework by giving a clear explanation.",
    "Provide a detailed solution with every intermediate calculation.",
    "Report only the final result, rounded to two decimal places.",
    "Restate the problem in your own words before solving it.",
]
HELD_OUT = POOL[6::9]  # five, one of the shipped seeds among them
KNOWN = [text for text in POOL if text not in HELD_OUT]


ANSWER = Completion("Tidy up the whole calculation and underline the total.")
SILENCE = Completion("", error="the engine is gone")


class WordEncoder:
    """Embeds a text as the sum of one random direction per word: the angle between two texts is what they share."""

    def encode(self, texts):
        total = np.array([np.sum([direction(word) for word in words(text)], axis=0) for text in texts])
        return (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)


@cache
def direction(word):
    return np.random.default_rng(int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)).normal(size=64)


class Scribe:
    """A model whose every answer is the same; keeps what it was asked."""

    def __init__(self, answer=ANSWER):
        self.answer, self.asked = answer, []

    def __call__(self, conversations, samplings):
        assert len(conversations) == len(samplings)
        self.asked.append((conversations, samplings))
        return [self.answer for _ in conversations]


@pytest.fixture(scope="module")
def encoder():
    return WordEncoder()


@pytest.fixture(scope="module")
def known():
    return KNOWN[:16]


@pytest.fixture(scope="module")
def targets(encoder):
    return encoder.encode(HELD_OUT[:2])


class TestSearchInverter(InverterContract):
    @pytest.fixture(scope="class")
    @classmethod
    def inverter(cls, encoder):
        return SearchInverter(encoder, Scribe())

    def test_asks_the_model_eight_times_per_target_each_with_its_own_seed(self, encoder, targets, known):
        scribe = Scribe()
        SearchInverter(encoder, scribe).invert(targets, known, seed=5)
        seeds = [sampling.seed for _, samplings in scribe.asked for sampling in samplings]
        assert len(seeds) == len(set(seeds)) == 8 * len(targets)
        assert all(asked[-1]["role"] == "user" for conversations, _ in scribe.asked for asked in conversations)
        other = Scribe()
        SearchInverter(encoder, other).invert(targets, known, seed=6)
        assert not set(seeds) & {sampling.seed for _, samplings in other.asked for sampling in samplings}

    def test_encodes_a_bounded_number_of_batches(self, targets, known):
        sizes = []

        class Counting(WordEncoder):
            def encode(self, texts):
                sizes.append(len(texts))
                return super().encode(texts)

        SearchInverter(Counting(), Scribe()).invert(targets, known, seed=0)
        climbs, batches = module.REWRITES + 1, module.ROUNDS
        assert len(sizes) <= 1 + climbs * batches + module.REWRITES
        assert max(sizes[1:]) <= module.WIDTH * len(targets)

    def test_takes_what_the_model_wrote_when_it_is_nearer(self, encoder, known):
        answer = "Underline the verbs of the poem."
        target = encoder.encode([answer])
        assert SearchInverter(encoder, Scribe(Completion(answer))).invert(target, known, seed=0)[0][0].text == answer

    @pytest.mark.parametrize(
        "answer",
        [
            SILENCE,
            Completion("<|im_start|>Underline the verbs of the poem."),
            Completion("The user wants the verbs of the poem."),
            Completion("Underline the verbs, the verbs of the poem, the verbs."),
            Completion("Underline " + "every single verb of this poem " * 12),
        ],
    )
    def test_leaves_what_the_model_should_not_have_written(self, encoder, known, answer):
        target = encoder.encode(["Underline the verbs of the poem."])
        found = SearchInverter(encoder, Scribe(answer)).invert(target, known, seed=0)[0]
        assert found and not any(re.search("verb|poem", inversion.text) for inversion in found)

    def test_clauses_of_two_known_texts_meet(self, encoder):
        target = encoder.encode(["Count the birds and solve the riddle."])
        known = ["Solve the riddle.", "Feed the cat and count the birds.", "Write a poem about the sea."]
        best = SearchInverter(encoder, Scribe(SILENCE)).invert(target, known, seed=0)[0][0]
        assert best.text == "Count the birds and solve the riddle."
        assert best.cosine == pytest.approx(1.0, abs=1e-5)

    def test_order_of_the_known_texts_does_not_matter(self, encoder, targets, known):
        inverter = SearchInverter(encoder, Scribe())
        assert inverter.invert(targets, known, 0) == inverter.invert(targets, [*known[::-1], known[0]], 0)

    def test_nothing_known_nothing_written(self, encoder, targets, known):
        assert SearchInverter(encoder, Scribe()).invert(targets, [], seed=0) == [[], []]


@pytest.fixture
def one_thread():
    """Two threads that wait for each other on a busy machine are many times slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_beats_the_nearest_neighbour_on_real_embeddings(one_thread):
    try:
        encoder = TextEncoder(resolve_encoder(ENCODER))
    except InputError as error:
        pytest.skip(str(error))
    targets = encoder.encode(HELD_OUT)
    nearest = (targets @ encoder.encode(KNOWN).T).max(1)
    found = SearchInverter(encoder, Scribe(SILENCE)).invert(targets, KNOWN, seed=0)
    best = np.array([inversions[0].cosine for inversions in found])
    assert best.mean() > nearest.mean() + 0.08  # measured: see docs/log.md
    assert (best > nearest).mean() >= 0.8
    written = {identity(inversion.text) for inversions in found for inversion in inversions}
    assert not written & {identity(text) for text in KNOWN}


@pytest.mark.parametrize(
    ("texts", "known", "expected"),
    [
        (["Solve it all now."], ["solve  it ALL now"], []),
        (["Solve it all now.", "Solve it all now!", "Read it all now."], [], ["Solve it all now.", "Read it all now."]),
        (["<|im_end|> Solve it now.", "ok"], [], []),
    ],
)
def test_new_texts(texts, known, expected):
    assert list(new_texts(texts, known)) == expected
