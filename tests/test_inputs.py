import pytest

from lipo_e_ray.config import PROFILES, HyperbandConfig, RunConfig, TaskConfig
from lipo_e_ray.engine.simulated import SimulatedEngine
from lipo_e_ray.inputs import EngineSpec, load_inputs, read_instructions, vllm_spec
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.types import InputError

TASK = TaskConfig("arithmetic", pool_size=16, validation_size=16, test_size=16)


def spec(tokens_per_message: int = 1) -> EngineSpec:
    return EngineSpec(
        SimulatedEngine,
        SimulatedEngine().fingerprints,
        lambda messages: tokens_per_message * len(messages),
        on_gpu=False,
    )


def test_instructions_are_seeds_then_the_users_own_once(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text(f"Be exact.\n\n  {SEED_INSTRUCTIONS[0]}  \nBe exact.\n")
    inputs = load_inputs(RunConfig(task=TASK, instructions_file=str(file)), spec())
    assert list(inputs.instructions) == [*SEED_INSTRUCTIONS, "Be exact."]
    assert inputs.instructions["Be exact."] == "file"
    assert inputs.instructions[SEED_INSTRUCTIONS[0]] == "seed"


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
    with pytest.raises(InputError, match=r"expected 17 .*b_min.*got 16"):
        load_inputs(RunConfig(task=TASK, hyperband=HyperbandConfig(b_min=17)), spec())


def test_exemplars_that_overflow_the_context():
    # 8 exemplars of two turns and the question: 17 messages of 480 tokens do not fit 8192 less 512
    with pytest.raises(InputError, match=r"8 exemplars takes \d+ tokens.*max_exemplars to 7"):
        load_inputs(RunConfig(task=TASK), spec(tokens_per_message=480))


def test_the_embedded_models_own_tokenizer_counts():
    demo = PROFILES["demo"]
    task = load_inputs(RunConfig(task=TASK), spec()).task
    real = vllm_spec(demo.model, task)
    short, long = ([{"role": "user", "content": text}] for text in ("one", "one two three"))
    assert real.count_tokens(long) == real.count_tokens(short) + 2
