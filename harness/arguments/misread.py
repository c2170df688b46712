"""Targets that a command line takes for something else, and what to type instead. Standard library only.

``--configfile`` and ``--config`` take every word after them, also the target in ``snakemake --configfile FILE TARGET``.
Snakemake reads the files before the Snakefile and ends in a traceback; its profile therefore runs this file first, by its path,
since ``harness`` may not be importable yet.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_FILES = ("--configfile", "--configfiles")
_KEYS = ("--config", "-C")
#: What the workflow writes: a file there is a target, never an experiment.
_OUTPUTS = (("results",), ("figures",))


def targets(words: Sequence[str]) -> list[str]:
    """Those of the words after ``--configfile`` that name no experiment file: neither YAML nor a file of the user's."""
    return [word for word in words if not _is_experiment(Path(word))]


def _is_experiment(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") or (path.exists() and path.parts[:1] not in _OUTPUTS)


def complaint(program: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with a command line of Snakemake, with the one that was meant; None if nothing is."""
    for option, length, start in _options(arguments):
        words = arguments[start : start + length]
        if option in _FILES:
            misplaced, what = targets(words), "as a configuration file"
        else:
            misplaced, what = [word for word in words if "=" not in word], f"after {option}"
        if misplaced:
            rest = [word for word in words if word not in misplaced]
            moved = [*misplaced, *arguments[: start - 1], *([option, *rest] if rest else []), *arguments[start + length :]]
            where = f"found {' '.join(misplaced)} {what}; put the target before {option}"
            return f"{where}: {shlex.join([program, *moved])}"
    twice = [option for option, _, _ in _options(arguments) if option in _KEYS]
    if len(twice) > 1:
        return f"found {twice[-1]} twice, of which Snakemake takes the last one only; put all keys after one {twice[-1]}"
    return None


def missing(arguments: Sequence[str]) -> str | None:
    """The first configuration file on a command line of Snakemake that is not there, in words; None if all are."""
    for option, length, start in _options(arguments):
        for word in arguments[start : start + length]:
            if option in _FILES and not Path(word).exists():
                return f"{option}: found no file {word}, expected an experiment"
    return None


def unreadable(arguments: Sequence[str]) -> str | None:
    """What is wrong with the first configuration file on a command line of Snakemake that is no YAML mapping: Snakemake itself
    names no file. None if all are."""
    for option, length, start in _options(arguments):
        for word in arguments[start : start + length] if option in _FILES else ():
            import yaml  # which Snakemake has too

            try:
                with Path(word).open("rb") as stream:
                    content = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except (OSError, yaml.YAMLError) as error:
                return f"{word}: found invalid YAML: {' '.join(str(error).split())}"
            if not isinstance(content, dict):
                found = "nothing" if content is None else type(content).__name__
                return f"{word}: found {found}, expected a mapping of keys"
    return None


def _options(arguments: Sequence[str]) -> list[tuple[str, int, int]]:
    """(option, number of words after it, place of the first) of each option that takes files or keys."""
    options = []
    for place, word in enumerate(arguments):
        if word == "--":
            break
        if word in _FILES + _KEYS:
            start = end = place + 1
            while end < len(arguments) and not arguments[end].startswith("-"):
                end += 1
            options.append((word, end - start, start))
    return options


def refuse(argv: Sequence[str]) -> None:
    """End a Snakemake whose command line does not mean what it says, with one line.

    Args:
        argv: as in ``sys.argv``.
    """
    problem = complaint("snakemake", argv[1:]) or missing(argv[1:]) or unreadable(argv[1:])
    if problem is not None:
        raise SystemExit(f"error: {problem}")
