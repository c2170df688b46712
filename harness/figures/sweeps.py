"""Figures over one setting: rank (Figure 5), interval of operations (Figure 6) and initial threshold (Figure 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.experiment.resolve import label_of
from harness.experiment.runs import SweepRun, metric_of, sweep_and_baseline_runs, sweep_baselines, sweep_runs
from harness.figures import interactive, style
from harness.figures.inputs import (
    Inputs,
    Score,
    Task,
    interval_note,
    long_form,
    mean_note,
    model_title,
    paper_accuracy,
    provenance_notes,
    score,
    task_label,
    tasks_of,
)
from harness.records.read import RunRecord
from harness.records.training import OPERATIONS, read_operations
from harness.schema.evaluation import Metric
from harness.schema.fields import BASELINE

#: With subscripts as characters: the fonts of matplotlib's formulas depend on the machine.
P_INIT = "p\u1d62\u2099\u1d62\u209c"
#: Setting -> its symbol in the paper.
_SYMBOLS = {"r": "Rank r", "delta_t": "Step Δt", "p_init": f"Initial threshold {P_INIT}", "learning_rate": "Learning rate"}


def setting_label(setting: str) -> str:
    """How an axis of a setting is named."""
    return _SYMBOLS.get(setting, setting)


def load_sweep(inputs: Inputs, sweep: str) -> tuple[list[SweepRun], dict[str, RunRecord]]:
    """The points of a sweep, and the records of its runs and of its reference line by run id.

    Raises:
        ConfigError: the experiment does not plan this sweep.
        RecordError: a record is missing, stale or broken.
    """
    if sweep not in inputs.experiment.sweeps:
        raise inputs.unplanned("sweeps", sweep, expected="setting, points, domains, models and methods of this figure")
    points = sweep_runs(inputs.experiment, sweep)
    return points, inputs.load(sweep_and_baseline_runs(inputs.experiment, sweep), target=sweep)


def by_point(points: Sequence[SweepRun]) -> dict[tuple[str, str, str, Any], list[SweepRun]]:
    """(domain, model, method, value) -> its runs, one per seed."""
    groups: dict[tuple[str, str, str, Any], list[SweepRun]] = {}
    for point in points:
        groups.setdefault((point.run.domain, point.run.model_key, point.method, point.value), []).append(point)
    return groups


def positions(values: Sequence[Any]) -> dict[Any, float]:
    """Where the values of a setting stand on an axis: log-2 for powers of two, else evenly, smallest first."""
    ordered = sorted(values)
    powers = all(isinstance(v, int) and v > 0 and v & (v - 1) == 0 for v in ordered)
    return {value: math.log2(value) if powers else float(i) for i, value in enumerate(ordered)}


# --------------------------------------------------------------------------------------------------------- rank_sweep


def build_rank_sweep(inputs: Inputs) -> style.Plot:
    """LoRA and BeamLoRA over r: a panel per test set (Figure 5)."""
    points, by_id = load_sweep(inputs, "rank_sweep")
    setting = inputs.experiment.sweeps["rank_sweep"].setting
    metric = metric_of(point.run for point in points)
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    for (domain, model, method, value), group in by_point(points).items():
        for task in tasks_of(group[0].run):
            own = score([by_id[p.run.run_id] for p in group], [task], metric)
            scores.append(own)
            common = {
                "domain": domain,
                "model": model,
                "task": task[1],
                setting: value,
                "method": method,
                "label": label_of(inputs.experiment, method),
                "paper": _paper(group[0], task, metric),
            }
            rows += own.rows(**common)
    data = long_form(rows)
    figure = _draw_rank_sweep(data, setting, metric)
    labels = ", ".join(dict.fromkeys(model_title(p.run.model) for p in points))
    caption = [interval_note(scores), *_star_note(data), *provenance_notes([p.run for p in points])]
    if metric == "accuracy":
        legend: list[Artist] = [_patch(i, key, label) for i, (key, label) in enumerate(_methods(data))]
    else:
        caption.insert(0, "Less is better.")
        legend = [style.handle(key, label, line=False) for key, label in _methods(data)]
    title = f"{style.SCORE_NAMES[metric]} under various rank settings: {labels}"
    style.finish(figure, title=title, caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


def _paper(point: SweepRun, task: Task, metric: Metric) -> float | None:
    """The paper's accuracy of an ordinary run of a method."""
    return paper_accuracy(point.run, [task]) if metric == "accuracy" and point.run.method.key == point.method else None


def _star_note(data: pd.DataFrame) -> list[str]:
    return ["Open stars: the paper's numbers (Table 1)."] if data["paper"].notna().any() else []


