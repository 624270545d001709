"""Walks of ``Hyperband`` for its tests: prompts by name, landscapes, observations in any order."""

from __future__ import annotations

import random

from lipo_e_ray.search.brackets import Bracket, Rung
from lipo_e_ray.search.ending import Ending
from lipo_e_ray.search.race import History
from lipo_e_ray.types import Evaluation, Observation, Prompt, Request, digest


def prompts(names):
    return [Prompt(name) for name in names]


def names(found):
    """Of prompts, in their order."""
    return [prompt.instruction for prompt in found]


def observation(name, errors, evaluated):
    return Observation(Prompt(name).id, errors, evaluated)


def evaluation(name, n, errors, failed=0):
    return Evaluation(observation(name, min(errors, n - failed), n - failed), failed, n)


def half_right(name, n):
    return evaluation(name, n, n // 2)


def random_landscape(seed, failing=0.0, hopeless=0.0):
    """Errors of a prompt by its name, on nested examples; a share of ``failing`` prompts has one failed call, one of
    ``hopeless`` prompts errs on everything.
    """

    def evaluate(name, n):
        rng = random.Random(f"{seed} {name}")
        level, failed, hopeless_one = rng.random(), rng.random() < failing, rng.random() < hopeless
        errors = n if hopeless_one else sum(rng.random() < level for _ in range(n))
        return evaluation(name, n, errors, int(failed))

    return evaluate


def walk(hyperband, evaluate, rng=None, wanted=lambda request: request.count, written=0):
    """Walk to the end, the actions in random order if ``rng`` is given; the log of all proposals and results.

    A prompt's name says what its proposal was told. ``written``: calls that each batch of InvBO takes.
    """
    log = []
    while actions := hyperband.actions():
        action = rng.choice(actions) if rng else actions[0]
        if isinstance(action, Request):
            told = digest(*(f"{o}" for _, o in action.observed), "|", *(prompt.id for prompt in action.running))[:4]
            count = wanted(action)
            proposed = prompts(f"{action.bracket}.{action.first + i}.{told}" for i in range(count))
            hyperband.enter(action.bracket, proposed, written if action.stage == "invbo" else 0)
            log.append(("proposed", action, proposed))
        else:
            log += observe(hyperband, action, evaluate)
    return log


def observe(hyperband, action, evaluate):
    """One chunk or rung; ``evaluate`` (prompt's name, examples), or the errors by name."""
    if isinstance(evaluate, dict):
        errors = evaluate

        def evaluate(name, n):
            return evaluation(name, n, errors[name])

    return hyperband.observe(
        action.bracket, action.step, [evaluate(name, action.fidelity) for name in names(action.prompts)]
    )


def step(hyperband, evaluate):
    """What is needed first."""
    return observe(hyperband, hyperband.actions()[0], evaluate)


def results(log):
    return [entry for entry in log if not isinstance(entry, tuple)]


def requests(log):
    return [entry[1] for entry in log if isinstance(entry, tuple)]


def invbo(index, q=4):
    return Bracket(index, "invbo", 2, (Rung(q, 10), Rung(max(1, q // 2), 20), Rung(max(1, q // 4), 40)))


def plain(count):
    return tuple(prompts(f"plain {i}" for i in range(count)))


def ending(top, fresh=0, count=1, b_min=10, baseline=float("inf")):
    return Ending(plain(count), top, fresh, b_min, baseline)


def history(**errors):
    """``name=(fidelity, errors)``."""
    found = History("seed")
    for name, (fidelity, count) in errors.items():
        prompt = Prompt(name.replace("_", " "))
        found.add(fidelity, prompt, Evaluation(Observation(prompt.id, count, fidelity), 0, fidelity))
    return found
