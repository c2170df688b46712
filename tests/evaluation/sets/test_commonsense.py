"""The commonsense sets: records of both kinds, labels, floors, and what each grader makes of a completion."""

from __future__ import annotations

import collections
import json
import re
from typing import Any

import pytest

from evaluation.graders.labels import likeliest, released_label, stated_label
from evaluation.grading import grade
from evaluation.sets import examples
from evaluation.sets.llm_adapters import COMMONSENSE, labels_of, statement
from evaluation.sets.prompts import TEMPLATES, continuation
from evaluation.sets.training import training_example
from harness.protocols import with_defaults
from harness.synthetic import GENERATORS
from tests.paths import SHARED, needs_shared

#: Format -> (LLM-Adapters' file, rows, share of the commonest label in percent).
REAL = {
    "boolq": ("boolq", 3270, 62.17),
    "piqa": ("piqa", 1838, 50.49),
    "siqa": ("social_i_qa", 1954, 33.62),
    "hellaswag": ("hellaswag", 10042, 25.73),
    "winogrande": ("winogrande", 1267, 50.43),
    "arc_easy": ("ARC-Easy", 2376, 26.64),
    "arc_challenge": ("ARC-Challenge", 1172, 26.54),
    "openbookqa": ("openbookqa", 500, 27.60),
}
#: One record of each set as the hub has it, and what LLM-Adapters asks for it.
HUB: dict[str, tuple[dict[str, Any], str, str]] = {
    "boolq": (
        {"question": "is ice cold", "answer": True, "passage": "Ice is frozen water."},
        "Please answer the following question with true or false, question: is ice cold?\n\nAnswer format: true/false",
        "true",
    ),
    "piqa": (
        {"goal": "Cut bread.", "sol1": "Use a spoon.", "sol2": "Use a knife.", "label": 1},
        "Please choose the correct solution to the question: Cut bread.\n\nSolution1: Use a spoon.\n\n"
        "Solution2: Use a knife.\n\nAnswer format: solution1/solution2",
        "solution2",
    ),
    "siqa": (
        {"context": "A fell.", "question": "How is A?", "answerA": "hurt", "answerB": "glad", "answerC": "rich", "label": "1"},
        "Please choose the correct answer to the question: A fell. How is A?\n\nAnswer1: hurt Answer2: glad Answer3: rich\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer1",
    ),
    "hellaswag": (
        {"activity_label": "Sumo", "ctx": "Two men bow. they", "endings": ["eat.", "fight.", "fly.", "melt."], "label": "1"},
        "Please choose the correct ending to complete the given sentence: Sumo: Two men bow. they\n\n"
        "Ending1: eat. Ending2: fight. Ending3: fly. Ending4: melt.\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending2",
    ),
    "winogrande": (
        {"sentence": "A beat B, so _ won.", "option1": "A", "option2": "B", "answer": "1"},
        "Please choose the correct answer to fill in the blank to complete the given sentence: A beat B, so _ won.\n\n"
        "Option1: A Option2: B Answer format: option1/option2",
        "option1",
    ),
    "arc_easy": (
        {"question": "Hot?", "choices": {"text": ["sun", "ice", "snow"], "label": ["A", "B", "C"]}, "answerKey": "A"},
        "Please choose the correct answer to the question: Hot?\n\nAnswer1: sun Answer2: ice Answer3: snow\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer1",
    ),
    "arc_challenge": (
        {"question": "Cold?", "choices": {"text": list("abcde"), "label": list("12345")}, "answerKey": "5"},
        "Please choose the correct answer to the question: Cold?\n\nAnswer1: a Answer2: b Answer3: c Answer4: d Answer5: e\n\n"
        "Answer format: answer1/answer2/answer3/answer4/answer5",
        "answer5",
    ),
    "openbookqa": (
        {"question_stem": "The sun is", "choices": {"text": list("abcd"), "label": list("ABCD")}, "answerKey": "C"},
        "Please choose the correct answer to the question: The sun is\n\nAnswer1: a Answer2: b Answer3: c Answer4: d\n\n"
        "Answer format: answer1/answer2/answer3/answer4",
        "answer3",
    ),
}


def real(format: str) -> list[dict[str, Any]]:
    return json.loads((SHARED / f"data/commonsense/test/{REAL[format][0]}.test.json").read_text())


# -------------------------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize("format", COMMONSENSE)
def test_a_record_of_the_hub_becomes_llm_adapters_question(format: str) -> None:
    record, instruction, gold = HUB[format]
    (example,) = examples(format, [record])
    assert (example.query, example.gold, example.reference) == (instruction, gold, f"the correct answer is {gold}")
    adapted = {"instruction": instruction, "input": "", "output": f"the correct answer is {gold}", "answer": gold}
    assert examples(format, [adapted]) == [example]
    assert training_example("commonsense", adapted) == (instruction, example.reference)


