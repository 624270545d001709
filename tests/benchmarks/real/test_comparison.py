import pytest

from benchmarks.real.comparison import ALL, Row, paired, show, summary


def row(task, seed, method, test, limit=300):
    return Row(task, seed, limit, method, "model", 0, 290, 0.5, 128, test, 500)


ROWS = [
    row("antonyms", 0, "lipo_e", 0.5),
    row("antonyms", 1, "lipo_e", 0.6),
    row("letters", 0, "lipo_e", 0.7),
    row("antonyms", 0, "random_halved", 0.4),
    row("antonyms", 1, "random_halved", 0.4),
    row("letters", 0, "random_halved", 0.6),
    row("antonyms", 0, "lipo_e", 0.9, limit=1000),
]


def test_pairs_have_a_mean_an_interval_and_p():
    found = paired(ROWS[:6])
    assert found["pairs"] == 3
    assert found["difference"] == pytest.approx(0.4 / 3)
    assert found["interval"] == pytest.approx(4.302653 * 0.1 / 3)  # t of two degrees of freedom; standard error 0.1 / 3
    assert found["p"] == pytest.approx(0.25)  # three of three positive, two-sided


def test_what_has_no_partner_is_no_pair():
    assert paired(ROWS[:4])["pairs"] == 1
    assert paired(ROWS[:4])["interval"] is None
    assert paired(ROWS[:3]) == {"pairs": 0, "difference": None, "interval": None, "p": None}


def test_equal_methods_have_p_one():
    same = [row("antonyms", seed, method, 0.5) for seed in range(4) for method in ("lipo_e", "random_halved")]
    assert paired(same) == {"pairs": 4, "difference": 0.0, "interval": 0.0, "p": 1.0}


def test_limits_and_tasks_have_a_line_each(capsys):
    table = summary(ROWS)
    assert [(line["limit"], line["task"], line["pairs"]) for line in table] == [
        (300, "antonyms", 2),
        (300, "letters", 1),
        (300, ALL, 3),
        (1000, "antonyms", 0),
        (1000, "letters", 0),
        (1000, ALL, 0),
    ]
    assert table[0]["lipo_e"] == pytest.approx(0.55) and table[0]["random_halved"] == pytest.approx(0.4)
    assert table[3]["lipo_e"] == pytest.approx(0.9) and "random_halved" not in table[3]
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[1].split()[:6] == ["300", "calls", "antonyms", "55.0%", "40.0%", "+15.0%"]
