"""The evaluation sets: one module per set or family of sets, found here or through entry points. No torch.

A set outside this package is named in the entry-point group ``beamlora_harness.sets``::

    [project.entry-points."beamlora_harness.sets"]
    my-set = "my_package.my_module:MY_SET"
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from evaluation.example import Example, Record
from evaluation.sets.base import EvaluationSet
from harness.did_you_mean import hint

if TYPE_CHECKING:
    from evaluation.sets.columns import Format

ENTRY_POINT_GROUP = "beamlora_harness.sets"
#: Modules of this folder that sets share, or that training sets are read with; every other one defines sets.
_SHARED = frozenset({"base", "columns", "llm_adapters", "own", "prompts", "running_text", "training"})


def _defined() -> Iterator[tuple[str, object]]:
    """(module, what should be a set) of everything that this folder and entry points name."""
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        if info.name.rpartition(".")[2] in _SHARED:
            continue
        defined = getattr(importlib.import_module(info.name), "SETS", ())
        if not defined:
            raise ValueError(f"{info.name}: found no SETS, expected a tuple of the evaluation sets that the module defines")
        yield from ((info.name, one) for one in defined)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        yield point.module, point.load()


@cache
def _by_name() -> dict[str, tuple[EvaluationSet, str]]:
    known: dict[str, tuple[EvaluationSet, str]] = {}
    for module, one in _defined():
        if not isinstance(one, EvaluationSet):
            raise ValueError(f"{module}: found {type(one).__name__} as an evaluation set, expected EvaluationSet")
        if one.name in known and known[one.name][0] is not one:
            raise ValueError(f"set name {one.name!r} is claimed by {known[one.name][1]} and {module}")
        known[one.name] = one, module
    return known


def registry() -> dict[str, EvaluationSet]:
    """All sets by name.

    Raises:
        ValueError: a module defines no set, something else than a set is named, or two sets claim one name.
    """
    return {name: one for name, (one, _) in _by_name().items()}


def get(format: Format) -> EvaluationSet:
    """The set of a name, or of columns.

    Raises:
        KeyError: no such set; the message lists the nearest name, or all of them.
    """
    if isinstance(format, str):
        return _entry(format)[0]
    # Not by an import statement: training reads columns too, and depends on no grader.
    return cast(EvaluationSet, importlib.import_module(module_of(format)).own_set(format))


def module_of(format: Format) -> str:
    """The module that defines a set.

    Raises:
        KeyError: no such set.
    """
    return _entry(format)[1] if isinstance(format, str) else f"{__name__}.own"


def examples(format: Format, records: Sequence[Record]) -> list[Example]:
    """The examples of a set: ``EvaluationSet.examples``.

    Raises:
        KeyError: no such set. ValueError: a malformed record.
    """
    return get(format).examples(records)


def _entry(name: str) -> tuple[EvaluationSet, str]:
    known = _by_name()
    if name in known:
        return known[name]
    raise KeyError(f"unknown evaluation set {name!r}; {hint(name, known)}")
