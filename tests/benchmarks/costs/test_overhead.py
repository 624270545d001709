import resource
from pathlib import Path

import pytest

from benchmarks.costs import overhead, overhead_memory
from benchmarks.costs.overhead_memory import Size
from benchmarks.costs.synthetic_search import HashEncoder, instruction_texts
from lipo_e_ray.config import ProposalConfig

pytestmark = pytest.mark.slow
TINY = Size(prompts=14, outcomes=6, instructions=20, pool=60, epochs=1)


def test_time_rows_say_what_was_measured():
    proposal = ProposalConfig(instructions=3, restarts=2, steps=2)
    rows = list(overhead.time_rows((8, 12), (2, 3), (1,), 1, 20, 30, proposal))
    assert [(row["row"], row["observations"], row.get("batch")) for row in rows] == [
        ("fit", 8, None),
        ("proposal", 8, 2),
        ("proposal", 8, 3),
        ("fit", 12, None),
        ("proposal", 12, 2),
        ("proposal", 12, 3),
    ]
    assert all(row["threads"] == 1 for row in rows)
    assert all(value > 0 for row in rows for key, value in row.items() if key.endswith("_s") or key == "s")
    assert all(
        row["ms_a_candidate"] == pytest.approx(1000 * row["s"] / row["batch"], abs=0.1)
        for row in rows
        if row["row"] == "proposal"
    )
    assert "12 observations, 1 threads: batch of 3 in" in overhead.line(rows[-1])


def test_the_median_is_of_the_action_alone():
    made, used = iter(range(3)), []
    wall, cpu = overhead.measure(used.append, 3, lambda: next(made))
    assert used == [0, 1, 2] and wall >= 0 and cpu >= 0


def test_a_bar_is_met_by_the_best_row_of_its_own_size_only():
    rows = [
        {"cold_s": 0.1, "warm_s": 0.1, "observations": 50},
        {"cold_s": 4.0, "warm_s": 0.4, "observations": 500},
        {"cold_s": 3.5, "warm_s": 0.9, "observations": 500},
        {"process": "both", "mib": 2049},
        {"process": "bo", "mib": 1},
        {"ms_a_candidate": 1.0, "observations": 500, "batch": 128},
    ]
    assert [(bar["name"], bar["measured"], bar["met"]) for bar in overhead.verdicts(rows)] == [
        ("cold_s", 3.5, False),
        ("warm_s", 0.4, True),
        ("ms_a_candidate", None, None),
        ("memory_mib", 2049, False),
        ("ms_a_trial_and_rung", None, None),
    ]


def test_driver_and_bo_actor_do_what_they_do_in_a_run(tmp_path):
    overhead_memory.write_ledger(TINY, tmp_path)
    page = overhead_memory.driver_side(tmp_path).read_text()
    assert all(text in page for text in instruction_texts(TINY.prompts)[:: overhead_memory.SEEDS])  # baseline and best
    two_stage, invbo = overhead_memory.bo_side(TINY, tmp_path, HashEncoder())
    assert len({proposal.prompt.id for proposal in two_stage}) == 32
    assert len(invbo) == 4 and all("mean" in proposal.info for proposal in two_stage + invbo)


def test_memory_rows_come_from_processes_of_their_own(monkeypatch):
    sides = []
    monkeypatch.setattr(
        overhead_memory,
        "_peak_in_child",
        lambda side, size, folder: sides.append((side, (folder / "ledger.sqlite").exists())) or 100.4,
    )
    rows = overhead_memory.memory_rows(TINY)
    assert sides == [("driver", True), ("bo", True)]
    assert [(row["process"], row["mib"]) for row in rows] == [("driver", 100), ("bo", 100), ("both", 201)]


def test_a_peak_stays_when_the_memory_is_free_again():
    before, pages = overhead_memory.peak_mib(), int(Path("/proc/self/statm").read_text().split()[1])
    wanted = int(before - pages * resource.getpagesize() / 2**20) + 64  # MiB, to get over the peak until now
    held = bytearray(wanted << 20)
    held[::1024] = b"x" * len(held[::1024])
    during = overhead_memory.peak_mib()
    del held
    assert during > before + 32
    assert overhead_memory.peak_mib() > during - 8  # the kernel counts pages in batches


def test_instructions_are_distinct():
    assert len(set(instruction_texts(8640))) == 8640
