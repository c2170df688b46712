"""Accuracy, or NLL, against what it costs: training time, peak memory and trainable parameters of every method (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.experiment.runs import metric_of, table_runs
from harness.figures import interactive, style
from harness.figures.inputs import (
    Inputs,
    Score,
    group_by,
    interval_note,
    long_form,
    mean_note,
    model_title,
    provenance_notes,
    score,
    tasks_of,
)
from harness.records.read import RunRecord
from harness.schema.evaluation import Metric
from harness.statistics import stats

#: Column of the data -> label of its axis.
COSTS = {
    "seconds": "Training time (s per seed)",
    "memory_mib": "Peak memory (MiB)",
    "parameters": "Trainable parameters",
}
TABLE = "table1"
#: A log axis where the largest cost is more than this multiple of the smallest.
_LOG_SPAN = 4.0
#: How far apart points at the same cost stand, as a share of the span of the costs: enough to tell their intervals apart.
_APART = 0.02
#: The smallest span of an axis, as a share of its end: smaller differences are not to look large.
_LEAST_SPAN = 0.2
#: Where the interval of a time is cut, as a share of the time.
_LEAST_SHARE = 0.05


def build(inputs: Inputs) -> style.Plot:
    """Three panels per model; a point is a method, averaged over the test sets of Table 1.

    Raises:
        ConfigError: the experiment has no Table 1.
        RecordError: a record is missing, stale or broken.
    """
    if TABLE not in inputs.experiment.tables:
        raise inputs.unplanned("tables", TABLE, expected="domains and methods of figure pareto")
    runs = table_runs(inputs.experiment, TABLE)
    records = inputs.load(runs, target="pareto")
    tasks = list(dict.fromkeys(task for run in runs for task in tasks_of(run)))
    metric = metric_of(runs)
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    for (model, method), group in group_by(runs, lambda run: (run.model_key, run.method.key)).items():
        own = score([records[run.run_id] for run in group], tasks, metric)
        scores.append(own)
        common = {"model": model, "model_title": model_title(group[0].model), "method": method, "label": group[0].method.label}
        costs = _costs([records[run.run_id] for run in group], own)
        rows += [row | (costs if row["row"] == "mean" else {}) for row in own.rows(**common)]
    data = long_form(rows)
    for cost in COSTS:
        data[f"on_frontier_{cost}"] = _frontiers(data, cost, metric)
    figure = _draw(data, metric)
    caption = [
        mean_note(metric, [task for _, task in tasks]),
        "Time sums a seed's trainings, memory is the largest of any run.",
        "Line: no other method is both at least as good and as cheap. "
        "Points at the same cost are moved apart slightly. Runs may have shared a machine: "
        "time_memory compares under equal conditions.",
        interval_note(scores, dots=False),
        *provenance_notes(runs),
    ]
    keys = data.drop_duplicates("method")[["method", "label"]].itertuples(index=False, name=None)
    legend = [style.handle(key, label, line=False) for key, label in keys]
    style.finish(figure, title=f"{style.SCORE_NAMES[metric]} against cost", caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


def _costs(records: Sequence[RunRecord], own: Score) -> dict[str, Any]:
    """Costs of the seeds that are in the mean."""
    done = [record for record in records if record.run.seed in own.by_seed]
    if not done:
        return {}
    seconds = [sum(r.train.wall_time_s for r in done if r.run.seed == seed) for seed in own.by_seed]
    spread = stats.mean_over_seeds(seconds)
    memory = [r.train.peak_memory_bytes for r in done if r.train.peak_memory_bytes is not None]
    return {
        "seconds": spread.mean,
        "seconds_low": spread.low,
        "seconds_high": spread.high,
        "memory_mib": max(memory) / 2**20 if memory else None,
        "parameters": max(r.train.trainable_parameters for r in done),
    }


def frontier(cost: Sequence[float], gain: Sequence[float]) -> list[bool]:
    """Which points no other one beats: as cheap and as good, and better in one of the two. Of ``gain`` more is better."""
    points = list(zip(cost, gain, strict=True))
    return [not any(c <= x and a >= y and (c < x or a > y) for c, a in points) for x, y in points]


def _frontiers(data: pd.DataFrame, cost: str, metric: Metric) -> pd.Series:
    on_frontier = pd.Series(pd.NA, index=data.index, dtype="boolean")
    if cost not in data:
        return on_frontier
    for _, own in data[(data["row"] == "mean") & data[cost].notna()].groupby("model", sort=False):
        gain = own[metric] if metric == "accuracy" else -own[metric]
        on_frontier[own.index] = frontier(own[cost].tolist(), gain.tolist())
    return on_frontier


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame, metric: Metric) -> Figure:
    models = list(data.groupby("model", sort=False))
    figure = style.new_figure(width=11.5, height=3.3 * len(models) + 1.1)
    axes = figure.subplots(len(models), len(COSTS), squeeze=False, sharey="row")
    for row, (_, own) in zip(axes, models, strict=True):
        for axis, cost in zip(row, COSTS, strict=True):
            _draw_panel(axis, own, cost, metric)
        lost = own[own["row"] == "diverged"].groupby("label", sort=False).size()
        text = "; ".join(f"{label}: {n} diverged" for label, n in lost.items())
        row[0].set_title(own["model_title"].iloc[0], loc="left", fontweight="bold")
        row[0].set_ylabel(style.SCORE_LABELS[metric])
        if text:
            row[-1].set_title(text, loc="right", fontsize=8)
    return figure


def _draw_panel(axis: Axes, own: pd.DataFrame, cost: str, metric: Metric) -> None:
    means = own[own["row"] == "mean"]
    means = means[means[cost].notna()] if cost in means else means.iloc[:0]
    axis.set_xlabel(COSTS[cost])
    if metric == "accuracy":
        style.percent_axis(axis)
    if means.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        return
    logarithmic = means[cost].max() > _LOG_SPAN * means[cost].min() > 0
    means = means.assign(**_places(means, cost, metric, logarithmic=logarithmic))
    best = means[means[f"on_frontier_{cost}"].astype(bool)].sort_values(["x", metric])
    axis.plot(best["x"], best[metric], color=style.FAINT, linewidth=4, solid_capstyle="round", zorder=1)
    for point in means.to_dict("records"):
        colour, x, y = style.colour_of(point["method"]), point["x"], point[metric]
        vertical = [[y - point["low"]], [point["high"] - y]]
        horizontal = [[x - point["x_low"]], [point["x_high"] - x]] if pd.notna(point["x_low"]) else None
        axis.errorbar(x, y, vertical, horizontal, color=colour, elinewidth=0.8, capsize=1.5, alpha=0.75, zorder=2)
        look: dict[str, Any] = {
            "marker": style.marker_of(point["method"]),
            "markersize": style.marker_size(point["method"]) + 1,
        }
        axis.plot(x, y, color=colour, markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3, **look)
    _cost_axis(axis, means["x"], cost, logarithmic=logarithmic)


def _places(means: pd.DataFrame, cost: str, metric: Metric, *, logarithmic: bool) -> dict[str, pd.Series]:
    """Where points and the ends of their intervals stand, so that points at almost the same cost do not hide each other."""

    def scale(values: pd.Series) -> pd.Series:
        return np.log10(values.astype(float)) if logarithmic else values.astype(float)

    def unscale(values: pd.Series) -> pd.Series:
        return 10**values if logarithmic else values

    order = means.sort_values([cost, metric], ascending=False).index
    at = scale(means[cost]).loc[order]
    least = np.log10(1 + _LEAST_SPAN) if logarithmic else _LEAST_SPAN * at.max()
    span = max(at.max() - at.min(), least)
    moved = pd.Series(style.spread(at.tolist(), _APART * span), index=order)
    places = {"x": unscale(moved)}
    for end in ("low", "high"):
        own = means[f"{cost}_{end}"] if f"{cost}_{end}" in means else pd.Series(np.nan, index=means.index)
        smallest = means[cost] * _LEAST_SHARE  # an interval of time may reach below zero, which a log axis has not
        places[f"x_{end}"] = unscale(scale(own.astype(float).clip(lower=smallest)) + moved - at)
    return places


def _cost_axis(axis: Axes, x: pd.Series, cost: str, *, logarithmic: bool) -> None:
    """Ticks in plain words."""
    if logarithmic:
        axis.set_xscale("log")
        several = np.log10(x.max() / x.min()) > 2.5
        axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if several else (1.0, 2.0, 5.0)))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
    shown = _count if cost == "parameters" else "{:.4g}".format
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    low, high = axis.get_xlim()
    if high - low < _LEAST_SPAN * high:
        middle = (low + high) / 2
        axis.set_xlim(middle * (1 - _LEAST_SPAN / 2), middle * (1 + _LEAST_SPAN / 2))


def _count(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots."""
    metric, legend = interactive.metric_of(data), interactive.legend(data)
    models = data[data["row"] == "mean"].groupby("model", sort=False)
    panels = [
        _plot(own, cost, metric, legend) for _, own in models for cost in COSTS if cost in own and own[cost].notna().any()
    ]
    return interactive.plots(panels, legend=legend)


