"""Files as the three formats have them, of invented answers."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.compare.answers import fingerprint
from harness.errors import ConfigError

DATA = Path(__file__).with_name("data")
DATE = "2026-01-02T03-04-05.678901"


def sample(number: int, scores: dict[str, float], *, filtered: str = "none", prompt: str | None = None) -> dict[str, Any]:
    """A row of lm-eval's sample files, as far as a comparison reads it."""
    prompt = prompt or f"question {number}"
    return {
        "doc_id": number,
        "arguments": {"gen_args_0": {"arg_0": prompt}},
        "filter": filtered,
        "metrics": list(scores),
        "doc_hash": fingerprint(number),
        "prompt_hash": fingerprint(prompt),
        "target_hash": fingerprint(number % 2),
    } | scores


def malformed(content: Any) -> Iterator[Any]:
    """Plain JSON with each part of it in turn replaced by one of another type, or left out."""
    yield from (other for other in (None, True, 3, 10**400, "text", ["text"], {"key": 1}) if type(other) is not type(content))
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, part in parts:
        for other in malformed(part):
            changed = copy.copy(content)
            changed[key] = other
            yield changed
        changed = copy.copy(content)
        del changed[key]
        yield changed


def is_read_or_refused(read: Callable[[Path], object], path: Path) -> bool:
    """False where it was refused."""
    try:
        read(path)
    except ConfigError as error:
        assert str(error).startswith(str(path.parent))  # the file's name, or of one beside it
        return False
    return True


@pytest.fixture
def write_samples(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, or right and wrong answers, as ``NAME/samples_TASK_DATE.jsonl``, and returns the file."""

    def write(name: str, rows: Sequence[Any], *, task: str = "gsm8k", results: dict[str, Any] | None = None) -> Path:
        rows = [row if isinstance(row, dict) else sample(i, {"acc": float(row)}) for i, row in enumerate(rows)]
        path = tmp_path / name / f"samples_{task}_{DATE}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if results is not None:
            path.with_name(f"results_{DATE}.json").write_text(json.dumps(results))
        return path

    return write


@pytest.fixture
def log() -> dict[str, Any]:
    """The committed log of Inspect AI in the form of its .json files."""
    from harness.compare import inspect_log

    return inspect_log.load(DATA / "inspect/a.eval")


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a log as ``NAME.json`` and returns the file."""

    def write(log: dict[str, Any], name: str = "log") -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(log))
        return path

    return write


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with both committed sample files of lm-eval."""
    return Path(shutil.copytree(DATA / "lm_eval", tmp_path / "copied"))