def _draw_rank_sweep(data: pd.DataFrame, setting: str, metric: Metric) -> Figure:
    panels = list(data.groupby(["domain", "model", "task"], sort=False))
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    lines = math.ceil(len(panels) / columns)
    figure = style.new_figure(width=4.1 * columns if columns > 1 else 5.2, height=2.9 * lines + 0.9)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    several = data["model"].nunique() > 1 or data["domain"].nunique() > 1
    at = positions(data[setting].unique().tolist())
    for letter, axis, ((domain, model, task), panel) in zip(ascii_lowercase, axes, panels, strict=False):
        where = f" ({model}, {domain})" if several else ""
        axis.set_title(f"({letter}) {task_label(task)}{where}")
        _grouped_scores(axis, panel, setting, at, metric)
        axis.set_xlabel(setting_label(setting))
        axis.tick_params(labelbottom=True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure


def _hatch(index: int) -> str | None:
    """What tells neighbouring bars apart in grey print."""
    return (None, "////", "....", "xxxx")[index % 4]


def _patch(index: int, key: str, label: str) -> Patch:
    return Patch(facecolor=style.colour_of(key), hatch=_hatch(index), edgecolor="white", label=label)


def _grouped_scores(axis: Axes, panel: pd.DataFrame, setting: str, at: Mapping[Any, float], metric: Metric) -> None:
    """Accuracies as bars, which start at zero; NLL, whose zero is far from all that a model reaches, as points."""
    keys = list(dict.fromkeys(panel["method"]))
    width = 0.8 / len(keys)
    for i, key in enumerate(keys):
        own = panel[panel["method"] == key]
        shift = (i - (len(keys) - 1) / 2) * width
        for value, point in own.groupby(setting):
            x = at[value] + shift
            for mean in point[point["row"] == "mean"].to_dict("records"):
                colour, value = style.colour_of(key), mean[metric]
                error = [[value - mean["low"]], [mean["high"] - value]]
                if metric == "accuracy":
                    axis.bar(x, value, width * 0.92, color=colour, hatch=_hatch(i), edgecolor="white", linewidth=0)
                    axis.errorbar(x, value, error, color=style.INK, capsize=2.5, linewidth=1.0)
                else:
                    axis.errorbar(x, value, error, capsize=3, elinewidth=1.0, **style.look_of(key))
                if pd.notna(mean["paper"]):
                    axis.plot(x, mean["paper"], marker="*", markersize=9, markerfacecolor="white", color=style.INK)
            draw_seeds(axis, point, x, metric, key=key, spread=width * 0.5)
            mark_diverged(axis, point, x, key=key)
    axis.set_xticks(list(at.values()), [f"{value:g}" for value in at])
    if metric == "accuracy":
        axis.set_ylim(bottom=0)
    axis.grid(axis="x", visible=False)
    style.score_axis(axis, metric)


def draw_seeds(axis: Axes, point: pd.DataFrame, x: float, metric: Metric, *, key: str, spread: float = 0.0) -> None:
    """Single seeds as small dots, where there are several."""
    seeds = point[point["row"] == "seed"]
    if len(seeds) > 1:
        shifts = np.linspace(-spread / 2, spread / 2, len(seeds))
        face: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK if spread else style.colour_of(key)}
        axis.plot(x + shifts, seeds[metric], "o", markersize=3.2, markeredgewidth=0.7, zorder=2.6, **face)


def mark_diverged(axis: Axes, point: pd.DataFrame, x: float, *, key: str) -> None:
    """How many runs of a point diverged, if any."""
    lost, planned = int((point["row"] == "diverged").sum()), int((point["row"] != "mean").sum())
    style.mark_diverged(axis, x, key=key, lost=lost, planned=planned)


def _setting_of(data: pd.DataFrame) -> str:
    """The setting of a sweep's data: its column stands before that of the method."""
    return str(data.columns[data.columns.get_loc("method") - 1])


def rank_sweep_plots(data: pd.DataFrame) -> interactive.Json:
    """The data of ``build_rank_sweep`` as plots."""
    metric, legend, setting = interactive.metric_of(data), interactive.legend(data), _setting_of(data)
    several = data["model"].nunique() > 1 or data["domain"].nunique() > 1
    x = interactive.steps(setting, setting_label(setting))
    layers = interactive.scores(x, metric, bars=metric == "accuracy", line=False)
    if data["paper"].notna().any():
        paper = {**interactive.score(metric), "field": "paper", "title": "Paper"}
        place = {channel: layers[0]["encoding"][channel] for channel in ("x", "y", "xOffset")}
        at = place | {"y": {**place["y"], "field": "paper"}, "color": interactive.INK}
        layers.append(interactive.mark("point", at, "mean", tips=[interactive.METHOD, x, paper], look={"shape": "diamond"}))
    panels = [
        interactive.panel(task_label(task) + (f" ({model}, {domain})" if several else ""), own, layers, legend=legend)
        for (domain, model, task), own in data.groupby(["domain", "model", "task"], sort=False)
    ]
    return interactive.plots(panels, legend=legend)


