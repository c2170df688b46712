"""Time and memory of a step at the paper's scale, relative to LoRA, beside the paper's ratios: from a record of
``python -m benchmarks.gpu7b`` instead of an experiment."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.errors import ConfigError
from harness.figures import style
from harness.figures.costs.time_memory import draw_panels
from harness.figures.inputs import long_form
from harness.records import gpu7b
from harness.records.gpu7b import Gpu7bRecord, Part, Training
from harness.schema.fields import BASELINE

#: (measure, method) -> the ratio to LoRA that the paper's section B.2 states for Figures 8 and 9.
PAPER = {("time", "dora"): 1.73, ("time", "adalora"): 1.62, ("memory", "dora"): 1.35}
_PANELS = {"time": "Time of a step", "memory": "Peak memory"}


def build(path: Path) -> style.Plot:
    """A panel of horizontal bars each for time and memory, a bar for each training part.

    Raises:
        ConfigError: the record is missing or broken, or has no step of LoRA.
    """
    record = gpu7b.read(path)
    parts = {part.name: part for part in record.parts if part.kind == "training"}
    base = record.result(BASELINE)
    if not isinstance(base, Training):
        raise ConfigError(f"{path}: found no steps of {BASELINE}, expected the part that all others are compared with")
    data = long_form([row for part in parts.values() for row in _rows(part, base, paper=not record.smoke)])
    baseline = parts[BASELINE].label
    figure = draw_panels(data, _PANELS, _draw_bars, by="part", baseline=baseline, margin=2.4)
    model = "a tiny model, smoke run" if record.smoke else "LLaMA2-7B of random weights"
    style.finish(
        figure,
        title=f"Cost of a step relative to {baseline}: {model}",
        caption=_caption(record, base, baseline=baseline),
        legend=_legend(paper=not record.smoke),
    )
    return style.Plot(figure=figure, data=data)


def _legend(*, paper: bool) -> list[Artist]:
    harness = Patch(facecolor=style.FAINT, label="harness")
    peft = Patch(facecolor="white", edgecolor=style.INK, hatch="////", label="PEFT, plain Trainer")
    theirs = Line2D([], [], linestyle="none", marker="D", color=style.RED, markersize=5, label="paper")
    return [harness, peft, theirs] if paper else [harness, peft]


def _rows(part: Part, base: Training, *, paper: bool) -> list[dict[str, Any]]:
    """Rows ``median`` (of memory: the one value), ``step`` and ``paper``; one row ``none`` where the part has no steps.

    Args:
        paper: whether the paper's ratios are for this model.
    """
    result = part.result
    if not isinstance(result, Training):
        common = {"part": part.name, "method": part.name, "label": part.label, "row": "none", "status": part.status}
        return [{"measure": measure, **common} for measure in _PANELS]
    common = {"part": part.name, "method": result.method, "label": part.label, "implementation": result.implementation}
    ratios = [own.seconds / other.seconds for own, other in zip(result.timed, base.timed, strict=False)]
    medians = {
        "time": (statistics.median(ratios), result.seconds_per_step),
        "memory": (result.peak_bytes / base.peak_bytes, result.peak_bytes),
    }
    rows: list[dict[str, Any]] = []
    for measure, (ratio, absolute) in medians.items():
        own = {**common, "measure": measure}
        rows.append({**own, "row": "median", "ratio": ratio, "absolute": absolute, "status": part.status})
        if measure == "time":
            rows += [{**own, "row": "step", "step": i + 1, "ratio": value} for i, value in enumerate(ratios)]
        if paper and (measure, result.method) in PAPER:
            rows.append({**own, "row": "paper", "ratio": PAPER[measure, result.method]})
    return rows


def _caption(record: Gpu7bRecord, base: Training, *, baseline: str) -> list[str]:
    s, d, v = record.setting, record.device, record.versions
    memory = "" if d.memory_bytes is None else f" ({d.memory_bytes / 1e9:.0f} GB, driver {d.driver}, CUDA {d.cuda})"
    counts = sorted({len(part.result.timed) for part in record.parts if isinstance(part.result, Training)})
    steps = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    smoke = "Smoke run: it shows that the check works, its numbers mean nothing. " if record.smoke else ""
    notes = dict.fromkeys(p.result.note for p in record.parts if isinstance(p.result, Training) and p.result.note)
    return [
        f"{smoke}One process on {d.name}{memory}, random weights and tokens, rank {s.r}, {s.dtype} base; PyTorch "
        f"{v.get('torch')}, transformers {v.get('transformers')}, PEFT {v.get('peft')}.",
        f"{steps} timed optimizer steps after {s.warmup_steps} of warm-up, each of {s.micro_batches} x {s.examples} examples "
        f"of {s.mean_length:g} tokens on average, the same for every method.",
        f"Bars: median over steps of the ratio to {baseline} on the same batch; dots: single steps, no interval: one run. In "
        f"brackets: seconds a step; GB of the {base.memory_of}.",
        "" if record.smoke else "Paper: its section B.2, on its own machines and data.",
        *(f"{note}." for note in notes),
    ]


def _draw_bars(axis: Axes, own: pd.DataFrame, parts: list[str]) -> None:
    longest = float(own["ratio"].max())
    for i, part in enumerate(parts):
        one = own[own["part"] == part]
        bar = one[one["row"] == "median"]
        if bar.empty:
            axis.text(0.02 * longest, i, one["status"].iloc[0].replace("_", " "), va="center", fontsize=8, style="italic")
            continue
        median, colour = bar.iloc[0], style.colour_of(one["method"].iloc[0])
        look: dict[str, Any] = {"color": colour, "linewidth": 0}
        if median["implementation"] == "peft":
            look = {"facecolor": "white", "edgecolor": colour, "hatch": "////", "linewidth": 0.8}
        axis.barh(i, median["ratio"], 0.68, zorder=2, **look)
        steps, paper = (one.loc[one["row"] == row, "ratio"] for row in ("step", "paper"))
        dots: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK, "markeredgewidth": 0.6}
        axis.plot(steps, i + np.linspace(-0.2, 0.2, len(steps)), "o", markersize=2.6, zorder=4, **dots)
        axis.plot(paper, [i] * len(paper), "D", color=style.RED, markersize=5, zorder=5)
        end = max([median["ratio"], *steps, *paper])
        text = f"{median['ratio']:.2f}× ({_absolute(median)})" + "".join(f", paper {value:.2f}×" for value in paper)
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axis.text(end + 0.03 * longest, i, text, va="center", ha="left", fontsize=8, zorder=6, bbox=ground)
    axis.axvline(1.0, color=style.INK, linewidth=0.8, linestyle=":", zorder=5)
    axis.set_xlim(0, longest * 1.62)
    axis.grid(axis="y", visible=False)


def _absolute(median: pd.Series) -> str:
    return f"{median['absolute']:.3g} s" if median["measure"] == "time" else f"{median['absolute'] / 1e9:.1f} GB"
