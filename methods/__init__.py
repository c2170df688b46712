"""Fine-tuning methods and their registry.

``methods.get("beamlora")`` returns the class and the settings of a named method. Besides the modules in this folder, the
entry-point group ``beamlora_harness.methods`` is read, so that a method can live in someone else's package.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from methods.base import Method

ENTRY_POINT_GROUP = "beamlora_harness.methods"


@dataclass(frozen=True, kw_only=True)
class NamedMethod:
    """A registered name: the class behind it, its label in tables, and the settings in which it differs from the class."""

    name: str
    label: str
    cls: type[Method[Any]]
    preset: dict[str, Any]


@cache
def registry() -> dict[str, NamedMethod]:
    """All named methods, variants included.

    Raises:
        ValueError: two classes claim one name.
    """
    classes: list[type[Method[Any]]] = []
    for info in pkgutil.iter_modules(__path__):
        if info.name == "base":
            continue
        module = importlib.import_module(f"methods.{info.name}")
        classes += getattr(module, "METHODS", [])
    classes += [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)]

    found: dict[str, NamedMethod] = {}
    for cls in classes:
        for name, (label, preset) in {cls.name: (cls.label, {}), **cls.variants}.items():
            if name in found and found[name].cls is not cls:
                raise ValueError(f"method name {name!r} is claimed by {found[name].cls} and {cls}")
            found[name] = NamedMethod(name=name, label=label, cls=cls, preset=preset)
    return found


def get(name: str) -> NamedMethod:
    """The named method.

    Raises:
        KeyError: no such method; the message lists the nearest names, or all of them.
    """
    known = registry()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known))}"
    raise KeyError(f"unknown method {name!r}; {hint}")
