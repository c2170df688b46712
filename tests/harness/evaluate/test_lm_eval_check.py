"""The cross-check against lm-eval: it agrees where both are right, and says so where one is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.errors import ConfigError
from harness.schema.evaluation import EvaluationSpec, LmEvalSpec
from tests import experiments

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

import harness.engine.tree  # noqa: E402
from evaluation.sets import prompts  # noqa: E402
from harness.data.tokens import encode_prompt, encode_response  # noqa: E402
from harness.evaluate import lm_eval_check  # noqa: E402
from harness.evaluate.lm_eval import load_tasks  # noqa: E402
from harness.evaluate.lm_eval_check import settings  # noqa: E402
from harness.evaluate.run import evaluate_base  # noqa: E402
from harness.experiment.runs import load_experiment  # noqa: E402
from tests.rounding import rounding_bound, sums_of_scores  # noqa: E402
from tests.tiny_models import byte_tokenizer, llama  # noqa: E402


def _boolq(row: int) -> dict[str, str]:
    label = ("true", "false")[row % 2]
    instruction = (
        f"Please answer the following question with true or false, question: is {row} even?\n\nAnswer format: true/false"
    )
    return {"instruction": instruction, "input": "", "output": f"the correct answer is {label}", "answer": label}


def _piqa(row: int) -> dict[str, str]:
    """The right choice is longer: less likely as a whole, but not always per character."""
    instruction = (
        f"Please choose the correct solution to the question: add {row}\n\nSolution1: it\n\n"
        f"Solution2: leave {'it ' * row}alone\n\nAnswer format: solution1/solution2"
    )
    return {"instruction": instruction, "input": "", "output": "the correct answer is solution2", "answer": "solution2"}


RECORDS: dict[str, list[dict[str, str]]] = {
    "boolq": [_boolq(row) for row in range(6)],
    "piqa": [_piqa(row) for row in range(5)],
    "gsm8k": [{"question": f"What is {row} + 1?{' Now?' * row}", "answer": f"Add.\n#### {row + 1}"} for row in range(5)],
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    """Small sets, and in ``tasks`` the tasks of the repository that read them."""
    (tmp_path / "tasks").mkdir()
    for name, records in RECORDS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
        source = {"hub_id": f"test/{name}", "split": "test", "local": f"{name}.json", "rows": len(records)}
        config = {
            "include": str(lm_eval_check.TASKS / f"{name}.yaml"),
            "task": f"beamlora_{name}",
            "dataset_kwargs": {"format": name, "source": source},
        }
        (tmp_path / f"tasks/{name}.yaml").write_text(yaml.safe_dump(config))
        if name == "piqa":
            config = config | {"include": str(lm_eval_check.TASKS / f"{name}_continuation.yaml")}
            config |= {"task": f"beamlora_{name}_continuation"}
            config["dataset_kwargs"] = config["dataset_kwargs"] | {"protocol": "continuation"}
            (tmp_path / f"tasks/{name}_continuation.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(lm_eval_check, "TASKS", tmp_path / "tasks")
    return tmp_path


def _load(data: Path, *names: str) -> dict[str, Any]:
    spec = LmEvalSpec(tasks=names, include_path=str(data / "tasks"))
    return load_tasks(spec, include_defaults=False, metadata={"data_dir": str(data)})


def _compare(data: Path, model: Any, tasks: dict[str, Any], limit: int | None = None) -> dict[str, lm_eval_check.Agreement]:
    return lm_eval_check.compare(model, byte_tokenizer(), tasks, data_dir=str(data), limit=limit, batch_size=4)


def _model() -> Any:
    return llama(max_position_embeddings=1024, initializer_range=0.3)


def _score_rounding(model: Any) -> float:
    """Of a choice's score, which is 200 to 215 nats."""
    return rounding_bound(215, **sums_of_scores(model))


@pytest.mark.numeric
def test_scores_and_accuracies_of_choices_agree_and_the_train_mode_is_kept(data: Path) -> None:
    model = _model().train()
    (agreement,) = _compare(data, model, _load(data, "beamlora_boolq")).values()
    assert model.training
    assert (agreement.kind, agreement.n, agreement.disagreements) == ("loglikelihood", 6, [])
    assert agreement.agrees and agreement.ours == agreement.lm_eval
    assert agreement.score_difference <= _score_rounding(model)


