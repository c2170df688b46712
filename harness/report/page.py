"""The page: everything gathered, put into the template, and packed into one file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from harness.errors import ConfigError
from harness.experiment.runs import all_runs, table_runs
from harness.figures import catalogue, check_drawn, interactive
from harness.figures.style import METHOD_LOOKS
from harness.files import json_text
from harness.records.read import Loaded, load_records
from harness.records.versioned import Recipe
from harness.report import made, others, runs
from harness.report.numbers import Shown, TableView, details, table_view
from harness.report.sources import Source, due_files, require_complete, state
from harness.schema.run import RunSpec
from harness.tables.base_row import load_base_answers
from harness.tables.build import build_table

#: Upper limit of a page, in bytes.
MAX_BYTES = 5_000_000
#: Examples of a test set whose text is kept: the largest number with which the page is small enough.
SAMPLES = (10_000, 1000, 400, 150, 60, 25, 10, 4)
#: Bytes of predictions that are read at most: far more than fit into a page after compression.
MAX_TEXT = 60_000_000
#: CSS pixels for one pixel of a figure: its letters get about the size of the page's.
SCALE = 0.55
#: Order in which scripts are run: the table library, then ours.
SCRIPTS = ("vendor/dataTables.min.js", "core.js", "views.js", "pair.js", "flips.js", "plots.js", "main.js")
#: The library of the plots: packed, since most of the page's bytes would be its, and run when a plot comes into sight.
PLOT_LIBRARY = "vendor/vega.min.js"


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure as a picture, or the reason why there is none."""

    name: str
    paper: str
    shows: str
    picture: str | None
    #: CSS pixels, width and height; zero without a picture.
    size: tuple[int, int]
    runs: tuple[str, ...]
    command: str
    reason: str


def _picture(path: Path, recipe: Recipe) -> tuple[str, tuple[int, int]]:
    """A figure as base64 of a PNG with a palette, a third of the bytes and to the eye the same; and its size on the page.

    Raises:
        RecordError: the file, or the data beside it, is damaged.
    """
    check_drawn(path, recipe)
    packed = io.BytesIO()
    try:
        with Image.open(path) as image:
            size = round(image.width * SCALE), round(image.height * SCALE)
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    except (OSError, SyntaxError) as error:  # what Pillow raises of a file that is damaged
        raise recipe.broken(path, f"found no picture ({error})") from error
    return base64.b64encode(packed.getvalue()).decode(), size


def _figures(source: Source) -> list[FigureView]:
    views = []
    for figure in catalogue.planned(source.experiment):
        path = source.figures / f"{figure.name}.png"
        command = f"{source.command} -- {figure.name}"
        recipe = Recipe.workflow(source.command, path)
        picture, size = _picture(path, recipe) if path.is_file() else (None, (0, 0))
        views.append(
            FigureView(
                name=figure.name,
                paper=figure.paper,
                shows=figure.shows,
                picture=picture,
                size=size,
                runs=tuple(run.run_id for run in figure.runs(source.experiment)),
                command=command,
                reason="" if path.is_file() else f"Not drawn: found no {path}; draw it: {command}",
            )
        )
    return views


def plots(source: Source) -> dict[str, dict[str, Any]]:
    """Figure -> its plots, of those that are drawn and have some, from the CSV beside the picture.

    Raises:
        RecordError: a CSV is damaged, or lacks a column: it is of an older version of the figure.
    """
    drawn: dict[str, dict[str, Any]] = {}
    for figure in catalogue.planned(source.experiment):
        path = source.figures / f"{figure.name}.csv"
        recipe = Recipe.workflow(source.command, path)
        check_drawn(path.with_suffix(".png"), recipe)
        try:
            made = catalogue.plots(figure.name, interactive.read(path)) if path.is_file() else None
        except KeyError as error:
            raise recipe.broken(path, f"found no column {error}, expected those that the figure has now") from error
        except ValueError as error:  # pandas', of lines that are no CSV
            raise recipe.broken(path, f"found no table ({error})") from error
        if made is not None and made["panels"]:
            drawn[figure.name] = made
    return drawn


def _part(loaded: Loaded, mine: Sequence[RunSpec]) -> Loaded:
    """Of all records those of one table."""
    ids = {run.run_id for run in mine}
    return Loaded(
        records=[record for record in loaded.records if record.run.run_id in ids],
        missing=[run for run in loaded.missing if run.run_id in ids],
        stale=[run for run in loaded.stale if run.run_id in ids],
    )


def _tables(source: Source, loaded: Loaded, *, allow_missing: bool) -> tuple[list[TableView], list[dict[str, Any]]]:
    views, numbers = [], []
    for name in source.experiment.tables:
        mine = table_runs(source.experiment, name)
        base = load_base_answers(
            source.experiment, mine, results=source.results, command=source.command, allow_missing=allow_missing
        )
        table = build_table(source.experiment, name, mine, _part(loaded, mine), base=base)
        views.append(table_view(table))
        numbers += details(source, table, mine)
    return views, numbers


