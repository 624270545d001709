"""A latent space, an inverter and a landscape small enough to know the answers: texts are bags of hashed words."""

from itertools import product

import numpy as np
import torch

from lipo_e_ray.config import ProposalConfig, RunConfig
from lipo_e_ray.latent.inversion import Inversion
from lipo_e_ray.proposal.candidates import SearchState
from lipo_e_ray.proposal.exemplars import ExemplarPool
from lipo_e_ray.proposal.posterior import PromptPosterior
from lipo_e_ray.proposal.proposer import Proposer
from lipo_e_ray.surrogate.gp import JointPromptGP
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import Example, Observation, Prompt, Request, digest

WORDS = (
    ("solve", "read", "answer", "check", "compute"),
    ("the", "each", "this"),
    ("problem", "question", "numbers"),
    ("carefully", "quickly", "first", "again"),
)
TEXTS = [" ".join(words) for words in product(*WORDS)]  # 180
POOL = tuple(Example(f"question {i}", f"#### {i}") for i in range(24))
WIDTH, INST_DIM, EX_DIM = 40, 8, 8
SMALL = ProposalConfig(instructions=12, restarts=3, steps=10)


def hashed(text: str, width: int) -> np.ndarray:
    return np.random.default_rng(int(digest(text), 16)).standard_normal(width)


def embedding(text: str) -> np.ndarray:
    bag = sum(hashed(word, WIDTH) for word in text.split())
    return bag / np.linalg.norm(bag)


FEATURES = np.stack([hashed(example.id, EX_DIM) for example in POOL])
INDEX = {example.id: i for i, example in enumerate(POOL)}
PROJECTION = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, INST_DIM)))[0]
OFFSET = 5.0  # the coordinates are not centred: a search in normalised units would decode to nonsense


class FakeSpace:
    """z_inst: a projection of the text; z_ex: the sum of the set's features. ``decode_exemplars`` goes by the nearest.

    Instruction coordinates are spread 20 times wider than exemplar coordinates, as a real latent may be.
    """

    inst_dim, dim = INST_DIM, INST_DIM + EX_DIM

    def __init__(self):
        self.decoded: list[torch.Tensor] = []
        self.inverted = 0

    def encode(self, prompts):
        text = np.stack([embedding(prompt.instruction) @ PROJECTION for prompt in prompts]) * 10
        sets = np.stack([FEATURES[[INDEX[e.id] for e in prompt.exemplars]].sum(0) for prompt in prompts]) * 0.1
        return torch.from_numpy(np.concatenate([text, sets], 1) + OFFSET)

    def invert(self, prompts):
        self.inverted += len(prompts)
        return self.encode(prompts) + 1e-3

    def decode_instruction(self, z):
        back = (z[:, :INST_DIM].numpy() - OFFSET) @ PROJECTION.T
        return back / np.linalg.norm(back, axis=1, keepdims=True)

    def decode_exemplars(self, z):
        self.decoded.append(z)
        sets = []
        for rest in (z[:, INST_DIM:].numpy() - OFFSET) / 0.1:
            chosen: list[int] = []
            for _ in range(4):
                distance = np.linalg.norm(rest - FEATURES, axis=1)
                distance[chosen] = np.inf
                if distance.min() >= np.linalg.norm(rest):
                    break
                chosen.append(int(distance.argmin()))
                rest = rest - FEATURES[chosen[-1]]
            sets.append(tuple(POOL[i] for i in sorted(chosen)))
        return sets


class FakeInverter:
    """Ranks all texts that are not known; ``limit`` 0 writes nothing."""

    def __init__(self, limit=4):
        self.limit = limit

    def invert(self, targets, known, seed):
        texts = [text for text in TEXTS if text not in known]
        cosines = targets @ np.stack([embedding(text) for text in texts]).T
        best = np.argsort(-cosines, axis=1)[:, : self.limit]
        return [[Inversion(texts[i], float(row[i])) for i in order] for order, row in zip(best, cosines, strict=True)]


def true_error(prompt: Prompt) -> float:
    """Smooth in the latents: words and exemplars each add their share."""
    words = sum(hashed(word, 3)[0] for word in prompt.instruction.split())
    exemplars = sum(FEATURES[INDEX[e.id]][:3].sum() for e in prompt.exemplars)
    return float(1 / (1 + np.exp(0.5 * words + 0.35 * exemplars)))


def observe(prompt: Prompt, rng: np.random.Generator, evaluated: int = 32) -> tuple[Prompt, Observation]:
    return prompt, Observation(prompt.id, int(rng.binomial(evaluated, true_error(prompt))), evaluated)


def random_prompt(rng: np.random.Generator, texts=TEXTS) -> Prompt:
    size = int(rng.integers(5))
    chosen = sorted(rng.choice(len(POOL), size, replace=False))
    return Prompt(texts[int(rng.integers(len(texts)))], tuple(POOL[i] for i in chosen))


def random_observations(m: int, seed: int, texts) -> list[tuple[Prompt, Observation]]:
    rng = np.random.default_rng(seed)
    prompts = list(dict.fromkeys(random_prompt(rng, texts) for _ in range(2 * m)))[:m]
    return [observe(prompt, rng, int(rng.choice([16, 32, 64]))) for prompt in prompts]


GIVEN = {text: "seed" if i < 4 else "ape" for i, text in enumerate(TEXTS[::6])}  # 30
EXEMPLARS = ExemplarPool(POOL, 4)
OBSERVED = random_observations(40, 0, list(GIVEN))


def make_state(texts=tuple(GIVEN), observed=OBSERVED, stage="hyperband", running=(), fitted=True) -> SearchState:
    """What a source is told after ``observed``."""
    request = Request(stage, 3, 6, tuple(observed), tuple(running))
    posterior = PromptPosterior.fit(JointPromptGP(INST_DIM), FakeSpace(), request) if fitted else None
    excluded = frozenset(prompt.id for prompt in (*(prompt for prompt, _ in observed), *running))
    return SearchState(request, texts, excluded, posterior)


def make_proposer(seed=0, limit=4, proposal=SMALL, given=GIVEN, **changes) -> Proposer:
    config = RunConfig(seed=seed, max_exemplars=changes.get("max_exemplars", 4), proposal=proposal)
    task = Task("fake", POOL, (), (), "numeric")
    return Proposer(
        task,
        config,
        given,
        lambda: (changes.get("space") or FakeSpace(), FakeInverter(limit)),
        sources=changes.get("sources"),
        make_gp=changes.get("make_gp", JointPromptGP),
        written=changes.get("written", int),
    )
