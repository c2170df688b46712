"""Keys that a command line changes: ``KEY=VALUE`` words read, laid over an experiment, and written again. No pydantic.

Snakemake's ``--config`` and the harness's ``--set`` mean the same here. A value is JSON, or else YAML: YAML 1.1 alone would
take ``1e-4`` for a string.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import ConfigError


def parse(words: Iterable[str], *, option: str) -> dict[str, Any]:
    """Dotted key -> value. Of a key that stands twice the later value counts; two mappings are merged.

    Args:
        option: what the words follow, for messages.

    Raises:
        ConfigError: a word that is not KEY=VALUE, or whose value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise ConfigError(f"{option}: found {word!r}, expected KEY=VALUE")
        _lay(overrides, key, _value(text, f"{option} {key}"))
    return overrides


def _value(text: str, where: str) -> Any:
    """What JSON can hold, so that ``words`` gives a child process the same."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        import yaml  # 0.03 s, which no command pays that overrides nothing
    try:
        return json.loads(json.dumps(yaml.safe_load(text), allow_nan=False))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: found {text!r}, expected a YAML value ({' '.join(str(error).split())})") from error
    except (TypeError, ValueError):
        what = "in which YAML sees a date or an infinite number"
        raise ConfigError(f"{where}: found {text!r}, {what}, expected neither; put text in double quotes") from None


def _not_json(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity, which Python's parser takes and YAML reads as words


def apply(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key. A mapping is merged into the one that stands there, as Snakemake's ``--config`` does.

    Raises:
        ConfigError: the key leads through a plain value.
    """
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{key}: found a plain value at {parent!r}, expected a mapping")
    _lay(content, last, value)


def _lay(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, dots and all."""
    if isinstance(value, Mapping) and isinstance(content.get(key), dict):
        for name, item in value.items():
            apply(content[key], name, item)
    else:
        content[key] = copy.deepcopy(value)  # which a later key may change in place


def merge(content: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay the content of another file over ``content``: mappings are merged, and a dot in a key is part of its name."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            merge(content[key], value)
        else:
            content[key] = copy.deepcopy(value)


def words(overrides: Mapping[str, Any]) -> list[str]:
    """``KEY=VALUE`` for each key, in their order: of two that overlap, the later one counts."""
    return [f"{key}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}" for key, value in overrides.items()]


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The same without dots in the keys, which Snakemake's ``--config`` does not take."""
    content: dict[str, Any] = {}
    for key, value in overrides.items():
        apply(content, key, value)
    return content
