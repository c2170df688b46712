"""A number says by which code it was graded, and whether that is this code."""

from __future__ import annotations

import pytest

from harness.records.grader_sources import graded_otherwise, graded_unlike, grader_sources, how_graded
from harness.schema.evaluation import TaskSpec


def task(format: str, **settings: object) -> TaskSpec:
    source = {"kind": "generated", "generator": format, "rows": 2, "seed": 0}
    asked = {"source": source, "format": format, "prompt_template": "alpaca", "max_new_tokens": 8, "grader": "sound"}
    return TaskSpec.model_validate(asked | settings)


GSM8K, UNANSWERED = task("gsm8k"), task("gsm8k", max_new_tokens=0, grader=None)
NOW = grader_sources(GSM8K)


def test_the_sources_of_a_set_are_its_graders_and_what_they_rest_on() -> None:
    assert "sympy" in NOW["packages"] and "math_verify" in NOW["packages"]
    choices = grader_sources(task("boolq", grader="label"))
    assert choices["packages"] == "" and choices["grader"] != NOW["grader"] and choices["metric"] == NOW["metric"]
    assert grader_sources(UNANSWERED) == {"metric": NOW["metric"]}


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (NOW, ""),
        ({"grader": NOW["grader"]}, ""),  # of before releases were recorded
        ({**NOW, "metric": "0"}, "by other sources than this code's (metric)"),
        ({**NOW, "grader": "0", "packages": "sympy 1.0"}, "by other sources than this code's (grader, packages)"),
        (None, "by sources that the record does not name"),
    ],
)
def test_what_was_graded_otherwise_is_said(recorded: dict[str, str] | None, said: str) -> None:
    assert graded_otherwise(recorded, GSM8K) == said


def test_no_grader_is_blamed_where_nothing_is_answered() -> None:
    """Records of before 28 November 2026 name one there too."""
    older = {**NOW, "grader": "0"}
    assert graded_otherwise(older, UNANSWERED) == how_graded([NOW, older], UNANSWERED) == ""
    assert how_graded([NOW, older], GSM8K) == "by other sources than this code's (grader), not all records alike"
    assert how_graded([NOW, {**NOW, "metric": "0"}], UNANSWERED).startswith("by other sources than this code's (metric)")


def test_records_are_alike_unless_two_differ_or_only_some_are_known() -> None:
    assert not graded_unlike([]) and not graded_unlike([None, None]) and not graded_unlike([NOW, {"grader": NOW["grader"]}])
    assert graded_unlike([NOW, {**NOW, "grader": "0"}]) and graded_unlike([NOW, None])
