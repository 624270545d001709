"""A Ray cluster: run this on one of its nodes, or as ``ray job submit --working-dir . -- python examples/cluster.py``.

One vLLM engine per GPU of the cluster; nodes that join later get one too. The run folder is on the node that runs this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lipo_e_ray as lipo


def main(task: str = "gsm8k", **settings: Any) -> lipo.Result:
    defaults = {
        "model": "Qwen/Qwen2.5-1.5B-Instruct",
        "profile": "cluster",
        "max_llm_calls": 10_000,
        "output": Path.home() / "runs" / "gsm8k",
        "address": "auto",
        "callback": print,
    }
    try:
        result = lipo.optimize(task, **defaults | settings)
    except KeyboardInterrupt:  # `ray job stop`, or Ctrl-C: what was answered is in the folder
        raise SystemExit("stopped; the same command goes on where it stopped") from None
    print(f"report: {result.report}")
    return result


if __name__ == "__main__":
    main()
