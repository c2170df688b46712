"""Fine-tuning methods and their registry.

``methods.get("beamlora")`` returns the class and the settings of a named method. Every ``Method`` that a module of this folder
defines is registered (a folder's ``__init__`` imports its method's class). Besides, the entry-point group
``beamlora_harness.methods`` is read, so that a method can live in someone else's package.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from harness.did_you_mean import hint
from harness.errors import ConfigError
from harness.schema.run import MethodSpec
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
        ConfigError: a class is no complete method, a folder has none, or two classes claim one name.
    """
    classes: list[type[Method[Any]]] = [cls for info in pkgutil.iter_modules(__path__) for cls in _defined_in(info)]
    classes += [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)]

    named: dict[str, NamedMethod] = {}
    for cls in classes:
        _check(cls)
        variants = vars(cls).get("variants", {})  # those of the method that it extends are that method's
        for name, (label, preset) in {cls.name: (cls.label, {}), **variants}.items():
            if name in named and named[name].cls is not cls:
                raise ConfigError(f"method name {name!r} is claimed by {named[name].cls} and {cls}")
            named[name] = NamedMethod(name=name, label=label, cls=cls, preset=preset)
    return named


def _defined_in(info: pkgutil.ModuleInfo) -> list[type[Method[Any]]]:
    """The methods that a module of this folder defines itself, without abstract bases that have no name."""
    module = importlib.import_module(f"{__name__}.{info.name}")
    classes = [cls for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, Method)]
    own = [cls for cls in classes if f"{cls.__module__}.".startswith(f"{module.__name__}.")]
    concrete = [cls for cls in own if "name" in vars(cls) or not inspect.isabstract(cls)]
    if info.ispkg and not concrete:
        raise ConfigError(f"{module.__name__}: found no method, expected its __init__ to import the class")
    return concrete


def _check(cls: type[Method[Any]]) -> None:
    """Refuse what cannot be run, or would pass for the method that it extends."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    for attribute in ("name", "label"):
        if attribute not in vars(cls):
            raise ConfigError(f"{where}: {attribute}: found none of its own, expected one, or an abstract class")
    if not hasattr(cls, "Settings"):
        raise ConfigError(f"{where}: Settings: found none, expected a class of settings")
    if inspect.isabstract(cls):
        raise ConfigError(f"{where}: found no {', '.join(sorted(cls.__abstractmethods__))}, which every method has")


def of(spec: MethodSpec) -> Method[Any]:
    """The method of a run, with the run's settings.

    Raises:
        KeyError: no such method.
    """
    cls = get(spec.name).cls
    return cls(cls.Settings.model_validate(spec.settings))


def get(name: str) -> NamedMethod:
    """The named method.

    Raises:
        KeyError: no such method; the message lists the nearest names, or all of them.
    """
    known = registry()
    if name in known:
        return known[name]
    raise KeyError(f"unknown method {name!r}; {hint(name, sorted(known))}")
