"""Scores of each method over learning rates, how far they are from LoRA's at the same rate, and what the ranking owes to the
choice of one rate for all (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.experiment.resolve import label_of
from harness.experiment.runs import metric_of
from harness.figures import interactive, style
from harness.figures.inputs import (
    Inputs,
    Score,
    interval_note,
    long_form,
    mean_note,
    model_title,
    provenance_notes,
    score,
    tasks_of,
)
from harness.figures.sweeps import by_point, mark_diverged, setting_label
from harness.schema.evaluation import Metric, Split
from harness.tables import rates
from harness.tables.rates import SWEEP

#: Metric -> label of the axis of differences to LoRA.
_DIFFERENCE: dict[Metric, str] = {
    "accuracy": "Method - LoRA (percentage points; more is better)",
    "gold_nll": "Method - LoRA (nats per token; less is better)",
}


def build(inputs: Inputs) -> style.Plot:
    """Per domain and model: scores over the rates, paired differences to LoRA at the same rate, and the ranking at one shared
    rate beside that at each method's best.

    The best rates are chosen on validation tasks only; every score shown is of test tasks. Where a domain of the sweep has no
    test task, the scores are of the validation tasks, and rank nothing.

    Raises:
        ConfigError: the experiment does not plan this sweep, or has no validation task.
        RecordError: a record is missing, stale or broken.
    """
    if SWEEP not in inputs.experiment.sweeps:
        raise inputs.unplanned("sweeps", SWEEP, expected="setting, points, domains, models and methods of this figure")
    tuning = rates.load_tuning(inputs.experiment, results=inputs.results, command=inputs.command, allow_missing=False)
    records = {record.run.run_id: record for record in tuning.loaded.records}
    runs = [point.run for point in tuning.points]
    split: Split = "test" if all(run.evaluation.on("test") for run in runs) else "validation"
    metric = metric_of(runs, split)
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    to_lora = rates.differences(tuning, split, metric)
    for (domain, model, method, value), group in by_point(tuning.points).items():
        own = score([records[p.run.run_id] for p in group], tasks_of(group[0].run, split), metric)
        scores.append(own)
        best = tuning.choices[domain, model, method].best
        common = {
            "domain": domain,
            "model": model,
            "model_title": model_title(group[0].run.model),
            "split": split,
            "method": method,
            "label": label_of(inputs.experiment, method),
            SWEEP: value,
            # Where no test is made, no run is planned at a shared rate.
            "is_shared": split == "test" and group[0].run.method.key == method,
            "is_best": best is not None and value == best.rate,
        }
        rows += own.rows(**common)
        if (apart := to_lora.get(((domain, model, method), value))) is not None:
            ends = {"low": apart.low, "high": apart.high, "n_seeds": apart.n_seeds, "n_examples": apart.n_examples}
            rows.append({**common, "row": "difference", "difference": apart.mean, **ends})
    data = long_form(rows)
    tasks = [task for run in runs for _, task in tasks_of(run, split)]
    chosen = "chosen on separate validation tasks" if split == "test" else "chosen by this; no test set is read"
    shared = (
        "Shared: the rate that the experiment sets for a method (dotted); methods whose rate is not in the grid have no point."
    )
    caption = [
        f"{mean_note(metric, tasks)} Ringed: the rate {chosen}.",
        *([shared] if split == "test" else []),
        interval_note(scores, split=split, dots=False),
        "Differences are paired by seed and example." if (data["row"] == "difference").any() else "",
        *provenance_notes(runs),
    ]
    keys = data.drop_duplicates("method")[["method", "label"]].itertuples(index=False, name=None)
    legend = [style.handle(key, label) for key, label in keys]
    figure = _draw(data, metric, split)
    caption = list(filter(None, caption))
    style.finish(figure, title=f"{style.SCORE_NAMES[metric]} over learning rates", caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame, metric: Metric, split: Split) -> Figure:
    """``split``: that of the tasks; validation tasks rank no methods."""
    groups = list(data.groupby(["domain", "model"], sort=False))
    panels = {"rates": 1.7}
    if (data["row"] == "difference").any():
        panels["differences"] = 1.4
    if split == "test":
        panels["ranking"] = 1.0
    figure = style.new_figure(width=1.1 + 3.1 * sum(panels.values()), height=4.0 * len(groups) + 0.9)
    grid = figure.subplots(len(groups), len(panels), squeeze=False, width_ratios=list(panels.values()))
    for row, ((domain, _), own) in zip(grid, groups, strict=True):
        axes = dict(zip(panels, row, strict=True))
        where = f"{own['model_title'].iloc[0]}, {domain}"
        _draw_rates(axes["rates"], own, metric)
        axes["rates"].set_title(f"{style.SCORE_NAMES[metric]} over rates: {where}")
        if "differences" in axes:
            _draw_differences(axes["differences"], own, metric)
            axes["differences"].set_title("Difference from LoRA at the same rate")
        if "ranking" in axes:
            axes["ranking"].sharey(axes["rates"])
            axes["ranking"].tick_params(labelleft=False)
            _draw_ranking(axes["ranking"], own, metric)
            axes["ranking"].set_title("Shared rate against each one's best")
    return figure


def _draw_rates(axis: Axes, own: pd.DataFrame, metric: Metric) -> None:
    own = own[own["row"] != "difference"]
    for key, (one, shift) in _side_by_side(own).items():
        means = one[one["row"] == "mean"]
        _points(axis, key, means["learning_rate"] * shift, means[metric], means)
        best = means[means["is_best"]]
        axis.plot(best["learning_rate"] * shift, best[metric], "o", markersize=14, color=style.INK, fillstyle="none", mew=1)
        for rate, point in one.groupby("learning_rate"):
            mark_diverged(axis, point, rate * shift, key=key)
    for rate in own.loc[own["is_shared"], "learning_rate"].unique():
        axis.axvline(rate, color=style.FAINT, linestyle=":", zorder=0)
    _rate_axis(axis, own)
    style.score_axis(axis, metric)


def _draw_differences(axis: Axes, own: pd.DataFrame, metric: Metric) -> None:
    for key, (one, shift) in _side_by_side(own[own["row"] == "difference"]).items():
        _points(axis, key, one["learning_rate"] * shift, one["difference"], one)
    axis.axhline(0, color=style.FAINT, linewidth=1, zorder=0)
    _rate_axis(axis, own)
    axis.set_ylabel(_DIFFERENCE[metric])
    if metric == "accuracy":
        style.percent_axis(axis)


def _side_by_side(own: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, float]]:
    """Method -> its rows by rate, and the factor of its rates that puts it beside the others, within a third of the step to the
    next."""
    rates, keys = sorted(own["learning_rate"].unique()), list(dict.fromkeys(own["method"]))
    ratio = min((b / a for a, b in zip(rates, rates[1:], strict=False)), default=2.0)
    return {
        key: (
            own[own["method"] == key].sort_values("learning_rate"),
            ratio ** ((i - (len(keys) - 1) / 2) / max(len(keys), 2) * 0.36),
        )
        for i, key in enumerate(keys)
    }


def _points(axis: Axes, key: str, x: pd.Series, y: pd.Series, rows: pd.DataFrame) -> None:
    """The points of a method, with the intervals of their rows."""
    axis.errorbar(x, y, [y - rows["low"], rows["high"] - y], elinewidth=0.9, capsize=2, **style.look_of(key))


def _rate_axis(axis: Axes, own: pd.DataFrame) -> None:
    rates = sorted(own["learning_rate"].unique())
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(rates))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(rates, [_rate(rate) for rate in rates])
    axis.set_xlabel(setting_label(SWEEP))
    axis.grid(axis="x", visible=False)


def _rate(value: float) -> str:
    """5e-4 rather than 5e-04."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _draw_ranking(axis: Axes, own: pd.DataFrame, metric: Metric) -> None:
    means = own[own["row"] == "mean"]
    sides = [means[means["is_shared"]].set_index("method"), means[means["is_best"]].set_index("method")]
    for key in dict.fromkeys(own["method"]):
        x = [i for i, side in enumerate(sides) if key in side.index]
        y = [sides[i].loc[key, metric] for i in x]
        axis.plot(x, y, **style.look_of(key))
    axis.set_xlim(-0.75, 1.75)
    axis.set_xticks([0, 1], ["shared rate", "best-tuned"])
    axis.grid(axis="x", visible=False)
    for i, (side, align, at) in enumerate(zip(sides, ("right", "left"), (-0.08, 1.08), strict=True)):
        if not side.empty:
            ordered = side[metric].sort_values(ascending=False)
            ranks = ordered.rank(ascending=metric == "gold_nll", method="min").astype(int)
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


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots."""
    metric, legend = interactive.metric_of(data), interactive.legend(data)
    x, y = interactive.steps(SWEEP, setting_label(SWEEP)), interactive.score(metric)
    layers = interactive.scores(x, metric, seeds=False)
    place = {channel: layers[0]["encoding"][channel] for channel in ("x", "y", "xOffset")}
    ring = interactive.mark("point", place | {"color": interactive.INK}, "mean", look={"size": 300})
    shared = interactive.mark("rule", {"x": place["x"], "color": interactive.FAINT}, "mean", look={"strokeDash": [2, 4]})
    shared["transform"].append({"filter": "datum.is_shared"})
    ring["transform"].append({"filter": "datum.is_best"})
    side = interactive.names("side", "Rate")
    at = {"x": interactive.axis(side, labelAngle=0, title=None), "y": interactive.axis(y)}
    tips = [interactive.METHOD, side, x, y]
    slopes = [
        interactive.mark("line", at),
        interactive.mark("point", at, tips=tips, look=interactive.DOT),
    ]
    gap = interactive.number("difference", _DIFFERENCE[metric], {"accuracy": ".1~%", "gold_nll": ".4~f"}[metric], zero=True)
    apart = {**place, "y": interactive.axis(gap)}
    paired = [interactive.METHOD, x, gap, *interactive.ends(gap), *interactive.COUNTS]
    differences = [
        interactive.mark("rule", {"y": {"datum": 0}, "color": interactive.FAINT}),
        interactive.mark("rule", interactive.between(apart), "difference", tips=paired, look={"strokeWidth": 1.5}),
        interactive.mark("point", apart, "difference", tips=paired, look=interactive.DOT),
    ]
    panels = []
    for (domain, _), own in data.groupby(["domain", "model"], sort=False):
        title = f"{own['model_title'].iloc[0]}, {domain}"
        panels.append(
            interactive.panel(
                f"{title} (ringed: the chosen rate; dotted: the shared one)", own, [shared, *layers, ring], legend=legend
            )
        )
        if (own["row"] == "difference").any():
            panels.append(interactive.panel("Difference from LoRA at the same rate", own, differences, legend=legend))
        if own["split"].iloc[0] != "test":
            continue
        means = own[own["row"] == "mean"]
        sides = {"shared rate": means[means["is_shared"]], "best-tuned": means[means["is_best"]]}
        both = pd.concat([one.assign(side=name) for name, one in sides.items()])
        panels.append(interactive.panel("Shared rate against each one's best", both, slopes, legend=legend))
    return interactive.plots(panels, legend=legend)