def _plot(own: pd.DataFrame, cost: str, metric: Metric, legend: Sequence[tuple[str, str]]) -> interactive.Json:
    logarithmic = own[cost].max() > _LOG_SPAN * own[cost].min() > 0
    shown = ".4~s" if cost == "parameters" else ".4~g"
    scale = {"type": "log"} if logarithmic else {"zero": False}
    x = interactive.number(cost, COSTS[cost], shown, **scale)
    y = interactive.score(metric)
    at = {"x": interactive.axis(x, tickCount=5), "y": interactive.axis(y)}
    tips = [interactive.METHOD, y, *interactive.ends(y), x]
    frontier = interactive.mark("line", at | {"color": interactive.FAINT}, look={"strokeWidth": 4, "opacity": 0.5})
    frontier["transform"] = [{"filter": f"datum.on_frontier_{cost}"}]
    layers = [frontier, interactive.mark("rule", interactive.between(at), tips=tips)]
    low, high = f"{cost}_low", f"{cost}_high"
    if low in own and own[low].notna().any():
        own = own.assign(**{low: own[low].clip(lower=own[cost] * _LEAST_SHARE)})
        layers.append(interactive.mark("rule", interactive.between(at, "x", low, high), tips=tips))
    layers.append(interactive.mark("point", at, tips=tips, look=interactive.DOT))
    title = f"{own['model_title'].iloc[0]}: {COSTS[cost].partition(' (')[0].lower()}"
    return interactive.panel(title, own, layers, legend=legend)
