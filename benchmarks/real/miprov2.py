"""DSPy's MIPROv2 (``auto="light"``) as its users run it, for comparison with LIPO-E on as many LLM calls.

It needs an environment of its own (``pip install "dspy[optuna]==3.4.1"``) and, from this package's, a server of
the model that LIPO-E is to have::

    python -m vllm.entrypoints.openai.api_server --model MODEL --served-model-name model --max-model-len 8192
    python -m benchmarks.real.miprov2 FOLDER --seed 0

FOLDER is a task's; its examples are those of ``lipo-e-ray run --profile demo --task FOLDER --seed 0``: the pool to take
demonstrations from, validation to choose by, and test, on which accuracy is measured before and after. The last line
has these, the calls that the search paid (the server's count), and the LIPO-E command with as many:
``--max-llm-calls`` counts the test of two prompts too.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import urllib.request
from dataclasses import replace

from lipo_e_ray.config import PROFILES
from lipo_e_ray.task.loading import load_task
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.types import Example, Status

THREADS = 32
MAX_TOKENS = 512  # an instruction that MIPROv2 has the model write; the model ends an answer itself


def calls(url: str) -> int:
    """How many requests the server has ended."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as page:
        lines = page.read().decode()
    return int(sum(float(count) for count in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", lines, re.M)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    task = load_task(replace(PROFILES["demo"].task, name=arguments.folder), arguments.seed)
    judge = get_metric(task.metric)
    os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp()  # it pays for no call twice within a search, but for each search
    import dspy

    def examples(split: tuple[Example, ...]) -> list[dspy.Example]:
        return [dspy.Example(question=e.question, answer=e.answer).with_inputs("question") for e in split]

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
        return judge(prediction.answer or "", example.answer) is Status.CORRECT

    def accuracy(program: dspy.Module) -> float:
        test = examples(task.test)
        evaluate = dspy.Evaluate(devset=test, metric=metric, num_threads=THREADS, max_errors=len(test))
        return float(evaluate(program).score)

    dspy.configure(
        lm=dspy.LM(
            "openai/model", api_base=f"{arguments.url}/v1", api_key="none", temperature=0.0, max_tokens=MAX_TOKENS
        )
    )
    student = dspy.Predict("question -> answer")
    before, paid = accuracy(student), calls(arguments.url)
    optimizer = dspy.MIPROv2(metric=metric, auto="light", num_threads=THREADS, seed=arguments.seed)
    found = optimizer.compile(student, trainset=examples(task.pool), valset=examples(task.validation))
    paid = calls(arguments.url) - paid
    print(found.signature.instructions, *found.demos, sep="\n")
    print(
        f"seed {arguments.seed}: {before}% to {accuracy(found)}% of {len(task.test)} test examples, {paid} calls; "
        f"lipo-e-ray run --profile demo --task {arguments.folder} --seed {arguments.seed} "
        f"--max-llm-calls {paid + 2 * len(task.test)} --model MODEL"
    )


if __name__ == "__main__":
    main()
