"""The grader audit: counts, shares and the list of disputed items are those of the predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.answers import audit
from harness.errors import ConfigError
from harness.schema.fields import SCHEMA_VERSION
from tests.paths import ROOT


def _row(number: int, sound: bool, paper: bool, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"math/{number}",
        "completion": f"so it is {number}",
        "extracted": str(number),
        "gold": "1",
        "correct": sound,
        "verdicts": {"sound": sound, "metamath": sound, "paper": paper},
        "outcome": None,
        "unparseable": False,
        "truncated": False,
    } | changes


ROWS = [
    _row(0, True, True),
    _row(1, False, True, truncated=True, completion="x" * 400 + "\nlike \x1b[31m\\frac"),
    _row(2, False, True),
    _row(3, True, False),
    _row(4, False, False, unparseable=True, extracted=None),
]


def _run(folder: Path, rows: list[dict[str, Any]], **tasks: Any) -> Path:
    (folder / "predictions").mkdir(parents=True)
    metrics = {"schema_version": SCHEMA_VERSION, "tasks": {"math": {"grader": "sound", "n": len(rows)}} | tasks}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in metrics["tasks"]:
        (folder / f"predictions/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_counts_and_shares_are_those_of_the_predictions() -> None:
    audited = audit.audit_rows(ROWS, run="r", task="math", headline="sound")
    assert audited.accuracy == {"sound": 0.4, "metamath": 0.4, "paper": 0.6}
    assert (audited.unparseable, audited.truncated, audited.disputed) == (0.2, 0.2, 0.6)
    pairs = {(pair.first, pair.second): pair for pair in audited.pairs}
    assert (pairs["sound", "paper"].first_only, pairs["sound", "paper"].second_only) == (1, 2)
    assert pairs["sound", "paper"].share == 0.6 and pairs["sound", "metamath"].share == 0
    assert audited.pairs[-1].share == 0
    assert [item.id for item in audited.items] == ["math/1", "math/2", "math/3"]


def test_agreement_is_that_of_the_sound_grader_with_math_verify(tmp_path, capsys) -> None:
    assert audit.audit_rows(ROWS, run="r", task="math").agreement is None
    verdicts = [(True, True), (True, False), (False, True), (False, False)]
    rows = [_row(n, a, a, verdicts={"sound": a, "paper": a, "math_verify": b}) for n, (a, b) in enumerate(verdicts)]
    rows.append(_row(4, True, True, verdicts={"sound": True, "paper": True, "math_verify": True}))
    checked = audit.audit_rows(rows, run="r", task="math")
    assert checked.agreement == pytest.approx(0.6)
    assert checked.against_reference is not None and checked.against_reference.first_only == 1
    run = str(_run(tmp_path / "run", rows))
    audit.main([run])
    text = capsys.readouterr().out
    assert "sound and math_verify agree on 60.0 %" in text
    assert "math/1: accepted by sound, paper; rejected by math_verify" in text
    audit.main([run, "--json"])
    assert json.loads(capsys.readouterr().out)[0]["agreement"] == pytest.approx(0.6)


def test_a_share_of_a_tie_is_a_verdict_between_the_two() -> None:
    rows = [row | {"verdicts": {"label": label, "loglikelihood": share}} for row, label, share in
            zip(ROWS, (True, False, True, False, True), (0.5, 0.5, True, False, 1 / 3), strict=True)]  # fmt: skip
    audited = audit.audit_rows(rows, run="r", task="math", headline="label")
    assert audited.accuracy == {"label": 0.6, "loglikelihood": pytest.approx((0.5 + 0.5 + 1 + 1 / 3) / 5)}
    (pair,) = audited.pairs
    assert (pair.first_only, pair.second_only, audited.disputed) == (2, 1, 0.6)


def test_text_names_who_accepts_and_shows_the_end_of_the_completion_without_control_characters(tmp_path, capsys) -> None:
    assert audit.main([str(_run(tmp_path / "run", ROWS))]) == 0
    text = capsys.readouterr().out
    assert "math/1: accepted by paper; rejected by sound, metamath  (truncated)" in text
    assert "gold '1', extracted '3'" in text
    assert r"\nlike \x1b[31m\frac" in text and "\x1b" not in text
    assert "x" * 161 not in text
    assert "graders disagree on 3 (60.0 %)" in text and "math/0" not in text and "math/4" not in text


def test_json_holds_the_same(tmp_path, capsys) -> None:
    run = _run(tmp_path / "run", ROWS, gsm8k={"grader": "sound", "n": 5})
    audit.main([str(run), "--task", "math", "--json"])
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["task"] == "math" and entry["disputed"] == 0.6
    assert entry["items"][0]["verdicts"] == {"sound": False, "metamath": False, "paper": True}


def test_committed_results_give_the_recorded_accuracies() -> None:
    run = ROOT / "results/small/math/smollm2-135m/lora/seed0"
    metrics = json.loads((run / "metrics.json").read_text())["tasks"]
    for audited in audit.audit_run(run):
        assert audited.accuracy == pytest.approx(metrics[audited.task]["graders"])
        assert audited.truncated == pytest.approx(metrics[audited.task]["truncated"])
        assert audited.unparseable == pytest.approx(metrics[audited.task]["unparseable"])
        assert audited.headline == metrics[audited.task]["grader"]


def test_a_folder_without_a_run_an_unknown_task_and_a_broken_row_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="metrics.json: found no such file"):
        audit.audit_run(tmp_path)
    run = _run(tmp_path / "run", ROWS)
    with pytest.raises(ConfigError, match="found 'mbpp', expected one of math"):
        audit.audit_run(run, task="mbpp")
    with (run / "predictions/math.jsonl").open("a") as stream:
        stream.write('{"id": "math/9"}\n')
    with pytest.raises(ConfigError, match=r"math.jsonl:6: field 'completion' is missing"):
        audit.audit_run(run)
    with pytest.raises(ConfigError, match="math math/5: found graders sound, expected sound, metamath, paper"):
        audit.audit_rows([*ROWS, _row(5, True, True, verdicts={"sound": True})], run="r", task="math")
