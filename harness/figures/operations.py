"""Every operation of BeamLoRA: threshold, operated ranks per module and layer, and the loss around it (ours)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.experiment.runs import subject_runs
from harness.figures import interactive, style
from harness.figures.inputs import Inputs, group_by, long_form, model_title, provenance_notes
from harness.records.read import RunRecord
from harness.records.training import OPERATIONS, Operation, read_operations, read_training
from harness.schema.fields import SUBJECT


def split_name(module: str) -> tuple[int | None, str]:
    """Layer and kind of a module, such as 3 and mlp.up_proj; None for one outside the layers."""
    match = re.search(r"\.layers\.(\d+)\.(.+)$", f".{module}")
    return (int(match[1]), match[2]) if match else (None, module)


def short_kind(kind: str) -> str:
    """The kind of a module as the paper names it: ffn.up_proj, attn.v_proj."""
    return kind.replace("self_attn.", "attn.").replace("mlp.", "ffn.")


# ---------------------------------------------------------------------------------------------------------------- data


def read_losses(record: RunRecord) -> list[tuple[int, float]]:
    """(optimizer step, training loss) as logged, from train.json; a loss that was not a number is left out."""
    curve = read_training(record.folder).get("loss_curve", [])
    return [(int(entry["step"]), float(entry["loss"])) for entry in curve if entry.get("loss") is not None]


def build(inputs: Inputs) -> style.Plot:
    """A row of panels per domain and model: thresholds, operated ranks per module, loss around each operation.

    Raises:
        ConfigError: no table of the experiment has BeamLoRA.
        RecordError: a record or an operations file is missing or broken.
    """
    runs = subject_runs(inputs.experiment)
    if not runs:
        raise inputs.unplanned("tables", expected=f"a table with the method {SUBJECT}")
    records = inputs.load(runs, target="operations")
    groups = group_by(runs, lambda run: (run.domain, run.model_key))
    rows: list[dict[str, Any]] = []
    lost = []
    for (domain, model), group in groups.items():
        for run in group:
            record = records[run.run_id]
            if record.diverged:
                lost.append(run.run_id)
                rows.append({"domain": domain, "model": model, "seed": run.seed, "row": "diverged"})
                continue
            common = {"domain": domain, "model": model, "seed": run.seed}
            rows += _run_rows(common, read_operations(record.folder / OPERATIONS, inputs.trained(record)), read_losses(record))
    data = long_form(rows, columns=_COLUMNS)
    figure = _draw(data, {key: model_title(group[0].model) for key, group in groups.items()})
    seeds = sorted({run.seed for run in runs})
    caption = [
        f"Seed {seeds[0]}."
        if len(seeds) == 1
        else f"Seeds {', '.join(map(str, seeds))}; ranks and losses are means over seeds, the grey range spans them.",
        "Layers are counted from 0.",
        "Loss: as logged, minus the last value at or before the operation; it falls by itself during training.",
        *([f"Diverged, left out: {', '.join(lost)}."] if lost else []),
        *provenance_notes(runs),
    ]
    style.finish(figure, title="BeamLoRA's operations", caption=caption)
    return style.Plot(figure=figure, data=data)


_COLUMNS = ["domain", "model", "seed", "row", "operation", "step", "p", "layer", "module", "k", "steps_from_operation", "loss"]


def _run_rows(
    common: dict[str, Any], operations: Sequence[Operation], losses: Sequence[tuple[int, float]]
) -> list[dict[str, Any]]:
    """Rows ``module`` (K of a module in an operation) and ``loss`` (a logged loss in the window of an operation)."""
    rows = []
    steps = [operation.step for operation in operations]
    window = min(np.diff(steps), default=steps[0] if steps else 0)
    for number, operation in enumerate(operations, start=1):
        own = {**common, "operation": number, "step": operation.step, "p": operation.p}
        for name, k in operation.ranks.items():
            layer, kind = split_name(name)
            rows.append({**own, "row": "module", "layer": layer, "module": short_kind(kind), "k": k})
        near = [(s - operation.step, loss) for s, loss in losses if abs(s - operation.step) <= window]
        rows += [{**own, "row": "loss", "steps_from_operation": s, "loss": loss} for s, loss in near]
    return rows


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame, labels: dict[tuple[str, str], str]) -> Figure:
    panels = list(labels.items())
    tall = max(len(_modules(_part(data, key))) for key, _ in panels)
    height = min(max(3.2, 0.115 * tall + 1.0), 5.5)
    figure = style.new_figure(width=12.0, height=height * len(panels) + 0.8)
    axes = figure.subplots(len(panels), 3, squeeze=False, width_ratios=[1.0, 1.15, 1.1])
    for row, (key, label) in zip(axes, panels, strict=True):
        part = _part(data, key)
        where = f"{label}, {key[0]}"
        if part[part["row"] == "module"].empty:
            for axis in row:
                axis.set_axis_off()
            row[0].set_title(f"{where}: every run diverged", loc="left")
            continue
        _draw_threshold(row[0], part)
        row[0].set_title(f"{where}\nThreshold p and operated ranks", loc="left")
        _draw_heat_map(figure, row[1], part)
        row[1].set_title("Ranks operated per module (K)", loc="left")
        _draw_loss(row[2], part)
        row[2].set_title("Loss around each operation", loc="left")
    return figure


def _part(data: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    return data[(data["domain"] == key[0]) & (data["model"] == key[1])]


def _modules(part: pd.DataFrame) -> list[tuple[float, str]]:
    """(layer, kind) in the order of the model."""
    own = part[part["row"] == "module"].drop_duplicates(["layer", "module"])
    return list(own[["layer", "module"]].itertuples(index=False, name=None))


def _totals(part: pd.DataFrame) -> pd.DataFrame:
    """By operation: step and threshold, and the operated ranks of all modules, mean and range over seeds."""
    own = part[part["row"] == "module"]
    totals = own.groupby(["operation", "seed"])["k"].sum().groupby("operation")
    return own.groupby("operation")[["p", "step"]].mean().assign(mean=totals.mean(), low=totals.min(), high=totals.max())


def _by_module(part: pd.DataFrame) -> pd.Series:
    """(layer, module, operation) -> K, mean over seeds."""
    own = part[part["row"] == "module"]
    return own.groupby(["layer", "module", "operation"], dropna=False, sort=False)["k"].mean()


def _changes(part: pd.DataFrame) -> pd.DataFrame:
    """By operation and steps from it: the change of the loss, mean and range over seeds, and the operation's step and p."""
    own = part[part["row"] == "loss"].sort_values("steps_from_operation", kind="stable")
    where = ["operation", "seed"]
    before = own[own["steps_from_operation"] <= 0].groupby(where)["loss"].last().rename("before")
    change = own.join(before, on=where).assign(change=lambda rows: rows["loss"] - rows["before"])
    grouped = change.groupby(["operation", "steps_from_operation"])
    spread = {"mean": ("change", "mean"), "low": ("change", "min"), "high": ("change", "max")}
    return grouped.agg(step=("step", "first"), p=("p", "first"), **spread).reset_index()


