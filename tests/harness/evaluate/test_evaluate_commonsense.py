"""Evaluation of closed questions, and that no format of any protocol depends on batches or order."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import harness.engine.generate
from evaluation.sets.llm_adapters import COMMONSENSE
from evaluation.sets.prompts import continuation
from harness.engine.rows import choice_loglikelihoods
from harness.errors import ConfigError
from harness.evaluate.task import evaluate_task
from harness.protocols import with_defaults
from harness.records.grader_sources import grader_sources
from harness.schema.evaluation import InferenceSpec, TaskSpec
from harness.synthetic import GENERATORS
from tests.byte_models import SIZES
from tests.rounding import assert_equal_but_for_rounding, sums_of_scores


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | {"max_position_embeddings": 1024}))).eval()


def task(format: str, protocol: str = "sound", **changes: object) -> TaskSpec:
    source = {"kind": "generated", "generator": format, "rows": 8, "seed": 0}
    given = {"source": source, "format": format, "max_new_tokens": 6, "batch_size": 8} | changes
    return TaskSpec.model_validate(with_defaults(protocol, given))


def test_closed_questions_are_graded_three_ways_and_have_a_floor(model, tokenizer, answering) -> None:
    records = GENERATORS["siqa"](6, 0)
    answering([f"the correct answer is {record['answer']}" for record in records[:5]] + ["answer1 answer2"])
    result = evaluate_task(model, tokenizer, "s", task("siqa"), records)
    metrics, rows = result.metrics, result.predictions
    assert metrics["grader"] == "label" and metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["unparseable"] == pytest.approx(1 / 6) and rows[5]["extracted"] is None
    assert set(metrics["graders"]) == {"label", "llm_adapters", "loglikelihood"}
    golds = [record["answer"] for record in records]
    assert metrics["floor"] == max(map(golds.count, golds)) / 6
    assert metrics["sources"] == grader_sources(task("siqa"))
    for row in rows:
        scores = row["choice_loglikelihoods"]
        assert tuple(scores) == ("answer1", "answer2", "answer3")
        assert row["verdicts"]["loglikelihood"] == (max(scores, key=scores.get) == row["gold"])
    assert metrics["graders"]["loglikelihood"] == sum(row["verdicts"]["loglikelihood"] for row in rows) / 6


@pytest.mark.numeric
def test_choices_are_scored_as_training_writes_them(model, tokenizer) -> None:
    records = GENERATORS["boolq"](3, 0)
    for template in ("commonsense", "alpaca"):
        rows = evaluate_task(model, tokenizer, "b", task("boolq", prompt_template=template), records).predictions
        texts = [continuation(template, f"the correct answer is {label}") for label in ("true", "false")]
        offered = [[(row["prompt"], text) for text in texts] for row in rows]
        expected = choice_loglikelihoods(model, tokenizer, offered, batch_size=1)
        for row, scores in zip(rows, expected, strict=True):
            nats = [value for value, _ in scores]
            assert_equal_but_for_rounding(list(row["choice_loglikelihoods"].values()), nats, **sums_of_scores(model))
            # The reference is the gold choice and the end-of-sequence token.
            assert row["gold_nll"] * row["gold_tokens"] > -row["choice_loglikelihoods"][row["gold"]]


@pytest.mark.parametrize(("scoring", "passes"), [("tree", 1), ("rows", 2)])
def test_scoring_decides_whether_reference_and_choices_share_a_pass(model, tokenizer, scoring: str, passes: int) -> None:
    seen: list[int] = []
    handle = model.model.register_forward_pre_hook(lambda *_: seen.append(1))
    how = InferenceSpec.model_validate({"scoring": scoring})
    evaluate_task(model, tokenizer, "p", task("piqa", max_new_tokens=1), GENERATORS["piqa"](1, 0), how=how)
    handle.remove()
    assert len(seen) == 1 + 2 * passes  # one to answer; before each pass, one token shows what becomes of logits


def test_a_tie_is_recorded_and_worth_1_over_k(model, tokenizer, monkeypatch) -> None:
    records = GENERATORS["siqa"](6, 0)
    nats = {"answer1": -1.0, "answer2": -1.0, "answer3": -2.0}
    monkeypatch.setattr(
        harness.engine.rows, "choice_loglikelihoods", lambda *args, **_: [[(value, 1) for value in nats.values()]] * 6
    )
    result = evaluate_task(
        model, tokenizer, "s", task("siqa", grader="loglikelihood"), records, how=InferenceSpec(scoring="rows")
    )
    worth = [0.0 if record["answer"] == "answer3" else 0.5 for record in records]
    assert len(set(worth)) == 2
    metrics, rows = result.metrics, result.predictions
    assert [row["correct"] for row in rows] == [row["verdicts"]["loglikelihood"] for row in rows] == worth
    assert {row["extracted"] for row in rows} == {"answer1/answer2"}
    assert rows[0]["best_choices"] == {"loglikelihood": ["answer1", "answer2"]}
    assert metrics["ties"] == {"loglikelihood": 1.0} and metrics["accuracy"] == sum(worth) / 6
    assert metrics["stderr"] == pytest.approx(statistics.pstdev(worth) / 6**0.5)


PIQA = [
    {"goal": "keep bread", "sol1": "in a box of tin", "sol2": "out", "label": 0},
    {"goal": "count", "sol1": "up", "sol2": "down, slowly", "label": 1},
]


def test_continuation_scores_the_choices_texts_and_generates_nothing(model, tokenizer) -> None:
    result = evaluate_task(model, tokenizer, "p", task("piqa", "continuation", max_new_tokens=0), PIQA)
    metrics, rows = result.metrics, result.predictions
    assert set(metrics["graders"]) == {"loglikelihood", "loglikelihood_per_character", "loglikelihood_per_token"}
    assert metrics["grader"] == "loglikelihood_per_character" and metrics["generated_tokens"] == 0
    for row, record in zip(rows, PIQA, strict=True):
        context, texts = f"Question: {record['goal']}\nAnswer:", (f" {record['sol1']}", f" {record['sol2']}")
        assert row["prompt"] == context and row["completion"] == ""
        lengths = [len(text.encode()) for text in texts]  # every byte is a token
        assert list(row["choice_texts"].values()) == [[context, text, n] for text, n in zip(texts, lengths, strict=True)]
        (expected,) = choice_loglikelihoods(model, tokenizer, [[(context, text) for text in texts]], batch_size=1)
        assert list(row["choice_loglikelihoods"].values()) == pytest.approx([nats for nats, _ in expected], rel=1e-5)
        per_character = [nats / (n - 1) for (nats, _), n in zip(expected, lengths, strict=True)]
        best = f"solution{1 + per_character.index(max(per_character))}"
        assert row["best_choices"]["loglikelihood_per_character"] == [best] and row["correct"] == (best == row["gold"])
        nats, tokens = expected[record["label"]]
        assert row["gold_nll"] == pytest.approx(-nats / tokens, rel=1e-5) and row["gold_tokens"] == tokens


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("continuation", {"max_new_tokens": 6}, "max_new_tokens: found 6, expected 0: under prompt_template continuation"),
        ("continuation", {"num_beams": 2}, "num_beams: found 2, expected 1"),
        ("continuation", {"stop_strings": ["x"]}, "stop_strings: found .'x',., expected .."),
        ("continuation", {"grader": "label"}, "grader: found 'label', expected one of loglikelihood, loglikelihood_per_char"),
        ("sound", {"max_new_tokens": 0}, "max_new_tokens: found 0, expected at least 1"),
        ("sound", {"grader": "loglikelihood_per_token"}, "found 'loglikelihood_per_token', expected one of label, "),
    ],
)
def test_settings_without_effect_are_refused(protocol, changes, message, model, tokenizer) -> None:
    spec = task("piqa", protocol, **({"max_new_tokens": 0} | changes if protocol == "continuation" else changes))
    with pytest.raises(ConfigError, match=message):
        evaluate_task(model, tokenizer, "p", spec, PIQA)


def test_questions_without_a_form_as_running_text_are_named(model, tokenizer) -> None:
    with pytest.raises(ConfigError, match="tasks.p.prompt_template: hellaswag/0: found no form as running text, expected one"):
        spec = task("hellaswag", "continuation", max_new_tokens=0)
        evaluate_task(model, tokenizer, "p", spec, GENERATORS["hellaswag"](2, 0))


def test_the_likelihood_can_be_the_headline(model, tokenizer) -> None:
    result = evaluate_task(model, tokenizer, "p", task("piqa", grader="loglikelihood"), GENERATORS["piqa"](8, 0))
    assert result.metrics["accuracy"] == result.metrics["graders"]["loglikelihood"] and result.metrics["unparseable"] == 0
    assert result.predictions[0]["extracted"] in ("solution1", "solution2")


def test_without_scores_there_is_no_likelihood_verdict(model, tokenizer) -> None:
    result = evaluate_task(model, tokenizer, "p", task("piqa", score_choices=False), GENERATORS["piqa"](4, 0))
    assert set(result.metrics["graders"]) == {"label", "llm_adapters"}
    assert "choice_loglikelihoods" not in result.predictions[0]
    with pytest.raises(ConfigError, match="found 'loglikelihood', expected one of label, llm_adapters"):
        evaluate_task(model, tokenizer, "p", task("piqa", score_choices=False, grader="loglikelihood"), [])
    with pytest.raises(ConfigError, match="score_choices: found true for gsm8k, which offers no choices"):
        evaluate_task(model, tokenizer, "p", task("gsm8k", score_choices=True), [])


def test_open_questions_have_no_floor(model, tokenizer) -> None:
    assert evaluate_task(model, tokenizer, "g", task("gsm8k"), GENERATORS["gsm8k"](2, 0)).metrics["floor"] is None


def test_beams_are_a_setting_of_the_task(model, tokenizer) -> None:
    records = GENERATORS["arc_easy"](8, 0)
    one, four = (
        [row["completion"] for row in evaluate_task(model, tokenizer, "a", task("arc_easy", num_beams=n), records).predictions]
        for n in (1, 4)
    )
    assert one != four


SAME = ("completion", "extracted", "correct", "verdicts", "tokens", "truncated", "gold_tokens")


def results(model: Any, tokenizer: Any, name: str, spec: TaskSpec, records: list[dict]) -> dict[str, Any]:
    rows = evaluate_task(model, tokenizer, name, spec, records).predictions
    # Ids count rows, which another order changes; prompts say which row it is.
    return {row["prompt"]: row for row in rows}


#: The scores of an open and of a closed set are enough to compare kernels.
NUMERIC = [pytest.param(name, marks=pytest.mark.numeric) for name in ("gsm8k", "siqa")]
#: The closed sets differ in their questions alone; siqa stands for them in the default tests.
LIKE_SIQA = [pytest.param(name, marks=pytest.mark.slow) for name in COMMONSENSE if name != "siqa"]


@pytest.mark.parametrize("protocol", ["sound", pytest.param("paper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", [*NUMERIC, "math", "humaneval", "mbpp", *LIKE_SIQA])
def test_batch_size_and_order_change_nothing(format, protocol, model, tokenizer) -> None:
    records = GENERATORS[format](8, 0)
    one = results(model, tokenizer, format, task(format, protocol, batch_size=1), records)
    assert len({row["completion"] for row in one.values()}) > 3, "the prompts must lead to different texts"
    for other in (
        results(model, tokenizer, format, task(format, protocol, batch_size=8), records),
        results(model, tokenizer, format, task(format, protocol, batch_size=3), records[::-1]),
    ):
        assert other.keys() == one.keys()
        for prompt, row in one.items():
            assert [other[prompt][key] for key in SAME] == [row[key] for key in SAME]
            assert_equal_but_for_rounding(other[prompt]["gold_nll"], row["gold_nll"], **sums_of_scores(model))
            scores, rescored = (r.get("choice_loglikelihoods", {"": 0.0}) for r in (row, other[prompt]))
            assert rescored.keys() == scores.keys()
            assert_equal_but_for_rounding(list(rescored.values()), list(scores.values()), **sums_of_scores(model))
