import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.recorded import record as recorder
from benchmarks.recorded.grids import RECIPES, make_grid
from benchmarks.recorded.record import make_table, record, take_over, unrecorded
from benchmarks.recorded.tables import Grid, OutcomeTable, TableEncoder
from lipo_e_ray.engine.replay import ReplayEngine
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.latent.encoder import example_text
from lipo_e_ray.service.service import EvaluationService
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import InputError, LipoError, Outcome, Status

SETS = ((), (0,), (1, 3), (0, 1, 2))


class Encoder:
    """Unit vectors by the length of the text."""

    def encode(self, texts):
        rows = np.array([[1.0, len(text), len(text) ** 0.5] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def grid(small_task):
    ids = [
        tuple(example.id for example in split) for split in (small_task.pool, small_task.validation, small_task.test)
    ]
    return Grid("small", "formula", "lengths", 8, ("Solve it.", "Do the sum step by step."), SETS, *ids)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", SimulatedEngine().fingerprints) as opened:
        yield opened


@pytest.fixture
def table(grid, small_task, ledger):
    asyncio.run(record(ledger, SimulatedEngine(), recorder.grid_prompts(grid, small_task), small_task))
    return make_table(ledger, grid, small_task, Encoder())


def test_the_bits_are_the_engines_answers(table, grid, small_task):
    engine = SimulatedEngine()
    for place, prompt in enumerate(recorder.grid_prompts(grid, small_task)):
        outcomes = asyncio.run(engine.evaluate(prompt, [*small_task.validation, *small_task.test]))
        statuses = [outcome.status for outcome in outcomes]
        stand_in = table.prompts[place]
        assert [o.status for o in table.outcomes(stand_in.id).values()] == statuses
        n = len(small_task.validation)
        assert table.validation_error[place] == pytest.approx(sum(s is not Status.CORRECT for s in statuses[:n]) / n)
        assert table.test_error[place] == pytest.approx(
            sum(s is not Status.CORRECT for s in statuses[n:]) / len(small_task.test)
        )
        seen = table.observe(stand_in, 5)
        assert (seen.errors, seen.unparseable) == (
            sum(s is not Status.CORRECT for s in statuses[:5]),
            sum(s is Status.UNPARSEABLE for s in statuses[:5]),
        )


def test_a_file_gives_the_table_back_and_holds_no_text_of_the_task(table, small_task, tmp_path):
    path = table.save(tmp_path)
    loaded = OutcomeTable.load(path)
    assert loaded.grid == table.grid and loaded.fingerprints == table.fingerprints
    assert (loaded.correct == table.correct).all() and (loaded.parsed == table.parsed).all()
    assert np.allclose(loaded.set_embeddings, table.set_embeddings, atol=1e-3)
    raw = path.read_bytes()
    assert not any(example.question.encode() in raw for example in (*small_task.pool, *small_task.validation))


def test_a_replay_through_the_service_sees_what_the_search_sees(table, tmp_path):
    class Pool:
        async def evaluate(self, prompt, example_ids, avoid, wave, before_send):
            await before_send()
            return 0, await engine.evaluate(prompt, [examples[example_id] for example_id in example_ids])

        def sizes(self):
            return 1, 1

        def pause(self, paused):
            raise AssertionError("the disk takes everything")

        def waiting(self):
            return ""

        async def close(self):
            await engine.close()

    engine, examples = ReplayEngine(table), {example.id: example for example in table.task.validation}

    async def main():
        service = EvaluationService(tmp_path / "replay.sqlite", table.task, table.fingerprints, Pool)
        await service.start()
        found = [await service.evaluate(prompt, "validation", 7) for prompt in table.prompts]
        await service.close()
        return found

    assert [e.observation for e in asyncio.run(main())] == [table.observe(prompt, 7) for prompt in table.prompts]


def test_the_encoder_knows_instructions_and_exemplars_and_nothing_else(table):
    encoder = TableEncoder(table)
    texts = [table.grid.instructions[1], example_text(table.task.pool[2])]
    assert np.allclose(
        encoder.encode(texts), np.stack([table.instruction_embeddings[1], table.pool_embeddings[2]]), atol=1e-3
    )
    assert np.allclose(np.linalg.norm(encoder.encode(texts), axis=1), 1)
    with pytest.raises(KeyError):
        encoder.encode(["never seen"])


def test_a_recording_goes_on_where_it_was(grid, small_task, ledger):
    prompts = recorder.grid_prompts(grid, small_task)

    class Tired(SimulatedEngine):
        calls = 0

        async def evaluate(self, prompt, examples):
            Tired.calls += 1
            if Tired.calls > 5:
                return [Outcome(prompt.id, e.id, Status.FAILED, error="no memory") for e in examples]
            return await super().evaluate(prompt, examples)

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(record(ledger, Tired(), prompts, small_task))
    assert isinstance(raised.value.exceptions[0], LipoError) and "no memory" in str(raised.value.exceptions[0])
    with pytest.raises(InputError, match="run the same command again"):
        make_table(ledger, grid, small_task, Encoder())
    left = sum(len(examples) for _, _, examples in unrecorded(ledger, prompts, small_task))
    assert 0 < left < len(prompts) * (len(small_task.validation) + len(small_task.test))
    asyncio.run(record(ledger, SimulatedEngine(), prompts, small_task))  # the ledger refuses a second outcome
    assert not list(unrecorded(ledger, prompts, small_task))


def test_a_table_of_some_instructions_grows_on_another_machine(table, grid, small_task, tmp_path):
    prints = SimulatedEngine().fingerprints
    some = replace(grid, instructions=grid.instructions[:1])
    half = replace(table, grid=some, correct=table.correct[:1], parsed=table.parsed[:1])
    prompts = recorder.grid_prompts(grid, small_task)
    with Ledger(tmp_path / "other.sqlite", prints) as fresh:
        take_over(half, fresh, grid, prints, small_task)
        take_over(half, fresh, grid, prints, small_task)  # the ledger refuses a second outcome
        left = {prompt.id for prompt, _, _ in unrecorded(fresh, prompts, small_task)}
        assert left == {prompt.id for prompt in prompts[len(SETS) :]}
        asyncio.run(record(fresh, SimulatedEngine(), prompts, small_task))
        whole = make_table(fresh, grid, small_task, Encoder())
    assert (whole.correct == table.correct).all() and (whole.parsed == table.parsed).all()


@pytest.mark.parametrize("change", [{"max_tokens": 9}, {"instructions": ("Another.",)}, {"exemplar_sets": SETS[1:]}])
def test_a_table_of_another_grid_or_model_is_refused(table, grid, small_task, ledger, change):
    prints = SimulatedEngine().fingerprints
    with pytest.raises(InputError, match="move the table away"):
        take_over(table, ledger, replace(grid, **change), prints, small_task)
    with pytest.raises(InputError, match="move the table away"):
        take_over(table, ledger, grid, replace(prints, model="another"), small_task)


@pytest.mark.parametrize("at_once", [8, 64, 256])
def test_the_engine_always_has_more_to_do_than_it_does_at_once(at_once, grid, small_task, ledger):
    class Counting(SimulatedEngine):
        now = most = 0

        async def evaluate(self, prompt, examples):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().evaluate(prompt, examples)

    engine, prompts = Counting(), recorder.grid_prompts(grid, small_task)
    chunks = len(list(unrecorded(ledger, prompts, small_task)))
    asyncio.run(record(ledger, engine, prompts, small_task, at_once))
    assert engine.most == min(chunks, math.ceil(recorder.AHEAD * at_once / recorder.CHUNK))


@pytest.mark.parametrize("name", RECIPES)
def test_a_grid_has_250_prompts_of_all_sizes(name):
    if RECIPES[name].task != "arithmetic" and not (recorder.DATA / RECIPES[name].task).is_dir():
        pytest.skip("../shared/data is not there")
    grid, task = make_grid(name, recorder.DATA, "model", "encoder")
    prompts = recorder.grid_prompts(grid, task)
    assert len({prompt.id for prompt in prompts}) == 250 == len(prompts)
    assert {len(chosen) for chosen in grid.exemplar_sets} == set(range(9))
    assert len(grid.validation) == len(grid.test) == 200
    assert make_grid(name, recorder.DATA, "model", "encoder")[0] == grid
