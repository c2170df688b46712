"""Accuracy, or NLL, after pruning the least important ranks of every module, BeamLoRA against LoRA (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.experiment.runs import pruning_metric, pruning_runs
from harness.figures import interactive, style
from harness.figures.inputs import Inputs, Score, interval_note, long_form, mean_note, model_title, provenance_notes
from harness.figures.sweeps import draw_seeds
from harness.records import pruning
from harness.records.pruning import PruningCurve
from harness.records.read import RunRecord
from harness.schema.evaluation import Metric
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.variance import seed_means


def pruned_scores(curves: Mapping[int, Mapping[str, PruningCurve]], metric: Metric) -> dict[float, Score]:
    """Share of pruned ranks -> mean over tasks, seeds and examples.

    Args:
        curves: seed -> task -> curve of the metric, of one method, all on the same examples.
    """
    if not curves:
        return {}
    first = next(iter(curves.values()))
    scores = {}
    for i, fraction in enumerate(next(iter(first.values())).fractions.tolist()):
        matrices = [np.stack([own[task].scores[i] for own in curves.values()]) for task in first]
        scores[fraction] = Score(
            metric=metric,
            estimate=stats.mean_score(matrices, rng=np.random.default_rng(0), binary=metric == "accuracy"),
            by_seed=dict(zip(curves, map(float, seed_means(matrices)), strict=True)),
            diverged=(),
        )
    return scores


def load_pruned(inputs: Inputs, *, figure: str) -> tuple[list[RunSpec], dict[str, RunRecord]]:
    """The runs that are pruned, and their records by run id.

    Raises:
        ConfigError: the experiment does not plan a pruning evaluation.
    """
    runs = pruning_runs(inputs.experiment)
    if not runs:
        raise inputs.unplanned("pruning", expected=f"domain, model and methods of figure {figure}")
    return runs, inputs.load(runs, target=figure)


def build(inputs: Inputs) -> style.Plot:
    """Scores over the share of pruned ranks, a solid line per method and its trend, dashed."""
    runs, records = load_pruned(inputs, figure="pruning_curve")
    metric = pruning_metric(inputs.experiment)
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    done = [run for run in runs if not records[run.run_id].diverged]
    every = pruning.load(inputs.experiment, done, results=inputs.results, command=inputs.command)
    tasks: dict[str, None] = {}
    for key in dict.fromkeys(run.method.key for run in runs):
        own = [records[run.run_id] for run in runs if run.method.key == key]
        curves = {record.run.seed: every[record.run.run_id] for record in own if not record.diverged}
        common = {"method": key, "label": own[0].run.method.label}
        for fraction, one in pruned_scores(curves, metric).items():
            scores.append(one)
            rows += one.rows(**common, pruned=fraction)
        rows += [{**common, "row": "diverged", "seed": record.run.seed} for record in own if record.diverged]
        tasks |= {task: None for by_task in curves.values() for task in by_task}
    data = long_form(rows)
    data["trend"] = _trends(data, metric)
    figure = style.new_figure(width=6.2, height=4.6)
    legend = _draw(figure.subplots(), data, metric)
    title = f"Pruning ranks, least important first: {model_title(runs[0].model)}, {runs[0].domain}"
    caption = [
        mean_note(metric, tasks),
        "Every module loses its own least important ranks first.",
        "Dashed: trend, the least-squares line.",
        interval_note(scores),
        *provenance_notes(runs),
    ]
    style.finish(figure, title=title, caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


def _trends(data: pd.DataFrame, metric: Metric) -> pd.Series:
    """The least-squares line through each method's curve, at its mean rows; missing elsewhere."""
    trend = pd.Series(np.nan, index=data.index)
    for _, own in data[data["row"] == "mean"].groupby("method", sort=False):
        slope, start = np.polyfit(own["pruned"].astype(float), own[metric].astype(float), 1)
        trend[own.index] = start + slope * own["pruned"]
    return trend


def _draw(axis: Axes, data: pd.DataFrame, metric: Metric) -> list[Artist]:
    """Draw the curves; returns the entries of the legend."""
    legend: list[Artist] = []
    keys = list(data.drop_duplicates("method")[["method", "label"]].itertuples(index=False, name=None))
    for i, (key, label) in enumerate(keys):
        own = data[data["method"] == key]
        means = own[own["row"] == "mean"].sort_values("pruned")
        shift = (i - (len(keys) - 1) / 2) * 0.012
        colour = style.colour_of(key)
        lost = own[own["row"] == "diverged"]
        if len(lost):
            total = len(lost) + own.loc[own["row"] == "seed", "seed"].nunique()
            label = f"{label} ({len(lost)} of {total} diverged)"
        legend.append(style.handle(key, label))
        error = [means[metric] - means["low"], means["high"] - means[metric]]
        axis.errorbar(
            means["pruned"] + shift, means[metric], error, capsize=2.5, elinewidth=0.9, zorder=3, **style.look_of(key)
        )
        axis.plot(means["pruned"], means["trend"], linestyle="--", color=colour, linewidth=1.1, alpha=0.8)
        for fraction, point in own[own["row"] == "seed"].groupby("pruned"):
            draw_seeds(axis, point, fraction + shift, metric, key=key)
    if metric == "accuracy":
        axis.set_ylim(bottom=min(0.0, float(data["trend"].min())))
    axis.set_xlabel("Pruned ranks (%), from least to most important")
    style.score_axis(axis, metric)
    axis.set_xticks(sorted(data["pruned"].dropna().unique()))
    style.percent_axis(axis, which="x")
    return [*legend, Line2D([], [], color="#555555", linestyle="--", linewidth=1.1, label="trend")]


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as a plot."""
    metric, legend = interactive.metric_of(data), interactive.legend(data)
    pruned = interactive.steps("pruned", "Pruned ranks, from least to most important", "~%")
    trend = {"x": interactive.axis(pruned), "y": {**interactive.axis(interactive.score(metric)), "field": "trend"}}
    layers = interactive.scores(pruned, metric)
    layers.append(interactive.mark("line", trend, "mean", look=interactive.DASHED))
    shown = data[data["pruned"].notna()]
    return interactive.plots([interactive.panel("Dashed: trend", shown, layers, legend=legend, height=340)], legend=legend)
