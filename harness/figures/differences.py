"""What the tables decide or describe, seed by seed: the difference of each row to the one that it is compared with, the mean,
its interval and the margin (ours)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.figures import catalogue, interactive, style
from harness.figures.inputs import Inputs, long_form, model_title, provenance_notes
from harness.records.read import load_records
from harness.schema.evaluation import Metric
from harness.tables.build import build_table
from harness.tables.cells import Decision

#: Metric -> label of its axis. Of NLL, less is better.
_AXES: dict[Metric, str] = {
    "accuracy": "Difference in accuracy (percentage points; right is better)",
    "gold_nll": "Difference in NLL (nats per token; left is better)",
}
#: How far an interval is drawn, as a multiple of the farthest of seeds, means and margin: with two seeds it may be dozens wide.
_REACH = 2.0
_ROW_INCHES = 0.27
_COLUMNS = (
    "table", "metric", "panel", "method", "label", "row", "seed", "difference", "low", "high", "margin", "word", "n_seeds",
    "n_examples", "n_diverged",
)  # fmt: skip


def build(inputs: Inputs) -> style.Plot:
    """A panel for each table, model and set that it decides by; a line is a row.

    Raises:
        ConfigError: no table compares methods on a test set.
        RecordError: a record is missing, stale or broken.
    """
    by_table = catalogue.compared_tables(inputs.experiment)
    if not by_table:
        raise inputs.unplanned("tables", expected="a table of several methods with test sets")
    rows: list[dict[str, Any]] = []
    seeds: set[int] = set()
    for name, runs in by_table.items():
        loaded = load_records(runs, results=inputs.results, command=inputs.command, target="differences")
        for decision in build_table(inputs.experiment, name, runs, loaded).decisions():
            own = _rows(decision)
            margin = getattr(inputs.experiment.comparisons.margin, decision.metric)
            rows += [{"table": name, "margin": margin} | row for row in own]
            seeds |= {row["seed"] for row in own if row["row"] == "seed"}
    shown = [run for runs in by_table.values() for run in runs]
    data = long_form(rows, columns=_COLUMNS)
    figure = _draw(data)
    caption = [
        "Small dots: the difference of one seed; large: their mean; lines: 95 % intervals over seeds and examples, with an "
        "arrow where they go on.",
        "Shaded: the smallest difference of interest." if data["margin"].notna().any() else "",
        "A word stands where the experiment decides, after Holm's correction within its family.",
        f"Seeds {', '.join(map(str, sorted(seeds)))}." if seeds else "Every run diverged.",
        "Diverged runs are in no mean." if (data["n_diverged"] > 0).any() else "",
        *provenance_notes(shown),
    ]
    style.finish(figure, title="Differences between methods", caption=list(filter(None, caption)))
    return style.Plot(figure=figure, data=data)


def _rows(decision: Decision) -> list[dict[str, Any]]:
    """Of one comparison: its mean, then the seeds that both finished; ``lost`` where there is none."""
    section, row, comparison = decision.section, decision.row, decision.comparison
    common: dict[str, Any] = {
        "metric": decision.metric,
        "panel": f"{model_title(section.model)}, {decision.column.label}, against {decision.other}",
        "method": row.method_key,
        "label": row.label,
    }
    key = (decision.metric, decision.column.key)
    other = decision.other_row
    assert other is not None  # a table decides nothing without one
    common["n_diverged"] = row.cells[key].n_diverged + other.cells[key].n_diverged
    if comparison is None:
        return [{**common, "row": "lost"}]
    d = comparison.difference
    mean = {
        "row": "mean",
        "difference": d.mean,
        "low": d.low,
        "high": d.high,
        "word": comparison.word,
        "n_seeds": d.n_seeds,
        "n_examples": d.n_examples,
    }
    shared = [seed for seed in row.cells[key].seeds if seed in other.cells[key].seeds]
    seeds = zip(shared, d.by_seed, strict=True)
    return [common | mean, *({**common, "row": "seed", "seed": seed, "difference": value} for seed, value in seeds)]


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame) -> Figure:
    panels = list(data.groupby(["table", "metric", "panel"], sort=False))
    lines = [own["method"].nunique() for _, own in panels]
    figure = style.new_figure(width=7.6, height=sum(_ROW_INCHES * n + 0.62 for n in lines) + 1.1)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 0.8 for n in lines])[:, 0]
    reaches = {where: _reach(own) for where, own in data.groupby(["table", "metric"])}
    below = [metric for (_, metric, _), _ in panels[1:]] + [""]
    for axis, ((table, metric, title), own), after in zip(axes, panels, below, strict=True):
        _draw_panel(axis, own, reaches[table, metric])
        axis.set_title(f"{table}: {title}", loc="left")
        if metric == "accuracy":
            style.percent_axis(axis, which="x")
        if metric != after:
            axis.set_xlabel(_AXES[metric])
    return figure


def _reach(own: pd.DataFrame) -> float:
    """How far from zero the panels of a table go."""
    farthest, ends = (float(own[names].abs().max().max()) for names in (["difference", "margin"], ["low", "high"]))
    return float(np.nanmax([1e-9, farthest, min(_REACH * farthest, ends)]))


def _draw_panel(axis: Axes, own: pd.DataFrame, reach: float) -> None:
    axis.set_xlim(-1.08 * reach, 1.08 * reach)
    axis.axvline(0, color=style.FAINT, linewidth=1, zorder=1)
    keys = list(dict.fromkeys(own["method"]))
    axis.set_yticks(range(len(keys)), [own.loc[own["method"] == key, "label"].iloc[0] for key in keys])
    axis.set_ylim(len(keys) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    margin = own["margin"].iloc[0]
    if pd.notna(margin):
        axis.axvspan(-margin, margin, color=style.FAINT, alpha=0.25, linewidth=0, zorder=0)
    for row in own.to_dict("records"):
        y, colour = keys.index(row["method"]), style.colour_of(row["method"])
        if row["row"] == "seed":
            axis.plot(row["difference"], y, "o", color=colour, markersize=3, alpha=0.55, zorder=3)
            continue
        if row["row"] == "mean":
            _draw_mean(axis, row, y, reach)
        words = ["" if pd.isna(row["word"]) else row["word"], f"{row['n_diverged']} diverged" if row["n_diverged"] else ""]
        beside: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
        axis.text(1.01, y, "; ".join(filter(None, words)), color=style.INK, **beside)


def _draw_mean(axis: Axes, row: dict[str, Any], y: int, reach: float) -> None:
    colour, low, high = style.colour_of(row["method"]), max(row["low"], -reach), min(row["high"], reach)
    axis.plot([low, high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=2)
    for end, cut, arrow in ((low, row["low"] < low, "<"), (high, row["high"] > high, ">")):
        if cut:
            axis.plot(end, y, arrow, color=colour, markersize=5, zorder=2)
    axis.plot(row["difference"], y, markeredgecolor="white", markeredgewidth=0.6, zorder=4, **style.look_of(row["method"]))


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots."""
    legend = interactive.legend(data)
    panels = []
    for (table, metric, title), own in data.groupby(["table", "metric", "panel"], sort=False):
        if (own["row"] == "mean").any():
            height = 28 * own["method"].nunique() + 56  # with the axis
            layers = _layers(metric, own["margin"].dropna().max())
            panels.append(interactive.panel(f"{table}: {title}", own, layers, legend=legend, height=height))
    return interactive.plots(panels, legend=legend, columns=1)


def _layers(metric: Metric, margin: float) -> list[interactive.Json]:
    shown = {"accuracy": ("Difference in accuracy (right is better)", ".1~%"), "gold_nll": (_AXES["gold_nll"], ".4~f")}
    x = interactive.number("difference", *shown[metric], zero=True)
    at = {"x": interactive.axis(x), "y": interactive.axis(interactive.names("label", "Method"), title=None)}
    tips = [interactive.METHOD, x, *interactive.ends(x), *interactive.COUNTS]
    seed = [interactive.METHOD, interactive.names("seed", "Seed"), x]
    band = {**at, "x": {"datum": -margin}, "x2": {"datum": margin}, "color": interactive.FAINT}
    return [
        *([interactive.mark("rect", band, "mean", look={"opacity": 0.25})] if pd.notna(margin) else []),
        interactive.mark("rule", {"x": {"datum": 0}, "color": interactive.FAINT}),
        interactive.mark("rule", interactive.between(at, "x"), "mean", tips=tips, look={"strokeWidth": 1.5}),
        interactive.mark("point", at, "mean", tips=tips, look=interactive.DOT),
        interactive.mark("point", at, "seed", tips=seed, look=interactive.SMALL),
    ]
