"""Sets that are read by their columns are asked, scored and graded like any other."""

from __future__ import annotations

from typing import Any

import pytest

from harness.evaluate.task import check_task, evaluate_task
from harness.schema.evaluation import EvaluationSpec, TaskSpec

RECORDS = [{"q": f"{n} + {n}?", "a": 2 * n, "xs": [2 * n, 2 * n + 1]} for n in range(4)]


def task(protocol: str = "sound", choices: bool = False, **settings: Any) -> TaskSpec:
    columns = {"prompt": "q", "answer": "a"} | ({"choices": "xs"} if choices else {})
    own = {"source": {"kind": "local", "path": "own.jsonl"}, "format": columns, **settings}
    spec = EvaluationSpec.model_validate({"protocol": protocol, "tasks": {"own": own}}).tasks["own"]
    check_task(spec)
    return spec


def test_open_answers_are_graded_by_every_grader_and_judged_by_the_named_one(model, tokenizer, answering) -> None:
    answering(["0", "The answer is: 2", "4.0", "7"])
    metrics = evaluate_task(model, tokenizer, "own", task(grader="number"), RECORDS).metrics
    assert metrics["graders"] == {"exact_match": 0.25, "number": 0.75, "expression": 0.75}
    assert metrics["accuracy"] == 0.75 and metrics["floor"] is None and metrics["gold_nll"] > 0


def test_choices_are_answered_by_label_and_their_labels_scored(model, tokenizer, answering) -> None:
    answering(["the correct answer is answer1"] * 3 + ["answer2"])
    result = evaluate_task(model, tokenizer, "own", task(choices=True), RECORDS)
    assert result.metrics["accuracy"] == 0.75 and result.metrics["floor"] == 1
    for row in result.predictions:
        scores = row["choice_loglikelihoods"]
        assert list(scores) == ["answer1", "answer2"] and row["gold"] == "answer1"
        assert row["verdicts"]["loglikelihood"] == (scores["answer1"] > scores["answer2"])


def test_under_continuation_the_choices_own_texts_are_scored(model, tokenizer) -> None:
    rows = evaluate_task(model, tokenizer, "own", task("continuation", choices=True), RECORDS[2:]).predictions
    assert [[text[:2] for text in row["choice_texts"].values()] for row in rows] == [
        [[f"{n} + {n}?", f" {2 * n}"], [f"{n} + {n}?", f" {2 * n + 1}"]] for n in (2, 3)
    ]


@pytest.mark.parametrize("choices", [True, False])
def test_without_a_grader_only_the_nll_of_the_answer_is_measured(model, tokenizer, choices: bool) -> None:
    spec = task(choices=choices, grader=None, max_new_tokens=0, score_choices=False)
    metrics = evaluate_task(model, tokenizer, "own", spec, RECORDS).metrics
    assert metrics["accuracy"] is None and metrics["gold_nll"] > 0
