"""How the importance of ranks differs within a module (Figure 1) and over training (Figure 2), and in all modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.did_you_mean import hint
from harness.errors import ConfigError
from harness.experiment.runs import pruning_metric
from harness.figures import interactive, style
from harness.figures.inputs import Inputs, interval_note, long_form, mean_note, model_title, provenance_notes
from harness.figures.operations import short_kind, split_name
from harness.figures.pruning_curve import load_pruned, pruned_scores
from harness.records import importance, pruning
from harness.records.importance import ImportanceHistory
from harness.records.read import RunRecord
from harness.records.versioned import RecordError
from harness.schema.evaluation import Metric
from harness.schema.fields import BASELINE
from harness.schema.run import RunSpec

#: Snapshots of the modules of other layers than the selected that are in the data: those of a slider. All would be many.
SNAPSHOTS = 20


def build(inputs: Inputs) -> style.Plot:
    """Deciles of importance with the pruning curve, importance over steps, and the evenness of all modules, of one run.

    Raises:
        ConfigError: the experiment plans no pruning evaluation, or the selection names what there is not.
        RecordError: a file is missing or broken, or the run diverged.
    """
    runs, records = load_pruned(inputs, figure="rank_importance")
    record = _select_run(inputs, [records[run.run_id] for run in runs])
    run = record.run
    history = _read_history(inputs, record)
    layer, names = _select_modules(inputs, history)
    curves = pruning.load(inputs.experiment, [run], results=inputs.results, command=inputs.command)[run.run_id]
    metric = pruning_metric(inputs.experiment)
    score = pruned_scores({run.seed: curves}, metric)
    rows: list[dict[str, Any]] = []
    for name in names:
        common = {"module": name, "layer": layer}
        means = importance.deciles(history.last[name])
        rows += [{**common, "row": "decile", "decile": i + 1, "importance": float(v)} for i, v in enumerate(means)]
        rows += _history_rows(history, name, range(len(history.steps)))
    kinds = {split_name(name)[1] for name in names}
    some = np.unique(np.linspace(0, len(history.steps) - 1, SNAPSHOTS).round().astype(int)).tolist()
    for name in history.modules:
        if split_name(name)[1] in kinds and name not in names:
            rows += _history_rows(history, name, some)
    for fraction, one in score.items():
        e = one.estimate
        assert e is not None  # the run is there and has not diverged
        rows.append({"row": "pruned", "pruned": fraction, metric: e.mean, "low": e.low, "high": e.high})
    for name, values in history.last.items():
        own = {"row": "evenness", "module": name, "layer": split_name(name)[0]}
        rows.append({**own, "evenness": float(importance.evenness(values)) if len(values) > 1 else None})
    data = long_form(rows, columns=_columns(metric))
    figure = _draw(data, names, metric)
    caption = [
        "Importance: Frobenius norm of a rank's share of the weight update; ranks ordered by their importance at the end.",
        f"Red: after pruning these shares in every module, each by its own importance. {mean_note(metric, curves)}",
        "Evenness: entropy of the importances over ln r; 1 where all ranks are equally important. Layers are counted from 0.",
        interval_note(list(score.values())),
        *_diverged_note(run, list(records.values())),
        *provenance_notes([run]),
    ]
    title = f"Importance of ranks: {run.method.label} on {model_title(run.model)}, {run.domain}, seed {run.seed}"
    style.finish(figure, title=title, caption=caption)
    return style.Plot(figure=figure, data=data)


def _history_rows(history: ImportanceHistory, name: str, snapshots: Iterable[int]) -> list[dict[str, Any]]:
    """A module's rows ``history`` at some of the snapshots."""
    return [
        {
            "row": "history",
            "module": name,
            "layer": split_name(name)[0],
            "step": int(history.steps[i]),
            "rank": rank,
            "importance": float(value),
        }
        for i in snapshots
        for rank, value in enumerate(history.modules[name][i])
    ]


def _columns(metric: Metric) -> list[str]:
    return ["row", "layer", "module", "decile", "step", "rank", "importance", "pruned", metric, "low", "high", "evenness"]


# ----------------------------------------------------------------------------------------------------------- selection


