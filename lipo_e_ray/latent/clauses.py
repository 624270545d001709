"""Instructions as clauses that can be moved: the grammar behind ``SearchInverter``. Pure text, no model.

A sentence is an optional *opener* ("After each step,"), one or more *mains* (imperatives, joined by "and") and the
*tails* that hang on them ("by showing every step", "in short sentences", "so that it can be checked"); any other
sentence ("You are a teacher") is a *whole*, moved as it is. A clause only goes where one of its kind can stand, so a
recombination still reads as text. No tagger: which words are imperatives is learnt from the known sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["opener", "main", "tail", "whole"]

_VERBS = frozenset([
    "add", "always", "answer", "apply", "avoid", "be", "break", "calculate", "check", "choose", "compare", "compute",
    "consider", "convert", "count", "decide", "describe", "determine", "do", "don't", "end", "ensure", "explain",
    "express", "find", "finish", "follow", "give", "identify", "include", "keep", "list", "look", "make", "mark",
    "note", "pay", "provide", "put", "read", "reply", "report", "restate", "return", "round", "say", "set", "show",
    "solve", "start", "state", "subtract", "take", "tell", "think", "translate", "treat", "try", "underline",
    "update", "use", "verify", "work", "write",
])  # fmt: skip
_OPENERS = frozenset([
    "after", "as", "based", "before", "by", "for", "from", "given", "if", "in", "instead", "on", "once", "starting",
    "to", "unless", "using", "when", "where", "while", "with", "without",
])  # fmt: skip
_NOT_VERBS = _OPENERS | frozenset([
    "a", "all", "an", "and", "any", "are", "below", "each", "every", "everything", "he", "here", "how", "i", "is",
    "it", "its", "let's", "like", "my", "no", "not", "of", "one", "or", "our", "she", "so", "that", "the", "their",
    "there", "these", "they", "this", "those", "we", "what", "which", "who", "why", "will", "you", "your",
])  # fmt: skip
_ORDER = re.compile(r"(?:first|then|next|finally|also),?\s+", re.IGNORECASE)
_TAIL = re.compile(
    r"(?:so that|so|before|after|when|while|if|unless|using|without|instead of|based on|because|until|step by step"
    r"|by(?=\s\w+ing\b)|(?:in|at|with|on)(?! (?:a time|it|them)\b))\s*\b",
    re.IGNORECASE,
)
_JOINT = re.compile(rf",?\s+(?:and then|and|then|but)\s+|,\s+|\s+(?={_TAIL.pattern})", re.IGNORECASE)
_ADJECTIVES = frozenset([
    "clear", "complete", "correct", "direct", "double", "separate",
])  # fmt: skip  # after a comma, not verbs
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_WORD = re.compile(r"[^\s,.;:!?\"()]+")
_COMMON = frozenset([
    "a", "an", "and", "answer", "as", "at", "by", "each", "for", "if", "in", "is", "it", "number", "of", "on", "or",
    "problem", "question", "so", "step", "that", "the", "then", "this", "to", "with", "you", "your",
])  # fmt: skip
MAX_SENTENCES, MAX_MAINS, MAX_TAILS = 3, 3, 2


@dataclass(frozen=True)
class Clause:
    """``text`` without its joining word and final punctuation; openers and mains start in lower case."""

    kind: Kind
    text: str


Sentence = tuple[Clause, ...]


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repeats_itself(text: str) -> bool:
    """Whether a word that carries meaning, or three words in a row, come twice ("calculate it and calculate")."""
    said = words(text)
    phrases = [word for word in said if word not in _COMMON] + [tuple(said[i : i + 3]) for i in range(len(said) - 2)]
    return len(set(phrases)) < len(phrases)


class Phrasebook:
    """Cuts texts into clauses and recombines them. It learns which words are imperatives from ``texts``."""

    def __init__(self, texts: Iterable[str]) -> None:
        starts = (words(_ORDER.sub("", sentence, 1))[:1] for text in texts for sentence in _SENTENCE_END.split(text))
        self._verbs = (_VERBS | {start[0] for start in starts if start}) - _NOT_VERBS

    def parse(self, text: str) -> tuple[Sentence, ...]:
        """The sentences of ``text``, each as its clauses; ``render`` is the way back."""
        sentences = (self._sentence(sentence) for sentence in _SENTENCE_END.split(text.strip()))
        return tuple(sentence for sentence in sentences if sentence)

    def instructs(self, text: str) -> bool:
        """Whether ``text`` asks for anything: a model told to rewrite an instruction often talks about it instead."""
        return any(clause.kind == "main" for sentence in self.parse(text) for clause in sentence)

    def recombinations(self, text: str, donors: Sequence[str]) -> Iterator[str]:
        """Every text that is one sentence or one clause of ``donors`` away from ``text``; repeats are possible."""
        own = self.parse(text)
        sentences = list(dict.fromkeys(sentence for donor in donors for sentence in self.parse(donor)))
        clauses = list(dict.fromkeys(clause for sentence in sentences for clause in sentence))
        for edited in _sentence_edits(own, sentences):
            yield render(edited)
        for i, sentence in enumerate(own):
            for edited_sentence in _clause_edits(sentence, clauses):
                yield render((*own[:i], edited_sentence, *own[i + 1 :]))

    def _is_imperative(self, text: str) -> bool:
        return bool(start := words(text)[:1]) and start[0] in self._verbs

    def _sentence(self, sentence: str) -> Sentence:
        sentence = sentence.strip().rstrip(".!?; ")
        if not words(sentence):
            return ()
        pieces = self._pieces(sentence)
        kinds: list[Kind] = ["main" if self._is_imperative(piece) else "tail" for piece in pieces]
        if kinds[0] == "tail":
            if words(sentence)[0] not in _OPENERS or kinds[1:2] != ["main"]:
                return (Clause("whole", sentence),)
            kinds[0] = "opener"
        return tuple(
            Clause(kind, piece if kind == "tail" else _lower_first(piece))
            for kind, piece in zip(kinds, pieces, strict=True)
        )

    def _pieces(self, sentence: str) -> list[str]:
        """Cut where an imperative or an adverbial follows: "short and clear" stays whole."""
        pieces, start = [], 0
        sentence = self._without_order(sentence)
        for joint in _JOINT.finditer(sentence):
            before, after = sentence[start : joint.start()], self._without_order(sentence[joint.end() :])
            mark = joint[0].strip()
            if mark:
                cut = self._is_imperative(after) and not (mark == "," and words(after)[0] in _ADJECTIVES)
            else:
                cut = len(before.split()) > 1 and _TAIL.match(after) is not None
            if cut:
                pieces.append(before)
                start = len(sentence) - len(after)
        return [piece.strip(" ,") for piece in [*pieces, sentence[start:]]]

    def _without_order(self, text: str) -> str:
        """``text`` without "first" or "then" before an imperative: its place says it, and the place may change."""
        rest = _ORDER.sub("", text, 1) if _ORDER.match(text) else text
        return rest if self._is_imperative(rest) else text


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _sentence_edits(own: tuple[Sentence, ...], sentences: Sequence[Sentence]) -> Iterator[tuple[Sentence, ...]]:
    """Drop, replace or add one sentence."""
    for i in range(len(own)):
        if len(own) > 1:
            yield own[:i] + own[i + 1 :]
        for other in sentences:
            yield (*own[:i], other, *own[i + 1 :])
    if len(own) < MAX_SENTENCES:
        for i in range(len(own) + 1):
            for other in sentences:
                yield (*own[:i], other, *own[i:])


def _clause_edits(sentence: Sentence, clauses: Sequence[Clause]) -> Iterator[Sentence]:
    """Drop, replace or add one clause, as far as the result is a sentence."""
    for i, clause in enumerate(sentence):
        yield from filter(_is_sentence, [sentence[:i] + sentence[i + 1 :]])
        for other in clauses:
            if other.kind == clause.kind:
                yield (*sentence[:i], other, *sentence[i + 1 :])
    for i in range(len(sentence) + 1):
        for other in clauses:
            edited = (*sentence[:i], other, *sentence[i:])
            if _is_sentence(edited):
                yield edited


def _is_sentence(sentence: Sentence) -> bool:
    """[opener] main tail* (main tail*)*, with bounds on the number of mains and of tails in a row."""
    kinds = "".join(clause.kind[0] for clause in sentence)
    return re.fullmatch(rf"o?(?:mt{{0,{MAX_TAILS}}}){{1,{MAX_MAINS}}}", kinds) is not None


def render(sentences: Sequence[Sentence]) -> str:
    """The text of ``sentences``: "Opener, main tail, main and main." with a full stop after each."""
    return " ".join(_render(sentence) for sentence in sentences)


def _render(sentence: Sentence) -> str:
    opener = sentence[0].text + ", " if sentence[0].kind == "opener" else ""
    phrases: list[str] = []
    for clause in sentence[bool(opener) :]:
        if clause.kind == "tail":
            phrases[-1] += " " + clause.text
        else:
            phrases.append(clause.text)
    last = phrases.pop()
    listed = ", ".join(phrases) + ("," if len(phrases) > 1 else "") + " and " if phrases else ""
    text = opener + listed + last
    return text[:1].upper() + text[1:] + "."
