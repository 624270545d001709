"""promptolution's CAPO by its ``optimize``, as its users run it, for comparison with LIPO-E on as many LLM calls.

It needs an environment of its own (``pip install promptolution==2.3.0``) and a server (``benchmarks.real.served``)::

    python -m benchmarks.real.capo FOLDER --seed 0 --description "Say the opposite of a word." --found found.jsonl

CAPO takes its demonstrations and its blocks of 30 from all examples that LIPO-E searches with, pool and validation. It
compares answers by itself (equal but for case); the test is judged by the task's metric, as every method's. The last
line has the accuracy on the test and the calls that the search paid, by the server's count.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.real.served import MODEL, load, measure, parser
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.types import Example, Status


def main() -> None:
    arguments_of = parser(__doc__)
    arguments_of.add_argument("--description", required=True, help="of the task, one sentence: CAPO starts from it")
    arguments = arguments_of.parse_args()
    task = load(arguments)
    judge = get_metric(task.metric)
    import pandas as pd
    from promptolution import optimize
    from promptolution.llms import APILLM
    from promptolution.predictors import MarkerBasedPredictor
    from promptolution.tasks import ClassificationTask
    from promptolution.utils import evaluate_prompts

    def frame(examples: Sequence[Example]) -> pd.DataFrame:
        return pd.DataFrame([(e.question, e.answer) for e in examples], columns=["x", "y"])

    def right(references: Sequence[str], answers: Sequence[str]) -> float:
        """Of one answer, as CAPO asks it."""
        return float(judge(answers[0], references[0]) is Status.CORRECT)

    def search() -> Callable[[], float]:
        server = {"model_id": MODEL, "api_key": "none", "api_url": f"{arguments.url}/v1"}
        examples = frame((*task.pool, *task.validation))
        best = optimize(examples, arguments.description, **server)[0]
        print(best)
        test = ClassificationTask(frame(task.test), arguments.description, metric=right)
        return lambda: float(evaluate_prompts([best], test, MarkerBasedPredictor(APILLM(**server))).score[0])

    random.seed(arguments.seed)  # CAPO has no seed of its own; it draws by these two
    np.random.seed(arguments.seed)
    measure("capo", arguments, task, search)


if __name__ == "__main__":
    main()
