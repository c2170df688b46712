"""Which source files a command's result depends on: all that it imports, directly or not. Standard library only.

Snakemake does not see modules behind ``python -m``, so each rule names these files as inputs, and a finished evaluation task is
kept as long as they stay the same. They are read off the import statements; nothing is imported.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from harness.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("beamlora", "evaluation", "harness", "methods")

#: Imported by every command and behind no number: how a command is called, what it prints while it runs, what it cost.
LEFT_OUT = frozenset({"harness.cli", "harness.overhead", "harness.progress"})
_BEGINS_LIKE_A_MODULE = re.compile(rf"""["']({"|".join(PACKAGES)})\.""")


def source_files(*modules: str) -> list[Path]:
    """The files of ``modules`` and of everything in this project that they import, sorted, relative to the repository.

    Imports inside functions count, those for type checkers only do not. A module that is named in a string (``python -m`` in a
    process of its own) counts as imported. ``modules`` may be of another package: their files (``own_files``) stand
    first, with their whole paths.

    Raises:
        ConfigError: no such module in this project, and none installed.
    """
    outside = sorted({file for module in modules if not is_ours(module) for file in own_files(module)})
    named = [module for module in modules if is_ours(module)] + [name for file in outside for name in _named_in(file)]
    return outside + sorted(frozenset().union(*map(_reached, named)))


@cache  # the workflow asks for each of its runs
def _reached(module: str) -> frozenset[Path]:
    """The files of a module of this project and of everything that it imports, relative to the repository."""
    files: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name in files or name in LEFT_OUT:
            continue
        if (file := _file(name)) is None:
            raise ConfigError(f"found no module {name!r} below {ROOT}")
        files[name] = file.relative_to(ROOT)
        pending += _imports(name)
    return frozenset(files.values())


def own_files(module: str) -> list[Path]:
    """The file of a module, relative to the repository; of a module of another package all files of its folder, which
    it may import, or its single file.

    Raises:
        ConfigError: no such module in this project, and none installed.
    """
    if (file := _file(module)) is not None:
        return [file.relative_to(ROOT)]
    source = None if is_ours(module) else _origin(module)
    if source is None:
        raise ConfigError(f"found no module {module!r} below {ROOT}, and none of that name installed")
    file = Path(source)
    return sorted(file.parent.glob("*.py")) if "." in module or file.name == "__init__.py" else [file]


def source_hash(*modules: str, without: str | None = None) -> str:
    """One SHA-256 over the names and contents of ``source_files``, without those of a package if one is named."""
    digest = hashlib.sha256()
    for path in source_files(*modules):
        if without is not None and path.is_relative_to(without):
            continue
        digest.update(f"{path}\n{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def releases(*modules: str) -> str:
    """The other packages that the source files of ``modules`` import, with their installed releases, in words; of packages
    only those that are installed under the name that is imported."""
    named = {name for path in source_files(*modules) for name in _outside(ROOT / path)}
    return ", ".join(f"{name} {release}" for name in sorted(named) if (release := _release(name)))


def is_ours(module: str) -> bool:
    """Whether a module is of this project, by its name alone."""
    return module.partition(".")[0] in PACKAGES


def _origin(module: str) -> str | None:
    """The file of a module of another package, loaded or not."""
    if module in sys.modules:
        return sys.modules[module].__file__
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # of the package that would hold it
        return None
    return None if spec is None else spec.origin


@cache
def _file(module: str) -> Path | None:
    if not is_ours(module):
        return None
    path = ROOT.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


@cache
def _imports(module: str) -> frozenset[str]:
    """What a module imports from this project, the packages that hold it included."""
    file = _file(module)
    assert file is not None
    named = _named_in(file)
    holders = {name.rpartition(".")[0] for name in (*named, module)}
    return frozenset(name for name in named | holders if name and name != module)


def _outside(file: Path) -> set[str]:
    """The packages that a file imports and that are neither this project's nor the standard library's."""
    return {name.partition(".")[0] for name in _named(file)} - sys.stdlib_module_names - set(PACKAGES)


@cache
def _release(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _named_in(file: Path) -> set[str]:
    """The modules of this project that a file names, in imports and strings."""
    return {name for name in _named(file) if all(part.isidentifier() for part in name.split(".")) and _file(name) is not None}


@cache
def _named(file: Path) -> frozenset[str]:
    """What a file imports, modules or what is in them, and the strings in it that look like modules of this project."""
    names: set[str] = set()
    text = file.read_text(encoding="utf-8")
    # Imports are statements. Expressions, most of the nodes, are only looked through for the strings of a file that has any
    # that begin like a module: each start of the workflow reads some 170 files.
    statements = (ast.stmt, ast.excepthandler, ast.match_case)
    kinds: tuple[type[ast.AST], ...] = (ast.AST,) if _BEGINS_LIKE_A_MODULE.search(text) else statements
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pending += node.orelse
                continue
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(package), level=0):
                names |= {package, *(f"{package}.{alias.name}" for alias in node.names)}
            case ast.Constant(value=str(text)) if is_ours(text) and "." in text:
                names.add(text)
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, kinds)]
    return frozenset(names)
