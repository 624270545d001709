import asyncio
import contextlib
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.recorded.grids import RECIPES
from benchmarks.recorded.lipo_e import LIPO_E, VARIANTS, lipo_e, table_space
from benchmarks.recorded.oracle import FULL_EVALUATIONS, Oracle, SpentError, normalised
from benchmarks.recorded.record import grid_prompts, make_table, record
from benchmarks.recorded.rivals import successive_halving
from benchmarks.recorded.search_quality import CURVE, RIVALS, SHARES, at_share, p_value, rows, search, whole_tables
from benchmarks.recorded.tables import Grid
from lipo_e_ray.config import PROFILES, VAEConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.store.ledger import Ledger

pytestmark = pytest.mark.slow
INSTRUCTIONS = ("Solve the problem.", "Read it, then answer slowly.", "Write the number only.", "Think.")


class Encoder:
    def encode(self, texts):
        rows = np.stack([np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """4 instructions x 10 exemplar sets on 96 + 48 examples."""
    from lipo_e_ray.task.arithmetic import generate_arithmetic

    task = generate_arithmetic(16, 96, 48, 0)
    ids = [tuple(example.id for example in split) for split in (task.pool, task.validation, task.test)]
    sets = tuple(
        tuple(sorted({(5 * i + j * j) % 16 for j in range(i % 5)})) + (() if i < 5 else (15,)) for i in range(10)
    )
    grid = Grid("small", "formula", "random", 8, INSTRUCTIONS, tuple(dict.fromkeys(sets)), *ids)
    with Ledger(tmp_path_factory.mktemp("ledger") / "l.sqlite", SimulatedEngine().fingerprints) as ledger:
        asyncio.run(record(ledger, SimulatedEngine(), grid_prompts(grid, task), task))
        return make_table(ledger, grid, task, Encoder())


def test_an_example_is_paid_once_and_the_budget_holds(table):
    oracle = Oracle(table, seed=0, budget=2)
    first = oracle.errors(3, 40)
    assert oracle.calls == 40 and oracle.errors(3, 20) <= first and oracle.calls == 40
    oracle.errors(3, 96)
    oracle.errors(4, 90)
    with pytest.raises(SpentError):
        oracle.errors(5, 7)
    assert oracle.calls == 186 and oracle.trace[-1] == (186, 3)


def test_a_seed_shuffles_the_examples_and_no_more(table):
    a, b = Oracle(table, 0), Oracle(table, 1)
    assert [a.errors(i, 30) for i in range(20)] != [b.errors(i, 30) for i in range(20)]
    assert [a.errors(i, 96) for i in range(20)] == [b.errors(i, 96) for i in range(20)]


def test_a_table_that_is_still_growing_is_left_out(table, tmp_path):
    table.save(tmp_path)
    for name, count in (("sentiment", 3), ("larger_animal", 5)):
        few = replace(table.grid, name=name, instructions=RECIPES[name].instructions[:count])
        replace(table, grid=few).save(tmp_path)
    assert whole_tables(tmp_path) == ["larger_animal", "small"]


def test_the_incumbent_has_the_fewest_errors_at_the_highest_fidelity(table):
    oracle = Oracle(table, seed=0)
    order = np.argsort(table.validation_error)
    best, worst = int(order[0]), int(order[-1])
    oracle.errors(best, 48)
    oracle.errors(worst, 96)
    assert oracle.trace[-1][1] == worst, "whatever a lower fidelity says"
    assert normalised(table, oracle.trace, 48)[0] == 0 and normalised(table, oracle.trace, 144)[0] == 1
    assert normalised(table, oracle.trace, 47) == (1, 1), "nothing is known before the first answers"


@pytest.mark.parametrize("method", RIVALS)
def test_a_rival_keeps_to_the_budget_and_repeats_itself(method, table):
    def trace(seed):
        oracle = Oracle(table, seed, budget=10)
        with contextlib.suppress(SpentError):
            RIVALS[method](oracle, seed)
        assert oracle.calls <= oracle.budget
        return oracle.trace

    first = trace(0)
    assert trace(0) == first != trace(1)
    assert first[-1][0] > 0.7 * 10 * 96, "most of it is spent"
    assert normalised(table, first, np.inf)[0] < np.median(
        (table.validation_error - table.validation_error.min()) / np.ptp(table.validation_error)
    )


def test_triple_sh_starts_with_what_it_can_pay_for(table):
    oracle = Oracle(table, 0, budget=1)
    with pytest.raises(SpentError):
        successive_halving(oracle, 0)
    assert 96 > oracle.calls > 48, "no room for the last survivor's full evaluation, but for all rounds"


def test_a_search_that_plans_for_its_budget_is_made_for_each(table, tmp_path):
    table.save(tmp_path)
    curves = search(("small", "TRIPLE-SH", 3), tmp_path, tmp_path)
    assert curves.shape == (2, len(CURVE)) and set(SHARES) < set(CURVE)
    for share in SHARES:
        oracle = Oracle(table, 3, share * FULL_EVALUATIONS)
        with contextlib.suppress(SpentError):
            successive_halving(oracle, 3)
        expected = normalised(table, oracle.trace, share * FULL_EVALUATIONS * oracle.n)
        assert at_share(curves, share) == pytest.approx(expected)


def test_any_other_search_is_made_once_and_cut_at_each(table, tmp_path):
    table.save(tmp_path)
    oracle = Oracle(table, 3, FULL_EVALUATIONS)
    with contextlib.suppress(SpentError):
        RIVALS["random search"](oracle, 3)
    curves = search(("small", "random search", 3), tmp_path, tmp_path)
    for share in SHARES:
        assert at_share(curves, share) == pytest.approx(normalised(table, oracle.trace, share * 25 * oracle.n))


@pytest.fixture(scope="module")
def space(table, tmp_path_factory):
    small = replace(PROFILES["demo"], vae=VAEConfig(training_sets=64, patience=5, max_epochs=30, batch_size=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "demo", small)
        return table_space(table, tmp_path_factory.mktemp("vae"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_lipo_e_searches_a_grid(variant, table, space):
    oracle = Oracle(table, 0, budget=8)
    with contextlib.suppress(SpentError):  # or all 40 prompts were proposed
        lipo_e(oracle, 0, space, VARIANTS[variant])
    assert len({prompt for _, prompt in oracle.trace}) > 1
    assert normalised(table, oracle.trace, np.inf)[0] < 0.5


def test_rows_have_the_mean_over_tables_and_seeds_and_a_paired_test():
    rng = np.random.default_rng(0)
    base = rng.random((2, 30, 2, len(CURVE)))
    curves = {LIPO_E: base, "worse": base + 0.1, "same": base}
    found = {(row["method"], row["share"]): row for row in rows(curves)}
    assert found["worse", 0.5]["test"] == pytest.approx(at_share(base, 0.5)[..., 1].mean() + 0.1)
    assert found["worse", 1.0]["p"] < 1e-6 and found["same", 1.0]["p"] == 1
    assert p_value(rng.random((2, 30)), rng.random((2, 30))) > 0.001