def _shade(operation: int, operations: int) -> str:
    """The colour of an operation of so many: neither end of the map, which would vanish on a dark or a white ground."""
    return to_hex(colormaps["viridis"](0.3 + 0.55 * (operation - 1) / max(operations - 1, 1)))


def _draw_threshold(axis: Axes, part: pd.DataFrame) -> None:
    totals = _totals(part)
    mean, low, high = totals["mean"], totals["low"], totals["high"]
    colour = style.colour_of(SUBJECT)
    axis.bar(mean.index, mean, 0.6, color=colour, alpha=0.55, linewidth=0)
    if part["seed"].nunique() > 1:
        axis.errorbar(mean.index, mean, [mean - low, high - mean], fmt="none", color="#777777", capsize=2.5, linewidth=1.0)
    axis.set_ylim(0, max(float(high.max()), 1) * 1.1)
    axis.set_ylabel("Operated ranks, all modules (bars)")
    thresholds = totals[["p", "step"]]
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.plot(thresholds.index, thresholds["p"], color=style.INK, marker="o", markersize=4, clip_on=False)
    right.set_ylabel("Threshold p (line)")
    span = 1 - thresholds["p"].min()
    right.set_ylim(thresholds["p"].min() - 0.15 * (span or 0.1), 1 + 0.08 * (span or 0.1))
    right.grid(visible=False)
    _operation_ticks(axis, thresholds["step"])


