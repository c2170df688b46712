"""What all figures share: one colour and marker per method, fonts, captions, and files that are the same for the same data.

The report takes its colours from here too. No pyplot: figures are objects without global state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from harness import files
from harness.figures import DRAWN_FROM
from harness.schema.evaluation import Metric

#: Method -> colour, and matplotlib marker: what tells methods apart in grey print. Colours after Okabe and Ito's palette,
#: extended to nine; tests/harness/figures/test_style.py measures contrast on white and on the report's dark ground, and
#: distances as seen with deuteranopia and protanopia.
METHOD_LOOKS = {
    "full-ft": ("#6E6E6E", "s"),
    "lora": ("#0072B2", "o"),
    "dora": ("#009E73", "^"),
    "pissa": ("#E0519F", "v"),
    "milora": ("#8052C8", "D"),
    "relora": ("#2FA3C7", "P"),
    "adalora": ("#A11B2E", "X"),
    "increlora": ("#9A9A30", "h"),
    "lora-fa": ("#5B8DB8", "1"),
    "beamlora": ("#D55E00", "*"),
    "beamlora-no-expansion": ("#A34700", "<"),
    "beamlora-no-expansion-masked": ("#B0573A", "3"),
    "beamlora-no-assessment": ("#C98A1B", ">"),
    "beamlora-no-dynamic-p": ("#8A5A3C", "p"),
    "beamlora-released": ("#B8741A", "d"),
    "beamlora-gate-only": ("#C77B4A", "H"),
    "beamlora-copy-current": ("#9C6B1F", "8"),
}
#: For methods that are not ours, such as plug-ins: chosen by name, so that the look does not change with the company.
_OTHER_LOOKS = (("#5B7F95", "<"), ("#7D8B2C", ">"), ("#B0628A", "p"), ("#4B8B6F", "d"), ("#8C6FB5", "H"), ("#A8744F", "8"))

#: Ink of text, of helper lines and of the two axes of Figure 1 (importance blue, accuracy red).
INK, FAINT, BLUE, RED = "#1A1A1A", "#B5B5B5", "#0072B2", "#C8102E"

_FONT = "Figure DejaVu Sans"
_RC: dict[Any, Any] = {
    "font.family": [_FONT],
    "mathtext.fontset": "dejavusans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 200.0,
    "figure.dpi": 100.0,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "path.simplify": True,
}
_CAPTION_POINTS = 7.5
_CAPTION_LINE_INCHES = 0.135
#: DejaVu Sans at that size; fewer than on average, since a line of wide letters must fit too.
_CAPTION_CHARACTERS_PER_INCH = 17.2
_LEGEND_LINE_INCHES = 0.21
_LEGEND_ENTRY_INCHES = 1.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn figure and the data behind it, in long form."""

    figure: Figure
    data: pd.DataFrame


# ------------------------------------------------------------------------------------------------------------- methods


def method_of(key: str) -> str:
    """The method of a row's key: that of a sweep's run (``lora.r=8``) is what stands before the dot."""
    return key.partition(".")[0]


def _look(key: str) -> tuple[str, str]:
    method = method_of(key)
    if method in METHOD_LOOKS:
        return METHOD_LOOKS[method]
    return _OTHER_LOOKS[int(hashlib.sha256(method.encode()).hexdigest(), 16) % len(_OTHER_LOOKS)]


def colour_of(key: str) -> str:
    """The colour of a method, a variant or a point of a sweep, by its key; the same in every figure and in the report."""
    return _look(key)[0]


def marker_of(key: str) -> str:
    """The matplotlib marker of a method, as ``colour_of``."""
    return _look(key)[1]


def marker_size(key: str) -> float:
    """A star looks smaller than a disc of the same size."""
    return 9.0 if marker_of(key) == "*" else 6.0


def look_of(key: str) -> dict[str, Any]:
    """Colour and marker of a method, as matplotlib's arguments."""
    return {"color": colour_of(key), "marker": marker_of(key), "markersize": marker_size(key)}


def handle(key: str, label: str, *, line: bool = True) -> Line2D:
    """A legend entry of a method."""
    return Line2D([], [], label=label, linestyle="-" if line else "none", **look_of(key))


# ------------------------------------------------------------------------------------------------------------- drawing


