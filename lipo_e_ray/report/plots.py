"""The report's plots, as SVG in data URIs. Each title says what the plot shows, with its numbers.

Colour-blind readers can tell the colours apart (Okabe and Ito's, and ``viridis``). Figures are made without pyplot,
which would change global state and look for a window system.
"""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lipo_e_ray.report.analysis import best_over_calls, coverage, predictions, stage_spans
from lipo_e_ray.report.records import Records, ScoredPrompt
from lipo_e_ray.report.statistics import Z95, departs_from, neighbour_correlation
from lipo_e_ray.types import RungResult

BASELINE_COLOUR = "#777777"
STAGE_COLOURS = {"hyperband": "#0072B2", "invbo": "#D55E00", "baseline": BASELINE_COLOUR, "final": "#009E73"}
STAGE_NAMES = {"hyperband": "Hyperband", "invbo": "InvBO", "baseline": "Baseline", "final": "Finalists"}
SOURCE_NAMES = {"seed": "seed", "file": "user", "ape": "APE", "invbo": "inversion"}
SOURCE_MARKERS = {"seed": "o", "file": "D", "ape": "s", "invbo": "^"}
_WIDTH = 8.5  # inches
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lipo-e-ray",  # same ledger, same bytes
}


@dataclass(frozen=True)
class Picture:
    """One plot. ``uri`` is a ``data:`` URI; ``title`` is also its text for readers who cannot see it."""

    title: str
    uri: str


def draw(records: Records, latent_folder: Path) -> list[Picture]:
    """All plots for which the ledger has enough results, in the order of the report."""
    with matplotlib.rc_context(_STYLE):
        made = [
            best_plot(records),
            bracket_plot(records),
            calibration_plot(records),
            latent_plot(records),
            loss_plot(latent_folder / "vae_loss.json"),
        ]
        return [Picture(title, _data_uri(figure)) for figure, title in filter(None, made)]