def _operation_ticks(axis: Axes, steps: pd.Series) -> None:
    """Operations by their step; of very many, some."""
    every = -(-len(steps) // 8)
    shown = steps.iloc[::every]
    axis.set_xticks(list(shown.index), [f"{step:.0f}" for step in shown])
    axis.set_xlim(0.4, len(steps) + 0.6)
    axis.set_xlabel("Operation after optimizer step")
    axis.grid(axis="x", visible=False)


def _draw_heat_map(figure: Figure, axis: Axes, part: pd.DataFrame) -> None:
    own = part[part["row"] == "module"]
    modules = _modules(part)
    steps = own.groupby("operation")["step"].mean()
    table = _by_module(part)
    values = np.array([[table.get((layer, kind, number), np.nan) for number in steps.index] for layer, kind in modules])
    edges = np.arange(len(steps) + 1) + 0.5
    mesh = axis.pcolormesh(edges, np.arange(len(modules) + 1), values, cmap="cividis", vmin=0, rasterized=False)
    bar = figure.colorbar(mesh, ax=axis, pad=0.02)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _operation_ticks(axis, steps)
    axis.invert_yaxis()
    axis.grid(visible=False)
    if len(modules) <= 30:
        names = [kind if pd.isna(layer) else f"{int(layer)} {kind}" for layer, kind in modules]
        axis.set_yticks(np.arange(len(modules)) + 0.5, names, fontsize=6.5)
        axis.set_ylabel("Layer and module")
        return
    starts = [i for i, (layer, _) in enumerate(modules) if i == 0 or layer != modules[i - 1][0]]
    every = -(-len(starts) // 16)
    axis.set_yticks(starts[::every], [f"{modules[i][0]:.0f}" for i in starts[::every]])
    kinds = dict.fromkeys(kind.removeprefix("attn.").removeprefix("ffn.").removesuffix("_proj") for _, kind in modules)
    axis.set_ylabel(f"Layer (in each: {', '.join(kinds)})")


def _draw_loss(axis: Axes, part: pd.DataFrame) -> None:
    changes = _changes(part)
    numbers = sorted(changes["operation"].unique())
    for number, one in changes.groupby("operation"):
        at = one["steps_from_operation"]
        if part["seed"].nunique() > 1:
            axis.fill_between(at, one["low"], one["high"], color="#999999", alpha=0.18, linewidth=0)
        label = f"step {one['step'].iloc[0]:.0f}, p = {one['p'].iloc[0]:.3f}"
        axis.plot(at, one["mean"], color=_shade(number, len(numbers)), marker="o", markersize=3, label=label)
    axis.axvline(0, color=style.INK, linewidth=0.9, linestyle=":")
    axis.axhline(0, color=style.INK, linewidth=0.6)
    axis.set_xlabel("Optimizer steps from the operation")
    axis.set_ylabel("Change of training loss (nats per token)")
    if 0 < len(numbers) <= 10:
        axis.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)


# --------------------------------------------------------------------------------------------------------- interactive


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots; the legend hides operations."""
    shown = data[data["row"].isin(["module", "loss"])]
    numbers = sorted(shown["operation"].unique().tolist())
    legend = [(f"Operation {number}", _shade(number, len(numbers))) for number in numbers]
    groups = shown.groupby(["domain", "model"], sort=False)
    panels = [panel for (domain, model), own in groups for panel in _panels(f"{model}, {domain}", own, legend)]
    return interactive.plots(panels, legend=legend, columns=2)


def _panels(where: str, own: pd.DataFrame, legend: Sequence[tuple[str, str]]) -> list[interactive.Json]:
    """Those of a domain and model."""

    def labelled(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(label="Operation " + rows["operation"].astype(str))

    totals, changes = labelled(_totals(own).reset_index()), labelled(_changes(own))
    table = labelled(_by_module(own).reset_index().merge(totals[["operation", "step", "p"]], on="operation"))
    table["place"] = [kind if pd.isna(layer) else f"{layer} {kind}" for layer, kind in table[["layer", "module"]].to_numpy()]
    number, axis, mark = interactive.number, interactive.axis, interactive.mark
    operation, p = interactive.names("label", "Operation"), number("p", "Threshold p", ".4~f", zero=False)
    step = interactive.steps("step", "Operation after optimizer step")
    ranks, change = number("mean", "Operated ranks, all modules", zero=True), number("mean", "Change of training loss", ".4~f")
    away = number("steps_from_operation", "Optimizer steps from the operation")
    ends = [number("low", "Least of the seeds"), number("high", "Most of the seeds")]
    at, over, dotted = axis(step, labelAngle=0), {"x": axis(away), "y": axis(change)}, {"strokeDash": [2, 2]}
    losses = [
        mark("area", interactive.between(over), look={"opacity": 0.2}),
        mark("line", over, tips=[operation, step, p, away, change, *ends], look={"point": True}),
        mark("rule", {"x": {"datum": 0}, "color": interactive.INK}, look=dotted),
        mark("rule", {"y": {"datum": 0}, "color": interactive.INK}, look=dotted),
    ]
    thresholds = mark("line", {"x": at, "y": axis(p), "color": interactive.FAINT})
    dots = mark("point", {"x": at, "y": axis(p)}, tips=[operation, step, p], look=interactive.DOT)
    bars = mark("bar", {"x": at, "y": axis(ranks)}, tips=[operation, step, p, ranks, *ends])
    k = number("k", "Ranks operated (K)", zero=True)
    heat = interactive.heat(step, interactive.names("place", "Layer and module"), k, p)
    height = max(260, 12 * table["place"].nunique() + 60)
    return [
        interactive.panel(f"{where}: threshold", totals, [thresholds, dots], legend=legend),
        interactive.panel(f"{where}: operated ranks", totals, [bars], legend=legend),
        interactive.panel(f"{where}: ranks operated per module", table, [heat], height=height),
        interactive.panel(f"{where}: loss around each operation", changes, losses, legend=legend),
    ]
