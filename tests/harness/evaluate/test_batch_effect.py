"""What depends on the batch: nothing in float32; in bfloat16 what the record says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation.example import Example
from evaluation.graders.choices import ChoiceScore
from harness.engine.generate import Completion, generate
from harness.engine.rows import choice_loglikelihoods, reference_nll
from harness.evaluate.answers import Answers
from harness.evaluate.batch_effect import batch_effect, other_batch_size
from harness.evaluate.task import evaluate_task
from harness.models.output_layer import float32_head
from harness.protocols import with_defaults
from harness.schema.evaluation import TaskSpec
from harness.synthetic import GENERATORS
from tests.byte_models import PROMPTS, SIZES
from tests.rounding import rounding_bound, sums_of_scores

#: Labels as they are asked: the same but for the last token.
LABELS = ["answer1", "answer2", "answer3", "answer4", "answer5"]

#: As the hub has them: WinoGrande's choices stand in the context, PIQA's follow it.
RECORDS: dict[str, list[dict[str, Any]]] = {
    "piqa": [
        {"goal": f"count {n} eggs" * n, "sol1": "one by one" * (6 - n), "sol2": f"by the {n}", "label": n % 2}
        for n in range(1, 6)
    ],
    "winogrande": [
        {
            "sentence": f"The cup is {n} from the mat, so the _ {'is ' * n}wet.",
            "option1": "cup",
            "option2": "mat",
            "answer": "1",
        }
        for n in range(1, 6)
    ],
}


def model_of(dtype: torch.dtype, seed: int = 5) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**(SIZES | {"max_position_embeddings": 1024}))
    return LlamaForCausalLM(config).to(dtype).eval()


def task(format: str, protocol: str = "sound", **changes: Any) -> TaskSpec:
    source = {"kind": "generated", "generator": format, "rows": 8, "seed": 0}
    given = {"source": source, "format": format, "batch_size": 8} | changes
    return TaskSpec.model_validate(with_defaults(protocol, given))


def evaluated(model: Any, tokenizer: Any, spec: TaskSpec, rows: int = 16) -> Any:
    return evaluate_task(model, tokenizer, "t", spec, GENERATORS[spec.format](rows, 0))


# ------------------------------------------------------------------------------------------------- logits in float32


def scored(model: Any, tokenizer: Any, batch_size: int) -> list[list[float]]:
    offered = [[(prompt, label) for label in LABELS] for prompt in PROMPTS]
    return [[nats for nats, _ in own] for own in choice_loglikelihoods(model, tokenizer, offered, batch_size=batch_size)]


def test_labels_that_bfloat16_logits_cannot_tell_apart_are_told_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    model = model_of(torch.bfloat16)
    first, *others = (tokenizer(label)["input_ids"][-1] for label in LABELS)
    with torch.no_grad():  # rows of the head that differ in the last bit of one weight
        for place, other in enumerate(others):
            model.lm_head.weight[other] = model.lm_head.weight[first]
            model.lm_head.weight[other, place] *= 1 + 2**-7
        prompts = [torch.tensor([tokenizer(prompt + LABELS[0])["input_ids"][:-1]]) for prompt in PROMPTS]
        rounded = [set(model(ids).logits[0, -1, [first, *others]].tolist()) for ids in prompts]
    assert all(len(values) < len(LABELS) for values in rounded), "rounding must tie some"
    assert all(len(set(own)) == len(LABELS) for own in scored(model, tokenizer, batch_size=1))


@torch.no_grad()
def test_greedy_and_beam_search_take_the_float32_logits(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    model = model_of(torch.bfloat16)
    dtypes = set()
    forward = LlamaForCausalLM.forward

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        dtypes.add(output.logits.dtype)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", noted)
    for beams in (1, 3):
        generate(model, tokenizer, PROMPTS[:2], max_new_tokens=2, batch_size=2, num_beams=beams)
    assert dtypes == {torch.float32} and model.lm_head.weight.dtype == torch.bfloat16


@torch.no_grad()
def test_logits_are_made_where_a_token_is_scored_and_nowhere_else(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    model, rows = model_of(torch.bfloat16), []
    linear = torch.nn.functional.linear

    def noted(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if len(weight) == model.config.vocab_size:
            rows.append((hidden.shape[:-1].numel(), weight.dtype))
        return linear(hidden, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    reference_nll(model, tokenizer, PROMPTS[:2], ["abc", "defgh"], batch_size=2)
    # Each token and the end; one position more predicts what would come next.
    assert sorted(rows) == [(5, torch.float32), (7, torch.float32)]


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_in_other_batches_differ_by_the_rounding_of_the_dtype(dtype: torch.dtype, tokenizer) -> None:
    """Of float32 no pick changes. Of bfloat16 a pick may, where the best two are closer than rounding."""
    model = model_of(dtype)
    alone = scored(model, tokenizer, batch_size=1)
    bound = rounding_bound(max(-min(own) for own in alone), **sums_of_scores(model), dtype=dtype)
    for batch_size in (3, 8):
        for first, second in zip(alone, scored(model, tokenizer, batch_size=batch_size), strict=True):
            assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= bound
            best, runner_up = sorted(first)[-1], sorted(first)[-2]
            if first.index(best) != second.index(max(second)):
                assert dtype == torch.bfloat16 and best - runner_up <= 2 * bound


def test_float32_has_no_batch_effect_to_record(tokenizer: PreTrainedTokenizerFast) -> None:
    result = evaluated(model_of(torch.float32), tokenizer, task("boolq", max_new_tokens=3))
    assert result.metrics["batch_effect"] is None and "batch_effect" not in result.metrics["seconds"]


def test_the_record_of_a_bfloat16_model_says_what_asking_again_changes(tokenizer: PreTrainedTokenizerFast) -> None:
    spec, records = task("siqa", max_new_tokens=24, batch_effect_rows=12), GENERATORS["siqa"](16, 0)
    model = model_of(torch.bfloat16)
    result = evaluate_task(model, tokenizer, "t", spec, records)
    effect = result.metrics["batch_effect"]
    small = spec.model_copy(update={"batch_size": 2, "batch_effect_rows": 0})
    again = evaluate_task(model, tokenizer, "t", small, records[:12])
    assert again.metrics["batch_effect"] is None
    pairs = list(zip(result.predictions[:12], again.predictions, strict=True))
    assert (effect["rows"], effect["batch_size"]) == (12, 2)
    assert effect["changed_completions"] == sum(a["completion"] != b["completion"] for a, b in pairs) / 12
    changed = sum(a["best_choices"] != b["best_choices"] for a, b in pairs) / 12
    assert effect["changed_picks"] == {"loglikelihood": changed}
    choices = [
        abs(a["choice_loglikelihoods"][x] - b["choice_loglikelihoods"][x]) for a, b in pairs for x in a["choice_loglikelihoods"]
    ]
    assert all(difference <= effect["largest_difference_nats"] for difference in choices)
    assert result.metrics["seconds"]["batch_effect"] > 0


def answers_of(texts: list[str], nats: list[float], gold: list[float]) -> Answers:
    score = {"characters": 1, "tokens": 1}
    return Answers(
        prompts=["p"] * len(texts),
        completions=[Completion(text=text, tokens=1, truncated=False) for text in texts],
        losses=[(loss, 1) for loss in gold],
        choices=[
            {"x": ChoiceScore(loglikelihood=value, **score), "y": ChoiceScore(loglikelihood=-2, **score)} for value in nats
        ],
        seconds={},
    )


def test_texts_picks_and_scores_that_change_are_counted() -> None:
    asked = [Example(id=str(row), query="q", gold="x", reference="x", choices=("x", "y")) for row in range(5)]
    first = answers_of(["a", "b", "c", "d", "e"], [-1, -1, -3, -2.5, -9], [1, 1, 1, 1, 1])
    again = answers_of(["a", "B", "c", "d"], [-1, -2, -3, -1.5], [1, 1.25, 1, 1])
    seen = []

    def ask(rows: Any, batch_size: int, what: str) -> Answers:
        seen.append((len(rows), batch_size))
        return again

    spec = task("piqa", batch_effect_rows=4)
    changes = batch_effect(spec, asked, first, ask, graders=["loglikelihood"], dtype="bfloat16")
    assert seen == [(4, 2)]
    # One pick turns, and one becomes a tie.
    assert changes == {
        "rows": 4, "batch_size": 2, "changed_completions": 1 / 4, "changed_picks": {"loglikelihood": 2 / 4},
        "largest_difference_nats": 1.0,
    }  # fmt: skip
    again = answers_of(["a", "b", "c", "d"], [-1, -1, -3, -2.5], [1, 1, 4, 1])
    changes = batch_effect(spec, asked, first, ask, graders=["loglikelihood"], dtype="bfloat16")
    assert changes is not None and changes["largest_difference_nats"] == 3.0
    assert batch_effect(spec, asked, first, ask, graders=[], dtype="float32") is None


def test_a_task_of_scores_alone_has_no_changed_completions(tokenizer: PreTrainedTokenizerFast) -> None:
    model = model_of(torch.bfloat16)
    effect = evaluate_task(model, tokenizer, "t", task("piqa", "continuation"), RECORDS["piqa"]).metrics["batch_effect"]
    assert effect["changed_completions"] is None and len(effect["changed_picks"]) == 3


def test_rows_are_asked_again_in_batches_of_another_size() -> None:
    assert [other_batch_size(size) for size in (1, 2, 3, 8, 32, 100)] == [2, 1, 1, 2, 8, 25]


@pytest.mark.numeric
@pytest.mark.parametrize("format", RECORDS)
def test_continuation_depends_on_neither_batch_nor_order(format: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, records = model_of(torch.float32), RECORDS[format]
    one, three = (
        evaluate_task(model, tokenizer, "t", task(format, "continuation", batch_size=size), rows).predictions
        for size, rows in ((1, records), (3, records[::-1]))
    )
    for row, other in zip(one, three[::-1], strict=True):
        assert [other[key] for key in ("best_choices", "correct")] == [row[key] for key in ("best_choices", "correct")]
        assert other["choice_loglikelihoods"] == pytest.approx(row["choice_loglikelihoods"], rel=1e-4)


def test_the_head_of_the_model_is_its_own_again_afterwards(tokenizer: PreTrainedTokenizerFast) -> None:
    model = model_of(torch.bfloat16)
    head = model.lm_head
    with float32_head(model):
        assert model.lm_head is not head
    scored(model, tokenizer, batch_size=4)
    assert model.lm_head is head
