from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.store.salvage import PAID, damaged_copy
from lipo_e_ray.types import Batch, Completion, Fingerprints, InputError, Origin, Outcome, Prompt, Proposal, Status

PRINTS = Fingerprints("model", "sampling", "template")
PROMPTS = [Prompt(f"Prompt {i}.") for i in range(40)]
BATCH = Batch(tuple(Proposal(prompt, Origin("seed", "hyperband", 0)) for prompt in PROMPTS), 1)
PAGE = 4096


@pytest.fixture
def path(tmp_path):
    """A ledger of 640 outcomes, closed. Two of its calls were lost on their way."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, PRINTS) as ledger:
        ledger.record_sent({"writing": 1, "validation": 643})
        ledger.record_batch(0, 0, BATCH)
        ledger.record_generation("key", Completion("text", "", 3, 2, 1), "ape")
        for prompt in PROMPTS:
            ledger.record_outcomes(
                "validation", [Outcome(prompt.id, f"{i}", Status.WRONG, "text" * 20) for i in range(16)]
            )
        ledger.record_outcomes("validation", [Outcome("p", "e", Status.FAILED, error="none")])
    return path


def rows(path):
    with closing(sqlite3.connect(path)) as db:
        return {(table, *row) for table in PAID for row in db.execute(f"SELECT * FROM {table}")}


def left(path):
    with Ledger(path, PRINTS) as ledger:
        return sum(o.evaluated for o in ledger.observations("validation").values()), ledger.proposals()


@pytest.mark.parametrize("cut", [1, PAGE // 2, PAGE, 20 * PAGE])
def test_what_can_be_read_of_a_truncated_file_is_kept(path, cut):
    whole = path.stat().st_size
    os.truncate(path, whole - cut)
    cut_off = path.read_bytes()
    kept, proposals = left(path)
    assert kept >= 640 * (1 - 2 * (cut + PAGE) / whole)
    assert kept >= 640 - 32 or cut > PAGE, "more than a page's rows"
    assert proposals == [], "some of a bracket's proposals would be taken for all of them"
    assert damaged_copy(path).read_bytes() == cut_off
    damaged_copy(path).unlink()
    with Ledger(path, PRINTS) as ledger:
        assert ledger.generation("key") == Completion("text", "", 3, 2, 1)
        assert ledger.texts() == 1
        assert ledger.sent() == {"writing": 1, "validation": 643, "test": 0}, "also those whose answers are gone"
        assert ledger.batch(0, 0) is None
        ledger.record_batch(0, 0, Batch(BATCH.proposals[:1]))
    assert left(path)[0] == kept and not damaged_copy(path).exists(), "the new file is whole"


@pytest.fixture
def outcomes(tmp_path):
    """A ledger whose last pages hold outcomes, and these alone."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, PRINTS) as ledger:
        ledger.record_sent({"validation": 640})
        for prompt in PROMPTS:
            ledger.record_outcomes(
                "validation", [Outcome(prompt.id, f"{i}", Status.WRONG, "text" * 20) for i in range(16)]
            )
    return path


@pytest.mark.parametrize("cut", range(60, 6 * PAGE, 263))
def test_half_a_row_is_no_row(outcomes, cut):
    """Wherever the file ends: what is kept is what was written, not the beginning of it and then zeros."""
    written = rows(outcomes)
    os.truncate(outcomes, outcomes.stat().st_size - cut)
    left(outcomes)
    kept = rows(outcomes)
    assert kept <= written and len(kept) > len(written) / 2


def test_a_page_in_the_middle(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // PAGE * PAGE)
        file.write(b"\xff" * PAGE)
    assert 560 < left(path)[0] <= 640


def test_where_the_count_of_calls_is_gone_what_was_answered_or_failed_is_counted(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, PRINTS) as ledger:
        ledger.record_sent({"writing": 9, "validation": 9, "test": 9})
        for key, completion in (("a", Completion("", error="x")), ("a", Completion("text")), ("b", Completion("text"))):
            ledger.record_generation(key, completion, "validation")  # a purpose may be any word
        for split in ("validation", "test"):
            ledger.record_outcomes(split, [Outcome("p", f"{split}{i}", Status.CORRECT) for i in range(4)])
        ledger.record_outcomes("test", [Outcome("p", "t", Status.FAILED, error="x")])
    with closing(sqlite3.connect(path)) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sent'")
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    with Ledger(path, PRINTS) as ledger:
        assert ledger.sent() == {"writing": 3, "validation": 4, "test": 5}
        assert ledger.asked() == 2 + 4 + 5


def test_nothing_left_is_an_input_error_and_the_file_stays(path):
    path.write_bytes(path.read_bytes()[:PAGE])
    before = path.read_bytes()
    with pytest.raises(InputError, match="found a damaged file without; restore it from a copy"):
        left(path)
    assert path.read_bytes() == before
    assert not damaged_copy(path).exists()


def test_a_whole_file_is_left_alone(path):
    before = path.read_bytes()
    assert left(path)[0] == 640
    assert path.read_bytes() == before
