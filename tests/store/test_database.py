from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from lipo_e_ray.store import database
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Fingerprints, InputError, Observation, Outcome, Status

PRINTS = Fingerprints("model", "sampling", "template")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path, PRINTS) as ledger:
        yield ledger


def test_a_second_writer_is_turned_away(ledger, path, monkeypatch):
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.1)
    with pytest.raises(InputError, match="only writer"):
        Ledger(path, PRINTS)


def test_what_is_committed_survives_sigkill_and_frees_the_lock(path):
    script = """
import os, signal, sys
from pathlib import Path
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Fingerprints, Outcome, Status
ledger = Ledger(Path(sys.argv[1]), Fingerprints("model", "sampling", "template"))
for i in range(20):
    ledger.record_outcomes("validation", [Outcome("p", f"{i}.{j}", Status.WRONG) for j in range(16)])
with ledger._db.transaction():
    ledger._db.insert("prompts (prompt_id, instruction, exemplars)", [("half", "done", "[]")])
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    with Ledger(path) as reader:  # also while no writer has recovered the write-ahead log
        assert reader.observations("validation") == {"p": Observation("p", 320, 320)}
    with Ledger(path, PRINTS) as writer:
        assert len(writer.statuses("p", "validation")) == 320
        assert writer.prompts() == {}


@pytest.mark.parametrize("fingerprints", [PRINTS, None])
@pytest.mark.parametrize("damage", ["text", "foreign", "version", "same version"])
def test_a_file_that_is_no_ledger_is_one_line_of_input_error(tmp_path, damage, fingerprints):
    path = tmp_path / "ledger.sqlite"
    if damage == "text":
        path.write_text("not a database, " * 100)
    else:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (x)")
            db.execute(f"PRAGMA user_version = { {'foreign': 0, 'version': 7, 'same version': 1}[damage] }")
        db.close()
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        Ledger(path, fingerprints)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_damaged_page_is_an_input_error(ledger, path):
    for i in range(50):
        ledger.record_outcomes("validation", [Outcome("p", f"{i}.{j}", Status.WRONG, "x" * 500) for j in range(20)])
    ledger.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(InputError, match="ledger"), Ledger(path) as reader:
        reader.observations("validation")


def test_a_reader_needs_a_file(path):
    with pytest.raises(InputError, match="expected a file"):
        Ledger(path)
    assert not path.exists()
