"""Data of one's own, named by its columns in the experiment file: read, checked, in the spec, asked and graded."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from harness.cli import Config
from harness.data.check import check_experiment
from harness.data.load import load_records
from harness.data.tokens import noted_lengths
from harness.errors import ConfigError
from harness.evaluate.task import check_task
from harness.experiment.hub_sources import hub_sources
from harness.experiment.runs import all_runs, load_experiment
from harness.schema.data import LocalData
from harness.schema.evaluation import EvaluationSpec
from harness.schema.run import RunSpec
from harness.workflow.dag import Dag, code_of, set_code
from harness.workflow.preflight.data import Sets, check_data
from tests.experiments import miniature, write
from tests.own_data import write_example
from tests.paths import ROOT

ROWS = [{"q": f"{n} + {n}?", "a": str(2 * n), "é": 'x, "y"\nz'} for n in range(9)]


def put(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the form that the file's name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set.{suffix}"
    put(path, ROWS)
    source = LocalData(kind="local", path=str(path), rows=9, skip=2)
    assert load_records(source, data_dir="elsewhere", limit=3) == ROWS[2:5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.csv", b"q,a\n1,2\n3\n", "set.csv: row 1: found 1 values, expected 2, one a column"),
        ("set.csv", b"q,q\n1,2\n", "set.csv: found the columns q, q, expected each name once"),
        ("set.csv", b"q,a\n", "set.csv: found no rows, expected at least one"),
        ("set.csv", b"", "set.csv: found no rows, expected at least one"),
        ("set.csv", b'q,a\n"1,2\n', "set.csv: cannot be read as CSV in UTF-8: unexpected end of data"),
        ("set.csv", b"q,a\n\xe9,2\n", "set.csv: cannot be read as CSV in UTF-8: 'utf-8' codec can't decode"),
        ("set.jsonl", b'{"q": 1}\n\n{"q": 2}\n{"q": "', "set.jsonl: cannot be read as JSON records: line 4, column 7: Unterm"),
        ("set.parquet", b"PAR1 no", "set.parquet: cannot be read as Parquet: "),
        ("set.tsv", b"q\ta\n", "set.tsv: found a file that ends in '.tsv', expected one of .jsonl, .json, .csv, .parquet"),
        ("sett.csv", b"q,a\n1,2\n", "path: found no file {folder}/set.csv, expected a file; did you mean '{folder}/sett.csv'?"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    asked = tmp_path / (name if name != "sett.csv" else "set.csv")
    with pytest.raises(ConfigError) as caught:
        load_records(LocalData(kind="local", path=str(asked)), data_dir=None)
    assert message.format(folder=tmp_path) in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ in an experiment


def experiment(folder: Path, train: list[dict[str, Any]] = ROWS, test: list[dict[str, Any]] = ROWS, **changes: Any) -> Path:
    put(folder / "train.csv", train)
    put(folder / "test.jsonl", test)
    columns = {"prompt": "q", "answer": "a"}
    own = {"source": {"kind": "local", "path": str(folder / "test.jsonl")}, "format": columns, "max_new_tokens": 4}
    content = miniature(**{
        "domains.math.train": {"source": {"kind": "local", "path": str(folder / "train.csv")}, "format": columns},
        "domains.math.evaluation.tasks": {"own": own},
        "training.per_device_train_batch_size": 2,
    } | changes)  # fmt: skip
    return write(folder, content)


TASK = "domains.math.evaluation.tasks.own"


def test_the_columns_are_in_the_spec_and_the_files_behind_the_jobs(tmp_path: Path) -> None:
    plan = load_experiment([experiment(tmp_path)])
    run = all_runs(plan)[0]
    assert (run.data.source.kind, run.evaluation.tasks["own"].grader) == ("local", "exact_match")
    sets = Sets(plan.data_dir)
    check_data(plan, [run], sets)
    assert sets.rows == {f"{TASK}.source": 9, "domains.math.train.source": 9}
    assert RunSpec.model_validate_json(run.model_dump_json()) == run and hub_sources(plan) == []
    assert Path("evaluation/sets/own.py") in set_code(run.evaluation)
    trained_by = code_of("train")
    assert Path("evaluation/sets/columns.py") in trained_by and Path("evaluation/sets/own.py") not in trained_by
    swapped = {"prompt": "a", "answer": "q"}
    trained = all_runs(load_experiment([experiment(tmp_path, **{"domains.math.train.format": swapped})]))[0]
    asked = all_runs(load_experiment([experiment(tmp_path, **{f"{TASK}.format": swapped})]))[0]
    assert trained.training_hash() != run.training_hash() == asked.training_hash()
    assert asked.evaluation_json() != run.evaluation_json() == trained.evaluation_json()
    dag = Dag(Config(files=(experiment(tmp_path),)))
    assert dag.training_files(run) == [str(tmp_path / "train.csv")]
    assert dag.evaluation_files(run.evaluation) == [str(tmp_path / "test.jsonl")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{TASK}.format": {"promt": "q", "answer": "a"}},
            f"{TASK}.format.promt: found an unknown key; did you mean 'prompt'?",
        ),
        (
            {f"{TASK}.format": {"prompt": "q", "answer": "a", "choces": "c"}},
            f"{TASK}.format.choces: found an unknown key; did you mean 'choices'?",
        ),
        ({f"{TASK}.format": {"prompt": "q", "answer": 3}}, f"{TASK}.format.answer: found 3, expected text"),
        ({f"{TASK}.format": "gsm"}, f"{TASK}.format: unknown evaluation set 'gsm'; did you mean 'gsm8k'?"),
        ({f"{TASK}.source.paht": "x"}, f"{TASK}.source.paht: found an unknown key; did you mean 'path'?"),
        (
            {f"{TASK}.source": {"kind": "files", "hub_id": "a/b", "split": "test", "local": 3}},
            f"{TASK}.source.local: found 3, expected text",
        ),
    ],
)  # fmt: skip
def test_a_mapping_that_is_none_is_refused_where_it_stands(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = experiment(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_experiment([path])
    place, _, said = str(caught.value).partition(": ")
    assert place.startswith(f"{path}:") and said == message


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ({}, {"domains.math.train.format.prompt": "qq"},
         "domains.math.train.source: {folder}/train.csv: own row 0: field 'qq' is missing, found a, q, é; did you mean 'q'?"),
        ({"train": [*ROWS, {**ROWS[0], "a": ""}]}, {},
         "domains.math.train.source: {folder}/train.csv: own row 9: field 'a': found nothing, expected text or a number"),
        ({"test": [*ROWS, {**ROWS[0], "a": True}]}, {},
         f"{TASK}.source: {{folder}}/test.jsonl: own row 9: field 'a': found bool, expected text or a number"),
        ({"test": [*ROWS, ROWS[3]]}, {},
         f"{TASK}.source: {{folder}}/test.jsonl: row 9: found the question of row 3 again, expected each once"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, rows: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    path = experiment(tmp_path, **rows)
    plan = load_experiment([path], changes)
    with pytest.raises(ConfigError) as caught:
        check_data(plan, all_runs(plan), Sets(plan.data_dir))
    assert str(caught.value) == message.format(folder=tmp_path)


def test_a_file_may_be_trained_on_and_asked(tmp_path: Path) -> None:
    """It is read as examples too, and its repeated question is then refused."""
    rows = [*ROWS, ROWS[3]]
    plan = load_experiment([experiment(tmp_path, train=rows, **{f"{TASK}.source.path": str(tmp_path / "train.csv")})])
    with pytest.raises(ConfigError, match=rf"{TASK}.source: .*train.csv: row 9: found the question of row 3 again"):
        check_data(plan, all_runs(plan), Sets(plan.data_dir))


def test_a_grader_that_open_answers_do_not_have_is_refused() -> None:
    source = {"kind": "local", "path": "x.csv"}
    task = {"source": source, "format": {"prompt": "q", "answer": "a"}, "grader": "sound"}
    (spec,) = EvaluationSpec.model_validate({"tasks": {"own": task}}).tasks.values()
    with pytest.raises(ConfigError, match=r"^grader: found 'sound', expected one of exact_match, number, expression"):
        check_task(spec)


# --------------------------------------------------------------------------------------------------- the docs' example


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the example's data; its file is laid over the demo."""
    write_example(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_of_the_docs_is_checked_as_any_experiment(example: Path) -> None:
    plan = load_experiment([Path("config/demo.yaml"), Path("my.yaml")])
    runs = all_runs(plan)
    assert {run.run_id for run in runs} == {f"sums/llama-demo/{m}/seed{s}" for m in ("lora", "beamlora") for s in (0, 1)}
    check_data(plan, runs, Sets(plan.data_dir))
    report = check_experiment(plan, runs, models_dir=example, cache_dir=example / "cache", say=lambda line: None)["sums"]
    assert report["training"]["rows"] == 40 and report["length"]["llama-demo"]["cut"] == 0
    noted = noted_lengths(plan.domains["sums"].train, plan.models["llama-demo"], cache_dir=example / "cache") or {}
    tokens = report["length"]["llama-demo"]["tokens"]
    assert (sum(noted.values()), sum(length * count for length, count in noted.items())) == (40, tokens), "for a plan"
    assert {name: (task["n"], task["exact"]) for name, task in report["tasks"].items()} == {"sums": (16, 1), "quiz": (12, 0)}