@contextmanager
def theme() -> Iterator[None]:
    """Our settings and the fonts that matplotlib ships, whatever the machine has installed or configured."""
    shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    entries = font_manager.fontManager.ttflist
    if not any(entry.name == _FONT for entry in entries):
        own = [e for e in entries if e.name == "DejaVu Sans" and Path(e.fname).parent == shipped]
        entries.extend(dataclasses.replace(entry, name=_FONT) for entry in own)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, *, title: str, caption: Sequence[str], legend: Sequence[Artist] = ()) -> None:
    """Put the title and a legend of all panels above them, and the caption, one sentence or more, below."""
    width, height = map(float, figure.get_size_inches())
    lines = textwrap.wrap(" ".join(caption), width=int(width * _CAPTION_CHARACTERS_PER_INCH))
    bottom = len(lines) * _CAPTION_LINE_INCHES + 0.08
    top = 0.34
    # A bold letter is about 0.68 of its size wide.
    size = min(11.0, 72 * width / (0.68 * len(title)))
    heading: dict[str, Any] = {"fontsize": size, "fontweight": "bold", "ha": "center", "va": "top"}
    figure.text(0.5, 1 - 0.07 / height, title, **heading)
    if legend:
        columns = max(1, min(len(legend), int(width / _LEGEND_ENTRY_INCHES)))
        at: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 1 - 0.27 / height), "borderaxespad": 0.0}
        drawn = figure.legend(handles=list(legend), ncols=columns, columnspacing=1.4, handletextpad=0.5, **at)
        drawn.set_in_layout(False)
        top += 0.02 + _LEGEND_LINE_INCHES * -(-len(legend) // columns)
    text = "\n".join(lines)
    small: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": _CAPTION_POINTS, "color": "#4A4A4A", "linespacing": 1.25}
    figure.text(0.008, 0.04 / height, text, **small)
    space = (0.0, bottom / height, 1.0, 1.0 - (bottom + top) / height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)  # of new_figure
    engine.set(rect=space, w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03)


#: Metric -> how it is named in a title, and as the label of an axis.
SCORE_NAMES: dict[Metric, str] = {"accuracy": "Accuracy", "gold_nll": "NLL"}
SCORE_LABELS: dict[Metric, str] = {"accuracy": "Accuracy (%)", "gold_nll": "NLL of the gold answer\n(nats per token)"}


def score_axis(axis: Axes, metric: Metric) -> None:
    """The y axis of a panel of scores."""
    axis.set_ylabel(SCORE_LABELS[metric])
    if metric == "accuracy":
        percent_axis(axis)


def percent_axis(axis: Axes, *, which: str = "y") -> None:
    """Show fractions as per cent."""
    target = axis.yaxis if which == "y" else axis.xaxis
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))


def mark_diverged(axis: Axes, x: float, *, key: str, lost: int, planned: int) -> None:
    """A note at the bottom of a panel where runs diverged: they have no accuracy and are in no mean."""
    if lost:
        text = f"\u2715\n{lost} of {planned}\ndiverged"
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
        look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6.5, "color": colour_of(key), "zorder": 6}
        axis.text(x, 0.015, text, transform=axis.get_xaxis_transform(), bbox=ground, **look)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Positions near ``values`` (descending) that lie at least ``gap`` apart, in the same order."""
    placed = np.asarray(values, dtype=float)
    for _ in range(200):
        close = placed[:-1] - placed[1:] < gap * (1 - 1e-6)
        if not close.any():
            break
        for i in np.flatnonzero(close):
            middle = (placed[i] + placed[i + 1]) / 2
            placed[i], placed[i + 1] = max(placed[i], middle + gap / 2), min(placed[i + 1], middle - gap / 2)
    else:
        placed = placed.mean() + gap * (np.arange(len(placed))[::-1] - (len(placed) - 1) / 2)
    return placed.tolist()


# -------------------------------------------------------------------------------------------------------------- saving


def csv_text(data: pd.DataFrame) -> str:
    """The data as CSV; ten digits, so that the last bit of a sum does not change the file."""
    return data.to_csv(index=False, lineterminator="\n", float_format="%.10g")


def save(plot: Plot, folder: Path, name: str) -> list[Path]:
    """Write ``name``.png, .pdf and .csv; the same data gives the same bytes. The PNG says which data these are, for
    ``check_drawn``.

    Returns:
        The three paths.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")]
    # Without these the files hold the date and matplotlib's version.
    data = csv_text(plot.data)
    drawn_from = hashlib.sha256(data.encode()).hexdigest()
    unsigned = {
        "png": {"Software": None, DRAWN_FROM: drawn_from},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    for path in paths[:2]:
        kind = path.suffix[1:]
        content = io.BytesIO()
        plot.figure.savefig(content, format=kind, metadata=unsigned[kind])
        with files.replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
    files.write_text(paths[2], data)
    return paths