def _parsed(format: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record of LLM-Adapters taken apart into the hub's fields."""
    body = re.sub(r"(?:\n\n| )Answer format: \S+$", "", record["instruction"]).split(": ", 1)[1]
    if format == "boolq":
        return {"question": body.removesuffix("?"), "answer": record["answer"] == "true"}
    word = labels_of(format)[0][:-1].title()
    parts = re.split(rf"(?:\n\n| ){word}\d: ", body)
    question, texts, number = parts[0], parts[1:], int(record["answer"][-1])
    if format == "piqa":
        return {"goal": question, "sol1": texts[0], "sol2": texts[1], "label": number - 1}
    if format == "winogrande":
        return {"sentence": question, "option1": texts[0], "option2": texts[1], "answer": str(number)}
    if format == "siqa":
        context, _, asked = question.rpartition(". ")
        answers = dict(zip(("answerA", "answerB", "answerC"), texts, strict=True))
        return {"context": f"{context}.", "question": asked, "label": str(number)} | answers
    if format == "hellaswag":
        activity, _, ctx = question.partition(": ")
        return {"activity_label": activity, "ctx": ctx, "endings": texts, "label": str(number - 1)}
    letters = list("ABCDE")[: len(texts)]
    name = "question_stem" if format == "openbookqa" else "question"
    return {name: question, "choices": {"text": texts, "label": letters}, "answerKey": letters[number - 1]}


@needs_shared
@pytest.mark.parametrize("format", COMMONSENSE)
def test_the_instructions_are_those_of_the_real_files(format: str) -> None:
    records = real(format)
    rebuilt = examples(format, [_parsed(format, record) for record in records])
    assert [example.query for example in rebuilt] == [record["instruction"] for record in records]
    assert [example.gold for example in rebuilt] == [record["answer"] for record in records]


@pytest.mark.parametrize(
    ("format", "change", "message"),
    [
        ("boolq", {"answer": "yes"}, "boolq row 1: field 'answer': found 'yes', expected true or false"),
        ("piqa", {"label": 2}, "field 'label': found 2, expected 0 or 1"),
        ("piqa", {"sol2": None}, "piqa row 1: field 'sol2': found NoneType, expected text"),
        ("siqa", {"label": "4"}, "found label 4 of 3 answers"),
        ("siqa", {"label": ""}, "field 'label': found '', expected the number of an answer"),
        ("hellaswag", {"label": ""}, "field 'label': found ''"),
        ("arc_easy", {"answerKey": "E"}, "field 'answerKey': found 'E', expected one of A, B, C"),
        ("openbookqa", {"choices": {"text": []}}, "field 'label' is missing"),
    ],
)
def test_an_odd_field_of_the_hub_is_named(format: str, change: dict[str, Any], message: str) -> None:
    record = HUB[format][0]
    with pytest.raises(ValueError, match=re.escape(message)):
        examples(format, [record, record | change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "answer9"}, "siqa row 0: field 'answer': found 'answer9', expected one of answer1, answer2"),
        ({"answer": "true"}, "found 'true'"),
        ({"instruction": "Which?"}, "expected labels such as answer1/answer2"),
        ({"instruction": "Which?\n\nAnswer format: ending1/ending2"}, "found 'ending1/ending2' after 'Answer format:'"),
        ({"input": "more"}, "field 'input': found text, expected none"),
        ({"answer": None}, "field 'answer': found NoneType"),
    ],
)
def test_an_odd_field_of_llm_adapters_is_named(change: dict[str, Any], message: str) -> None:
    good = {"instruction": "Which?\n\nAnswer format: answer1/answer2", "input": "", "output": "o", "answer": "answer1"}
    assert examples("siqa", [good])[0].choices == ("answer1", "answer2")
    with pytest.raises(ValueError, match=re.escape(message)):
        examples("siqa", [good | change])


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="boolq row 0: field 'instruction' is missing, found answer"):
        examples("boolq", [{"answer": "true"}])
    with pytest.raises(ValueError, match="commonsense row 3: field 'output' is missing"):
        training_example("commonsense", {"instruction": "i"}, row=3)


# -------------------------------------------------------------------------------------------------------------- graders


def shares(format: str, records: list[dict[str, Any]], say: str | None) -> tuple[dict[str, float], float]:
    """Accuracy of each grader where every completion is ``say`` (None: the reference), and the share of the commonest."""
    asked = examples(format, records)
    top, count = collections.Counter(example.gold for example in asked).most_common(1)[0]
    texts = [example.reference if say is None else say.format(top=top) for example in asked]
    verdicts = grade(format, asked, texts).verdicts
    assert set(verdicts) == {"label", "llm_adapters"}
    return {name: sum(v.correct for v in graded) / len(graded) for name, graded in verdicts.items()}, count / len(asked)


@pytest.mark.parametrize("format", COMMONSENSE)
def test_gold_scores_all_and_a_constant_its_floor_on_generated_sets(format: str) -> None:
    records = GENERATORS[format](60, 1)
    assert set(shares(format, records, None)[0].values()) == {1.0}
    constant, floor = shares(format, records, "the correct answer is {top}")
    assert constant == {"label": floor, "llm_adapters": floor} and floor < 0.8
    assert set(shares(format, records, "I do not know.")[0].values()) == {0.0}


