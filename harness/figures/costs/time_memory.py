"""Training time and peak memory of each method relative to LoRA, measured in interleaved runs (Figures 8 and 9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiment.runs import timing_runs
from harness.figures import interactive, style
from harness.figures.inputs import Inputs, long_form, model_note, model_title
from harness.records import timing
from harness.records.timing import Measurement, Ratio, TimingRecord, TimingSummary
from harness.schema.run import RunSpec

#: Column of the data -> (title of its panel, the ratio in a summary, the value in a measurement).
_PANELS: dict[str, tuple[str, Callable[[TimingSummary], Ratio], Callable[[Measurement], float]]] = {
    "time": ("Fine-tuning time", lambda c: c.time, lambda m: m.seconds_per_step),
    "peak_memory": ("Peak memory", lambda c: c.peak, lambda m: m.peak_bytes),
    "added_memory": ("Memory beyond the loaded model", lambda c: c.added, lambda m: m.added_bytes),
}


def build(inputs: Inputs) -> style.Plot:
    """A panel of horizontal bars each for time, peak memory, and memory beyond the loaded model.

    Raises:
        ConfigError: the experiment plans no timing.
        RecordError: timing.json is missing, broken, or of other settings than the experiment's.
    """
    if inputs.experiment.timing is None:
        raise inputs.unplanned("timing", expected="domain, model and methods of figure time_memory")
    runs = timing_runs(inputs.experiment)
    record = timing.load(inputs.experiment, results=inputs.results, command=inputs.command)
    summary = timing.summarise(record)
    rows: list[dict[str, Any]] = []
    for method, cost in summary.items():
        own = {m.round: m for m in record.measurements if m.method == method}
        base = {m.round: m for m in record.measurements if m.method == record.timing.baseline}
        absolute = {"time": cost.seconds_per_step, "peak_memory": cost.peak_bytes, "added_memory": cost.added_bytes}
        for panel, (_, of_summary, of_measurement) in _PANELS.items():
            ratio = of_summary(cost)
            common = {"measure": panel, "method": method, "label": runs[method].method.label}
            interval = {"ratio": ratio.median, "low": ratio.low, "high": ratio.high}
            rows.append({**common, "row": "median", **interval, "absolute": absolute[panel]})
            rows += [
                {**common, "row": "round", "round": i, "ratio": of_measurement(own[i]) / of_measurement(base[i])} for i in own
            ]
    data = long_form(rows)
    baseline = runs[record.timing.baseline]
    titles = {panel: title for panel, (title, _, _) in _PANELS.items()}
    figure = draw_panels(data, titles, _draw_bars, by="method", baseline=baseline.method.label, margin=1.9)
    style.finish(
        figure, title=f"Cost relative to {baseline.method.label}: {model_title(baseline.model)}", caption=_caption(record, runs)
    )
    return style.Plot(figure=figure, data=data)


def _caption(record: TimingRecord, runs: dict[str, RunSpec]) -> list[str]:
    accelerators = record.hardware.get("accelerators") or []
    where = ", ".join(accelerators) or f"{record.hardware.get('cpu')}, threads: {record.hardware.get('threads')}"
    first = next(iter(runs.values()))
    return [
        f"Median over {record.timing.rounds} rounds, in each of which every method is measured once; lines: 95 % bootstrap "
        "intervals over rounds; small dots: single rounds. In brackets: seconds per optimizer step, MiB.",
        f"Measured on {where}; memory is that of the {record.measurements[0].memory_of}.",
        model_note(first.model),
    ]


def draw_panels(
    data: pd.DataFrame,
    titles: Mapping[str, str],
    draw_bars: Callable[[Axes, pd.DataFrame, list[str]], None],
    *,
    by: str,
    baseline: str,
    margin: float,
) -> Figure:
    """A panel for each measure side by side, with a row for each value of a column, the first on top.

    Args:
        data: has the columns ``measure``, ``label`` and ``by``.
        titles: measure -> title of its panel.
        draw_bars: draws one measure's data; it is given the rows in their order.
        by: the column that tells rows apart.
        margin: height that the rows do not need, in inches.
    """
    rows = list(dict.fromkeys(data[by]))
    figure = style.new_figure(width=11.0, height=0.36 * len(rows) + margin)
    axes = figure.subplots(1, len(titles), sharey=True)
    for letter, axis, (measure, title) in zip(ascii_lowercase, axes, titles.items(), strict=False):
        draw_bars(axis, data[data["measure"] == measure], rows)
        axis.set_title(f"({letter}) {title}")
        axis.set_xlabel(f"Relative to {baseline}")
    labels = data.drop_duplicates(by).set_index(by)["label"]
    axes[0].set_yticks(range(len(rows)), [labels[row] for row in rows])
    axes[0].invert_yaxis()
    return figure


def _draw_bars(axis: Axes, own: pd.DataFrame, methods: list[str]) -> None:
    longest = float(np.nanmax([own["high"].max(), own["ratio"].max()]))
    for i, method in enumerate(methods):
        one = own[own["method"] == method]
        median = one[one["row"] == "median"].iloc[0]
        axis.barh(i, median["ratio"], 0.68, color=style.colour_of(method), linewidth=0, zorder=2)
        error = [[median["ratio"] - median["low"]], [median["high"] - median["ratio"]]]
        axis.errorbar(median["ratio"], i, xerr=error, color=style.INK, capsize=2.5, linewidth=1.0, zorder=3)
        rounds = one.loc[one["row"] == "round", "ratio"]
        dots: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK, "markeredgewidth": 0.6}
        axis.plot(rounds, i + np.linspace(-0.2, 0.2, len(rounds)), "o", markersize=2.6, zorder=4, **dots)
        value = median["absolute"]
        unit = f"{value:.3g} s" if median["measure"] == "time" else f"{value / 2**20:,.0f}"
        end = max(median["high"], rounds.max())
        text = f"{median['ratio']:.2f}× ({unit})"
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axis.text(end + 0.02 * longest, i, text, va="center", ha="left", fontsize=8, zorder=6, bbox=ground)
    axis.axvline(1.0, color=style.INK, linewidth=0.8, linestyle=":", zorder=5)
    axis.set_xlim(0, longest * 1.38)
    axis.grid(axis="y", visible=False)


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots."""
    legend = interactive.legend(data)
    panels = []
    for measure, (title, _, _) in _PANELS.items():
        own = data[data["measure"] == measure]
        unit = ("Seconds per step", 1.0) if measure == "time" else ("MiB", 2.0**20)
        own = own.assign(absolute=own["absolute"] / unit[1])
        ratio = interactive.number("ratio", "Relative to LoRA", ".2~f", zero=True)
        tips = [interactive.METHOD, ratio, *interactive.ends(ratio), interactive.number("absolute", unit[0])]
        at = {"x": interactive.axis(ratio), "y": interactive.axis(interactive.names("label", ""), title=None)}
        ink = {"color": interactive.INK}
        tip = [interactive.METHOD, interactive.number("round", "Round"), ratio]
        layers = [
            interactive.mark("bar", at, "median", tips=tips),
            interactive.mark("rule", interactive.between(at, "x") | ink, "median", tips=tips, look={"strokeWidth": 1.5}),
            interactive.mark("point", at | ink, "round", tips=tip, look=interactive.SMALL),
            interactive.mark("rule", {"x": {"datum": 1}} | ink, look={"strokeDash": [2, 2]}),
        ]
        height = 28 * len(legend) + 50
        panels.append(interactive.panel(title, own, layers, legend=legend, height=height))
    return interactive.plots(panels, legend=legend)
