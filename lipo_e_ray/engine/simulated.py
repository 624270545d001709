"""A formula in place of a language model: deterministic, with something to learn, and as slow as is wanted."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import random
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lipo_e_ray.types import Completion, Example, Fingerprints, Message, Outcome, Prompt, Sampling, Status, digest

ACTIONS = ("Solve", "Work through", "Read", "Think about", "Break down", "Answer", "Analyse", "Study")
OBJECTS = ("the problem", "each question", "the exercise", "the word problem", "the task", "every part of the question")
MANNERS = ("carefully", "step by step", "one step at a time", "in a few sentences", "with simple words", "in order")
ENDINGS = (
    "Give the final number on the last line.",
    "Check your result before you answer.",
    "Show the calculation first.",
    "Write only what is needed.",
    "End with the answer.",
    "Name the numbers that matter.",
)
UNPARSEABLE_SHARE = 0.1  # of the answers that are not correct


@dataclass(frozen=True)
class Latency:
    """How long a batching engine takes. The numbers can be fitted to a real engine; ``scale`` multiplies every delay.

    Prompts are prefilled one after another, at ``prefill_rate`` tokens/s, without their cached prefix; meanwhile
    nothing decodes. Up to ``max_num_seqs`` requests decode together, the others wait in order. A step of b requests
    gives each of them one token and takes ``step_s + token_s * b`` seconds. ``answer_tokens`` is the mean length of an
    answer: lengths spread evenly over 0.5 to 1.5 of it; with 0, an answer is as long as its text.
    """

    prefill_rate: float
    step_s: float
    token_s: float
    max_num_seqs: int
    answer_tokens: int
    scale: float = 1.0

    def work(self, uncached_tokens: float, completion_tokens: float) -> float:
        """Seconds of the engine's time that a request uses up, unscaled, when the batch is full."""
        step_s = self.step_s / self.max_num_seqs + self.token_s  # a request's share of a step
        return uncached_tokens / self.prefill_rate + completion_tokens * step_s

    def alone(self, uncached_tokens: float, completion_tokens: float) -> float:
        """Seconds that a request takes, unscaled, when it has the engine to itself."""
        return uncached_tokens / self.prefill_rate + completion_tokens * (self.step_s + self.token_s)


def _uniform(*parts: str) -> float:
    """A number in [0, 1) that depends on ``parts`` only: the same in every process."""
    return int(digest("simulated", *parts), 16) / 16**16


def _tokens(text: str) -> int:
    return len(text) // 4 + 1


def instruction_quality(instruction: str, seed: int = 0) -> float:
    """The mean of hidden values of its words, in [0, 1). Texts that share words are alike, which can be learnt."""
    words = re.findall(r"[a-z']+", instruction.lower())
    return sum(_uniform("word", str(seed), word) for word in words) / len(words) if words else 0.0


def exemplar_quality(exemplars: Sequence[Example], seed: int = 0) -> float:
    """0 without exemplars, else in [0, 1): the mean of hidden values of each; every further exemplar helps less."""
    if not exemplars:
        return 0.0
    mean = sum(_uniform("exemplar", str(seed), example.id) for example in exemplars) / len(exemplars)
    return mean * (1 - 0.5 ** len(exemplars))


class SimulatedEngine:
    """An ``Engine`` whose answers follow from ``seed``, the prompt and the example alone.

    P(correct) = 0.05 + 0.45 * instruction quality + 0.45 * exemplar quality. An example is answered correctly when its
    difficulty lies below that: nine tenths of the difficulty belong to the example, one tenth to the pair of prompt and
    example. So a better prompt solves nearly all that a worse one solves, and paired comparisons tell more than
    independent ones, as with real models.
    """

    def __init__(self, seed: int = 0, latency: Latency | None = None) -> None:
        self._seed = seed
        self._server = _Server(latency) if latency else None

    @property
    def busy_s(self) -> float:
        """Seconds of the event loop's clock with at least one request in the engine, up to its last event."""
        return self._server.busy_s if self._server else 0.0

    @property
    def fingerprints(self) -> Fingerprints:
        return Fingerprints(digest("simulated", str(self._seed)), Sampling().fingerprint, digest("simulated-template"))

    def probability(self, prompt: Prompt) -> float:
        """P(correct) of ``prompt`` over all examples there could be, for tests to compare with."""
        return (
            0.05
            + 0.45 * instruction_quality(prompt.instruction, self._seed)
            + 0.45 * exemplar_quality(prompt.exemplars, self._seed)
        )

    async def evaluate(self, prompt: Prompt, examples: Sequence[Example]) -> list[Outcome]:
        probability = self.probability(prompt)
        prefix = _tokens(prompt.instruction) + sum(_tokens(e.question) + _tokens(e.answer) for e in prompt.exemplars)
        answers = [self._answer(prompt, probability, example) for example in examples]
        requests = [
            Load(prompt.id, prefix, _tokens(example.question), self._length(prompt, example, text))
            for example, (_, text) in zip(examples, answers, strict=True)
        ]
        cached = await self.serve(requests)
        return [
            Outcome(prompt.id, example.id, status, text, "", prefix + request.new, tokens, request.completion)
            for example, (status, text), request, tokens in zip(examples, answers, requests, cached, strict=True)
        ]

    async def generate(
        self, conversations: Sequence[Sequence[Message]], samplings: Sequence[Sampling]
    ) -> list[Completion]:
        contents = ["\n".join(message["content"] for message in messages) for messages in conversations]
        texts = [self._continue(content, sampling) for content, sampling in zip(contents, samplings, strict=True)]
        requests = [
            Load(content, _tokens(content), 0, _tokens(text)) for content, text in zip(contents, texts, strict=True)
        ]
        cached = await self.serve(requests)
        return [
            Completion(text, "", request.prefix, tokens, request.completion)
            for text, request, tokens in zip(texts, requests, cached, strict=True)
        ]

    async def close(self) -> None:
        if self._server:
            self._server.cached_prefixes.clear()

    async def serve(self, requests: list[Load]) -> list[int]:
        """Spend the time of ``requests`` by the latency model; the cached prompt tokens of each."""
        return await self._server.serve(requests) if self._server and requests else [0] * len(requests)

    def _answer(self, prompt: Prompt, probability: float, example: Example) -> tuple[Status, str]:
        seed = str(self._seed)
        difficulty = 0.9 * _uniform("difficulty", seed, example.id) + 0.1 * _uniform(
            "pair", seed, prompt.id, example.id
        )
        if difficulty < probability:
            return Status.CORRECT, example.answer
        if _uniform("unparseable", seed, prompt.id, example.id) < UNPARSEABLE_SHARE:
            return Status.UNPARSEABLE, "I do not know."
        return Status.WRONG, "#### wrong"

    def _length(self, prompt: Prompt, example: Example, text: str) -> int:
        """Tokens of the answer. They depend on the latency model; the answer's text and status do not."""
        if not (self._server and (mean := self._server.latency.answer_tokens)):
            return _tokens(text)
        return max(1, round(mean * (0.5 + _uniform("length", str(self._seed), prompt.id, example.id))))

    def _continue(self, content: str, sampling: Sampling) -> str:
        rng = random.Random(hashlib.sha256(f"{self._seed}|{sampling.fingerprint}|{content}".encode()).digest())
        return f"{rng.choice(ACTIONS)} {rng.choice(OBJECTS)} {rng.choice(MANNERS)}. {rng.choice(ENDINGS)}"


