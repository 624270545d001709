import operator
import random
from dataclasses import replace

import pytest

from lipo_e_ray.config import PROFILES, APEConfig, EncoderConfig, HyperbandConfig, RunConfig, TaskConfig
from lipo_e_ray.engine.model import ChatTokenizer, fingerprints
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import MIN_CONTEXT, EngineSpec, load_inputs, read_instructions
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.task.metrics import numeric, user_metric
from lipo_e_ray.task.rendering import render
from lipo_e_ray.task.task import Task
from lipo_e_ray.types import InputError, Prompt

TASK = TaskConfig("arithmetic", pool_size=16, validation_size=16, test_size=16)


def spec(tokens_per_message: int = 1) -> EngineSpec:
    return EngineSpec(
        SimulatedEngine,
        SimulatedEngine().fingerprints,
        lambda messages: tokens_per_message * len(messages),
        on_gpu=False,
    )


def test_instructions_are_the_users_own_then_the_shipped_ones_each_once(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text(f"Be exact.\n\n  {SEED_INSTRUCTIONS[0]}  \nBe exact.\n")
    inputs = load_inputs(RunConfig(task=TASK, instructions_file=str(file)), spec())
    assert list(inputs.instructions) == ["Be exact.", *SEED_INSTRUCTIONS]
    assert inputs.instructions["Be exact."] == inputs.instructions[SEED_INSTRUCTIONS[0]] == "file"
    assert inputs.instructions[SEED_INSTRUCTIONS[1]] == "seed"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "expected a text file"), (b"\n \n", "found no text"), (b"\xff\xfe\xfa", "UTF-8")]
)
def test_bad_instruction_files(tmp_path, content, message):
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_instructions(file)


def test_fewer_validation_examples_than_b_min():
    with pytest.raises(InputError, match=r"expected 17 .*b_min.*got 16; .* --set hyperband\.b_min=16$"):
        load_inputs(RunConfig(task=TASK, hyperband=HyperbandConfig(b_min=17)), spec())


def test_an_encoder_that_is_none_names_the_flag(tmp_path):
    with pytest.raises(InputError, match=r"found none; .* --set encoder\.name=all-minilm-l6-v2$"):
        load_inputs(RunConfig(task=TASK, encoder=EncoderConfig(str(tmp_path))), spec())


def in_context(max_model_len, **changes):
    model = replace(RunConfig().model, max_model_len=max_model_len, max_tokens=512)
    return RunConfig(task=TASK, model=model, ape=APEConfig(use=False), **changes)


def test_a_context_too_small_for_8_exemplars_gives_fewer_and_a_line():
    # An exemplar is two turns of 480 tokens and the margin for both; the question is one.
    inputs = load_inputs(in_context(8192), spec(tokens_per_message=480))
    assert inputs.max_exemplars == 7 and inputs.max_model_len == 8192
    (note,) = inputs.notes
    assert "at most 7 exemplars instead of 8" in note and "--set model.max_model_len=8704" in note
    pool = inputs.task.pool
    assert inputs.context.fits(Prompt("Do it.", pool[:7])) and not inputs.context.fits(Prompt("Do it.", pool[:8]))


def test_a_context_of_0_is_what_the_longest_prompt_needs():
    inputs = load_inputs(in_context(0), spec(tokens_per_message=480))
    # 17 messages with their margin, 480 tokens for an instruction that the model writes, 512 to answer
    assert inputs.max_model_len == -(-(17 * 481 + 1 + 480 + 512) // 64) * 64
    assert inputs.max_exemplars == 8 and not inputs.notes
    assert load_inputs(in_context(0, max_exemplars=0), spec(tokens_per_message=480)).max_model_len == MIN_CONTEXT
    ape = load_inputs(replace(in_context(0, max_exemplars=0), ape=APEConfig()), spec(tokens_per_message=480))
    assert ape.max_model_len >= 9 * 480 + 64  # the requests show four other tasks


def test_a_context_of_0_is_no_more_than_the_model_has():
    has = replace(spec(tokens_per_message=480), context_length=4000)
    assert load_inputs(in_context(0), has).max_model_len == 4000
    assert load_inputs(in_context(0), has).max_exemplars == 3
    assert load_inputs(in_context(8192), has).max_model_len == 8192  # a number given is taken as it is


def test_what_the_model_has_is_too_little_for_a_prompt_without_exemplars():
    has = replace(spec(tokens_per_message=480), context_length=990)
    with pytest.raises(InputError, match=r"takes \d+ tokens, expected at most 478 .*--set model\.max_model_len=1024"):
        load_inputs(in_context(0), has)


def test_without_a_tokenizer_the_context_is_not_checked():
    inputs = load_inputs(in_context(0), replace(spec(), count_tokens=None))
    assert inputs.max_model_len == 0 and inputs.max_exemplars == 8 and not inputs.notes
    assert inputs.context.fits(Prompt("x" * 10**6, inputs.task.pool))


def test_rows_and_a_metric_given_from_python():
    train, validation = ([(f"{name} {i}?", "...") for i in range(n)] for name, n in (("a", 9), ("b", 16)))
    given = Task.from_rows(train=train, validation=validation, test=[("c?", "...")], name="mine")
    judge = user_metric(operator.eq, "equal")
    config = replace(PROFILES["demo"], task=TaskConfig("gsm8k"))
    inputs = load_inputs(config, given=given, metric=judge)
    assert (inputs.task.name, inputs.task.metric, len(inputs.task.pool)) == ("mine", "equal", 9)
    _, metric = inputs.engine.make.args
    assert metric is judge
    with pytest.raises(InputError, match=r"row 1 of train: expected an answer that the metric 'text' can read"):
        load_inputs(config, given=given)


def test_the_demos_engine_is_built_with_the_context_it_needs():
    inputs = load_inputs(replace(PROFILES["demo"], task=TASK))
    model, metric = inputs.engine.make.args
    assert inputs.max_model_len == model.max_model_len == MIN_CONTEXT and metric is numeric
    assert inputs.engine.context_length == 8192
    assert inputs.engine.fingerprints == fingerprints(PROFILES["demo"].model)


def test_long_rows_in_the_demos_model():
    """Of exemplars of some 500 tokens three fit a context of 2048; a row of 5000 tokens is too long for an exemplar."""
    long = " ".join(
        f"Then {name} walks on to the next town and counts all the carts there." for name in ["Ada", "Ben"] * 16
    )
    rows = [(f"{i}. {long} How many?", str(i)) for i in range(40)]
    given = Task.from_rows(
        train=[*rows, ("99. " + long * 10, "99")], validation=[(f"{i}?", "1") for i in range(16)], test=[("t?", "1")]
    )
    model = replace(PROFILES["demo"].model, max_model_len=2048)
    inputs = load_inputs(replace(PROFILES["demo"], model=model), given=given)
    assert inputs.max_exemplars == 3 and {len(e.question) > 4000 for e in inputs.task.pool} == {False}
    assert [note.split(":")[0] for note in inputs.notes] == [
        "prompts get at most 3 exemplars instead of 8", "1 of 33 rows of the pool are left out"
    ]  # fmt: skip
    chat = ChatTokenizer(model)
    rng = random.Random(0)
    for k in (1, 2, 3, 4):
        prompt = Prompt(rng.choice(list(inputs.instructions)), tuple(rng.sample(inputs.task.pool, k)))
        assert inputs.context.fits(prompt) == (k < 4) == (chat.count(render(prompt, "t?")) <= 2048 - 64)
