"""A figure's data as plots that the report draws in the browser: layers of Vega-Lite, which nothing here imports or runs.

A figure's module has beside ``build`` a function from its data, as read from the CSV beside the picture, to its plots. The page
adds to each panel its width, colours of text for both themes, a legend whose entries hide their marks, and the sliders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from harness.figures.style import colour_of
from harness.schema.evaluation import Metric

Json = dict[str, Any]
#: Colours of marks that belong to no method: those of the page's theme.
INK, FAINT = {"value": "var(--ink)"}, {"value": "var(--faint)"}
#: Metric -> title of its axis, format of its values.
_SCORES: dict[Metric, tuple[str, str]] = {
    "accuracy": ("Accuracy", ".1~%"),
    "gold_nll": ("NLL of the gold answer (nats per token)", ".4~f"),
}


def read(path: Path | TextIO) -> pd.DataFrame:
    """The data of a figure from its CSV; whole numbers stay whole where some are missing."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).convert_dtypes()


def metric_of(data: pd.DataFrame) -> Metric:
    """The metric whose column a figure's data have."""
    return "accuracy" if "accuracy" in data else "gold_nll"


# ------------------------------------------------------------------------------------------------------------ encodings


def number(field: str, title: str, shown: str = ".4~g", **scale: Any) -> Json:
    """A channel of numbers; ``shown``: their format (d3-format)."""
    return {"field": field, "type": "quantitative", "title": title, "format": shown, "scale": scale}


def names(field: str, title: str) -> Json:
    """A channel of names, in the order of the data."""
    return {"field": field, "type": "nominal", "title": title, "sort": None}


def steps(field: str, title: str, shown: str = "~g") -> Json:
    """A channel of few numbers, one beside the other from the smallest to the largest."""
    return {"field": field, "type": "ordinal", "title": title, "format": shown}


def score(metric: Metric, *, zero: bool = False) -> Json:
    """The channel of a metric."""
    title, shown = _SCORES[metric]
    return number(metric, title, shown, zero=zero)


def axis(channel: Json, **more: Any) -> Json:
    """A channel as that of an axis."""
    shown = {"format": channel["format"]} if "format" in channel else {}
    return {**{key: value for key, value in channel.items() if key != "format"}, "axis": {**shown, **more}}


def ends(channel: Json) -> list[Json]:
    """The ends of a value's interval, to be shown beside the pointer."""
    return [{**channel, "field": end, "title": f"95 % {end}"} for end in ("low", "high")]


def between(at: Json, along: str = "y", low: str = "low", high: str = "high") -> Json:
    """Channels of a mark from one column to another."""
    return {**at, along: {**at[along], "field": low}, f"{along}2": {"field": high}}


def mark(kind: str, at: Json, row: str | None = None, *, tips: Sequence[Json] = (), look: Json | None = None) -> Json:
    """A layer.

    Args:
        kind: a mark of Vega-Lite.
        at: its channels.
        row: only the data's rows of this kind.
        tips: the channels that are shown beside the pointer.
        look: properties of the mark.
    """
    # What has nothing to tell to a pointer has nothing to tell to a screen reader either.
    layer: Json = {"mark": {"type": kind, "aria": bool(tips), **(look or {})}, "encoding": dict(at)}
    if tips:
        kept = ("field", "type", "title", "format")
        layer["encoding"]["tooltip"] = [{key: tip[key] for key in kept if key in tip} for tip in tips]
    if row is not None:
        layer["transform"] = [{"filter": {"field": "row", "equal": row}}]
    return layer


METHOD = names("label", "Method")
#: What is behind a mean.
COUNTS = (number("n_seeds", "Seeds"), number("n_examples", "Examples"))
#: A value, one of those behind it, and a line beside others, as properties of a mark.
DOT, SMALL, DASHED = {"filled": True, "size": 70, "opacity": 1}, {"size": 16, "opacity": 0.8}, {"strokeDash": [5, 4]}


