"""Parts of every schema: bounded numbers, names that become paths, and what every model of it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

#: Raised when the meaning of a record changes; records of another version are refused.
SCHEMA_VERSION = 1
#: Registered names of the method that all others are compared with, and of the one that the paper proposes.
BASELINE = "lora"
SUBJECT = "beamlora"


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"found {value}, expected a number")
    return value


def _is_number(schema: Any) -> bool:
    match schema:
        case {"type": "int" | "float"}:
            return True
        case {"type": "literal", "expected": values}:
            return all(type(value) is int for value in values)
        case {"type": "union", "choices": choices}:
            return all(map(_is_number, choices))
    return False


_REFUSING = {"type": "no-info", "function": _no_truth_value}


def _refuse_truth_values(schema: Any) -> None:
    """Put ``_no_truth_value`` before each number in a core schema of pydantic, which would take ``true`` for 1."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list | tuple) else ():
        if _is_number(part):
            number = dict(part)
            part.clear()
            part |= {"type": "function-before", "function": _REFUSING, "schema": number}
        elif not (isinstance(part, dict) and part.get("function") == _REFUSING):
            _refuse_truth_values(part)


class Frozen(BaseModel):
    """Immutable; an unknown key, an infinite number, one that is none and a truth value for a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _refuse_truth_values(handler.resolve_ref_schema(schema))
        return schema


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, of which each stands once.

    Raises:
        ValueError: one stands twice.
    """
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"found {twice!r} twice, expected each once")
    return values


def _as_seeds(value: Any) -> Any:
    """``5``, quoted or not, means five seeds, 0 to 4; ``"0,3"`` names them, as a list does."""
    if isinstance(value, list | tuple):
        return value
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,10}\s*(,\s*[0-9]{1,10}\s*)*", value):
        number, *others = map(int, value.split(","))
        if others:
            return [number, *others]
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_SEEDS:
        return list(range(number))
    raise ValueError(f"found {value!r}, expected a number of seeds from 1 to {MAX_SEEDS}, or a list of seeds")


#: The most seeds that a number of them can ask for.
MAX_SEEDS = 10_000
#: Numbers that are bounded wherever they stand, far beyond what anybody trains: a zero too many, or a unit that is another.
Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Steps = Annotated[int, Field(ge=1, le=10**8)]
BatchSize = Annotated[int, Field(ge=1, le=10**5)]
Generated = Annotated[int, Field(ge=1, le=10**7)]
#: What every library's generator takes as a seed.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), Field(min_length=1), AfterValidator(distinct)]
#: What an experiment's results folder holds beside its domains, and the tables that every experiment has beside its own.
_OWN_FOLDERS = ("base", "logs", "tables")
_OWN_TABLES = ("table4", "learning_rate")


def usable_in_paths(name: str, *, taken: Collection[str] = (), marks: str = "._+=-") -> str:
    """The name: letters, digits and ``marks``, and none of ``taken``.

    Raises:
        ValueError: it is another.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]*", name):
        raise ValueError(
            f"found {name!r}, expected a letter or digit, and then letters, digits or {' '.join(marks)}: names become paths"
        )
    if name in taken:
        raise ValueError(f"found {name!r}, expected another name than {', '.join(taken)}, which the harness uses itself")
    return name


#: Keys that become folders, files and Snakemake's wildcards.
Name = Annotated[str, AfterValidator(usable_in_paths)]
DomainName = Annotated[str, AfterValidator(partial(usable_in_paths, taken=_OWN_FOLDERS))]
TableName = Annotated[str, AfterValidator(partial(usable_in_paths, taken=_OWN_TABLES))]
#: What follows a dot in a run's method is the point of a sweep.
MethodName = Annotated[str, AfterValidator(partial(usable_in_paths, marks="_+-"))]
#: Names of which each stands once.
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(distinct)]


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no white space, no NaN."""

    def plain(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        raise TypeError(f"{type(item).__name__} is neither JSON nor part of the schema")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=plain)


def content_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
