"""Reading experiment files: YAML without repeated keys, dotted overrides, and errors that name file, line and key. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evaluation.sets.columns import Columns
from harness.arguments.overrides import nested
from harness.did_you_mean import hint, suggestion
from harness.errors import ConfigError, KeyPath, dotted
from harness.schema.experiment import Experiment
from harness.schema.fields import Frozen
from harness.schema.training import TrainingSpec

ModelT = TypeVar("ModelT", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A key that stands twice is an error; YAML itself would silently keep the last one."""


def _construct_unique(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        place = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise ConfigError(f"{place}: found {key!r} as a key, expected text; put it in quotes")
        if key in seen:
            raise ConfigError(f"{place}: {key}: found twice, expected once")
        seen.add(key)
    loader.flatten_mapping(node)  # "<<: *anchor" puts the anchor's keys first, so that the mapping's own win
    pairs = [(loader.construct_object(key, deep=True), loader.construct_object(value, deep=True)) for key, value in node.value]
    return dict(pairs)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file holds.

    Raises:
        ConfigError: no such file, not YAML, a key that stands twice, or no mapping.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        near = suggestion(path.name, [p.name for p in path.parent.glob("*.yaml")], shown=path.parent.joinpath)
        raise ConfigError(f"{path}: found no such file, expected an experiment{near and f'; {near}'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date that no calendar has
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: found invalid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path}: found {found}, expected a mapping of keys")
    return content


def _place_of(path: Path, keys: Sequence[Any]) -> tuple[int, int, bool]:
    """How many of ``keys`` the file has, the line of the last of these, and whether a plain value or a list stands at one of
    them: it takes the place of what earlier files say there, while a mapping is merged into theirs."""
    depth, line, replaces = 0, 0, False
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return depth, line, replaces
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == str(key)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
        depth += 1
        replaces = replaces or not isinstance(node, yaml.MappingNode)
    return depth, line, replaces


def located(paths: Sequence[Path], keys: KeyPath, message: str) -> ConfigError:
    """An error that names the dotted key, and file and line of the deepest part of it that stands in a file: of files that have
    the same part the last."""
    return ConfigError(message, keys=keys, place=_said(paths, {}, keys).place)


class _Said(NamedTuple):
    """Which of the files, in their order, says what stands at some keys, how many of these it has, and file and line. The
    command line stands after all files."""

    layer: int
    depth: int
    place: str


def _said(paths: Sequence[Path], overrides: Mapping[str, Any], keys: KeyPath) -> _Said:
    there, value = _at(nested(overrides), keys)
    # A mapping is merged into that of a file.
    merged = isinstance(value, Mapping) and any(isinstance(_at(read_yaml(path), keys)[1], Mapping) for path in paths)
    if there and not merged:
        return _Said(len(paths), len(keys), f"{paths[-1]}, changed by --config or --set")
    said = _Said(0, 0, str(paths[-1]))
    for layer, path in reversed(list(enumerate(paths))):
        depth, line, replaces = _place_of(path, keys)
        if depth > said.depth:
            said = _Said(layer, depth, f"{path}:{line}")
        if replaces:
            break
    return said


@contextmanager
def placed(paths: Sequence[Path], overrides: Mapping[str, Any]) -> Iterator[None]:
    """Say of what is wrong with an experiment meanwhile in which file and line it stands, or that the command line says so.

    Args:
        paths, overrides: as in ``runs.load_experiment``.

    Raises:
        ConfigError: of keys that do not fit together the one that was said last is named, of what has no key the last file.
    """
    try:
        yield
    except ConfigError as error:
        if error.place or not error.keys:
            raise ConfigError(error.message, keys=error.keys, place=error.place or str(paths[-1])) from error
        said = {keys: _said(paths, overrides, keys) for keys in (error.keys, *error.beside)}
        last = max((keys for keys in said if keys == error.keys or said[keys].depth == len(keys)), key=lambda k: said[k].layer)
        message = error.message if last == error.keys else f"{dotted(error.keys)}: {error.message}"
        raise ConfigError(message, keys=last, place=said[last].place) from error


def _at(content: Any, keys: KeyPath) -> tuple[bool, Any]:
    """Whether a mapping has a key, or a plain value in the place of one above it; and the value."""
    for key in keys:
        if not isinstance(content, Mapping):
            return True, content
        if key not in content:
            return False, None
        content = content[key]
    return True, content


def _field_names() -> set[str]:
    """Every key that some model of the schema has: what an unknown key is compared with."""
    names: set[str] = set()
    pending: list[type[BaseModel]] = [Frozen, Columns]
    while pending:
        model = pending.pop()
        names |= set(model.model_fields)
        pending += model.__subclasses__()
    return names


def _describe(error: Mapping[str, Any], model: type[BaseModel]) -> tuple[list[Any], str]:
    """Keys and message of one of a model's pydantic errors, with the union tags taken out of the keys."""
    loc = error["loc"]
    keys = [k for place, k in enumerate(loc) if k != "[key]" and not (place and k in _TAGS.get(loc[place - 1], ()))]
    if error["type"] == "extra_forbidden":
        key = str(keys[-1])
        if key in TrainingSpec.model_fields:
            return keys, f"found an unknown key; did you mean 'training.{key}'?"
        if len(keys) == 1 and model is not Experiment:
            return keys, f"found an unknown key; {hint(key, model.model_fields)}"
        near = suggestion(key, _field_names() - {key}, cutoff=0.7)  # of some 200 names one is always a little near
        return keys, f"found an unknown key{near and f'; {near}'}"
    if error["type"] == "missing":
        return keys, "found nothing, expected this key"
    if error["type"] == "union_tag_not_found":
        return [*keys, "kind"], "found nothing, expected this key"
    if error["type"] == "union_tag_invalid":
        kinds = re.findall(r"'(\w+)'", error["ctx"]["expected_tags"])
        return [*keys, "kind"], f"found {error['ctx']['tag']!r}; {hint(error['ctx']['tag'], kinds)}"
    if error["type"] == "value_error":
        return with_named_keys(keys, error["msg"].removeprefix("Value error, "))
    expected = _EXPECTED.get(error["type"], "").format(**error.get("ctx", {}))
    return keys, f"found {error['input']!r}, expected {expected or error['msg'].removeprefix('Input should be ')}"


def with_named_keys(keys: list[Any], message: str) -> tuple[list[Any], str]:
    """The keys that a check of a whole mapping names before its message, such as ``points: found``, put among the keys."""
    while match := re.match(r"([\w-]+): ", message):
        message = message[match.end() :]
        if match[1] != str(keys[-1] if keys else ""):
            keys = [*keys, int(match[1]) if match[1].isdecimal() else match[1]]
    return keys, message


#: A key whose value is one of several kinds -> what pydantic calls these, after the key.
_TAGS = {"source": ("built", "hub", "local", "gguf", "generated", "files"), "format": ("name", "columns")}
#: What pydantic's types of errors expect, in the words of all other messages.
_EXPECTED = {
    "greater_than": "> {gt}",
    "greater_than_equal": ">= {ge}",
    "less_than": "< {lt}",
    "less_than_equal": "<= {le}",
    "too_short": "at least {min_length}",
    "string_too_short": "text of {min_length} characters or more",
    "string_too_long": "text of {max_length} characters or fewer",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_type": "text",
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
}


def validate(
    model: type[ModelT],
    value: Any,
    *,
    at: Sequence[Any] = (),
    origins: Mapping[str, KeyPath] | None = None,
) -> ModelT:
    """``value`` as a ``model``.

    Args:
        at: the keys under which it stands in the files.
        origins: of its own keys, where they stand elsewhere, in the order in which they were laid over each other.

    Raises:
        ConfigError: the first thing that is wrong with it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # A misspelt key is missing too.
        errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        keys, message = _describe(errors[0], model)
        origin = (origins or {}).get(keys[0]) if keys else None
        named = [key for name, key in (origins or {}).items() if re.search(rf"\b{name}\b", message)]
        if origin is not None:
            keys = [*origin, *keys[1:]]
        elif named:  # a check of several settings, of which this one was laid over the others
            keys, message = list(named[-1]), ": ".join([*map(str, keys), message])
        else:
            keys = [*at, *keys]
        raise ConfigError(message, keys=tuple(keys)) from None
