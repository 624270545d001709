"""DSPy's MIPROv2 (``auto="light"``) as its users run it, for comparison with LIPO-E on as many LLM calls.

It needs an environment of its own (``pip install "dspy[optuna]==3.4.1"``) and a server (``benchmarks.real.served``)::

    python -m benchmarks.real.miprov2 FOLDER --seed 0 --found found.jsonl

Demonstrations come from the pool, the choice is by validation. The last line has the accuracy on the test and the calls
that the search paid, by the server's count. ``benchmarks.real.peers`` gives LIPO-E as many.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from benchmarks.real.served import MODEL, load, measure, parser
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.types import Example, Status

THREADS = 32
MAX_TOKENS = 512  # an instruction that MIPROv2 has the model write; the model ends an answer itself


def main() -> None:
    arguments = parser(__doc__).parse_args()
    task = load(arguments)
    judge = get_metric(task.metric)
    os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp()  # it pays for no call twice within a search, but for each search
    import dspy

    def examples(split: tuple[Example, ...]) -> list[dspy.Example]:
        return [dspy.Example(question=e.question, answer=e.answer).with_inputs("question") for e in split]

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
        return judge(prediction.answer or "", example.answer) is Status.CORRECT

    def search() -> Callable[[], float]:
        optimizer = dspy.MIPROv2(metric=metric, auto="light", num_threads=THREADS, seed=arguments.seed)
        student = dspy.Predict("question -> answer")
        found = optimizer.compile(student, trainset=examples(task.pool), valset=examples(task.validation))
        print(found.signature.instructions, *found.demos, sep="\n")
        test = examples(task.test)
        evaluate = dspy.Evaluate(devset=test, metric=metric, num_threads=THREADS, max_errors=len(test))
        return lambda: float(evaluate(found).score) / 100

    url = f"{arguments.url}/v1"
    dspy.configure(lm=dspy.LM(f"openai/{MODEL}", api_base=url, api_key="none", temperature=0.0, max_tokens=MAX_TOKENS))
    measure("miprov2", arguments, task, search)


if __name__ == "__main__":
    main()
