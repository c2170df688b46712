"""A run's evaluation: every number follows from the predictions, and files are whole or absent."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

import harness.cli
import harness.data.contamination
import harness.data.load
import harness.engine.generate
import harness.models.load
from harness.engine import process
from harness.errors import ConfigError
from harness.evaluate import run as evaluate
from harness.evaluate.run import TaskError, evaluate_run
from harness.evaluate.task import evaluate_task
from harness.schema.base_models import BaseModelSpec, LocalModel
from harness.schema.data import GeneratedData, TrainingData
from harness.schema.evaluation import EvaluationSpec, InferenceSpec, TaskSpec
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import MethodSpec, RunSpec
from harness.schema.training import TrainingSpec
from tests import fake_vllm
from tests.byte_models import SIZES
from tests.rounding import assert_equal_but_for_rounding, sums_of_scores

SOURCE = GeneratedData(kind="generated", generator="gsm8k", rows=3, seed=0)
RECORDS = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(4)]
CODE = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(3) == 3\n",
    }
    for n in range(3)
]


def task(**changes: object) -> TaskSpec:
    return TaskSpec(
        **(
            {
                "source": SOURCE,
                "format": "gsm8k",
                "prompt_template": "alpaca",
                "max_new_tokens": 4,
                "batch_size": 2,
                "grader": "sound",
            }
            | changes
        )
    )


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(SIZES | {"max_position_embeddings": 512}))).eval()


def test_a_task_without_grader_measures_the_nll_and_answers_nothing(model, tokenizer, monkeypatch) -> None:
    asked = evaluate_task(model, tokenizer, "gsm8k", task(), RECORDS)
    monkeypatch.setattr(harness.engine.generate, "generate", None)
    result = evaluate_task(model, tokenizer, "gsm8k", task(grader=None, max_new_tokens=0), RECORDS)
    assert [row["gold_nll"] for row in result.predictions] == [row["gold_nll"] for row in asked.predictions]
    answers = {"completion": "", "extracted": None, "correct": None, "verdicts": {}, "outcome": None, "unparseable": None}
    assert all(row | answers == row for row in result.predictions)
    shares = ("accuracy", "stderr", "unparseable", "truncated", "timed_out", "grader", "floor")
    assert [result.metrics[name] for name in shares] == [None] * 7
    same = ("gold_nll", "gold_nll_stderr", "gold_tokens", "n")
    assert [result.metrics[name] for name in same] == [asked.metrics[name] for name in same]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grader": None}, "max_new_tokens: found 4, expected 0: with grader null nothing is answered"),
        ({"grader": None, "max_new_tokens": 0, "num_beams": 2}, "num_beams: found 2, expected 1: with grader null"),
        ({"max_new_tokens": 0}, "max_new_tokens: found 0, expected at least 1, or grader null"),
    ],
    ids=["tokens", "beams", "grader"],
)
def test_a_task_answers_and_is_graded_or_neither(model, tokenizer, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_task(model, tokenizer, "gsm8k", task(**changes), RECORDS)


@pytest.mark.parametrize(("prefix_caching", "first"), [(True, 1), (False, 2)])
def test_prefix_caching_decides_whether_the_template_is_read_once(model, tokenizer, prefix_caching: bool, first: int) -> None:
    rows: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    evaluate_task(model, tokenizer, "a", task(), RECORDS, how=InferenceSpec(prefix_caching=prefix_caching))
    handle.remove()
    assert rows[0] == first


def test_a_model_with_a_state_is_asked_row_by_row_or_refused(tokenizer) -> None:
    torch.manual_seed(0)
    sizes = {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
    kinds = {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**(SIZES | sizes | experts | kinds | {"max_position_embeddings": 512}))).eval()
    with pytest.raises(ConfigError, match="evaluation.scoring: found 'tree' and Qwen3NextForCausalLM.* expected 'rows'"):
        evaluate_task(model, tokenizer, "a", task(), RECORDS)
    with pytest.raises(ConfigError, match="evaluation.prefix_caching: found True and Qwen3NextForCausalLM.* expected False"):
        evaluate_task(model, tokenizer, "a", task(), RECORDS, how=InferenceSpec(scoring="rows"))
    plain = InferenceSpec(scoring="rows", prefix_caching=False)
    two, one = (evaluate_task(model, tokenizer, "a", task(batch_size=size), RECORDS, how=plain) for size in (2, 1))
    assert [row["completion"] for row in two.predictions] == [row["completion"] for row in one.predictions]
    assert two.metrics["gold_nll"] == pytest.approx(one.metrics["gold_nll"], rel=1e-5)


def test_numbers_follow_from_the_predictions(model, tokenizer, answering) -> None:
    answering(["The answer is: 1", "The answer is: 200", "The answer is: 7", "Who knows?"])
    result = evaluate_task(model, tokenizer, "gsm8k", task(), RECORDS)
    metrics, rows = result.metrics, result.predictions
    assert [row["correct"] for row in rows] == [True, False, False, False]
    assert [row["verdicts"]["paper"] for row in rows] == [True, True, False, False]
    assert (metrics["accuracy"], metrics["n"], metrics["grader"], metrics["unparseable"]) == (0.25, 4, "sound", 0.25)
    assert metrics["graders"] == {"sound": 0.25, "metamath": 0.25, "paper": 0.5, "math_verify": 0.25}
    assert metrics["stderr"] == pytest.approx(math.sqrt(0.25 * 0.75 / 4))
    assert metrics["generated_tokens"] == 20 and metrics["sandbox"] is None
    losses = [row["gold_nll"] for row in rows]
    assert metrics["gold_nll"] == pytest.approx(sum(losses) / 4)
    assert metrics["gold_nll_stderr"] == pytest.approx(torch.tensor(losses).double().std().item() / 2)
    assert rows[0]["gold"] == "1" and rows[0]["prompt"].endswith("### Response:") and rows[3]["extracted"] is None


def test_the_headline_grader_is_the_tasks(model, tokenizer, answering) -> None:
    answering(["The answer is: 200"] * 4)
    accuracies = [
        evaluate_task(model, tokenizer, "t", task(grader=name), RECORDS).metrics["accuracy"] for name in ("sound", "paper")
    ]
    assert accuracies == [0, 0.25]


@pytest.mark.numeric
def test_gold_nll_is_that_of_the_reference_after_the_tasks_prompt(model, tokenizer) -> None:
    row = evaluate_task(model, tokenizer, "t", task(prompt_template="alpaca-cot"), RECORDS).predictions[2]
    prompt = tokenizer(row["prompt"])["input_ids"]
    ids = [*prompt, *tokenizer("2 + 1 = 3\n#### 3\nThe answer is: 3")["input_ids"], 256]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -sum(float(log_p[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
    assert row["gold_tokens"] == len(ids) - len(prompt)
    assert_equal_but_for_rounding(row["gold_nll"] * row["gold_tokens"], expected, **sums_of_scores(model))


def test_settings_of_generation_have_their_effect(model, tokenizer) -> None:
    short = evaluate_task(model, tokenizer, "t", task(), RECORDS)
    assert short.metrics["truncated"] == 1 and short.metrics["generated_tokens"] == 16
    long = evaluate_task(model, tokenizer, "t", task(max_new_tokens=8), RECORDS)
    assert long.metrics["generated_tokens"] == 32
    assert all(
        b["completion"].startswith(a["completion"].rstrip("\ufffd"))
        for a, b in zip(short.predictions, long.predictions, strict=True)
    )
    stop = long.predictions[0]["completion"][1:3]
    stopped = evaluate_task(model, tokenizer, "t", task(max_new_tokens=8, stop_strings=(stop,)), RECORDS)
    assert stopped.metrics["truncated"] < 1 and stop not in stopped.predictions[0]["completion"]
    other_batches = evaluate_task(model, tokenizer, "t", task(batch_size=4), RECORDS)
    same = ("completion", "correct", "tokens")
    assert [[row[key] for key in same] for row in other_batches.predictions] == [
        [row[key] for key in same] for row in short.predictions
    ]


def test_code_tasks_run_programs_under_the_tasks_limits(model, tokenizer, answering) -> None:
    slow = "    import time\n    time.sleep(0.5)\n    return x"
    answering(["    return x", slow, "    return bytearray(200 << 20) and x"])
    code = {"format": "humaneval", "prompt_template": "alpaca-humaneval", "grader": "code_tests"}
    limited = evaluate_task(model, tokenizer, "h", task(**code, timeout_s=0.3, memory_mb=128), CODE)
    assert [row["outcome"] for row in limited.predictions] == ["passed", "timed_out", "out_of_memory"]
    assert limited.metrics["timed_out"] == pytest.approx(1 / 3)
    assert limited.metrics["sandbox"]["timeout_s"] == 0.3 and "rlimits" in limited.metrics["sandbox"]["level"]
    generous = evaluate_task(model, tokenizer, "h", task(**code, timeout_s=10, memory_mb=1024), CODE)
    assert generous.metrics["accuracy"] == 1


@pytest.mark.parametrize(
    ("changes", "records", "message"),
    [
        ({"prompt_template": "alpacca"}, RECORDS, "t.prompt_template: found 'alpacca', expected one of alpaca,"),
        ({"grader": "code_tests"}, RECORDS, "t.grader: found 'code_tests', expected one of sound,"),
        ({}, [], "found no records"),
        ({}, [{"question": "q"}], "row 0: field 'answer' is missing"),
    ],
)
def test_bad_input_is_named_before_generation(changes, records, message, model, tokenizer) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_task(model, tokenizer, "t", task(**changes), records)


def test_progress_is_reported(model, tokenizer) -> None:
    seen: list[tuple[int, int, str]] = []
    evaluate_task(model, tokenizer, "t", task(), RECORDS, lambda *update: seen.append(update))
    assert [(done, total) for done, total, note in seen if "answering" in note] == [(2, 4), (4, 4)]
    assert any("scoring" in note for *_, note in seen) and "grading" in seen[-1][2]


# ------------------------------------------------------------------------------------------------------------- one run


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec(
        experiment="e",
        domain="math",
        model_key="m",
        seed=0,
        model=BaseModelSpec(label="M", stands_for=None, source=LocalModel(kind="local", path="m")),
        method=MethodSpec(key="lora", label="LoRA", name="lora", settings={}),
        data=TrainingData(source=SOURCE, format="gsm8k"),
        training=TrainingSpec(learning_rate=1e-3, per_device_train_batch_size=1, max_steps=1),
        evaluation=EvaluationSpec(tasks={"a": task(), "b": task(limit=2)}),
    )


def run_with(spec, run_dir, monkeypatch, model, tokenizer, status: str = "success", trained_at: str = "once") -> dict:
    tmp_cache = run_dir.with_name(f"{run_dir.name}-cache")
    trained_on = harness.data.load.source_fingerprint(RECORDS)
    record = {"schema_version": SCHEMA_VERSION, "status": status, "created_at": trained_at, "data": {"sha256": trained_on}}
    record |= {"artefact": {}}
    (run_dir / "train.json").write_text(json.dumps(record))
    for module in (harness.data.load, harness.data.contamination):
        monkeypatch.setattr(module, "load_records", lambda source, *, data_dir, limit=None: RECORDS[:limit])
    monkeypatch.setattr(harness.cli, "CACHE", tmp_cache)
    monkeypatch.setattr(harness.models.load, "load_for_evaluation", lambda *args, **kwargs: (model, tokenizer))
    return evaluate_run(spec, run_dir=run_dir, models_dir=Path("models"), data_dir=None)


def test_a_run_writes_predictions_and_metrics(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    record = run_with(spec, tmp_path, monkeypatch, model, tokenizer)
    assert json.loads((tmp_path / "metrics.json").read_text()) == record
    assert (record["run_id"], record["status"]) == ("math/m/lora/seed0", "success")
    for name, n in (("a", 4), ("b", 2)):
        rows = [json.loads(line) for line in (tmp_path / "predictions" / f"{name}.jsonl").read_text().splitlines()]
        assert len(rows) == record["tasks"][name]["n"] == n
        assert len(record["tasks"][name]["data_sha256"]) == 64
    assert record["tasks"]["a"]["data_sha256"] != record["tasks"]["b"]["data_sha256"]
    # Trained on the very questions that are asked.
    assert {name: overlap["share"] for name, overlap in record["contamination"].items()} == {"a": 1.0, "b": 1.0}
    assert record["evaluation"] == spec.evaluation.model_dump(mode="json") and "torch" in record["versions"]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.jsonl", "b.jsonl", "metrics.json", "train.json"]


def test_a_diverged_run_has_its_status_and_no_numbers(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    record = run_with(spec, tmp_path, monkeypatch, None, None, status="diverged")
    assert record["status"] == "diverged" and record["tasks"] == {}
    assert (tmp_path / "predictions").is_dir(), "the workflow declares this folder as an output"


def failing_at(name: str, monkeypatch, error: Exception) -> list[str]:
    """Make one task fail. Returns the list of the tasks that are evaluated, which grows."""
    genuine, evaluated = evaluate.evaluate_task, []

    def wrapped(model, tokenizer, task_name, *args, **kwargs):
        evaluated.append(task_name)
        if task_name == name:
            raise error
        return genuine(model, tokenizer, task_name, *args, **kwargs)

    monkeypatch.setattr(evaluate, "evaluate_task", wrapped)
    return evaluated


def test_a_failing_task_leaves_the_finished_ones(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    with monkeypatch.context() as patched:
        failing_at("b", patched, OSError("disk full"))
        with pytest.raises(TaskError, match="tasks.b failed: OSError: disk full; kept for the next attempt: a"):
            run_with(spec, tmp_path, patched, model, tokenizer)
    assert (tmp_path / "predictions/a.jsonl").exists() and not (tmp_path / "metrics.json").exists()
    kept = (tmp_path / "predictions/a.jsonl").read_text()
    shutil.rmtree(tmp_path / "predictions")  # as the workflow does with the outputs of a failed job
    with monkeypatch.context() as patched:
        evaluated = failing_at("none", patched, OSError())
        record = run_with(spec, tmp_path, patched, model, tokenizer)
    assert evaluated == ["b"] and set(record["tasks"]) == {"a", "b"}
    assert (tmp_path / "predictions/a.jsonl").read_text() == kept
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.jsonl", "b.jsonl", "metrics.json", "train.json"]


@pytest.mark.parametrize("change", ["weights", "task", "data", "dtype", "scoring", "prefix_caching", "engine"])
def test_a_kept_task_is_used_only_for_the_same_thing(change, spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    with monkeypatch.context() as patched:
        failing_at("b", patched, OSError("disk full"))
        with pytest.raises(TaskError):
            run_with(spec, tmp_path, patched, model, tokenizer)
    evaluation = spec.evaluation
    if change == "task":
        evaluation = EvaluationSpec(tasks={"a": task(max_new_tokens=5), "b": task(limit=2)})
    elif change == "dtype":
        evaluation = evaluation.model_copy(update={"dtype": "bfloat16"})
    elif change == "scoring":
        evaluation = evaluation.model_copy(update={"scoring": "rows"})
    elif change == "prefix_caching":
        evaluation = evaluation.model_copy(update={"prefix_caching": False})
    elif change == "engine":
        evaluation = in_vllm(spec, tmp_path / "env", monkeypatch, "end").evaluation
    elif change == "data":
        monkeypatch.setitem(RECORDS[0], "question", "What is 0 + 01?")
    evaluated = failing_at("none", monkeypatch, OSError())
    other = spec.model_copy(update={"evaluation": evaluation})
    run_with(other, tmp_path, monkeypatch, model, tokenizer, trained_at="again" if change == "weights" else "once")
    assert evaluated == ["a", "b"]


def in_vllm(spec: RunSpec, folder: Path, monkeypatch, mode: str = "greedy") -> RunSpec:
    """The run evaluated by the stand-in for vLLM."""
    monkeypatch.setenv(process.PYTHON, str(fake_vllm.environment(folder)))
    monkeypatch.setenv("FAKE_VLLM", mode)
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"engine": "vllm"})})


def without_times(record: dict) -> dict:
    """A task's metrics."""
    return {name: value for name, value in record.items() if name != "seconds"}


