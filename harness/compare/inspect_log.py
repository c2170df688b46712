"""Logs of Inspect AI: ``.eval`` (a zip archive of JSON, deflated or, by newer versions, compressed by Zstandard) and ``.json``.

Read after inspect_ai 0.3.285 (``inspect_ai/log/_log.py``, ``log/_recorders/eval.py``). A metric is named as its scorer, or
``scorer/key`` where that gives several values; a sample's epochs count as one item with their mean, as in Inspect's results.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field

from harness.compare.answers import Answers, checked, fingerprint, finite, outputs_of
from harness.errors import ConfigError

SUFFIXES = (".eval", ".json")
#: Scorers give these letters for correct, incorrect, partially correct and not answered.
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_ZSTANDARD = 93
#: The fixed part of a local file header [PKWARE APPNOTE 4.3.7]; its last two fields are the lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class _Message(BaseModel):
    """Without its random id."""

    role: str
    content: Any = None


class _Score(BaseModel):
    value: Any


class _Output(BaseModel):
    completion: Any = None


class _Error(BaseModel):
    message: str


def _as_messages(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class _Sample(BaseModel):
    """One epoch of a sample."""

    id: str = Field(coerce_numbers_to_str=True)
    input: Annotated[list[_Message], BeforeValidator(_as_messages)]
    target: Any
    choices: Any = None
    messages: list[_Message] = []
    output: _Output | None = None
    scores: dict[str, _Score] | None = None
    error: _Error | None = None


class _Reduced(BaseModel):
    """A metric's means over all samples, each under its name."""

    name: str
    scorer: str
    metrics: dict[str, Any] = {}


class _Results(BaseModel):
    scores: list[_Reduced] = []


class _Eval(BaseModel):
    task: str


class _Log(BaseModel):
    eval: _Eval
    status: str
    samples: list[_Sample] | None = None
    results: _Results | None = None


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """The JSON of one member. Python's zipfile knows Zstandard from 3.14 on."""
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return json.loads(archive.read(name))
    import pyarrow

    assert archive.fp is not None  # it is open
    archive.fp.seek(info.header_offset)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(archive.fp.read(_LOCAL_HEADER.size))
    archive.fp.seek(name_length + extra_length, 1)
    packed = pyarrow.BufferReader(archive.fp.read(info.compress_size))
    return json.loads(pyarrow.CompressedInputStream(packed, "zstd").read())


def _unzipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = dict.fromkeys(archive.namelist())  # a sample that was done again stands there twice: the last one counts
        if "header.json" not in names:
            raise ConfigError(f"{path}: found no header.json, expected the log of a finished evaluation")
        own = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
        if any(name.endswith("/sample.json") for name in own):
            raise ConfigError(f"{path}: found samples in chunks, expected samples/ID_epoch_N.json")
        header = _member(archive, "header.json")
        return header | {"samples": [_member(archive, name) for name in own]} if isinstance(header, dict) else header


def load(path: Path) -> Any:
    """A log in the form of Inspect's .json files, whichever form it has.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return _unzipped(path) if path.suffix == ".eval" else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read ({error}), expected a log of Inspect AI") from error


def _plain(messages: Iterable[_Message]) -> list[Any]:
    return [[one.role, one.content] for one in messages]


def _asked(sample: _Sample) -> list[Any]:
    """The messages before the model's first."""
    return _plain(takewhile(lambda message: message.role != "assistant", sample.messages))


def _values(scores: Mapping[str, _Score]) -> Iterator[tuple[str, Any]]:
    """(metric, value) of a sample."""
    for scorer, score in scores.items():
        for key, one in score.value.items() if isinstance(score.value, dict) else ((None, score.value),):
            yield (scorer if key is None else f"{scorer}/{key}"), one


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in _LETTERS or value.lower() in _LETTERS:
        return _LETTERS.get(value, _LETTERS.get(value.lower()))
    try:
        return float(value)
    except ValueError:
        return value


def _says_right(results: _Results | None, metric: str) -> bool:
    """Whether the scorer's own metrics take the score for right or wrong."""
    reduced = results.scores if results else ()
    return any("accuracy" in one.metrics for one in reduced if metric in (one.name, f"{one.scorer}/{one.name}"))


def read(path: Path) -> Answers:
    """The answers of one log.

    Raises:
        ConfigError: it cannot be read, is none, did not succeed, has no samples, or one lacks a score that others have.
    """
    log = checked(path, load(path), _Log)
    if log.status != "success":
        raise ConfigError(f"{path}: status: found {log.status!r}, expected 'success'")
    if not log.samples:
        raise ConfigError(f"{path}: found no samples, expected a log with them (log_samples)")
    items: dict[str, dict[str, str]] = {}
    outputs: dict[str, list[Any]] = {}
    values: dict[str, dict[str, list[Any]]] = {}
    for sample in log.samples:
        items[sample.id] = {
            "input": fingerprint(_plain(sample.input)),
            "prompt": fingerprint(_asked(sample)),
            "target": fingerprint(sample.target),
            "choices": fingerprint(sample.choices),
        }
        outputs.setdefault(sample.id, []).append(sample.output and sample.output.completion)
        found = values.setdefault(sample.id, {})
        for metric, value in _values(sample.scores or {}):
            found.setdefault(metric, []).append(value)
        if not found:
            error = sample.error.message if sample.error else "no error recorded"
            raise ConfigError(f"{path}: sample {sample.id}: found no scores ({error[:200]}), expected those of every sample")
    metrics = dict.fromkeys(metric for found in values.values() for metric in found)
    scores, higher_is_better = {}, {}
    for metric in metrics:
        own = {item: values[item].get(metric, [None]) for item in items}
        numbers = {item: list(map(_number, given)) for item, given in own.items()}
        wrong = next((item for item, given in numbers.items() if not all(map(finite, given))), None)
        if wrong is not None:
            raise ConfigError(f"{path}: sample {wrong}: score {metric}: found {own[wrong]}, expected numbers, or C, I, P and N")
        scores[metric] = np.array([np.mean(given) for given in numbers.values()])
        if _says_right(log.results, metric) or any(value in ("C", "I") for given in own.values() for value in given):
            higher_is_better[metric] = True
    return Answers(
        path=path,
        task=log.eval.task,
        items=items,
        scores=scores,
        higher_is_better=higher_is_better,
        outputs=outputs_of(outputs),
    )
