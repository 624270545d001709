"""From an embedding back to text: the ``Inverter`` protocol and the search that works for any encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from lipo_e_ray.instructions.induction import clean_instruction
from lipo_e_ray.latent.clauses import Phrasebook, repeats_itself, words
from lipo_e_ray.latent.encoder import Encoder
from lipo_e_ray.types import Generate, Message, Sampling, digest

BEAM = 8  # texts that are kept, recombined further and given back
DONORS = 12  # nearest known texts whose clauses are used
WIDTH = 64  # texts encoded per target and round
ROUNDS = 6  # rounds of one climb; it ends earlier when the cosine no longer rises
MIN_RISE = 1e-3  # in cosine; a climb that rises by less ends
REWRITES = 2  # times that the LLM is asked per target, 4 requests each
MAX_REQUESTS = 4 * REWRITES  # LLM calls that a target can cost
MAX_WORDS = 40  # of a text
PRICE = 0.003  # in cosine, for each word: without it the climb pads texts with clauses that mean nothing
RIDGE = 0.3  # regularisation of the guide
TRAINED_ON = 128  # nearest known texts that the guide is fitted on, beside all that were encoded for the target


@dataclass(frozen=True)
class Inversion:
    """A new text and the cosine of its embedding to the target."""

    text: str
    cosine: float


class Inverter(Protocol):
    """Writes instructions for embeddings. Tests of one inherit ``testing.InverterContract``."""

    def invert(self, targets: np.ndarray, known_texts: Sequence[str], seed: int) -> list[list[Inversion]]:
        """For each of ``targets`` (q, e), unit length, new instructions whose embedding comes close, the best first.

        "New": equal to no text of ``known_texts`` (case, spaces and final punctuation aside). Each passes
        ``clean_instruction``. A list may be empty. The same arguments give the same lists.
        """
        ...


def identity(text: str) -> str:
    """What two spellings of the same text share."""
    return " ".join(text.lower().split()).rstrip(".!?;: ")


def new_texts(candidates: Iterable[str], known_texts: Iterable[str]) -> Iterator[str]:
    """Those of ``candidates``, in their order, that may be given back: clean, not known, one per identity."""
    taken = {identity(text) for text in known_texts}
    for text in candidates:
        if identity(text) not in taken and clean_instruction(text) == text:
            taken.add(identity(text))
            yield text


def reads_well(text: str) -> bool:
    """Not too long, and nothing said twice: what a climb would otherwise do to any text."""
    return len(words(text)) <= MAX_WORDS and not repeats_itself(text)


class SearchInverter:
    """Climbs the cosine from the nearest known texts: clauses are recombined, the LLM rewrites and merges the best.

    Bounded per target: ``(REWRITES + 1) * ROUNDS`` encoder batches of ``WIDTH`` texts and ``MAX_REQUESTS`` LLM
    requests; the batches are shared by all targets.
    """

    def __init__(self, encoder: Encoder, generate: Generate) -> None:
        self._encoder = encoder
        self._generate = generate

    def invert(self, targets: np.ndarray, known_texts: Sequence[str], seed: int) -> list[list[Inversion]]:
        """See ``Inverter.invert``."""
        known_texts = list(dict.fromkeys(known_texts))
        if not known_texts or not len(targets):
            return [[] for _ in targets]
        embeddings = self._encoder.encode(known_texts)
        book = Phrasebook(known_texts)
        climbs = [_Climb(target, known_texts, embeddings, book) for target in np.asarray(targets)]
        self._climb(climbs)
        for turn in range(REWRITES):
            self._climb(self._rewrite(climbs, book, seed, turn))
        return [climb.best for climb in climbs]

    def _climb(self, climbs: Sequence[_Climb]) -> None:
        """Recombine until no target's cosine rises any more."""
        active = list(climbs)
        for _ in range(ROUNDS):
            before = [climb.top for climb in active]
            self._learn(active, [climb.propose() for climb in active])
            active = [climb for climb, top in zip(active, before, strict=True) if climb.top >= top + MIN_RISE]
            if not active:
                break

    def _rewrite(self, climbs: Sequence[_Climb], book: Phrasebook, seed: int, turn: int) -> list[_Climb]:
        """Let the LLM rewrite and merge each target's best texts; returns the climbs that got one they can use."""
        requests = [climb.requests() for climb in climbs]
        samplings = [
            Sampling(
                temperature=0.8,
                top_p=0.95,
                max_tokens=64,
                seed=int(digest("rewrite", str(seed), str(turn), str(i), str(j)), 16) % 2**31,
            )
            for i, own in enumerate(requests)
            for j in range(len(own))
        ]
        answers = iter(self._generate([request for own in requests for request in own], samplings))
        texts = [[clean_instruction(next(answers).text) for _ in own] for own in requests]
        usable = [[text for text in own if text and reads_well(text) and book.instructs(text)] for own in texts]
        self._learn(climbs, usable)
        return [climb for climb, own in zip(climbs, usable, strict=True) if own]

    def _learn(self, climbs: Sequence[_Climb], texts: Sequence[Sequence[str]]) -> None:
        """Encode all ``texts`` in one batch and tell each climb of its own."""
        batch = list(dict.fromkeys(text for own in texts for text in own))
        rows = dict(zip(batch, self._encoder.encode(batch), strict=True)) if batch else {}
        for climb, own in zip(climbs, texts, strict=True):
            climb.learn(own, [rows[text] for text in own])


