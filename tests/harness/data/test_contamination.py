"""What training and evaluation sets share: the record's summary and the command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from evaluation import sets
from evaluation.example import Example
from evaluation.sets import examples
from harness.data import contamination
from harness.data.__main__ import main
from harness.data.contamination import LISTED_IDS, contamination_summary
from harness.data.load import source_fingerprint
from harness.errors import ConfigError
from harness.schema.data import FileData, TrainingData
from harness.schema.evaluation import TaskSpec
from tests.experiments import miniature, write
from tests.paths import SHARED, needs_shared

QUESTIONS = [
    "Anna buys seven pens and three rulers, gives two of the pens to Ben, and then loses one ruler on her way home through the "
    "park where she plays. How many things has she left?",
    "A train leaves at noon and drives for four hours at sixty miles an hour. How far does it get before it has to stop?",
    "What is 3 - 2?",
]
NEAR = QUESTIONS[0].replace("Ben", "Tom")


def asked(*questions: str) -> list[dict[str, Any]]:
    return [{"question": question, "answer": "so\n#### 1"} for question in questions]


def task(**changes: Any) -> TaskSpec:
    source = {"kind": "files", "hub_id": "some/test", "split": "test", "local": "test.jsonl"}
    values = {"prompt_template": "alpaca", "max_new_tokens": 8, "grader": "sound"}
    return TaskSpec.model_validate({"source": source, "format": "gsm8k", **values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Training data that holds the first question nearly and the third exactly."""
    rows = [{"query": q, "response": "it is 1"} for q in ("nothing like it", NEAR, "what is 3 - 2", "what is 3 - 2")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked(*QUESTIONS)))
    return tmp_path


def training(**changes: Any) -> TrainingData:
    source = FileData(kind="files", hub_id="some/train", split="train", local="train.jsonl")
    return TrainingData(**{"source": source, "format": "metamath", "max_length": 300, **changes})


def trained_on(folder: Path) -> str:
    return source_fingerprint([json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()])


def summary(folder: Path, questions: tuple[str, ...] = tuple(QUESTIONS), sha256: str | None = None) -> dict[str, Any]:
    by_task = contamination_summary(
        training(),
        {"gsm8k": task()},
        {"gsm8k": asked(*questions)},
        data_dir=str(folder),
        cache_dir=folder / "cache",
        training_sha256=sha256 or trained_on(folder),
    )
    return by_task["gsm8k"]


def test_the_record_has_counts_share_and_ids(folder: Path) -> None:
    assert summary(folder) == {
        "n": 3,
        "exact": 1,
        "near": 1,
        "ngram": 1,
        "ids": ["gsm8k/0", "gsm8k/2"],
        "share": pytest.approx(2 / 3),
    }


def test_many_ids_are_counted_only(folder: Path) -> None:
    questions = [f"{QUESTIONS[2]} {i}" for i in range(LISTED_IDS + 1)]
    rows = [{"query": question, "response": "1"} for question in questions]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(summary(folder, tuple(questions[:-1]))["ids"]) == LISTED_IDS
    assert summary(folder, tuple(questions))["ids"] is None and summary(folder, tuple(questions))["exact"] == LISTED_IDS + 1


def test_it_is_worked_out_once_for_the_same_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, sha256 = summary(folder), trained_on(folder)
    monkeypatch.setattr(contamination, "find_overlap", None)
    (folder / "train.jsonl").unlink()  # with a cached answer the training set is not even read
    assert summary(folder, sha256=sha256) == first


def test_other_questions_and_other_training_rows_are_compared_anew(folder: Path) -> None:
    assert summary(folder)["exact"] == 1
    assert summary(folder, ("What is 9 - 9?",))["exact"] == 0
    (folder / "train.jsonl").write_text(json.dumps({"query": "none of them", "response": "1"}) + "\n")
    assert summary(folder)["exact"] == 0


@pytest.mark.parametrize(("edited", "anew"), [("evaluation/sets/llm_adapters.py", True), ("harness/tables/words.py", False)])
def test_a_set_that_is_read_otherwise_is_compared_anew(edited: str, anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a module that the set's own imports."""
    read, before = Path.read_bytes, contamination._key("commonsense", "0" * 64, "boolq", [])
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if str(path).endswith(edited) else b""))
    assert (contamination._key("commonsense", "0" * 64, "boolq", []) != before) == anew


def test_rows_that_are_not_those_trained_on_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="found training rows with sha256 .* expected 000000"):
        summary(folder, sha256="0" * 64)


def test_a_training_row_without_its_field_is_named(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"query": "a"}\n')
    with pytest.raises(ConfigError, match="metamath row 0: field 'response' is missing"):
        summary(folder)


# ------------------------------------------------------------------------------------------------------------- questions


def example(query: str) -> Example:
    return Example(id="x", query=query, gold=None, reference="")


@pytest.mark.parametrize(
    ("format", "query", "core"),
    [
        ("gsm8k", "How many?", "How many?"),
        ("mbpp", "Write it. Your code should satisfy the following assertion:\n```python\nassert f(1)\n```", "Write it."),
        ("humaneval", 'def f(x):\n    """Return twice x.\n    >>> f(1)\n    2\n    """\n', "Return twice x."),
        ("humaneval", "def g():\n    \"\"\"no\"\"\"\n\ndef f(x):\n    '''Twice x.\n    Example: f(1)'''\n", "Twice x."),
        ("humaneval", "def f(x):  # twice\n", "def f(x):  # twice\n"),
        (
            "boolq",
            "Please answer the following question with true or false, question: is it: so?\n\nAnswer format: true/false",
            "is it: so?",
        ),
    ],
)
def test_the_core_is_what_differs_from_question_to_question(format: str, query: str, core: str) -> None:
    assert sets.get(format).core(example(query)) == core


