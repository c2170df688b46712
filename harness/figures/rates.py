"""Accuracy of each method over learning rates, and what the ranking owes to the choice of one rate for all (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.figures import style
from harness.figures.inputs import (
    Inputs,
    Score,
    interval_note,
    long_form,
    model_title,
    provenance_notes,
    score,
    task_label,
    tasks_of,
)
from harness.figures.sweeps import by_point, mark_diverged, setting_label
from harness.tables import rates
from harness.tables.rates import SWEEP
from harness.tables.rates_table import experiment_label


def build(inputs: Inputs) -> style.Plot:
    """Per domain and model: accuracy over the rates, and the ranking at one shared rate beside that at each method's best.

    The best rates are chosen on validation tasks only; every accuracy shown is of test tasks.

    Raises:
        ConfigError: the experiment does not plan this sweep, or has no validation task.
        RecordError: a record is missing, stale or broken.
    """
    if SWEEP not in inputs.experiment.sweeps:
        raise inputs.unplanned("sweeps", SWEEP, expected="setting, points, domains, models and methods of this figure")
    tuning = rates.load_tuning(inputs.experiment, results=inputs.results, command=inputs.command, allow_missing=False)
    records = {record.run.run_id: record for record in tuning.loaded.records}
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    for (domain, model, method, value), group in by_point(tuning.points).items():
        own = score([records[p.run.run_id] for p in group], tasks_of(group[0].run))
        scores.append(own)
        best = tuning.choices[domain, model, method].best
        common = {
            "domain": domain,
            "model": model,
            "model_title": model_title(group[0].run.model),
            "method": method,
            "label": experiment_label(tuning, (domain, model, method)),
            SWEEP: value,
            "is_shared": group[0].run.method.key == method,
            "is_best": best is not None and value == best.rate,
        }
        rows += own.rows(**common)
    data = long_form(rows)
    runs = [point.run for point in tuning.points]
    tasks = dict.fromkeys(task_label(task) for run in runs for _, task in tasks_of(run))
    caption = [
        f"Accuracy is the mean of {' and '.join(tasks)}; ringed: the rate with the best accuracy on separate validation tasks.",
        "Shared: the rate that the experiment sets for a method (dotted); methods whose rate is not in the grid have no point.",
        interval_note(scores, dots=False),
        *provenance_notes(runs),
    ]
    keys = data.drop_duplicates("method")[["method", "label"]].itertuples(index=False, name=None)
    legend = [style.handle(key, label) for key, label in keys]
    figure = _draw(data)
    style.finish(figure, title="Accuracy over learning rates", caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame) -> Figure:
    panels = list(data.groupby(["domain", "model"], sort=False))
    figure = style.new_figure(width=9.6, height=4.0 * len(panels) + 0.9)
    axes = figure.subplots(len(panels), 2, squeeze=False, sharey="row", width_ratios=[1.7, 1.0])
    for (left, right), ((domain, _), own) in zip(axes, panels, strict=True):
        where = f"{own['model_title'].iloc[0]}, {domain}"
        _draw_rates(left, own)
        left.set_title(f"Accuracy over rates: {where}")
        _draw_ranking(right, own)
        right.set_title("Shared rate against each one's best")
    return figure


def _draw_rates(axis: Axes, own: pd.DataFrame) -> None:
    rates = sorted(own["learning_rate"].unique())
    keys = list(dict.fromkeys(own["method"]))
    axis.set_xscale("log")
    ratio = min((b / a for a, b in zip(rates, rates[1:], strict=False)), default=2.0)
    for i, key in enumerate(keys):
        # Methods stand beside each other at a rate, within a third of the step to the next.
        shift = ratio ** ((i - (len(keys) - 1) / 2) / max(len(keys), 2) * 0.36)
        one = own[own["method"] == key].sort_values("learning_rate")
        means = one[one["row"] == "mean"]
        error = [means["accuracy"] - means["low"], means["high"] - means["accuracy"]]
        look: dict[str, Any] = {
            "color": style.colour_of(key),
            "marker": style.marker_of(key),
            "markersize": style.marker_size(key),
        }
        axis.errorbar(means["learning_rate"] * shift, means["accuracy"], error, elinewidth=0.9, capsize=2, **look)
        best = means[means["is_best"]]
        axis.plot(best["learning_rate"] * shift, best["accuracy"], "o", markersize=14, color=style.INK, fillstyle="none", mew=1)
        for rate, point in one.groupby("learning_rate"):
            mark_diverged(axis, point, rate * shift, key=key)
    for rate in own.loc[own["is_shared"], "learning_rate"].unique():
        axis.axvline(rate, color=style.FAINT, linestyle=":", zorder=0)
    axis.xaxis.set_major_locator(FixedLocator(rates))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(rates, [_rate(rate) for rate in rates])
    axis.set_xlabel(setting_label(SWEEP))
    axis.set_ylabel("Accuracy (%)")
    axis.grid(axis="x", visible=False)
    style.percent_axis(axis)


def _rate(value: float) -> str:
    """5e-4 rather than 5e-04."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _draw_ranking(axis: Axes, own: pd.DataFrame) -> None:
    means = own[own["row"] == "mean"]
    sides = [means[means["is_shared"]].set_index("method"), means[means["is_best"]].set_index("method")]
    for key in dict.fromkeys(own["method"]):
        x = [i for i, side in enumerate(sides) if key in side.index]
        y = [sides[i].loc[key, "accuracy"] for i in x]
        look: dict[str, Any] = {
            "color": style.colour_of(key),
            "marker": style.marker_of(key),
            "markersize": style.marker_size(key),
        }
        axis.plot(x, y, **look)
    axis.set_xlim(-0.75, 1.75)
    axis.set_xticks([0, 1], ["shared rate", "best-tuned"])
    axis.grid(axis="x", visible=False)
    for i, (side, align, at) in enumerate(zip(sides, ("right", "left"), (-0.08, 1.08), strict=True)):
        if not side.empty:
            ordered = side["accuracy"].sort_values(ascending=False)
            ranks = ordered.rank(ascending=False, method="min").astype(int)
            _write_beside(axis, at, align, [(ordered[k], f"{ranks[k]}. {side.loc[k, 'label']}", k) for k in ordered.index], i)


def _write_beside(axis: Axes, x: float, align: str, entries: Sequence[tuple[float, str, str]], side: int) -> None:
    """Labels beside the points, moved apart where they would overlap, highest first."""
    low, high = axis.get_ylim()
    gap = (high - low) * 0.06
    at = (1.0, 0.5) if align == "right" else (0.0, 0.5)
    placed = style.spread([value for value, _, _ in entries], gap)
    axis.set_ylim(min(low, placed[-1] - gap), max(high, placed[0] + gap))
    for (value, text, key), y in zip(entries, placed, strict=True):
        axis.annotate(
            text,
            (float(side), value),
            (x + (-0.06 if align == "right" else 0.06), y),
            ha=align,
            va="center",
            fontsize=8,
            color=style.colour_of(key),
            arrowprops={"arrowstyle": "-", "color": style.FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4, "relpos": at},
        )