@dataclass(frozen=True, kw_only=True)
class Partial:
    """What a report lacks, in counts; and the runs without a usable record."""

    missing: tuple[Shown, ...]
    runs: tuple[str, ...]


def _partial(source: Source, entries: Sequence[dict[str, Any]]) -> Partial:
    """From the entries of ``runs.run_entries``, and from what else there is."""
    left = [entry["id"] for entry in entries if entry["status"] in ("missing", "stale")]
    counts = {"planned runs": (len(left), len(all_runs(source.experiment)))}
    counts |= {name: (sum(not path.is_file() for path in paths), len(paths)) for name, paths in due_files(source).items()}
    missing = tuple(
        Shown(key=f"partial|{name}", text=f"{lacking} of {due} {name}" if due > 1 else f"the {name}")
        for name, (lacking, due) in counts.items()
        if lacking
    )
    return Partial(missing=missing, runs=tuple(left))


def pack(content: dict[str, Any]) -> str:
    """JSON as ``_packed``."""
    return _packed(json_text(content))


def _packed(text: str) -> str:
    """A text, compressed (RFC 1950) and in base64: no character of it means anything in HTML."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(packed: str) -> dict[str, Any]:
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def _assets(*names: str) -> str:
    folder = files("harness.report") / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def _plot_library() -> tuple[str, str]:
    """The library of the plots, plain and packed."""
    library = _assets(PLOT_LIBRARY)
    return library, _packed(library)


def _sha256(script: str) -> str:
    """The source of a script in the page's security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _environment() -> Environment:
    loader = PackageLoader("harness.report", "templates")
    return Environment(
        loader=loader, autoescape=select_autoescape(("j2",)), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render_page(source: Source, *, allow_missing: bool = False, max_bytes: int = MAX_BYTES) -> str:
    """The page. The same records give the same text.

    Raises:
        ConfigError: records are missing (unless allowed) or broken.
        ConfigError: without any sample prediction the page is still larger than ``max_bytes``.
    """
    if not allow_missing:
        require_complete(source)
    loaded = load_records(
        all_runs(source.experiment), results=source.results, command=source.command, allow_missing=allow_missing
    )
    views, numbers = _tables(source, loaded, allow_missing=allow_missing)
    entries = runs.run_entries(source, loaded) + runs.base_entries(source)
    blocks = {
        "settings": others.settings_blocks(source, allow_missing=allow_missing),
        "rates": others.rate_blocks(source, allow_missing=allow_missing),
        "base": others.base_block(source),
        "graders": others.grader_block(source, loaded),
        "timing": others.timing_block(source),
        "bench": others.bench_block(source),
    }
    script, plotted = _assets(*SCRIPTS), plots(source)
    library, packed = _plot_library() if plotted else ("", "")
    content = {
        "source": source,
        "tables": views,
        "figures": _figures(source),
        "claims": others.claim_views(source),
        "made": made.made(source, entries),
        "partial": _partial(source, entries),
        "failed": [entry for entry in entries if entry["status"] == "diverged"],
        "collapsed": [entry for entry in entries if entry.get("collapsed")],
        "entries": entries,
        "script": script,
        "script_sources": " ".join(map(_sha256, filter(None, (script, library)))),
        "plot_library": packed,
        "style": _assets("report.css"),
        "state": hashlib.sha256(json_text(state(source)).encode()).hexdigest()[:16],
        **blocks,
    }
    data = {"experiment": source.experiment.name, "numbers": numbers, "runs": entries, "state": state(source),
            "colours": {key: colour for key, (colour, _) in METHOD_LOOKS.items()}, "plots": plotted}  # fmt: skip
    return _fitting(source, content, data, max_bytes=max_bytes)


def _fitting(source: Source, content: dict[str, Any], data: dict[str, Any], *, max_bytes: int) -> str:
    """The page with as many sample predictions as its size allows."""
    template = _environment().get_template("page.html.j2")
    around = template.render(**content, data="", sampled="")
    room = max_bytes - len(around.encode()) - 200
    choices = runs.readable(data["runs"], SAMPLES, max_bytes=MAX_TEXT)
    predictions = runs.read_answers(data["runs"], most=choices[0])
    for most in choices:
        packed = pack({**data, "answers": runs.answers(predictions, most=most)})
        if len(packed) <= room:
            largest = max((len(one.ids) for one in predictions), default=0)
            sampled = "all examples" if most >= largest else f"{most} evenly spread examples of each test set"
            return template.render(**content, data=packed, sampled=sampled)
    raise ConfigError(
        f"the page of {source.experiment.name} has {len(around.encode()) + len(packed)} bytes with {SAMPLES[-1]} sample "
        f"predictions, expected at most {max_bytes}"
    )
