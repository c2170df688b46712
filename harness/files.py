"""Writing files whole or not at all: a reader, or a run that is killed, never meets half a file. No torch.

What a full disk, a pulled plug or a copy that broke off left behind nevertheless is named in one line and set aside
(``set_aside``), so that it is made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import ConfigError

ReadT = TypeVar("ReadT")
#: Before the name of what is set aside. A suffix would leave ``checkpoint-9`` a checkpoint to transformers, which counts them.
DAMAGED = "damaged-"
#: Suffix -> what a file ends with, blanks aside.
_ENDS = {
    ".html": (b"</html>",),
    ".json": (b"}", b"]"),
    ".jsonl": (b"}",),
    ".parquet": (b"PAR1",),
    ".pdf": (b"%%EOF",),
    ".png": (b"IEND\xaeB`\x82",),
}
#: Files that are zip archives: torch's and NumPy's.
_ARCHIVES = (".npz", ".pt", ".pth")


def nearest_existing(path: Path) -> Path:
    """The file or folder, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def require_writable(*paths: Path) -> None:
    """Refuse files that cannot be written, before the work whose result they are to hold. Nothing is left behind.

    Raises:
        ConfigError: one is a folder, or the nearest folder above it that is there is none, or takes no new file.
    """
    import tempfile  # 10 ms that a --help need not pay

    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: found a folder, expected a file to write")
        folder = nearest_existing(path.parent)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: found a file, expected a folder to write {path.name} in")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror}), expected a folder for {path.name}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        ConfigError: there can be no file of that name: it is a folder, or a folder above it is none or cannot be made.
    """
    import tempfile  # 10 ms that a --help need not pay

    if path.is_dir():
        raise ConfigError(f"{path}: found a folder, expected a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ConfigError(f"{path.parent}: found no folder ({error.strerror}), expected one to write {path.name} in") from error
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


# ---------------------------------------------------------------------------------------------------------- damaged files


def fault(path: Path) -> str | None:
    """What is wrong with the form of a file, or with that of a file in a folder: it is empty, or cut off.

    Seen from sizes, heads and ends: of gigabytes no more than a few pages are read. None: nothing, also where it is missing.
    """
    if path.is_dir():
        faults = ((file, fault(file)) for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
        return next((f"{file.relative_to(path)}: {why}" for file, why in faults if why is not None), None)
    if not path.exists():
        return None
    size = path.stat().st_size
    if size == 0:
        return "found an empty file"
    with path.open("rb") as stream:
        if path.suffix == ".safetensors":
            expected = _safetensors_size(stream.read(8), stream)
            whole = expected == size
        elif path.suffix in _ARCHIVES:
            import zipfile  # 10 ms that a --help need not pay

            whole = zipfile.is_zipfile(stream)
        elif path.suffix in _ENDS:
            stream.seek(max(0, size - 64))
            whole = stream.read().rstrip().endswith(_ENDS[path.suffix])
        else:
            return None
    return None if whole else f"found {size} bytes, which end within the file"


def _safetensors_size(head: bytes, rest: Any) -> int | None:
    """How long a safetensors file has to be: 8 bytes, the header that they give the length of, and the last tensor's end."""
    length = int.from_bytes(head, "little")
    try:
        tensors = json.loads(rest.read(min(length, 100_000_000)))
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def set_aside(path: Path, why: str) -> None:
    """Rename a file or folder that cannot be used, and say so in one line. One that was set aside before makes way."""
    aside = path.with_name(DAMAGED + path.name)
    if aside.is_dir():
        shutil.rmtree(aside)
    with suppress(FileNotFoundError):  # of two processes the other one was faster
        path.replace(aside)
    print(f"{path}: {why}; set aside as {aside.name}, made again", flush=True)


def read_or_set_aside(path: Path, read: Callable[[Path], ReadT]) -> ReadT | None:
    """What ``read`` makes of a file that can be made again. None: it is not there, or it was damaged and is set aside.

    Args:
        read: raises anything but OSError where the content is not what it should be.
    """
    if not path.exists():
        return None
    why = fault(path)
    if why is None:
        try:
            return read(path)
        except OSError:  # no fault of the content: no permission, a disk that does not answer
            raise
        except Exception as error:  # each library has errors of its own for what it cannot read
            why = f"found content that cannot be used ({' '.join(str(error).split())[:200]})"
    set_aside(path, why)
    return None