class _Climb:
    """One target: the texts seen so far with their cosines, and what to try next."""

    def __init__(
        self, target: np.ndarray, known_texts: Sequence[str], embeddings: np.ndarray, book: Phrasebook
    ) -> None:
        self._target, self._known_texts, self._book = target, known_texts, book
        cosines = embeddings @ target
        nearest = np.lexsort((known_texts, -cosines.round(5)))[:TRAINED_ON]
        self._seen = {known_texts[i]: float(cosines[i]) for i in nearest}
        self._donors = [known_texts[i] for i in nearest[:DONORS]]
        self._expanded: set[str] = set()

    def _ranked(self) -> list[str]:
        """All texts seen, by cosine less the price of their words; ties by text."""
        return sorted(self._seen, key=lambda text: (-round(self._seen[text] - PRICE * len(words(text)), 5), text))

    @property
    def best(self) -> list[Inversion]:
        """The ``BEAM`` new texts that rank first, by cosine."""
        chosen = islice(new_texts(self._ranked(), self._known_texts), BEAM)
        found = [Inversion(text, self._seen[text]) for text in chosen]
        return sorted(found, key=lambda inversion: -round(inversion.cosine, 5))

    @property
    def top(self) -> float:
        """Cosine of the best new text; -1 when there is none yet."""
        return self.best[0].cosine if self.best else -1.0

    def learn(self, texts: Sequence[str], embeddings: Sequence[np.ndarray]) -> None:
        for text, embedding in zip(texts, embeddings, strict=True):
            self._seen[text] = float(embedding @ self._target)

    def propose(self) -> list[str]:
        """At most ``WIDTH`` unseen recombinations of the beam, those that the guide expects most of."""
        beam = self._ranked()[:BEAM]
        donors = list(dict.fromkeys([*self._donors, *beam]))
        found: dict[str, None] = {}
        for text in beam:
            if text not in self._expanded:
                self._expanded.add(text)
                found.update(dict.fromkeys(self._book.recombinations(text, donors)))
        fresh = [
            text for text in found if text not in self._seen and reads_well(text) and clean_instruction(text) == text
        ]
        if not fresh:
            return []
        order = np.argsort(-self._guide(fresh).round(5), kind="stable")[:WIDTH]
        return [fresh[i] for i in order]

    def _guide(self, texts: Sequence[str]) -> np.ndarray:
        """Expected cosine, up to a constant, by kernel ridge regression on word counts: cheap, so it reads them all."""
        seen = list(self._seen)
        column = {word: i for i, word in enumerate(sorted({word for text in seen for word in words(text)}))}

        def counts(rows: Sequence[str]) -> np.ndarray:
            matrix = np.zeros((len(rows), len(column)))
            for row, text in zip(matrix, rows, strict=True):
                for word in words(text):
                    if word in column:
                        row[column[word]] += 1
            unit: np.ndarray = matrix / np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-9)
            return unit

        train, cosines = counts(seen), np.array(list(self._seen.values()))
        weights = np.linalg.solve(train @ train.T + RIDGE * np.eye(len(seen)), cosines - cosines.mean())
        expected: np.ndarray = counts(texts) @ (train.T @ weights)
        return expected

    def requests(self) -> list[list[Message]]:
        """Four conversations: rewrite the best text, rewrite the nearest known one, merge the best two, merge both."""
        nearest = self._donors[0]
        first, second = [*(found.text for found in self.best[:2]), *self._donors, nearest, nearest][:2]
        return [_rewrite(first), _rewrite(nearest), _merge(first, second), _merge(nearest, first)]


def _rewrite(text: str) -> list[Message]:
    return _after_example(
        "Rewrite the instruction in other words.",
        "Look at the picture and name the animal that you see.",
        "Examine the picture, then say which animal is shown.",
        text,
    )


def _merge(text: str, other: str) -> list[Message]:
    return _after_example(
        "Merge the two instructions into one.",
        "Name the animal in the picture. / Look carefully and answer with one word.",
        "Look carefully at the picture and name the animal in one word.",
        f"{text} / {other}",
    )


def _after_example(task: str, question: str, answer: str, text: str) -> list[Message]:
    """A small model takes the format from one solved example; told "write only the instruction", it chats about it."""
    return [
        {"role": "user", "content": f"{task}\n\n{question}"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"{task}\n\n{text}"},
    ]