def _select_run(inputs: Inputs, records: Sequence[RunRecord]) -> RunRecord:
    """The run to show: unless the selection says otherwise, plain LoRA's, of the first seed that finished.

    Raises:
        ConfigError: the selection names what there is not.
        RecordError: the selected run diverged; without a selected seed, all of the method's.
    """
    keys = list(dict.fromkeys(record.run.method.key for record in records))
    method = inputs.selection.method or (BASELINE if BASELINE in keys else keys[0])
    if method not in keys:
        raise ConfigError(f"--method: found {method!r}, {hint(method, keys)} (pruning.methods)")
    own = {record.run.seed: record for record in records if record.run.method.key == method}
    seed = inputs.selection.seed
    if seed is None:
        seed = next((seed for seed, record in own.items() if not record.diverged), next(iter(own)))
    if seed not in own:
        raise ConfigError(f"--seed: found {seed}, expected one of {', '.join(map(str, own))}")
    if own[seed].diverged:
        raise RecordError(f"{own[seed].folder / 'train.json'}: found a diverged run; choose another with --seed or --method")
    return own[seed]


def _diverged_note(run: RunSpec, records: Sequence[RunRecord]) -> list[str]:
    """The seeds of the shown run's method that there is nothing to show of."""
    lost = [record.run.seed for record in records if record.diverged and record.run.method.key == run.method.key]
    return [f"Diverged: seed{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}."] if lost else []


def _read_history(inputs: Inputs, record: RunRecord) -> ImportanceHistory:
    path = record.folder / "adapter" / importance.FILE
    if not path.exists() and record.run.training.importance_every is None:
        expected = "the optimizer steps between snapshots of the importance"
        raise inputs.unplanned("training", "importance_every", expected=expected)
    return importance.read(path, inputs.trained(record))


def default_layer(layers: int) -> int:
    """The paper's 30th of 32 layers (index 29) in a model of another depth."""
    return round(29 / 31 * (layers - 1))


def _select_modules(inputs: Inputs, history: ImportanceHistory) -> tuple[int, list[str]]:
    """The layer, and the full names of the selected modules in it."""
    layers = sorted({layer for layer, _ in map(split_name, history.modules) if layer is not None})
    if not layers:
        raise ConfigError(f"--layer: found modules {', '.join(history.modules)}, expected some inside layers")
    layer = inputs.selection.layer if inputs.selection.layer is not None else default_layer(layers[-1] + 1)
    if layer not in layers:
        raise ConfigError(f"--layer: found {layer}, expected one of {', '.join(map(str, layers))}")
    inside = {split_name(name)[1]: name for name in history.modules if split_name(name)[0] == layer}
    names = []
    for wanted in inputs.selection.modules:
        matches = [name for kind, name in inside.items() if kind == wanted or kind.endswith(f".{wanted}")]
        if not matches:
            known = [kind.rpartition(".")[2] for kind in inside]
            raise ConfigError(f"--module: found {wanted!r}, {hint(wanted, known)} (layer {layer})")
        names += matches
    return layer, list(dict.fromkeys(names))


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(data: pd.DataFrame, names: Sequence[str], metric: Metric) -> Figure:
    columns = len(names)
    grid = _evenness_grid(data)
    overview = 1.2 + 0.19 * grid.shape[0] if columns > 1 else 1.4 + 0.22 * grid.shape[0]
    figure = style.new_figure(width=max(4.4 * columns, 6.4), height=6.4 + overview)
    shape = figure.add_gridspec(3, columns, height_ratios=[3.0, 3.0, overview])
    letters = iter(ascii_lowercase)
    for i, name in enumerate(names):
        layer, kind = split_name(name)
        title = f"{short_kind(kind)}, layer {layer}"
        own = data[(data["module"] == name)]
        axis = figure.add_subplot(shape[0, i])
        _draw_spatial(axis, own[own["row"] == "decile"], data[data["row"] == "pruned"], metric)
        axis.set_title(f"({next(letters)}) Spatial: {title}")
    for i, name in enumerate(names):
        layer, kind = split_name(name)
        axis = figure.add_subplot(shape[1, i])
        _draw_temporal(figure, axis, data[(data["module"] == name) & (data["row"] == "history")])
        axis.set_title(f"({next(letters)}) Temporal: {short_kind(kind)}, layer {layer}")
    _draw_overview(figure, figure.add_subplot(shape[2, :]), grid)
    figure.axes[-2].set_title(f"({next(letters)}) All modules: evenness of importance after training")
    return figure