@dataclass(frozen=True, slots=True)
class Load:
    """What a request asks of an engine, in tokens; ``key`` says which prefix it is."""

    key: str
    prefix: int
    new: int
    completion: int


@dataclass(eq=False, slots=True)
class _Call:
    """Requests that came together; ``cached``: for each, how many of its prompt tokens came from the cache."""

    unfinished: int
    done: asyncio.Future[list[int]]
    cached: list[int]


class _Server:
    """The ``Latency`` model as one chain of timers.

    A clock counts decode steps. A request ends a fixed number of steps after its prefill, however many seconds the
    steps take. So all ends lie in one heap, and when the batch changes, only the speed of the clock changes.
    """

    def __init__(self, latency: Latency) -> None:
        self.latency = latency
        self.busy_s = 0.0
        self.cached_prefixes: set[str] = set()
        self._waiting: deque[tuple[Load, _Call]] = deque()
        self._prefilling: list[tuple[Load, _Call]] = []
        self._decoding: list[tuple[float, int, _Call]] = []  # a heap by the step of the end
        self._order = itertools.count()  # which of two equal ends comes first
        self._time = 0.0  # time of the event loop up to which ``busy_s`` and ``_step`` are right
        self._step = 0.0  # what the decode clock shows at ``_time``
        self._due = 0.0  # time of the next event
        self._timer: asyncio.TimerHandle | None = None  # waits for the next event; without one the engine is idle

    async def serve(self, requests: list[Load]) -> list[int]:
        """Spend the time of one or more requests; the cached prompt tokens of each."""
        loop = asyncio.get_running_loop()
        call = _Call(len(requests), loop.create_future(), [])
        self._waiting.extend((request, call) for request in requests)
        if self._timer is None:
            self._time = loop.time()
            self._next()
        elif not self._prefilling and len(self._decoding) < self.latency.max_num_seqs:
            self._timer.cancel()
            until = min(loop.time(), self._due)  # on a busy machine a timer is late
            if until > self._time:
                self._step += (until - self._time) / self._step_s()
                self._account(until)
            self._next()
        return await call.done

    def _step_s(self) -> float:
        return self.latency.scale * (self.latency.step_s + self.latency.token_s * len(self._decoding))

    def _account(self, until: float) -> None:
        self.busy_s += until - self._time
        self._time = until

    def _next(self) -> None:
        """Start what comes next: the prefill of all that have a place, or decoding up to the first end."""
        places = min(self.latency.max_num_seqs - len(self._decoding), len(self._waiting))
        if places:
            self._prefilling = [self._waiting.popleft() for _ in range(places)]
            tokens = sum(self._look_up(request, call) for request, call in self._prefilling)
            seconds = self.latency.scale * tokens / self.latency.prefill_rate
        elif self._decoding:
            seconds = (self._decoding[0][0] - self._step) * self._step_s()
        else:
            self._timer = None
            return
        self._due = self._time + seconds
        self._timer = asyncio.get_running_loop().call_at(self._due, self._event)

    def _look_up(self, request: Load, call: _Call) -> int:
        """Prompt tokens to be computed: the first request with a prefix computes it for all."""
        call.cached.append(request.prefix if request.key in self.cached_prefixes else 0)
        self.cached_prefixes.add(request.key)
        return request.prefix - call.cached[-1] + request.new

    def _event(self) -> None:
        self._account(self._due)  # not the present: a late timer must not slow the model down
        if self._prefilling:
            for request, call in self._prefilling:
                heapq.heappush(self._decoding, (self._step + request.completion, next(self._order), call))
            self._prefilling = []
        else:
            self._step = self._decoding[0][0]
            while self._decoding and self._decoding[0][0] <= self._step:
                call = heapq.heappop(self._decoding)[2]
                call.unfinished -= 1
                if not call.unfinished and not call.done.done():  # it is done when its caller has given up
                    call.done.set_result(call.cached)
        self._next()
