from __future__ import annotations

from math import nan

import pytest

from benchmarks.real.comparison import Row
from benchmarks.real.peers import show


def row(method: str, seed: int, calls: int, test: float) -> Row:
    return Row("task", seed, calls, method, "model", 0, calls, nan, 0, test, 200)


def test_each_rival_is_compared_with_the_searches_of_as_many_calls(capsys):
    rows = [
        *(row("lipo_e", 0, 1400, 0.5), row("capo", 0, 1400, 0.3)),
        *(row("lipo_e", 1, 1500, 0.4), row("capo", 1, 1500, 0.4)),
        *(row("lipo_e", 0, 600, 0.2), row("miprov2", 0, 600, 0.3)),
    ]
    capo, miprov2 = show(rows)
    assert (capo["rival"], capo["pairs"], capo["lipo_e"], capo["capo"]) == ("capo", 2, 0.45, 0.35)
    assert capo["difference"] == pytest.approx(0.1)
    assert (miprov2["pairs"], miprov2["lipo_e"], miprov2["interval"]) == (1, 0.2, None)
    assert capsys.readouterr().out.splitlines() == [
        "LIPO-E 45.0%, capo 35.0%: +10.0% +- 127.1%, p = 1.000, 2 pairs",
        "LIPO-E 20.0%, miprov2 30.0%: -10.0% +- -, p = 1.000, 1 pairs",
    ]