def best_plot(records: Records) -> tuple[Figure, str] | None:
    """Error over the calls of the search: a dot per prompt and rung, and a line for the best prompt so far."""
    steps, best, base = best_over_calls(records), records.best, records.baseline
    if best is None or not steps:
        return None
    figure, axes = _figure(3.8)
    spans = stage_spans(records)
    for stage, start, end in spans:
        axes.axvspan(start, end, color=STAGE_COLOURS[stage], alpha=0.07, linewidth=0)
        axes.text(
            (start + end) / 2,
            1.0,
            STAGE_NAMES[stage],
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=STAGE_COLOURS[stage],
            fontweight="bold",
        )
        full = [r for r in records.rungs if r.stage == stage]
        axes.scatter(
            [r.calls for r in full],
            [r.observation.error for r in full],
            s=[4 + 20 * r.fidelity / records.full_fidelity for r in full],
            alpha=0.5,
            linewidth=0,
            color=STAGE_COLOURS[stage],
            clip_on=False,
        )
    x = [*(r.calls for r in steps), spans[-1][2]]
    y = [*(r.observation.error for r in steps), steps[-1].observation.error]
    axes.step(x, y, where="post", color="black", linewidth=1.8)
    _beside(axes, y[-1], "black")
    title = f"Best prompt: {y[-1]:.1%} validation error on {steps[-1].fidelity} examples"
    if base is not None:
        error = base.observation.error
        axes.axhline(error, color=BASELINE_COLOUR, linestyle="--", linewidth=1)
        _beside(axes, error, BASELINE_COLOUR)
        title = (
            f"Validation error: baseline {error:.1%} (dashed, {base.fidelity} examples), best {y[-1]:.1%} "
            f"({steps[-1].fidelity})"
            if best is not base
            else f"No prompt beat the baseline's validation error of {error:.1%}"
        )
    axes.set_xlim(0, max(x[-1], 1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("LLM calls of the search (evaluated questions)")
    _errors(axes, "y", "error (larger dots: more examples)")
    axes.set_title(title, pad=20)
    return figure, title


def _beside(axes: Axes, error: float, colour: str) -> None:
    axes.text(1.01, error, f"{error:.1%}", transform=axes.get_yaxis_transform(), va="center", color=colour)


def bracket_plot(records: Records) -> tuple[Figure, str] | None:
    """One panel per bracket (InvBO's small ones in one): every prompt's error from rung to rung."""
    if not records.rungs:
        return None
    panels: dict[str, list[RungResult]] = {}
    for r in records.rungs:
        name = f"Hyperband, s = {r.s}" if r.stage == "hyperband" else STAGE_NAMES[r.stage]
        panels.setdefault(name, []).append(r)
    rows = math.ceil(len(panels) / 5)
    columns = math.ceil(len(panels) / rows)
    figure = Figure(figsize=(_WIDTH, 2.2 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, results) in zip(grid.flat, panels.items(), strict=False):
        entered, finished = _bracket_panel(axes, results, records.full_fidelity)
        axes.set_title(f"{name}\n{entered} in, {finished} in full", fontsize=9, fontweight="normal")
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(panels))
        axes.tick_params(labelbottom=place + columns >= len(panels), labelsize=8)
    ticks = sorted({r.fidelity for r in records.rungs}, reverse=True)
    grid[0, 0].set_xscale("log", base=2)
    shown = ticks[:: 1 if len(ticks) < 6 else 2]
    grid[0, 0].set_xticks(shown, [str(n) for n in shown])
    grid[0, 0].minorticks_off()
    for axes in grid[:, 0]:
        _errors(axes, "y", "error")
    figure.supxlabel("fidelity (validation examples)", fontsize=10)
    share = sum(records.answered.values()) / (len(records.scored) * records.full_fidelity)
    title = f"Racing {len(records.scored)} prompts took {share:.0%} of the calls of measuring each in full"
    _headline(figure, title)
    return figure, title


def _bracket_panel(axes: Axes, results: list[RungResult], full: int) -> tuple[int, int]:
    """Draw each prompt's error from rung to rung; return how many prompts entered and how many reached ``full``."""
    ways: dict[tuple[int, str], list[RungResult]] = {}
    for r in results:
        ways.setdefault((r.bracket, r.observation.prompt_id), []).append(r)
    finished = [way for way in ways.values() if way[-1].fidelity == full]
    colour = STAGE_COLOURS[results[0].stage]
    for way in sorted(ways.values(), key=lambda way: way[-1].fidelity):
        x, y = [r.fidelity for r in way], [r.observation.error for r in way]
        top = way[-1].fidelity == full
        axes.plot(
            x,
            y,
            color=colour if top else "#aaaaaa",
            linewidth=1.3 if top else 0.7,
            marker="o",
            markersize=3.5 if top else 2.2,
            alpha=0.9 if top else 0.6,
        )
    return len(ways), len(finished)


def calibration_plot(records: Records) -> tuple[Figure, str] | None:
    """Left: the first result of each proposal over its predicted error. Right: the residuals and a standard normal."""
    found = predictions(records)
    if not found:
        return None
    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for stage, colour in STAGE_COLOURS.items():
        mine = [p for p in found if p.origin.stage == stage]
        mean, half = np.array([p.mean for p in mine]), np.array([Z95 * p.spread for p in mine])
        left.vlines(mean, mean - half, mean + half, color=colour, linewidth=0.7, alpha=0.3)
        if mine:
            left.scatter(
                mean,
                [p.observation.error for p in mine],
                s=20,
                color=colour,
                alpha=0.8,
                linewidth=0,
                label=STAGE_NAMES[stage],
            )
    left.axline((0, 0), slope=1, color="black", linewidth=1, linestyle="--")
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _errors(left, "x", "predicted error (bars: 95% intervals)")
    _errors(left, "y", "observed error (first rung)")
    left.legend(loc="upper left")
    right.hist(
        np.clip([p.residual for p in found], -3.99, 3.99),
        bins=np.arange(-4, 4.01, 0.5),
        density=True,
        color="#56B4E9",
        edgecolor="white",
    )
    x = np.linspace(-4, 4, 200)
    right.plot(x, np.exp(-x * x / 2) / math.sqrt(2 * math.pi), color="black", linewidth=1.2)
    right.set(xlabel="standardised residual (line: standard normal)", ylabel="density")
    inside = coverage(found)
    verdict = {-1: "too sure of itself", 0: "calibrated", 1: "too cautious"}[departs_from(inside, 0.95)]
    title = f"The surrogate looks {verdict}: {inside.correct} of {inside.n} results in its 95% intervals"
    _headline(figure, title)
    return figure, title


def latent_plot(records: Records) -> tuple[Figure, str] | None:
    """The latent points of all scored prompts, on their first two principal components."""
    z_of = {p.prompt.id: p.info["z"] for p in reversed(records.proposals) if p.info.get("z") is not None}
    shown = [s for s in records.scored if s.prompt.id in z_of]
    if len(shown) < 3:
        return None
    z = np.array([z_of[s.prompt.id] for s in shown], dtype=float)
    centred = z - z.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / max(float((singular**2).sum()), 1e-12)
    flat = centred @ directions[:2].T
    errors = np.array([s.observation.error for s in shown])
    sizes = np.array([18 + 110 * s.fidelity / records.full_fidelity for s in shown])
    figure, axes = _figure(4.6)
    for source, marker in SOURCE_MARKERS.items():
        mine = np.array([s.origin.source == source for s in shown])
        points = axes.scatter(
            flat[mine, 0],
            flat[mine, 1],
            c=errors[mine],
            s=sizes[mine],
            marker=marker,
            cmap="viridis",
            alpha=0.85,
            vmin=errors.min(),
            vmax=errors.max(),
            edgecolor="#333333",
            linewidth=0.4,
        )
    if records.best in shown:
        x, y = flat[shown.index(records.best)]
        axes.scatter(x, y, s=420, marker="o", facecolor="none", edgecolor="#D55E00", linewidth=2)
    figure.colorbar(points, ax=axes, label="error at the prompt's highest fidelity", format=PercentFormatter(1.0, 0))
    figure.legend(handles=_latent_legend(shown, records.full_fidelity), loc="outside lower center", ncols=7, fontsize=9)
    axes.set(
        xlabel=f"direction 1 ({variance[0]:.0%} of the variance)",
        ylabel=f"direction 2 ({variance[1]:.0%} of the variance)",
    )
    correlation = neighbour_correlation(z, errors)
    title = f"Latent map of {len(shown)} prompts: neighbours' errors correlate at r = {correlation:.2f}"
    axes.set_title(title, pad=10)
    return figure, title


def _latent_legend(shown: list[ScoredPrompt], full: int) -> list[Line2D]:
    used = {s.origin.source for s in shown}
    entries = [(marker, SOURCE_NAMES[source], 7.0) for source, marker in SOURCE_MARKERS.items() if source in used]
    entries += [("o", f"{n} examples", math.sqrt(18 + 110 * n / full)) for n in (min(s.fidelity for s in shown), full)]
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=size,
            markerfacecolor="#bbbbbb",
            markeredgecolor="#333333",
            label=name,
        )
        for marker, name, size in entries
    ]
    return [
        *handles,
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=15,
            markerfacecolor="none",
            markeredgecolor="#D55E00",
            markeredgewidth=2,
            label="best prompt",
        ),
    ]


def loss_plot(path: Path) -> tuple[Figure, str] | None:
    """The VAE's loss over epochs, from ``{"train": [...], "validation": [...]}``; ``None`` where there is no file."""
    if not path.is_file():
        return None
    loss = json.loads(path.read_text(encoding="utf-8"))
    figure, axes = _figure(3.0)
    for name, colour in (("train", "#56B4E9"), ("validation", "#D55E00")):
        axes.plot(range(1, len(loss[name]) + 1), loss[name], color=colour, linewidth=1.5, label=name)
    best = int(np.argmin(loss["validation"]))
    axes.axvline(best + 1, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="epoch (dotted: the one kept)", ylabel="loss (reconstruction + beta KL)")
    axes.legend()
    title = f"The VAE's validation loss fell from {loss['validation'][0]:.3g} to {loss['validation'][best]:.3g}"
    axes.set_title(title)
    return figure, title


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _errors(axes: Axes, which: str, label: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_label_text(label)


def _headline(figure: Figure, title: str) -> None:
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