def test_another_engine_gives_the_same_answers_and_metrics(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    asked = {"max_new_tokens": 24, "grader": "sound"}
    plain = evaluate_task(model, tokenizer, "a", task(**asked), RECORDS)
    stop = next(letter for row in plain.predictions for letter in row["completion"][3:] if letter != "\ufffd")
    tasks = {"a": task(**asked), "b": task(stop_strings=[stop], **asked), "c": task(grader=None, max_new_tokens=0)}
    spec = spec.model_copy(update={"evaluation": EvaluationSpec(tasks=tasks)})
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    ours = run_with(spec, folders[0], monkeypatch, model, tokenizer)
    theirs = run_with(in_vllm(spec, tmp_path / "env", monkeypatch), folders[1], monkeypatch, model, tokenizer)
    for name in tasks:
        rows, others = ((folder / f"predictions/{name}.jsonl").read_text() for folder in folders)
        assert rows == others and without_times(ours["tasks"][name]) == without_times(theirs["tasks"][name])
    assert ours["tasks"]["b"]["generated_tokens"] < ours["tasks"]["a"]["generated_tokens"]
    assert (ours["engine"]["name"], theirs["engine"]) == ("transformers", {"name": "vllm", "version": fake_vllm.RELEASE})
    assert len((tmp_path / "env/engines").read_text().splitlines()) == 1
    assert sorted(path.name for path in folders[1].iterdir()) == ["metrics.json", "predictions", "train.json"]


def test_a_row_that_an_engine_ends_early_fails_its_task(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    other = in_vllm(spec, tmp_path / "env", monkeypatch, "early")
    with pytest.raises(TaskError, match="tasks.a failed: EngineError: row 0 ended after 1 of 4 tokens, at no end"):
        run_with(other, tmp_path, monkeypatch, model, tokenizer)


def test_bad_records_of_a_later_task_name_the_kept_ones(spec, tmp_path, monkeypatch, model, tokenizer) -> None:
    failing_at("b", monkeypatch, ConfigError("evaluation.tasks.b: row 3 is odd"))
    with pytest.raises(ConfigError, match="tasks.b: row 3 is odd; kept for the next attempt: a"):
        run_with(spec, tmp_path, monkeypatch, model, tokenizer)


def test_a_missing_training_record_is_named(spec, tmp_path) -> None:
    with pytest.raises(ConfigError, match="train.json: found no such file"):
        evaluate_run(spec, run_dir=tmp_path, models_dir=tmp_path, data_dir=None)


def test_surrogates_in_a_completion_can_be_written(model, tokenizer, monkeypatch, spec, tmp_path, answering) -> None:
    answering(["The answer is: \udcff"] * 4)
    (tmp_path / "train.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "status": "success"}))
    one = spec.model_copy(update={"evaluation": EvaluationSpec(tasks={"a": task()})})
    run_with(one, tmp_path, monkeypatch, model, tokenizer)
    rows = (tmp_path / "predictions/a.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["completion"] == "The answer is: \udcff"
