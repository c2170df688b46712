"""Records of one's own, by their columns: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evaluation import sets
from evaluation.graders.verdicts import Answered
from evaluation.sets.columns import Columns
from evaluation.sets.training import training_example

OPEN = Columns(prompt="q", answer="a")
LETTERED = Columns(prompt="q", answer="key", choices=("x", "y", "z"), answer_as="letter")


@pytest.mark.parametrize(
    ("answer", "text"), [("seven pens", "seven pens"), (7, "7"), (7.0, "7"), (0.25, "0.25"), (" kept ", " kept ")]
)
def test_an_open_question_is_its_prompt_and_its_answer(answer: object, text: str) -> None:
    record = {"q": "How many?\nCount.", "a": answer, "other": None}
    (example,) = sets.examples(OPEN, [record])
    assert (example.query, example.gold, example.reference, example.choices) == ("How many?\nCount.", text, text, ())
    assert training_example(OPEN, record) == (example.query, example.reference)


@pytest.mark.parametrize(
    ("columns", "record"),
    [
        (LETTERED, {"x": "3", "y": 4, "z": 5.0, "key": "B"}),
        (Columns(prompt="q", answer="key", choices="xs"), {"xs": ["3", 4, 5], "key": 4}),
        (Columns(prompt="q", answer="key", choices=("xs",), answer_as="from_0"), {"xs": [3, 4, 5], "key": "1"}),
        (Columns(prompt="q", answer="key", choices=["xs"], answer_as="from_1"), {"xs": [3, 4, 5], "key": 2}),
    ],
    ids=["letter", "text", "from_0", "from_1"],
)
def test_choices_are_offered_under_labels_whichever_way_the_answer_names_one(columns: Columns, record: Any) -> None:
    (example,) = sets.examples(columns, [{"q": "1 + 3?", **record}])
    assert example.query == "1 + 3?\n\nAnswer1: 3 Answer2: 4 Answer3: 5\n\nAnswer format: answer1/answer2/answer3"
    assert (example.gold, example.choices) == ("answer2", ("answer1", "answer2", "answer3"))
    assert training_example(columns, {"q": "1 + 3?", **record}) == (example.query, "the correct answer is answer2")
    assert [(choice.context, choice.text) for choice in example.continuations] == [("1 + 3?", text) for text in "345"]
    assert sets.get(columns).core(example) == "1 + 3?\n\nAnswer1: 3 Answer2: 4 Answer3: 5"
    assert sets.get(columns).graders["label"](Answered(gold="answer2", completion=example.reference)).correct


@pytest.mark.parametrize(
    ("columns", "change", "message"),
    [
        (OPEN, {"q": 3}, "field 'q': found int, expected text"),
        (OPEN, {"q": " \n"}, "field 'q': found nothing, expected text"),
        (OPEN, {"a": None}, "field 'a': found nothing, expected text or a number"),
        (OPEN, {"a": float("nan")}, "field 'a': found nothing"),
        (OPEN, {"a": ""}, "field 'a': found nothing"),
        (OPEN, {"a": True}, "field 'a': found bool, expected text or a number"),
        (OPEN, {"a": ["x"]}, "field 'a': found list, expected text or a number"),
        (Columns(prompt="qq", answer="a"), {}, "field 'qq' is missing, found a, key, q, x, y, z; did you mean 'q'?"),
        (LETTERED, {"key": "D"}, "field 'key': found 'D', expected one of 'A', 'B', 'C' (answer_as: letter)"),
        (LETTERED, {"y": "3"}, "field 'x' and 'y' and 'z': found choices ['3', '3', '5'], expected two or more that differ"),
        (LETTERED, {"y": ""}, "field 'y': found nothing"),
        (Columns(prompt="q", answer="a", choices="x"), {}, "field 'x': found str, expected a list of choices; where each has"),
        (Columns(prompt="q", answer="a", choices="x"), {"x": ["7"]}, "field 'x': found choices ['7'], expected two or more"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_question_is_refused_with_its_row(columns: Columns, change: Any, message: str) -> None:
    good = {"q": "1 + 3?", "a": "4", "x": "3", "y": "4", "z": "5", "key": "B"}
    with pytest.raises(ValueError) as caught:
        sets.examples(columns, [good | change])
    assert str(caught.value).startswith(f"own row 0: {message}")
    with pytest.raises(ValueError) as trained:
        training_example(columns, good | change, row=0)
    assert str(trained.value) == str(caught.value)


def test_columns_that_name_no_choices_have_no_place_among_them() -> None:
    with pytest.raises(ValidationError, match="answer_as: found 'letter' without choices"):
        Columns(prompt="q", answer="a", answer_as="letter")
    with pytest.raises(ValidationError, match="found x, x, expected each column once"):
        Columns(prompt="q", answer="a", choices=("x", "x"))


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("7", {"exact_match", "number", "expression"}),
        (" 7\n", {"exact_match", "number", "expression"}),
        ("3 + 4 = 7.\nThe answer is: 7", {"number", "expression"}),
        ("7.0", {"number", "expression"}),
        (r"\boxed{7}", {"number", "expression"}),
        ("17", set()),
        ("", set()),
    ],
)  # fmt: skip
def test_graders_of_open_answers(completion: str, right: set[str]) -> None:
    case = Answered(gold="7", completion=completion)
    assert {name for name, grade in sets.get(OPEN).graders.items() if grade(case).correct} == right


def test_a_bare_answer_that_the_token_limit_cut_off_is_no_number() -> None:
    cut = Answered(gold="12", completion="12", truncated=True)
    assert {name: grade(cut).correct for name, grade in sets.get(OPEN).graders.items()}["number"] is False
