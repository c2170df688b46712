"""Logs of Inspect AI: ``.eval`` (a zip archive of JSON, deflated or, by newer versions, compressed by Zstandard) and ``.json``.

Read after inspect_ai 0.3.285 (``inspect_ai/log/_log.py``, ``log/_recorders/eval.py``). A metric is named as its scorer, or
``scorer/key`` where that gives several values; a sample's epochs count as one item with their mean, as in Inspect's results.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.answers import Answers, fingerprint, finite
from harness.errors import ConfigError

SUFFIXES = (".eval", ".json")
#: Scorers give these letters for correct, incorrect, partially correct and not answered.
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_ZSTANDARD = 93
#: The fixed part of a local file header [PKWARE APPNOTE 4.3.7]; its last two fields are the lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


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


def _unzipped(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        names = dict.fromkeys(archive.namelist())  # a sample that was done again stands there twice: the last one counts
        if "header.json" not in names:
            raise ConfigError(f"{path}: found no header.json, expected the log of a finished evaluation")
        own = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
        if any(name.endswith("/sample.json") for name in own):
            raise ConfigError(f"{path}: found samples in chunks, expected samples/ID_epoch_N.json")
        return _member(archive, "header.json") | {"samples": [_member(archive, name) for name in own]}


def load(path: Path) -> dict[str, Any]:
    """A log in the form of Inspect's .json files, whichever form it has.

    Raises:
        ConfigError: it cannot be read, is none, did not succeed, or has no samples.
    """
    try:
        log = _unzipped(path) if path.suffix == ".eval" else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, zipfile.BadZipFile, struct.error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read ({error}), expected a log of Inspect AI") from error
    if not isinstance(log, dict) or not isinstance(log.get("eval"), dict) or "status" not in log:
        raise ConfigError(f"{path}: found no keys eval and status, expected a log of Inspect AI")
    if log["status"] != "success":
        raise ConfigError(f"{path}: status: found {log['status']!r}, expected 'success'")
    if not log.get("samples"):
        raise ConfigError(f"{path}: found no samples, expected a log with them (log_samples)")
    return log


def _messages(value: Any) -> Any:
    """Messages without their random ids."""
    return [[one.get("role"), one.get("content")] for one in value] if isinstance(value, list) else value


def _asked(sample: Mapping[str, Any]) -> Any:
    """The messages before the model's first."""
    asked = []
    for message in sample.get("messages") or ():
        if message.get("role") == "assistant":
            break
        asked.append(message)
    return _messages(asked)


def _numbers(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(metric, value) of a sample."""
    for scorer, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else None
        for key, one in value.items() if isinstance(value, dict) else ((None, value),):
            yield (scorer if key is None else f"{scorer}/{key}"), _number(one)


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in _LETTERS or value.lower() in _LETTERS:
        return _LETTERS.get(value, _LETTERS.get(value.lower()))
    try:
        return float(value)
    except ValueError:
        return value


def read(path: Path) -> Answers:
    """The answers of one log.

    Raises:
        ConfigError: it cannot be read, did not succeed, or a sample lacks a score that others have.
    """
    log = load(path)
    items: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, list[Any]]] = {}
    for sample in log["samples"]:
        item = str(sample.get("id"))
        items[item] = {
            "input": fingerprint(_messages(sample.get("input"))),
            "prompt": fingerprint(_asked(sample)),
            "target": fingerprint(sample.get("target")),
            "choices": fingerprint(sample.get("choices")),
        }
        found = values.setdefault(item, {})
        for metric, value in _numbers(sample.get("scores") or {}):
            found.setdefault(metric, []).append(value)
        if not found:
            error = (sample.get("error") or {}).get("message", "no error recorded")
            raise ConfigError(f"{path}: sample {item}: found no scores ({error[:200]}), expected those of every sample")
    metrics = dict.fromkeys(metric for found in values.values() for metric in found)
    scores = {}
    for metric in metrics:
        wrong = next((item for item in items if not all(map(finite, values[item].get(metric, [None])))), None)
        if wrong is not None:
            found_value = values[wrong].get(metric)
            raise ConfigError(
                f"{path}: sample {wrong}: score {metric}: found {found_value}, expected numbers, or C, I, P and N"
            )
        scores[metric] = np.array([np.mean(values[item][metric]) for item in items])
    return Answers(path=path, task=str(log["eval"].get("task")), items=items, scores=scores)
