"""Writing files whole or not at all: a reader, or a run that is killed, never meets half a file. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error."""
    import tempfile  # 10 ms that a --help need not pay

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON without NaN. Everything outside ASCII is escaped: lone surrogates (a model's broken bytes) are not UTF-8."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON that ends in a newline."""
    write_text(path, json_text(value, indent=2) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json_text(row) + "\n" for row in rows))
