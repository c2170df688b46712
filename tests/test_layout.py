"""The house: which room may import which, no circle, no folder that nobody can overlook. Read off the import statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from harness.source_files import PACKAGES
from tests.paths import ROOT

#: From the ground up. A room imports from its own line (never in a circle) and from the lines above it here. A line names
#: packages with all that they hold, or single modules; ``__main__`` stands for every command.
LAYERS = (
    ("beamlora",),
    (
        "harness.arguments",
        "harness.did_you_mean",
        "harness.errors",
        "harness.files",
        "harness.overhead",
        "harness.progress",
        "harness.provenance",
        "harness.source_files",
        "harness.threads",
        "harness.time_left",
    ),
    ("evaluation.comparison", "evaluation.example", "evaluation.sandbox"),
    ("evaluation.graders",),
    ("evaluation.sets",),
    ("evaluation.grading",),
    ("harness.protocols", "harness.reported"),
    ("harness.schema", "harness.cli", "harness.hub"),
    ("methods",),
    ("harness.experiment",),
    ("harness.synthetic",),
    ("harness.data", "harness.models"),
    ("harness.statistics", "harness.records"),
    ("harness.engine", "harness.export", "harness.train"),
    ("harness.evaluate", "harness.measure"),
    ("harness.answers",),
    ("harness.plan", "harness.tables"),
    ("harness.figures", "harness.claims", "harness.compare"),
    ("harness.report",),
    ("harness.workflow", "harness.fetch"),
    ("__main__", "harness.command", "evaluation.grade"),
)
MOST_FILES = 13


@cache
def modules() -> Mapping[str, Path]:
    """Module -> its file, for everything that is not a test."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this project that a module imports, wherever in it, also for type checkers only."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}:{node.lineno}: found a relative import, expected the full name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in modules() else node.module)
    return frozenset(names & modules().keys() - {module})


def layer(module: str) -> int | None:
    """The place of a module in LAYERS; None for the empty heads of packages above the rooms."""
    if module.endswith(".__main__"):
        return len(LAYERS) - 1
    fits = [
        (len(room), i) for i, rooms in enumerate(LAYERS) for room in rooms if module == room or module.startswith(f"{room}.")
    ]
    return max(fits)[1] if fits else None


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_has_a_room() -> None:
    heads = {"harness", "evaluation"}
    assert [module for module in modules() if layer(module) is None and module not in heads] == []
    rooms = [room for rooms in LAYERS[:-1] for room in rooms]
    assert [room for room in rooms if room not in modules()] == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_downwards(module: str) -> None:
    own = layer(module)
    upwards = [name for name in imports(module) if own is not None and (layer(name) or 0) > own]
    assert upwards == [], f"{module} stands below what it imports"


def test_no_circle_of_modules() -> None:
    assert circle({module: set(imports(module)) for module in modules()}) == []


def test_no_circle_of_folders() -> None:
    """Commands stand apart: what a folder's ``__main__`` imports is no tie of the folder."""
    graph: dict[str, set[str]] = {}
    for module in modules():
        if module.endswith(".__main__"):
            continue
        folder = modules()[module].parent
        graph.setdefault(str(folder.relative_to(ROOT)), set()).update(
            str(modules()[name].parent.relative_to(ROOT)) for name in imports(module) if modules()[name].parent != folder
        )
    for ground in ("harness", "evaluation"):  # the single files of these two are rooms of their own, held by LAYERS
        graph.pop(ground, None)
    assert circle(graph) == []


def folders() -> Iterator[Path]:
    for package in PACKAGES:
        yield from {path.parent for path in (ROOT / package).rglob("*.py")}


@pytest.mark.parametrize("folder", sorted(folders()), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_can_be_overlooked(folder: Path) -> None:
    files = [path.name for path in folder.iterdir() if path.is_file() and path.name not in ("__init__.py", "py.typed")]
    assert len(files) <= MOST_FILES, sorted(files)
