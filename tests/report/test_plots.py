import base64
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from lipo_e_ray.report.plots import best_plot, calibration_plot, draw, latent_plot, loss_plot
from lipo_e_ray.report.records import read
from lipo_e_ray.store.ledger import Ledger
from lipo_e_ray.types import Fingerprints, Status

from .conftest import PROPOSALS


@pytest.fixture
def records(run_dir):
    with Ledger(run_dir / "ledger.sqlite") as ledger:
        return read(ledger)


def test_every_picture_is_svg_that_says_its_finding(records, run_dir):
    pictures = draw(records, run_dir / "latent")
    assert [p.title for p in pictures] == [
        "Validation error: baseline 75.0% (dashed, 8 examples), best 37.5% (8)",
        "Racing 7 prompts took 79% of the calls of measuring each in full",  # 44 / 56
        "The surrogate looks calibrated: 2 of 3 results in its 95% intervals",
        "Latent map of 4 prompts: neighbours' errors correlate at r = -0.14",  # (1/2, 1), 2 x (3/8, 3/8), (1, 3/8)
        "The VAE's validation loss fell from 4 to 2.5",
    ]
    for picture in pictures:
        kind, data = picture.uri.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_where_the_baseline_is_the_answer_the_picture_says_so(records):
    """Though the best of the others has a lower error: on the examples that both were asked, it is not ahead."""
    a, d = (PROPOSALS[name].prompt.id for name in "AD")
    behind = replace(records, compared={a: {"e": Status.CORRECT}, d: {"e": Status.WRONG}})
    assert best_plot(behind)[1] == "No prompt beat the baseline's validation error of 75.0%"


def test_the_same_ledger_gives_the_same_bytes(records, tmp_path):
    assert draw(records, tmp_path) == draw(records, tmp_path) != []


def test_the_line_is_the_best_so_far(records):
    figure, _ = best_plot(records)
    line = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert line.get_xydata().tolist() == [[4, 0.75], [12, 0.75], [24, 0.5], [28, 0.375], [44, 0.375]]


def test_the_latent_map_shows_each_prompt_once(records):
    figure, _ = latent_plot(records)
    *sources, best = figure.axes[0].collections
    assert sum(len(points.get_offsets()) for points in sources) == 4
    assert len(best.get_offsets()) == 1


def test_calibration_shows_predicted_against_observed(records):
    figure, _ = calibration_plot(records)
    points = {c.get_label(): c.get_offsets().tolist() for c in figure.axes[0].collections}
    assert (points["Hyperband"], points["InvBO"]) == ([[0.5, 0.5], [0.9, 0.25]], [[0.3, 0.5]])


def test_nothing_is_drawn_from_nothing(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", Fingerprints("m", "s", "t")) as ledger:
        assert draw(read(ledger), tmp_path) == []
    assert loss_plot(tmp_path / "vae_loss.json") is None
