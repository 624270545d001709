"""A small run, every number of which can be checked by hand: full fidelity 8, test split of 10."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lipo_e_ray.config import PROFILES, RunConfig
from lipo_e_ray.config_tree import to_dict
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import (
    Batch,
    Completion,
    Example,
    Fingerprints,
    Observation,
    Origin,
    Outcome,
    Prompt,
    Proposal,
    RungResult,
    Status,
)

NASTY = "</td><script>alert('x')</script> & <img src=http://evil.example/a.png> \x1b[2J {question} $x_1$ \u202e"
EXEMPLARS = tuple(Example(f"<b>{i}</b> + 1?", f"{i} + 1 = {i + 1}\n#### {i + 1}") for i in range(3))
JUDGED = {"c": Status.CORRECT, "w": Status.WRONG, "u": Status.UNPARSEABLE}


class Writer:
    """Writes a run the way the search does: proposals, outcomes, results; ``calls`` is what the search has charged."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.calls = 0

    def answers(self, prompt: Prompt, split: str, marks: str, first: int = 0) -> None:
        self.ledger.record_outcomes(
            split,
            [
                Outcome(prompt.id, f"{split}{i}", JUDGED[mark], "text", "", 100, 60, 10)
                for i, mark in enumerate(marks)
                if i >= first
            ],
        )

    def bracket(self, index: int, proposals: dict[Proposal, str], rungs: tuple[int, ...] = (4, 8)) -> None:
        """``proposals``: each with its marks on the validation examples it was evaluated on."""
        self.ledger.record_batch(index, 0, Batch(tuple(proposals)))
        for rung, fidelity in enumerate(rungs):
            for proposal, marks in proposals.items():
                if len(marks) < fidelity:
                    continue
                known = rungs[rung - 1] if rung else 0
                self.answers(proposal.prompt, "validation", marks[:fidelity], known)
                self.calls += fidelity - known
                seen = marks[:fidelity]
                self.ledger.record_rung(
                    RungResult(
                        index,
                        proposal.origin.stage,
                        1,
                        rung,
                        fidelity,
                        Observation(proposal.prompt.id, fidelity - seen.count("c"), fidelity, seen.count("u")),
                        len(marks) > fidelity,
                        self.calls,
                    )
                )


def proposal(name: str, k: int, source: str, stage: str, bracket: int, cosine: float | None = None, **info) -> Proposal:
    return Proposal(Prompt(name, EXEMPLARS[:k]), Origin(source, stage, bracket, cosine), info)


PROPOSALS = {
    "A": proposal("Seed one.", 0, "seed", "hyperband", 0, way="plain"),
    "B": proposal("Seed two.", 0, "seed", "hyperband", 0, way="plain"),
    "C": proposal("Seed one.", 2, "seed", "hyperband", 1, mean=0.5, std=0.1, z=[1.0, 0.0, 0.0]),
    "D": proposal("By the model.", 3, "ape", "hyperband", 1, mean=0.9, std=0.0, z=[0.0, 1.0, 0.0]),
    "F": proposal(NASTY, 1, "invbo", "invbo", 2, 0.91, mean=0.3, std=0.2, z=[0.0, 1.0, 0.5]),
    "G": proposal("SEED  two.", 1, "invbo", "invbo", 2, 0.5, z=[0.5, 0.5, 0.5]),
    "E": proposal("By the model.", 1, "ape", "invbo", 3),
}


def worded(one: Proposal, words: Callable[[str], str]) -> Proposal:
    exemplars = tuple(Example(words(e.question), words(e.answer)) for e in one.prompt.exemplars)
    return replace(one, prompt=Prompt(words(one.prompt.instruction), exemplars))


def write_run(folder: Path, config: RunConfig = PROFILES["demo"], words: Callable[[str], str] = str) -> None:
    """``words``: what becomes of each text of the user's, the model's and the engine's."""
    fingerprints = Fingerprints(*map(words, ("a-model", "a-sampling", "a-template")))
    with Ledger(folder / "ledger.sqlite", fingerprints) as ledger:
        p = {name: worded(one, words) for name, one in PROPOSALS.items()}
        writer = Writer(ledger)
        writer.bracket(0, {p["A"]: "cwwwcwww", p["B"]: "wuww"})
        writer.bracket(1, {p["C"]: "ccwwccww", p["D"]: "cccwccww"})
        writer.bracket(2, {p["F"]: "ccwwcccw", p["G"]: "wwwu"})
        writer.bracket(3, {p["E"]: "cccc"})
        writer.answers(p["A"].prompt, "test", "cccwwwwwww")
        writer.answers(p["D"].prompt, "test", "ccwccccccw")
        ledger.record_outcomes(
            "validation", [Outcome(p["E"].prompt.id, "validation4", Status.FAILED, "", words("timed\nout"))]
        )
        ledger.record_generation("g", Completion(words("By the model."), "", 40, 0, 6), "ape")
        ledger.record_sent({"writing": 1, "validation": writer.calls + 1, "test": 20})
    (folder / "latent").mkdir()
    (folder / "latent" / "vae_loss.json").write_text('{"train": [3, 2, 1], "validation": [4.0, 2.5, 2.75]}')
    (folder / "config.json").write_text(json.dumps(to_dict(config)))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The run folder; only read it, or copy it."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


@pytest.fixture
def records(run_dir):
    with Ledger(run_dir / "ledger.sqlite") as ledger:
        return read(ledger)


@pytest.fixture
def empty(tmp_path):
    """The folder of a run without results."""
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"])))
    Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")).close()
    return tmp_path