def scores(x: Json, metric: Metric, *, bars: bool = False, line: bool = True, seeds: bool = True) -> list[Json]:
    """Means with their intervals over ``x``, single seeds, and what diverged; methods stand beside each other.

    Args:
        bars: as bars from zero instead of points.
        line: whether points of a method are joined.
        seeds: whether single seeds are shown.
    """
    y = score(metric, zero=bars)
    band = {} if bars else {"scale": {"paddingInner": 0.5, "paddingOuter": 0.25}}
    at = {"x": axis(x | band, labelAngle=0), "y": axis(y), "xOffset": {"field": "label", "sort": None}}
    tips = [METHOD, x, y, *ends(y), *COUNTS]
    ink = {"color": INK} if bars else {}
    layers = [mark("bar", at, "mean", tips=tips)] if bars else [mark("line", at, "mean")] if line else []
    layers.append(mark("rule", {**between(at), **ink}, "mean", tips=tips, look={"strokeWidth": 1.5}))
    if not bars:
        layers.append(mark("point", at, "mean", tips=tips, look=DOT))
    if seeds:
        layers.append(mark("point", {**at, **ink}, "seed", tips=[METHOD, x, names("seed", "Seed"), y], look=SMALL))
    bottom = {**at, "y": {"value": {"expr": "height"}}, "text": {"value": "✕"}}
    layers.append(mark("text", bottom, "diverged", tips=[METHOD, x, names("seed", "Diverged: seed")], look={"dy": -8}))
    return layers


def heat(x: Json, y: Json, value: Json, *tips: Json) -> Json:
    """A heat map."""
    colour = {**value, "scale": {"scheme": "cividis", **value["scale"]}, "legend": {"title": None, "gradientLength": 120}}
    colour.pop("format")
    at = {"x": axis(x, labelAngle=0, labelOverlap=True), "y": axis(y), "color": colour}
    return mark("rect", at, tips=[*tips, x, y, value])


# --------------------------------------------------------------------------------------------------------------- plots


def legend(data: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, colour) of every method in the data."""
    methods = data.dropna(subset="method").drop_duplicates("method")
    return [(label, colour_of(key)) for key, label in methods[["method", "label"]].itertuples(index=False, name=None)]


def columns(data: pd.DataFrame) -> dict[str, list[Any]]:
    """Column -> values as JSON has them: six digits, and null where there is none."""

    def plain(value: Any) -> Any:
        return None if pd.isna(value) else float(f"{value:.6g}") if isinstance(value, float) else value

    return {name: [plain(value) for value in data[name].tolist()] for name in data}


def _fields(part: Any) -> set[str]:
    """The columns that a part of a specification names."""
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    own = {part["field"]} if isinstance(part, dict) and "field" in part else set()
    return own.union(*map(_fields, parts))


def panel(
    title: str,
    data: pd.DataFrame,
    layers: Sequence[Json],
    *,
    legend: Sequence[tuple[str, str]] = (),
    height: int = 260,
    **more: Any,
) -> Json:
    """One plot.

    Args:
        data: its rows; those whose ``label`` is hidden by the legend are not drawn.
        legend: (label, colour) of all rows, where colours are those of the legend.
        height: CSS pixels.
        more: other keys of a layered specification of Vega-Lite.

    Raises:
        KeyError: the layers show a column that the data have not.
    """
    for field in sorted(_fields(list(layers)) - set(data)):
        raise KeyError(field)
    spec: Json = {"layer": list(layers), "height": height, **more}
    if legend:
        labels, colours = zip(*legend, strict=True)
        scale = {"domain": list(labels), "range": list(colours)}
        spec["encoding"] = {"color": {"field": "label", "type": "nominal", "scale": scale, "legend": None}}
    return {"title": title, "columns": columns(data.dropna(axis="columns", how="all")), "spec": spec}


def slider(name: str, title: str, values: Sequence[Any], start: Any) -> Json:
    """A slider over the values of a parameter, which the filters of the layers name."""
    return {"name": name, "title": title, "values": list(values), "start": list(values).index(start)}


def plots(
    panels: Sequence[Json], *, legend: Sequence[tuple[str, str]] = (), sliders: Sequence[Json] = (), columns: int = 3
) -> Json:
    """A figure: its panels, at most so many beside each other, and what all of them share."""
    entries = [list(entry) for entry in legend]
    return {"panels": list(panels), "legend": entries, "sliders": list(sliders), "columns": columns}
