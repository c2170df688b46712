"""Damaged or foreign data sets are named and refused before any run trains."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from harness.data.load import load_records
from harness.errors import ConfigError
from harness.schema.data import FileData
from harness.workflow.preflight import __main__ as preflight
from tests.experiments import miniature, write
from tests.fake_hub import FakeHub, gsm8k

GOOD = '{"question": "1 + 1?", "answer": "#### 2"}\n'


def preflight_with(tmp_path: Path, name: str, content: bytes, **changes: Any) -> str:
    """What preflight says to an evaluation set with this content."""
    (tmp_path / name).write_bytes(content)
    source = {"kind": "files", "hub_id": "some/set", "split": "test", "local": name, **changes}
    experiment = miniature(**{"domains.math.evaluation.tasks.gsm8k.source": source, "data_dir": str(tmp_path)})
    options = ["--models-dir", str(tmp_path), "--output", str(tmp_path / "ok.json")]
    with pytest.raises(ConfigError) as caught:
        preflight.main(["--configfile", str(write(tmp_path, experiment)), *options])
    message = str(caught.value)
    assert "domains.math.evaluation.tasks.gsm8k.source: " in message and "\n" not in message
    assert not (tmp_path / "ok.json").exists()
    return message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("set.jsonl", b"", "set.jsonl: found no rows, expected at least one"),
        ("set.jsonl", b"\n \n", "set.jsonl: found no rows, expected at least one"),
        ("set.json", b"", "set.json: cannot be read as JSON records"),
        ("set.json", b"[]", "set.json: found no rows, expected at least one"),
        ("set.json", b'{"question": "a"}', "set.json: found dict, expected a list of JSON objects"),
        ("set.jsonl", GOOD.encode() + b"7\n", "set.jsonl: row 1: found int, expected a JSON object"),
        ("set.jsonl", GOOD.encode().replace(b"?", b"\xff"), "'utf-8' codec can't decode byte 0xff"),
        ("set.jsonl", GOOD.encode()[:-5], "set.jsonl: cannot be read as JSON records"),
        ("set.jsonl.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:-20], "set.jsonl.gz: cannot be read as JSON records"),
        ("set.jsonl.gz", GOOD.encode(), "set.jsonl.gz: cannot be read as JSON records"),
        ("set.jsonl", GOOD.encode() + b'{"question": "2 + 2?"}\n', "gsm8k row 1: field 'answer' is missing"),
        ("set.jsonl", b'{"question": "a", "answer": null}\n', "gsm8k row 0: field 'answer': found NoneType, expected text"),
        ("set.jsonl", b'{"question": "a", "answer": "two"}\n', "gsm8k row 0: field 'answer': found no number"),
    ],
)
def test_damaged_files_are_refused_by_key_file_and_row(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    assert expected in preflight_with(tmp_path, name, content)


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    assert "found 1 rows, expected 1319" in preflight_with(tmp_path, "set.jsonl", GOOD.encode(), rows=1319)


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    assert "found sha256" in preflight_with(tmp_path, "set.jsonl", GOOD.encode(), sha256="0" * 64)


def test_a_malformed_training_row_is_named(tmp_path: Path) -> None:
    rows = [{"query": "a", "response": "b"}, {"query": "a", "answer": "b"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "files", "hub_id": "some/set", "split": "train", "local": "train.jsonl"}
    path = write(tmp_path, miniature(**{"domains.math.train.source": source, "data_dir": str(tmp_path)}))
    options = ["--models-dir", str(tmp_path), "--output", str(tmp_path / "ok.json")]
    with pytest.raises(ConfigError, match=r"domains\.math\.train\.source: metamath row 1: field 'response' is missing"):
        preflight.main(["--configfile", str(path), *options])


# --------------------------------------------------------------------------------------------------------------- the hub


def rows(revision: str) -> int:
    source = FileData(kind="files", hub_id="some/gsm8k", hub_config="main", split="train", revision=revision)
    return len(load_records(source, data_dir=None))


def test_the_pinned_revision_is_read_whatever_the_branch_or_the_cache_holds(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, ``datasets`` alone would return whatever its cache holds, whichever revision is asked for."""
    first, second, third = (hub.push("datasets/some/gsm8k", gsm8k(train=train)) for train in (3, 4, 5))
    assert (rows("main"), rows(first), rows(second)) == (5, 3, 4)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.close()
    assert (rows(first), rows(second), rows(third)) == (3, 4, 5)
    with pytest.raises(ConfigError, match=r"some/gsm8k: cannot be read from the hub: .*what 'beamlora fetch' downloads"):
        rows("a" * 40)