#: The legend's entry of the scores after pruning.
_PRUNED_LABEL = "Score after pruning"
#: Labels of scores after pruning.
_PRUNED: dict[Metric, str] = {
    "accuracy": "Accuracy after pruning (%)",
    "gold_nll": "NLL of the gold answer\nafter pruning (nats per token)",
}


def _draw_spatial(axis: Axes, deciles: pd.DataFrame, pruned: pd.DataFrame, metric: Metric) -> None:
    """Figure 1: a decile stands in the middle of the tenth of ranks whose pruning the red line shows at its end."""
    x = (deciles["decile"] - 0.5) / 10
    axis.plot(x, deciles["importance"], color=style.BLUE, marker="o", label="importance")
    axis.set_ylim(bottom=0)
    axis.set_ylabel("Mean importance of a decile", color=style.BLUE)
    axis.tick_params(axis="y", colors=style.BLUE)
    axis.set_xlabel("Ranks (%), from least to most important")
    axis.set_xticks(np.arange(0, 1.01, 0.1))
    axis.set_xlim(-0.03, 1.03)
    style.percent_axis(axis, which="x")
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    error = [pruned[metric] - pruned["low"], pruned["high"] - pruned[metric]]
    right.errorbar(pruned["pruned"], pruned[metric], error, color=style.RED, marker="s", linestyle="--", capsize=2.5)
    if metric == "accuracy":
        right.set_ylim(0, max(float(pruned["high"].max()) * 1.08, 0.05))
    style.score_axis(right, metric)
    right.set_ylabel(_PRUNED[metric], color=style.RED)
    right.tick_params(axis="y", colors=style.RED)


def _draw_temporal(figure: Figure, axis: Axes, history: pd.DataFrame) -> None:
    """Figure 2 as a heat map: a row per rank, most important at the end on top, a column per snapshot."""
    table = history.pivot(index="rank", columns="step", values="importance")
    table = table.loc[table.iloc[:, -1].sort_values(kind="stable").index]
    steps = table.columns.to_numpy(float)
    middles = (steps[1:] + steps[:-1]) / 2
    half = (steps[-1] - steps[-2]) / 2 if len(steps) > 1 else 0.5
    edges = np.concatenate([[steps[0] - (middles[0] - steps[0] if len(steps) > 1 else half)], middles, [steps[-1] + half]])
    mesh = axis.pcolormesh(edges, np.arange(len(table) + 1), table.to_numpy(), cmap="cividis", vmin=0)
    figure.colorbar(mesh, ax=axis, pad=0.02, label="Importance")
    axis.set_xlabel("Fine-tuning steps")
    axis.set_ylabel("Ranks, by importance at the end")
    axis.set_yticks([0.5, len(table) - 0.5], ["least", "most"])
    axis.grid(visible=False)


def _evenness_grid(data: pd.DataFrame) -> pd.DataFrame:
    """Kinds of modules x layers; a module outside the layers stands at layer -1, shown as "other"."""
    own = data[data["row"] == "evenness"]
    kinds = [short_kind(split_name(name)[1]) for name in own["module"]]
    own = own.assign(kind=kinds, column=own["layer"].fillna(-1).astype(int))
    return own.pivot(index="kind", columns="column", values="evenness").loc[list(dict.fromkeys(kinds))]


