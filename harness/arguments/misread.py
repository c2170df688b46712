"""Targets that a command line takes for something else, and what to type instead. Standard library only.

``--configfile`` and ``--config`` take every word after them, also the target in ``snakemake --configfile FILE TARGET``.
Snakemake reads the files before the Snakefile and ends in a traceback; its profile therefore runs this file first, by its path,
since ``harness`` may not be importable yet.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_FILES = ("--configfile", "--configfiles")
_KEYS = ("--config", "-C")
#: An option and its only word in one argument.
_ATTACHED = re.compile(r"(--configfiles?|--config)=(.+)|(-C)=?(.+)", re.DOTALL)
#: A key that Snakemake takes after ``--config``.
_KEY = re.compile(r"[A-Za-z_][\w-]*\w")
#: What the workflow writes: a file there is a target, never an experiment.
_OUTPUTS = (("results",), ("figures",))


def targets(words: Sequence[str]) -> list[str]:
    """Those of the words after ``--configfile`` that name no experiment file: neither YAML nor a file of the user's."""
    return [word for word in words if not _is_experiment(Path(word))]


def _is_experiment(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") or (path.exists() and path.parts[:1] not in _OUTPUTS)


def complaint(program: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with a command line of Snakemake, with the one that was meant; None if nothing is."""
    options = _options(arguments)
    for option in options:
        if option.name in _FILES:
            misplaced, what = targets(option.words), "as a configuration file"
        else:
            misplaced, what = [word for word in option.words if "=" not in word], f"after {option.name}, expected KEY=VALUE"
        if misplaced:
            rest = [word for word in option.words if word not in misplaced]
            kept = [option.name, *rest] if rest else []
            moved = [*misplaced, *arguments[: option.start], *kept, *arguments[option.end :]]
            where = f"found {' '.join(misplaced)} {what}; put the target before {option.name}"
            return f"{where}: {shlex.join([program, *moved])}"
    for names, all_words in ((_KEYS, "all keys"), (_FILES, "all files")):
        same = [option.name for option in options if option.name in names]
        if len(same) > 1:
            return f"found {same[-1]} twice, of which Snakemake takes the last one only; put {all_words} after one {same[-1]}"
    return next((wrong for option in options if option.name in _KEYS for wrong in _wrong_keys(option.words)), None)


def _wrong_keys(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with ``KEY=VALUE`` words: a key that Snakemake refuses with a traceback, or one that stands twice."""
    seen: set[str] = set()
    for word in words:
        key, _, value = word.partition("=")
        if not _KEY.fullmatch(key):
            first, *others = key.split(".")
            for other in reversed(others):
                value = f"{{{other}: {value}}}"
            known = _KEY.fullmatch(first) and all(others)
            expected = shlex.quote(f"{first}={value}") if known else "the name of a key"
            yield f"--config: found the key {key!r}, expected {expected}"
        if key in seen and not value.startswith("{"):  # mappings are merged
            yield f"--config: found {key} twice, expected each key once"
        seen.add(key)


def missing(arguments: Sequence[str]) -> str | None:
    """The first configuration file on a command line of Snakemake that is not there, in words; None if all are."""
    for option in _options(arguments):
        for word in option.words if option.name in _FILES else ():
            if not Path(word).is_file():
                found = "the folder" if Path(word).is_dir() else "no file"
                return f"{option.name}: found {found} {word}, expected an experiment's file"
    return None


def unreadable(arguments: Sequence[str]) -> str | None:
    """What is wrong with the first configuration file on a command line of Snakemake that is no YAML mapping: Snakemake itself
    names no file. None if all are."""
    for option in _options(arguments):
        for word in option.words if option.name in _FILES else ():
            import yaml  # which Snakemake has too

            try:
                with Path(word).open("rb") as stream:
                    content = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no such date
                return f"{word}: found invalid YAML: {' '.join(str(error).split())}"
            if not isinstance(content, dict):
                found = "nothing" if content is None else type(content).__name__
                return f"{word}: found {found}, expected a mapping of keys"
            try:
                json.dumps(content, default=str, skipkeys=True)
            except (ValueError, RecursionError):
                return f"{word}: found an alias (*) inside what its anchor (&) names, expected an end"
    return None


class _Option(NamedTuple):
    """An option that takes files or keys, the words that it takes, and the arguments that both stand in."""

    name: str
    words: Sequence[str]
    start: int
    end: int


def _options(arguments: Sequence[str]) -> list[_Option]:
    options = []
    for place, word in enumerate(arguments):
        if word == "--":
            break
        attached = _ATTACHED.fullmatch(word)
        if attached is not None:  # argparse takes nothing after it
            options.append(_Option(attached[1] or attached[3], [attached[2] or attached[4]], place, place + 1))
        elif word in _FILES + _KEYS:
            end = place + 1
            while end < len(arguments) and not arguments[end].startswith("-"):
                end += 1
            options.append(_Option(word, arguments[place + 1 : end], place, end))
    return options


def refuse(argv: Sequence[str]) -> None:
    """End a Snakemake whose command line does not mean what it says, with one line.

    Args:
        argv: as in ``sys.argv``.
    """
    problem = complaint("snakemake", argv[1:]) or missing(argv[1:]) or unreadable(argv[1:])
    if problem is not None:
        raise SystemExit(f"error: {problem}")