@needs_shared
@pytest.mark.parametrize("format", COMMONSENSE)
def test_gold_scores_all_and_a_constant_its_floor_on_real_sets(format: str) -> None:
    records = real(format)
    _, rows, percent = REAL[format]
    assert len(records) == rows
    assert set(shares(format, records, None)[0].values()) == {1.0}
    constant, floor = shares(format, records, "the correct answer is {top}")
    assert constant == {"label": floor, "llm_adapters": floor} and round(100 * floor, 2) == percent


@needs_shared
def test_questions_offer_what_their_format_line_says() -> None:
    offered = collections.Counter(len(example.choices) for example in examples("arc_easy", real("arc_easy")))
    assert offered == {4: 2365, 3: 7, 5: 4}
    assert {example.choices for example in examples("siqa", real("siqa"))} == {("answer1", "answer2", "answer3")}


@pytest.mark.parametrize(
    ("format", "completion", "strict", "released"),
    [
        ("siqa", "the correct answer is answer2", "answer2", "answer2"),
        ("siqa", " answer2, because answer2 is right", "answer2", "answer2"),
        ("siqa", "answer1 or answer2", None, "answer1"),
        ("siqa", "Answer 3.", "answer3", None),
        ("siqa", "answer12", "answer12", "answer1"),
        ("siqa", "answer5", "answer5", "answer5"),
        ("siqa", "the answer", None, None),
        ("siqa", "", None, None),
        ("siqa", "answer2\n\n                ### Instruction:\n answer1", "answer2", "answer2"),
        ("siqa", "not answer1, answer2", None, "answer1"),
        ("boolq", "True", "true", None),
        ("boolq", "it is untrue", None, "true"),
        ("boolq", "the correct answer is not true", None, "true"),
        ("boolq", "It isn't false.", None, "false"),
        ("boolq", "true\nfalse", None, "true"),
        ("piqa", "solution3", "solution3", None),
        ("winogrande", "the correct answer is option1.", "option1", "option1"),
        ("hellaswag", "ending 4", "ending4", None),
        ("boolq", "the statement is not true, so the correct answer is false", "false", "true"),
        ("siqa", "the correct answer is answer1 the correct answer is answer2", None, "answer1"),
        ("siqa", "Answer1: is right; answer2 is wrong", "answer1", "answer2"),
        ("siqa", "none\n### Response: answer2", None, None),
        ("siqa", " I see. ### Response: answer2", "answer2", None),
        ("siqa", "answer1 ### Response: answer2", None, "answer1"),
    ],
)
def test_what_the_two_graders_read(format: str, completion: str, strict: str | None, released: str | None) -> None:
    assert stated_label(labels_of(format), completion) == strict
    assert released_label(labels_of(format), completion) == released


def test_labels_are_given_back_in_the_case_of_the_set() -> None:
    """Of a set with labels of its own, capital letters among them."""
    assert stated_label(("Yes", "No"), "yes, it is") == "Yes" and stated_label(("Yes", "No"), "yes or no") is None
    assert released_label(("Yes", "No"), "No.") == "No" and released_label(("Yes", "No"), "no") is None
    assert stated_label(("Option1", "Option2"), "OPTION 2") == "Option2"


def test_a_hostile_completion_costs_little() -> None:
    assert stated_label(labels_of("siqa"), "answer1 " * 200_000) == "answer1"
    assert stated_label(labels_of("boolq"), "not " * 300_000) is None
    assert stated_label(labels_of("siqa"), "\n" + " " * 300_000 + "answer\ud8002") is None


def test_the_likeliest_choice_is_the_first_of_equals() -> None:
    assert likeliest({"a": -3.0, "b": -1.0, "c": -2.0}) == "b"
    assert likeliest({"a": -1.0, "b": -1.0}) == "a"


def test_protocols_name_their_headline() -> None:
    for name in COMMONSENSE:
        sound, paper = with_defaults("sound", {"format": name}), with_defaults("paper", {"format": name})
        assert (sound["grader"], sound["score_choices"], sound["prompt_template"]) == ("label", True, "commonsense")
        assert (paper["grader"], paper["num_beams"], paper["max_new_tokens"]) == ("llm_adapters", 4, 32)


# -------------------------------------------------------------------------------------------------------------- prompts


def test_templates_are_llm_adapters_two_to_the_blank() -> None:
    header = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    indent = " " * 16
    assert TEMPLATES["commonsense"]("Q\n\nR") + continuation("commonsense", "the") == (
        f"{header}  \n\n{indent}### Instruction:\n{indent}Q\n\nR\n{indent}\n{indent}### Response:\n{indent}the"
    )
    assert TEMPLATES["commonsense-evaluation"]("Q") + continuation("commonsense-evaluation", "the") == (
        f"{header} \n\n{indent}### Instruction:\n{indent}Q\n\n{indent}### Response:\n{indent}the"
    )
    assert continuation("alpaca", statement("true")) == "the correct answer is true"