# ------------------------------------------------------------------------------------------------------ delta_t, p_init


def build_delta_t(inputs: Inputs) -> style.Plot:
    """Number of operations and scores over the interval between operations (Figure 6)."""
    return _build_operated(
        inputs,
        "delta_t",
        measure="operations",
        bars="Number of Operations",
        note="Operations that change no rank (at threshold 1) are not counted.",
        title="Effect of the step Δt between operations",
    )


def build_p_init(inputs: Inputs) -> style.Plot:
    """Operated ranks and scores over the initial threshold (Figure 7)."""
    return _build_operated(
        inputs,
        "p_init",
        measure="operated_ranks",
        bars="Number of Operated Ranks",
        note="Operated ranks: pruned and replaced, summed over all modules and operations of a run.",
        title=f"Effect of the initial threshold {P_INIT}",
    )


def _build_operated(inputs: Inputs, sweep: str, *, measure: str, bars: str, note: str, title: str) -> style.Plot:
    points, by_id = load_sweep(inputs, sweep)
    setting = inputs.experiment.sweeps[sweep].setting
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    references = sweep_baselines(inputs.experiment, sweep)
    metric = metric_of([*(point.run for point in points), *references])
    for (domain, model, method, value), group in by_point(points).items():
        runs = [by_id[p.run.run_id] for p in group]
        own = score(runs, tasks_of(group[0].run), metric)
        scores.append(own)
        label = label_of(inputs.experiment, method)
        common = {"domain": domain, "model": model, setting: value, "method": method, "label": label}
        counts = [_operated(inputs, record) for record in runs if not record.diverged]
        rows += [row | _counts(row, counts) for row in own.rows(**common)]
    for domain, model in dict.fromkeys((run.domain, run.model_key) for run in references):
        records = [by_id[run.run_id] for run in references if (run.domain, run.model_key) == (domain, model)]
        own = score(records, tasks_of(records[0].run), metric)
        scores.append(own)
        common = {"domain": domain, "model": model, setting: None, "method": BASELINE, "label": records[0].run.method.label}
        rows += own.rows(**common)
    data = long_form(rows)
    figure = _draw_operated(data, setting, metric, measure=measure, bars=bars)
    specs = [p.run for p in points]
    tasks = [task for spec in specs for _, task in tasks_of(spec)]
    band = ["Dashed line and band: LoRA and its interval."] if references else []
    caption = [mean_note(metric, tasks), note, interval_note(scores), *band, *provenance_notes(specs)]
    legend: list[Artist] = [style.handle(key, label) for key, label in _methods(data[data[setting].notna()])]
    if references:
        legend.append(Line2D([], [], color=style.colour_of(BASELINE), linestyle="--", label=references[0].method.label))
    title = f"{title}: {', '.join(dict.fromkeys(model_title(spec.model) for spec in specs))}"
    style.finish(figure, title=title, caption=caption, legend=legend)
    return style.Plot(figure=figure, data=data)


def _operated(inputs: Inputs, record: RunRecord) -> tuple[int, int, int]:
    """(seed, operations that changed a rank, ranks that were replaced) of a run."""
    operations = read_operations(record.folder / OPERATIONS, inputs.trained(record))
    totals = [sum(operation.ranks.values()) for operation in operations]
    return record.run.seed, sum(total > 0 for total in totals), sum(totals)


