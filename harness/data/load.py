"""Records of a set, from a folder, the hub or a generator."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.did_you_mean import hint, suggestion
from harness.errors import ConfigError, within
from harness.hub.network import named_failures
from harness.hub.repositories import dataset_folder
from harness.provenance import file_sha256
from harness.schema.data import DataSource, FileData, GeneratedData, LocalData, local_file


def load_records(source: DataSource, *, data_dir: str | None, limit: int | None = None) -> list[dict[str, Any]]:
    """The records of a set without those that are skipped, the first ``limit`` of them if given.

    Raises:
        ConfigError: the file is missing, has another hash or number of rows than pinned, or is not records;
            or the hub cannot be reached; or all rows are skipped.
    """
    if isinstance(source, GeneratedData):
        from harness.synthetic import GENERATORS

        if source.generator not in GENERATORS:
            found = f"found unknown {source.generator!r}; {hint(source.generator, sorted(GENERATORS))}"
            raise ConfigError(found, keys=("generator",))
        records = GENERATORS[source.generator](source.rows, source.seed)
    else:
        path = local_file(source, data_dir=data_dir)
        if path is None:
            assert isinstance(source, FileData)
            records = _from_hub(source)
        else:
            records = _from_file(path, source)
        where = path or source.title
        if source.rows is not None and len(records) != source.rows:
            raise ConfigError(f"{where}: found {len(records)} rows, expected {source.rows}")
        if source.skip >= len(records):
            raise ConfigError(f"found {source.skip}, expected fewer than the {len(records)} rows of {where}", keys=("skip",))
        records = records[source.skip :]
    return records[:limit]


@contextmanager
def rows_named(source: DataSource) -> Iterator[None]:
    """Say of a row that cannot be used that it stands in the set, and in which file of one's own.

    Raises:
        ConfigError: for any ValueError, with the key ``source``.
    """
    with within("source"):
        try:
            yield
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{source.path}: {error}" if isinstance(source, LocalData) else error) from error


def _from_file(path: Path, source: FileData | LocalData) -> list[dict[str, Any]]:
    if not path.is_file():
        if isinstance(source, LocalData):
            near = suggestion(path.name, [file.name for file in path.parent.glob("*")], shown=path.parent.joinpath)
            found = "the folder" if path.is_dir() else "no file"
            raise ConfigError(f"found {found} {path}, expected a file{near and f'; {near}'}", keys=("path",))
        raise ConfigError(
            f"data_dir: found no file {path}, expected a local copy of {source.hub_id} ({source.split}); "
            "set data_dir to null to read it from the hub"
        )
    if source.sha256 is not None and file_sha256(path) != source.sha256:
        raise ConfigError(f"{path}: found sha256 {file_sha256(path)[:16]}..., expected {source.sha256[:16]}...")
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise ConfigError(f"{path}: found a file that ends in {suffix!r}, expected one of {', '.join(_READERS)}")
    records = _READERS[suffix](path)
    if not isinstance(records, list):
        raise ConfigError(f"{path}: found {type(records).__name__}, expected a list of JSON objects")
    if not records:
        raise ConfigError(f"{path}: found no rows, expected at least one")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise ConfigError(f"{path}: row {row}: found {type(record).__name__}, expected a JSON object")
    return records


def _json_lines(path: Path) -> list[Any]:
    with _opened(path) as stream:
        return [_record(line, number) for number, line in enumerate(stream, 1) if line.strip()]


def _record(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def _json(path: Path) -> Any:
    with _opened(path) as stream:
        return json.load(stream)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            yield stream
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read as JSON records: {error}") from error


def _csv(path: Path) -> list[dict[str, str]]:
    """Every value is text. Spreadsheets put a mark before UTF-8, which is no part of the first column's name."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}: found the columns {', '.join(header)}, expected each name once")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number}: found {len(row)} values, expected {len(header)}, one a column")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error


#: How a file of each kind is read, to a list of records. JSON may be compressed.
_READERS: dict[str, Callable[[Path], Any]] = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def _from_hub(source: FileData) -> list[dict[str, Any]]:
    """The records in the repository's own files: ``datasets`` alone would offline take whatever revision it met last."""
    from datasets import load_dataset

    configs = source.hub_config if isinstance(source.hub_config, tuple) else (source.hub_config,)
    local = source.local or "a local copy"
    expected = f"network and access, what 'beamlora fetch' downloads, or data_dir with {local}"
    with named_failures(source.hub_id, expected=expected):
        folder = str(dataset_folder(source.hub_id, source.revision))
        parts = [load_dataset(folder, config, split=source.split) for config in configs]
        return [dict(row) for part in parts for row in part]


def source_fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the records in order: which rows were really used, whatever file or hub they came from."""
    digest = hashlib.sha256()
    for record in records:
        # As canonical_json, but rows of public sets may hold infinities: inputs of MBPP+'s tests do.
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(text.encode("utf-8", errors="surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