def test_choices_as_running_text_agree_with_lm_evals_own_tokens_and_both_of_its_metrics(data: Path, monkeypatch) -> None:
    tasks, model = _load(data, "beamlora_piqa_continuation"), _model()
    per_character = _compare(data, model, tasks)["beamlora_piqa_continuation"]
    monkeypatch.setattr(lm_eval_check, "settings", lambda task: settings(task).model_copy(update={"grader": "loglikelihood"}))
    summed = _compare(data, model, tasks)["beamlora_piqa_continuation"]
    for agreement in (per_character, summed):
        assert agreement.kind == "loglikelihood" and agreement.n == 5 and agreement.disagreements == []
        assert agreement.score_difference <= _score_rounding(model)
    assert summed.ours == summed.lm_eval == 0 < per_character.ours == per_character.lm_eval


def test_in_bfloat16_both_sides_ask_one_row_at_a_time_and_agree(data: Path, monkeypatch) -> None:
    sizes = []
    stock = lm_eval_check.same_tokens_lm

    def noted(*args: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        return stock(*args, batch_size=batch_size)

    monkeypatch.setattr(lm_eval_check, "same_tokens_lm", noted)
    tasks = _load(data, "beamlora_boolq")
    for dtype in (torch.bfloat16, torch.float32):
        model = _model().to(dtype)
        (agreement,) = lm_eval_check.compare(model, byte_tokenizer(), tasks, data_dir=str(data)).values()
        assert agreement.agrees and agreement.disagreements == []
        # Logits in bfloat16 would be off by some tenths.
        assert agreement.score_difference <= _score_rounding(model)
    assert sizes == [1, lm_eval_check.BATCH_SIZE]


def test_completions_agree_token_for_token(data: Path) -> None:
    tasks = _load(data, "beamlora_gsm8k")
    tasks["tasks"]["beamlora_gsm8k"].set_config("generation_kwargs", {"max_gen_toks": 12, "until": ["\n"]}, update=True)
    assert lm_eval_check.settings(tasks["tasks"]["beamlora_gsm8k"]).stop_strings == ("\n",)
    (agreement,) = _compare(data, _model(), tasks, limit=4).values()
    assert (agreement.kind, agreement.n, agreement.disagreements, agreement.score_difference) == ("generation", 4, [], None)


@pytest.fixture
def wrong_scorer(monkeypatch) -> None:
    """Our scorer gives each choice the other one's log-likelihood."""
    right = harness.engine.tree.loglikelihoods

    def turned(*args: Any, **kwargs: Any) -> list[list[float]]:
        return [[gold, *scores[::-1]] for gold, *scores in right(*args, **kwargs)]

    monkeypatch.setattr(harness.engine.tree, "loglikelihoods", turned)


@pytest.mark.numeric
@pytest.mark.usefixtures("wrong_scorer")
def test_a_scorer_that_is_wrong_is_caught_and_its_rows_are_listed(data: Path) -> None:
    (agreement,) = _compare(data, model := _model(), _load(data, "beamlora_boolq")).values()
    assert len(agreement.disagreements) == 6
    assert agreement.score_difference > 1
    first = agreement.disagreements[0]
    assert (first.id, first.gold) == ("boolq/0", "true") and first.ours.answer != first.lm_eval.answer
    assert first.ours.scores == pytest.approx(first.lm_eval.scores[::-1], abs=_score_rounding(model))


def test_other_prompts_are_not_compared(data: Path, monkeypatch) -> None:
    tasks = _load(data, "beamlora_boolq")
    monkeypatch.setitem(prompts.TEMPLATES, "commonsense", lambda query: query)
    with pytest.raises(RuntimeError, match="beamlora_boolq: lm-eval asked other prompts than ours"):
        _compare(data, _model(), tasks)


def test_the_check_scores_the_tokens_of_training_where_lm_eval_would_join_prompt_and_response() -> None:
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), ":t", "</s>"]
    merging = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[(":", "t")]))
    merging.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="</s>", pad_token="</s>")
    head = encode_prompt(tokenizer, "Answer:")
    expected = (head, encode_response(tokenizer, prompt="Answer:", head=head, response="true"))
    ours = lm_eval_check.same_tokens_lm(llama(), tokenizer, batch_size=1)
    stock = HFLM(pretrained=llama(), tokenizer=tokenizer, batch_size=1)
    assert ours._encode_pair("Answer:", "true") == expected
    assert stock._encode_pair("Answer:", "true") != expected