@needs_shared
def test_every_real_code_question_has_a_core_of_words() -> None:
    with gzip.open(SHARED / "data/humaneval/HumanEval.jsonl.gz", "rt") as stream:
        questions = examples("humaneval", [json.loads(line) for line in stream])
    cores = [sets.get("humaneval").core(one) for one in questions]
    assert all(len(core.split()) >= 4 for core in cores)
    assert not any(">>>" in core for core in cores)


@pytest.mark.slow
@needs_shared
def test_the_real_math_sets_share_questions() -> None:
    """Known of MATH: four test questions stand in its training set but for spacing, GSM8K's do not."""

    def rows(name: str) -> list[dict[str, Any]]:
        with (SHARED / "data" / name).open() as stream:
            return [json.loads(line) for line in stream]

    math = [{"query": row["problem"], "response": str(row["answer"])} for row in rows("math/train_answers.jsonl")]
    overlaps = contamination.find_overlap(math, "metamath", {"math": ("math", rows("math/test.jsonl"))})
    overlap = contamination.task_overlap(*overlaps["math"])
    assert overlap.exact == 4 and overlap.near > 50
    overlaps = contamination.find_overlap(rows("gsm8k/train.jsonl"), "gsm8k", {"gsm8k": ("gsm8k", rows("gsm8k/test.jsonl"))})
    overlap = contamination.task_overlap(*overlaps["gsm8k"])
    assert (overlap.exact, overlap.near, overlap.n) == (0, 0, 1319)


# --------------------------------------------------------------------------------------------------------------- command


def check(folder: Path, *arguments: str, **changes: Any) -> dict[str, Any]:
    content = miniature(
        **{
            "data_dir": str(folder),
            "domains.math.train": training().model_dump(mode="json"),
            "domains.math.evaluation.tasks": {"gsm8k": task().model_dump(mode="json")},
            **changes,
        }
    )
    path = write(folder, content)
    status = main(
        ["check", "--configfile", str(path), "--models-dir", str(folder), "--cache-dir", str(folder / "cache"), *arguments]
    )
    assert status == 0
    return content


def test_the_command_reports_repetitions_overlap_and_cut_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder, "--json")
    domain = json.loads(capsys.readouterr().out)["domains"]["math"]
    assert domain["training"] | {"sha256": ""} == {"rows": 4, "sha256": "", "repeated_rows": 1, "repeated_queries": 1}
    assert (domain["tasks"]["gsm8k"]["exact"], domain["tasks"]["gsm8k"]["near"]) == (1, 1)
    assert [(m["id"], m["kind"], m["training_row"]) for m in domain["tasks"]["gsm8k"]["matches"]] == [
        ("gsm8k/0", "near", 1),
        ("gsm8k/2", "exact", 2),
    ]
    assert domain["length"]["llama-mini"] | {"tokens": 0} == {"max_length": 300, "tokens": 0, "cut": 0, "without_label": 0}


def test_the_length_limit_cuts_and_leaves_rows_without_a_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row's prompt is longer than the others' rows whole."""
    row = {"query": "x y z " * 100, "response": "1"}
    with (folder / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    check(folder, "--json", **{"domains.math.train.max_length": 200})
    length = json.loads(capsys.readouterr().out)["domains"]["math"]["length"]["llama-mini"]
    assert (length["cut"], length["without_label"]) == (1, 1)
    check(folder, "--json", **{"domains.math.train.max_length": 200, "domains.math.train.loss_on": "all"})
    length = json.loads(capsys.readouterr().out)["domains"]["math"]["length"]["llama-mini"]
    assert (length["cut"], length["without_label"]) == (1, 0)


def test_the_text_names_the_training_row_of_a_match(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder)
    text = capsys.readouterr().out
    assert "4 training rows; 1 repeat an earlier row" in text
    assert "gsm8k: gsm8k/2, exact, training row 2: What is 3 - 2?" in text
    assert "66.67 %" in text


def test_a_missing_set_is_an_error_by_its_key(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"\.yaml:\d+: domains\.math\.evaluation\.tasks\.gsm8k: data_dir: found no file"):
        check(folder)


def mbpp_row(i: int) -> dict[str, Any]:
    return {"task_id": i, "text": f"Write a function to do thing {i}.", "code": "def f(): pass", "test_list": ["assert f()"]}


def test_all_of_mbpp_is_looked_for_where_it_is_evaluated_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The experiment is tested on two tasks; a third one stands in the training data."""
    (folder / "two.jsonl").write_text("".join(json.dumps(mbpp_row(i)) + "\n" for i in range(2)))
    (folder / "train.jsonl").write_text(
        json.dumps({"query": "write a Python function to do thing 700", "response": "x"}) + "\n"
    )
    source = {"kind": "files", "hub_id": "some/mbpp", "split": "test", "local": "two.jsonl"}
    tasks = {"mbpp": {"source": source, "format": "mbpp"}}
    check(folder, "--json", **{"domains.math.evaluation.tasks": tasks})
    output = capsys.readouterr()
    assert set(json.loads(output.out)["domains"]["math"]["tasks"]) == {"mbpp"}
    assert "not checked against all splits of MBPP" in output.err
    (folder / "mbpp").mkdir()
    (folder / "mbpp/mbpp.jsonl").write_text("".join(json.dumps(mbpp_row(i)) + "\n" for i in range(974)))
    check(folder, "--json", **{"domains.math.evaluation.tasks": tasks})
    by_task = json.loads(capsys.readouterr().out)["domains"]["math"]["tasks"]
    assert by_task["mbpp"]["exact"] == 0
    assert by_task["mbpp, all splits"]["ids"] == ["Mbpp/700"]
