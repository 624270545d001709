import sys
from dataclasses import dataclass
from functools import cached_property, partial

import pytest

from benchmarks.real.answers import AnswerStore, StoredEngine
from benchmarks.real.peers import beside
from benchmarks.real.served import Search
from benchmarks.real.small_limits import DEMO, Case, searched, task_folder
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.task.arithmetic import generate_arithmetic
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.types import Completion, Fingerprints, InputError, Sampling
from tests.conftest import SMALL
from tests.faults.job import hashed_words

TASK = generate_arithmetic(pool=64, validation=128, test=300, seed=0)
ANSWERS = {example.question: example.answer for example in (*TASK.validation, *TASK.test)}
PRINTS = Fingerprints("model", "sampling", "template")


class Model:
    """Answers rightly where an exemplar's answer is long and the question's is short; writes the same instruction."""

    fingerprints = PRINTS

    async def generate(self, conversations, samplings):
        return [Completion(self.answer(chat), "", 10, 0, 5) for chat in conversations]

    def answer(self, chat):
        question = chat[-1]["content"].rpartition("\n\n")[2]
        shown = max((len(message["content"]) for message in chat[:-1]), default=0)
        known = ANSWERS.get(question, "Add the numbers.")
        return known if len(question) < shown else "#### no"

    async def close(self): ...


@dataclass(frozen=True)
class SmallCase(Case):
    """With ``Model`` in place of the real engine, and a smaller VAE."""

    @property
    def settings(self):
        return super().settings | {key: value for key, value in SMALL.items() if not key.startswith("task.")}

    @cached_property
    def engine(self):
        metric = get_metric(self.task.metric)
        make = partial(StoredEngine, self.store, Model, PRINTS, Sampling(), metric)
        return EngineSpec(make, PRINTS, on_gpu=False)


@pytest.fixture
def case(tmp_path):
    TASK.save(tmp_path / "task")
    return SmallCase(tmp_path / "task", 0, DEMO.model, 0, tmp_path, tmp_path / "answers.sqlite")


def stored(case):
    return len(AnswerStore(case.store))


def test_the_answer_is_tested_outside_the_limit_on_all_test_examples(case):
    small, large = searched(case, ["random_halved"], [300, 1000], [])
    assert small.key == ("task", 0, 300, "random_halved")
    assert (small.calls, small.validation_n, small.test_n, small.model) == (296, 128, 300, "model")
    assert 900 < large.calls <= 1000
    assert stored(case) < small.calls + large.calls + 2 * 300  # the larger race begins with the smaller one's prompts


def test_a_row_that_is_there_is_not_made_again_and_nothing_is_asked_twice(case):
    rows = list(searched(case, ["random_halved"], [300, 1000], []))
    answers = stored(case)
    assert list(searched(case, ["random_halved"], [300, 1000], [row.key for row in rows])) == []
    assert list(searched(case, ["random_halved"], [300, 1000], [rows[0].key])) == rows[1:]
    assert stored(case) == answers


def test_another_seed_is_another_cut_of_the_task(case, tmp_path):
    other = SmallCase(case.path, 1, case.model, 16, case.output, case.store)
    assert other.task.validation != case.task.validation and len(other.task.test) == 16
    whole = [{example.id for example in task.pool + task.reserve} for task in (other.task, case.task)]
    assert whole[0] == whole[1]


@pytest.fixture
def ray_knows_the_model(ray_cluster):
    """Ray's workers cannot import what pytest collected under names of its own."""
    import ray

    here = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(here)
    with hashed_words():
        yield
    ray.cloudpickle.unregister_pickle_by_value(here)


@pytest.mark.slow
def test_lipo_e_keeps_to_the_limit_and_reads_its_answers_from_the_store(case, tmp_path, ray_knows_the_model):
    [row] = searched(case, ["lipo_e"], [300], [])
    assert 0 < row.calls <= 300 and row.validation_n and row.test_n == 300
    answers = stored(case)
    assert answers > 300
    again = SmallCase(case.path, 0, case.model, 0, tmp_path / "again", case.store)
    assert list(searched(again, ["lipo_e"], [300], [])) == [row]
    assert stored(case) == answers
    # Beside a rival that paid as much it is the same search.
    ours, theirs = beside(again, Search("rival", "task", 0, 0, 300, 0.25, 300))
    assert ours == row and stored(case) == answers
    assert (theirs.key, theirs.calls, theirs.test, theirs.test_n) == (("task", 0, 300, "rival"), 300, 0.25, 300)


def test_a_task_is_found_in_either_group(tmp_path):
    for group, task in (("instruction_induction", "antonyms"), ("bbh", "object_counting")):
        (tmp_path / group / task).mkdir(parents=True)
        assert task_folder(tmp_path, task) == tmp_path / group / task
    with pytest.raises(InputError, match="expected a folder sums in instruction_induction or bbh"):
        task_folder(tmp_path, "sums")
