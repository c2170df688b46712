"""JSON records that carry ``schema_version``: read in one way, refused in the same words everywhere. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError
from harness.schema.fields import SCHEMA_VERSION

ModelT = TypeVar("ModelT", bound=BaseModel)


class RecordError(ConfigError):
    """A record that cannot be used. The message names the file and the command that makes it."""


class MissingRecord(RecordError):
    """The run, or a part of it, has not been done."""


class BrokenRecord(RecordError):
    """A record that is there and is not what its rule writes: ``fault`` says why of the file at ``path``."""

    def __init__(self, path: Path, fault: str, *, again: str) -> None:
        super().__init__(f"{path}: {fault}; make it again: {again}")
        self.path, self.fault = path, fault


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a record is made, for messages: the command where there is none yet, and the one that replaces a bad one."""

    make: str
    again: str

    @classmethod
    def workflow(cls, command: str, target: Path) -> Recipe:
        """By Snakemake, which takes a file for finished that is merely there: ``--force`` replaces it.

        Args:
            command: how the experiment is run (``Config.snakemake``).
            target: what the workflow makes: the record, or the file that it lies beside.
        """
        return cls(make=f"{command} -- {target}", again=f"{command} --force -- {target}")

    @classmethod
    def command(cls, command: str) -> Recipe:
        """By a command of this project, which replaces what it finds."""
        return cls(make=command, again=command)

    @classmethod
    def beside(cls, command: str, record: Path) -> Recipe:
        """By Snakemake, of what it makes together with a ``record`` that is there."""
        return cls.command(cls.workflow(command, record).again)

    def missing(self, path: Path) -> MissingRecord:
        """The error of a record that is not there."""
        return MissingRecord(f"{path}: found no such file; make it: {self.make}")

    def broken(self, path: Path, fault: str) -> BrokenRecord:
        """The error of a record that is there but cannot be used."""
        return BrokenRecord(path, fault, again=self.again)


def parse(path: Path, *, version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """A JSON object of this schema version.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no JSON object, or has another schema version.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"found an incomplete record (cannot be read as JSON: {error})") from error
    own = content.get("schema_version") if isinstance(content, dict) else None
    if own != version:
        raise ValueError(f"schema_version: found {own!r}, expected {version}")
    return content


def read_json(path: Path, recipe: Recipe, *, version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """A JSON object of this schema version.

    Raises:
        MissingRecord: there is no such file.
        BrokenRecord: it cannot be read, is no JSON object, or has another schema version.
    """
    try:
        return parse(path, version=version)
    except FileNotFoundError:
        raise recipe.missing(path) from None
    except OSError as error:
        raise recipe.broken(path, f"found an incomplete record (cannot be read: {error})") from error
    except ValueError as error:
        raise recipe.broken(path, str(error)) from error


def validated(path: Path, content: dict[str, Any], model: type[ModelT], recipe: Recipe) -> ModelT:
    """What ``read_json`` gave, checked against its model.

    Raises:
        BrokenRecord: it does not fit; the message names the first key that does not.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise recipe.broken(path, f"{where}: {said}" if where else said) from error