def _draw_overview(figure: Figure, axis: Axes, grid: pd.DataFrame) -> None:
    values = grid.to_numpy(float)
    mesh = axis.pcolormesh(values, cmap="cividis", edgecolors="white", linewidth=0.4)
    figure.colorbar(mesh, ax=axis, pad=0.01, label="Evenness")
    axis.invert_yaxis()
    axis.set_yticks(np.arange(len(grid)) + 0.5, list(grid.index))
    every = -(-len(grid.columns) // 16)
    columns: Mapping[int, str] = {c: "other" if c < 0 else str(c) for c in grid.columns}
    axis.set_xticks(np.arange(len(grid.columns))[::every] + 0.5, list(columns.values())[::every])
    axis.set_xlabel("Layer")
    axis.grid(visible=False)
    if values.size <= 60:
        darkness = np.asarray(mesh.norm(values), dtype=float)
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if darkness[i, j] < 0.55 else style.INK
                axis.text(j + 0.5, i + 0.5, f"{value:.3f}", ha="center", va="center", fontsize=7.5, color=ink)


# --------------------------------------------------------------------------------------------------------- interactive


def plots(data: pd.DataFrame) -> interactive.Json:
    """The figure of its data as plots: each rank's importance at the step and in the layer that sliders choose."""
    deciles, history, grid = (data[data["row"] == row] for row in ("decile", "history", "evenness"))
    legend = [("Importance", style.BLUE), (_PRUNED_LABEL, style.RED)]
    layers = sorted(history["layer"].unique().tolist())
    # Of the selected layer there are more snapshots than of the others.
    everywhere = history.groupby("step")["layer"].nunique() == len(layers)
    steps = everywhere.index[everywhere].tolist()
    history = history[history["step"].isin(steps)]
    evenness = interactive.heat(
        interactive.steps("layer", "Layer"),
        interactive.names("kind", "Module"),
        interactive.number("evenness", "Evenness", ".3f"),
    )
    grid = grid.assign(kind=[short_kind(split_name(name)[1]) for name in grid["module"]])
    kinds = history["module"].map(lambda name: short_kind(split_name(name)[1]))
    panels = [
        *(_ranks_panel(kind, own, steps[-1]) for kind, own in history.groupby(kinds, sort=False)),
        *(_deciles_panel(own, data, legend) for _, own in deciles.groupby("module", sort=False)),
        interactive.panel("All modules: evenness of importance after training", grid, [evenness]),
    ]
    sliders = [
        interactive.slider("step", "Step of the upper plots", steps, steps[-1]),
        interactive.slider("layer", "Layer of the upper plots", layers, int(deciles["layer"].iloc[0])),
    ]
    return interactive.plots(panels, legend=legend, sliders=sliders, columns=2)


def _ranks_panel(kind: str, history: pd.DataFrame, last: int) -> interactive.Json:
    """A bar for each rank of a kind of module, in the order of the last step."""
    end = history[history["step"] == last].set_index(["module", "rank"])["importance"]
    places = end.groupby("module").rank(method="first").astype(int).rename("place")
    data = history.join(places, on=["module", "rank"])[["layer", "step", "rank", "place", "importance"]]
    importance = interactive.number("importance", "Importance", domain=[0, float(data["importance"].max())])
    place = interactive.steps("place", "Ranks, by importance at the end")
    at = {"x": interactive.axis(place, labels=False, ticks=False), "y": interactive.axis(importance)}
    tips = [interactive.number("rank", "Rank"), interactive.number("step", "Step"), importance]
    bars = interactive.mark("bar", at | {"color": {"value": style.BLUE}}, tips=tips)
    bars["transform"] = [{"filter": "datum.step === step && datum.layer === layer"}]
    return interactive.panel(f"{kind}: every rank", data, [bars])


def _deciles_panel(deciles: pd.DataFrame, data: pd.DataFrame, legend: Sequence[tuple[str, str]]) -> interactive.Json:
    """Figure 1 of a module: its deciles, and the scores after pruning on an axis of their own."""
    metric = interactive.metric_of(data)
    score = interactive.score(metric, zero=metric == "accuracy")
    after = {**score, "title": f"{score['title']} after pruning"}
    share = interactive.number("share", "Ranks, from least to most important", "~%")
    importance = interactive.number("importance", "Mean importance of a decile", zero=True)
    left, right = ({"x": interactive.axis(share), "y": interactive.axis(y)} for y in (importance, after))
    tips = [share, after, *interactive.ends(score)]
    curve = [
        interactive.mark("line", right, "pruned", tips=tips, look={"point": True, **interactive.DASHED}),
        interactive.mark("rule", interactive.between(right), "pruned", tips=tips),
    ]
    layers = [interactive.mark("line", left, "decile", tips=[share, importance], look={"point": True}), {"layer": curve}]
    pruned = data[data["row"] == "pruned"]
    both = [
        deciles.assign(label=legend[0][0], share=(deciles["decile"] - 0.5) / 10),
        pruned.assign(label=legend[1][0], share=pruned["pruned"]),
    ]
    layer, kind = split_name(str(deciles["module"].iloc[0]))
    title = f"{short_kind(kind)}, layer {layer}: deciles"
    return interactive.panel(title, pd.concat(both), layers, legend=legend, resolve={"scale": {"y": "independent"}})
