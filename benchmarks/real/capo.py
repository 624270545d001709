"""promptolution's CAPO as its users run it, for comparison with LIPO-E on as many LLM calls.

It needs an environment of its own (``pip install promptolution==2.3.0``) and a server (``benchmarks.real.served``)::

    python -m benchmarks.real.capo FOLDER --seed 0 --description "Say the opposite of a word." --found found.jsonl

All is as in promptolution's ``optimize``: ten steps, instructions written from the description, demonstrations and
blocks of 30 from all examples that LIPO-E searches with (pool and validation). CAPO compares answers by itself (equal
but for case); the test is judged by the task's metric, as every method's. No step begins after ``--minutes``. The last
line has the accuracy on the test and the calls that the search paid, by the server's count.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.real.served import MODEL, calls, load, measure, parser
from lipo_e_ray.task.metrics import get_metric
from lipo_e_ray.types import Example, Status

STEPS = 10  # of ``promptolution.optimize``


def main() -> None:
    arguments_of = parser(__doc__)
    arguments_of.add_argument("--description", required=True, help="of the task, one sentence: CAPO starts from it")
    arguments_of.add_argument("--minutes", type=float, default=60)
    arguments = arguments_of.parse_args()
    task = load(arguments)
    judge = get_metric(task.metric)
    end: float = time.monotonic() + 60 * arguments.minutes
    import pandas as pd
    from promptolution.llms import APILLM
    from promptolution.optimizers import CAPO
    from promptolution.predictors import MarkerBasedPredictor
    from promptolution.tasks import ClassificationTask
    from promptolution.utils import evaluate_prompts
    from promptolution.utils.callbacks import BaseCallback

    def frame(examples: Sequence[Example]) -> pd.DataFrame:
        return pd.DataFrame([(e.question, e.answer) for e in examples], columns=["x", "y"])

    def right(references: Sequence[str], answers: Sequence[str]) -> float:
        """Of one answer, as CAPO asks it."""
        return float(judge(answers[0], references[0]) is Status.CORRECT)

    class Until(BaseCallback):  # type: ignore[misc]
        """Ends CAPO after the first step that is over when the time is up."""

        def on_step_end(self, optimizer: CAPO) -> bool:
            print(f"a step is over; the server has ended {calls(arguments.url):,} calls", flush=True)
            return time.monotonic() < end

    def search() -> Callable[[], float]:
        llm = APILLM(model_id=MODEL, api_key="none", api_url=f"{arguments.url}/v1")
        predictor = MarkerBasedPredictor(llm)
        examples = frame((*task.pool, *task.validation))
        blocks = ClassificationTask(examples, arguments.description, eval_strategy="sequential_block")
        best = CAPO(predictor=predictor, meta_llm=llm, task=blocks, callbacks=[Until()]).optimize(STEPS)[0]
        print(best)
        test = ClassificationTask(frame(task.test), arguments.description, metric=right)
        return lambda: float(evaluate_prompts([best], test, predictor).score[0])

    random.seed(arguments.seed)  # CAPO has no seed of its own; it draws by these two
    np.random.seed(arguments.seed)
    measure("capo", arguments, task, search)


if __name__ == "__main__":
    main()
