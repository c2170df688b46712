"""A number says by which code it was graded, and whether that is this code."""

from __future__ import annotations

import pytest

from harness.records.grader_sources import graded_otherwise, graded_unlike, grader_sources

NOW = grader_sources("gsm8k")


def test_the_sources_of_a_set_are_its_graders_and_what_they_rest_on() -> None:
    assert "sympy" in NOW["packages"] and "math_verify" in NOW["packages"]
    choices = grader_sources("boolq")
    assert choices["packages"] == "" and choices["grader"] != NOW["grader"] and choices["metric"] == NOW["metric"]


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
    assert graded_otherwise(recorded, "gsm8k") == said


def test_records_are_alike_unless_two_differ_or_only_some_are_known() -> None:
    assert not graded_unlike([]) and not graded_unlike([None, None]) and not graded_unlike([NOW, {"grader": NOW["grader"]}])
    assert graded_unlike([NOW, {**NOW, "grader": "0"}]) and graded_unlike([NOW, None])