def _counts(row: Mapping[str, Any], counts: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """The counts of a row's seed, or their mean over seeds; NaN for a seed that diverged."""
    own = [c for c in counts if row["row"] == "mean" or c[0] == row["seed"]]
    if not own:
        return {"operations": math.nan, "operated_ranks": math.nan}
    return {"operations": float(np.mean([c[1] for c in own])), "operated_ranks": float(np.mean([c[2] for c in own]))}


def _draw_operated(data: pd.DataFrame, setting: str, metric: Metric, *, measure: str, bars: str) -> Figure:
    panels = list(data.groupby(["domain", "model"], sort=False))
    figure = style.new_figure(width=8.2, height=2.9 * len(panels) + 0.9)
    axes = figure.subplots(len(panels), 2, squeeze=False)
    at = {value: float(i) for i, value in enumerate(sorted(data[setting].dropna().unique()))}
    letters = iter(ascii_lowercase)
    for (left, right), ((domain, model), panel) in zip(axes, panels, strict=True):
        where = f" ({model})" if data["model"].nunique() > 1 else ""
        points, reference = panel[panel[setting].notna()], panel[panel[setting].isna()]
        _count_bars(left, points, setting, at, measure)
        left.set_title(f"({next(letters)}) {bars}{where}")
        left.set_ylabel(bars)
        _score_line(right, points, setting, at, metric)
        _reference_band(right, reference, metric)
        right.set_title(f"({next(letters)}) {domain.capitalize()} Performance{where}")
        style.score_axis(right, metric)
        for axis in (left, right):
            axis.set_xticks(list(at.values()), [f"{value:g}" for value in at])
            axis.set_xlim(-0.6, len(at) - 0.4)
            axis.set_xlabel(setting_label(setting))
            axis.grid(axis="x", visible=False)
    return figure


def _methods(data: pd.DataFrame) -> list[tuple[str, str]]:
    return list(data.drop_duplicates("method")[["method", "label"]].itertuples(index=False, name=None))


def _count_bars(axis: Axes, points: pd.DataFrame, setting: str, at: Mapping[Any, float], measure: str) -> None:
    keys = _methods(points)
    width = 0.62 / len(keys)
    means = points[points["row"] == "mean"]
    for i, (key, _) in enumerate(keys):
        own = means[means["method"] == key]
        x = own[setting].map(at) + (i - (len(keys) - 1) / 2) * width
        drawn = axis.bar(x, own[measure], width, color=style.colour_of(key), hatch=_hatch(i), edgecolor="white", linewidth=0)
        for value in set(points.loc[points["method"] == key, setting]) - set(own[setting]):
            mark_diverged(axis, points[(points["method"] == key) & (points[setting] == value)], at[value], key=key)
        axis.bar_label(drawn, labels=[f"{v:.3g}" if v < 1000 else f"{v:,.0f}" for v in own[measure]], padding=2, fontsize=8)
    axis.margins(y=0.15)
    axis.set_ylim(bottom=0)


def _score_line(axis: Axes, points: pd.DataFrame, setting: str, at: Mapping[Any, float], metric: Metric) -> None:
    for key, _ in _methods(points):
        own = points[points["method"] == key].sort_values(setting)
        means = own[own["row"] == "mean"]
        if len(means):  # else every run diverged, and the data may have no column of intervals
            error = [means[metric] - means["low"], means["high"] - means[metric]]
            x = means[setting].map(at)
            axis.errorbar(x, means[metric], error, capsize=3, elinewidth=1.0, zorder=3, **style.look_of(key))
        for value, point in own.groupby(setting):
            draw_seeds(axis, point, at[value] + 0.12, metric, key=key)
            mark_diverged(axis, point, at[value], key=key)


def _reference_band(axis: Axes, reference: pd.DataFrame, metric: Metric) -> None:
    for mean in reference[reference["row"] == "mean"].to_dict("records"):
        axis.axhspan(mean["low"], mean["high"], color=style.colour_of(BASELINE), alpha=0.13, linewidth=0, zorder=0)
        axis.axhline(mean[metric], color=style.colour_of(BASELINE), linestyle="--", zorder=1)
    if (reference["row"] == "diverged").any():
        count, total = int((reference["row"] == "diverged").sum()), int((reference["row"] != "mean").sum())
        text = f"LoRA: {count} of {total} diverged"
        axis.text(0.99, 0.98, text, transform=axis.transAxes, ha="right", va="top", color=style.colour_of(BASELINE))


#: Column of the data -> what it counts.
_COUNTS = {"delta_t": ("operations", "Number of operations"), "p_init": ("operated_ranks", "Number of operated ranks")}


def operated_plots(data: pd.DataFrame) -> interactive.Json:
    """The data of ``build_delta_t`` or ``build_p_init`` as plots."""
    metric, legend, setting = interactive.metric_of(data), interactive.legend(data), _setting_of(data)
    x = interactive.steps(setting, setting_label(setting))
    measure, title = _COUNTS[setting]
    count = interactive.number(measure, title, ",.4~r")
    tips = [interactive.METHOD, x, count]
    at = {"x": interactive.axis(x, labelAngle=0), "xOffset": {"field": "label", "sort": None}, "y": interactive.axis(count)}
    y = interactive.score(metric)
    reference = [interactive.METHOD, {**y, "title": "Without operations"}]
    level = {"y": interactive.axis(y)}
    layers = [
        interactive.mark("rect", interactive.between(level), "reference", tips=reference, look={"opacity": 0.15}),
        interactive.mark("rule", level, "reference", tips=reference, look=interactive.DASHED),
        *interactive.scores(x, metric),
    ]
    panels = []
    for (domain, model), own in data.groupby(["domain", "model"], sort=False):
        where = f" ({model})" if data["model"].nunique() > 1 else ""
        swept, lora = own[own[setting].notna()], own[own[setting].isna() & (own["row"] == "mean")]
        panels.append(
            interactive.panel(f"{title}{where}", swept, [interactive.mark("bar", at, "mean", tips=tips)], legend=legend)
        )
        shown = pd.concat([swept, lora.assign(row="reference")])
        panels.append(interactive.panel(f"{domain.capitalize()} performance{where}", shown, layers, legend=legend))
    return interactive.plots(panels, legend=legend)