def _experiment(folder: Path, **changes: Any) -> Path:
    """An experiment whose model is a folder."""
    _model().save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    source = {"kind": "local", "path": str(folder / "model")}
    return experiments.write(folder, experiments.miniature(**{"models.llama-mini.source": source, **changes}))


def _arguments(data: Path) -> list[str]:
    files = ["--configfile", str(_experiment(data)), "--data-dir", str(data), "--output", str(data / "check.json")]
    return [*files, "--limit", "5"]


def test_the_command_compares_and_writes_what_it_found(data: Path, capsys) -> None:
    names = ["--tasks", "beamlora_boolq", "beamlora_gsm8k", "--max-new-tokens", "6"]
    assert lm_eval_check.main([*_arguments(data), *names]) == 0
    record = json.loads((data / "check.json").read_text())
    assert record["model"] == "llama-mini" and record["versions"]["lm_eval"] and record["limit"] == 5
    assert record["tasks"]["beamlora_boolq"]["difference"] == 0 and record["tasks"]["beamlora_gsm8k"]["n"] == 5
    assert "beamlora_boolq" in (text := capsys.readouterr().out) and "DIFFERS" not in text


@pytest.mark.parametrize("named", ["--run", pytest.param("--model", marks=pytest.mark.slow)])
def test_the_command_takes_the_dtype_rows_and_batches_of_the_record(data: Path, named: str) -> None:
    task = {
        "format": "boolq",
        "source": {"kind": "files", "hub_id": "t/boolq", "split": "test", "local": "boolq.json", "rows": 6},
    }
    base = {"models": ["llama-mini"], "dtype": "bfloat16", "tasks": {"b": task | {"limit": 3, "max_new_tokens": 2}}}
    file = _experiment(data, base_evaluation=base, data_dir=str(data))
    run = data / "run"
    evaluate_base(load_experiment([file], {}), model_key="llama-mini", protocol="sound", run_dir=run, models_dir=data)
    about = [named, str(run) if named == "--run" else "llama-mini"]
    arguments = ["--configfile", str(file), "--tasks", "beamlora_boolq", "--output", str(data / "check.json"), *about]
    assert lm_eval_check.main(arguments) == 0
    record = json.loads((data / "check.json").read_text())
    assert (record["dtype"], record["tasks"]["beamlora_boolq"]["n"]) == ("bfloat16", 3)
    lm_eval_check.main([*arguments, "--dtype", "float32", "--limit", "2"])
    record = json.loads((data / "check.json").read_text())
    assert (record["dtype"], record["tasks"]["beamlora_boolq"]["n"]) == ("float32", 2)


def test_without_names_the_tasks_are_those_of_the_recorded_protocol() -> None:
    task = {"source": {"kind": "generated", "generator": "piqa", "rows": 4, "seed": 0}, "format": "piqa"}
    sound, running = (EvaluationSpec(protocol=name, tasks={"piqa": task}) for name in ("sound", "continuation"))
    assert lm_eval_check.default_tasks(None) == lm_eval_check.default_tasks(sound) == "beamlora_choices"
    assert lm_eval_check.default_tasks(running) == "beamlora_continuation"


@pytest.mark.usefixtures("wrong_scorer")
def test_the_command_fails_where_a_choice_task_differs(data: Path, capsys) -> None:
    # Of five rows with two choices each, a turned scorer has right exactly those that the other one has wrong.
    assert lm_eval_check.main([*_arguments(data), "--tasks", "beamlora_boolq"]) == 1
    record = json.loads((data / "check.json").read_text())["tasks"]["beamlora_boolq"]
    assert not record["agrees"] and record["ours"] + record["lm_eval"] == 1
    assert "DIFFERS" in (text := capsys.readouterr().out) and "beamlora_boolq boolq/0: gold 'true'" in text


def test_unknown_models_and_folders_that_are_no_runs_are_named(data: Path) -> None:
    arguments = ["--configfile", str(_experiment(data)), "--data-dir", str(data), "--tasks", "beamlora_boolq"]
    with pytest.raises(ConfigError, match="--model: found 'gpt', expected one of llama-mini"):
        lm_eval_check.main([*arguments, "--model", "gpt"])
    with pytest.raises(ConfigError, match="metrics.json: found no such file"):
        lm_eval_check.main([*arguments, "--run", str(data)])
