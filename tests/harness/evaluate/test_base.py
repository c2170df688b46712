"""Base models are evaluated as they are, under each protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.evaluate.base import main
from harness.evaluate.run import evaluate_base
from harness.experiment.runs import load_experiment
from tests.experiments import miniature, write
from tests.tiny_models import byte_tokenizer, llama


def experiment_file(folder: Path, base: dict[str, Any] | None = None) -> Path:
    """A miniature on a local model whose base is evaluated on two generated sets."""
    model = folder / "model"
    tokenizer = byte_tokenizer()
    llama().save_pretrained(model)
    tokenizer.save_pretrained(model)
    task = {"format": "gsm8k", "source": {"kind": "generated", "generator": "gsm8k", "rows": 4, "seed": 2}, "max_new_tokens": 4}
    content = miniature(
        base_evaluation={"models": ["llama-mini"], "protocols": ["sound", "paper"], "tasks": {"gsm8k": task}, **(base or {})}
    )
    content["models"]["llama-mini"]["source"] = {"kind": "local", "path": str(model)}
    return write(folder, content)


def test_protocols_ask_and_grade_differently(tmp_path: Path) -> None:
    file = experiment_file(tmp_path)
    used = {}
    for protocol in ("sound", "paper"):
        folder = tmp_path / protocol
        main(["--configfile", str(file), "--model", "llama-mini", "--protocol", protocol, "--run-dir", str(folder)])
        record = json.loads((folder / "metrics.json").read_text())
        rows = [json.loads(line) for line in (folder / "predictions/gsm8k.jsonl").read_text().splitlines()]
        assert record["status"] == "success" and record["evaluation"]["protocol"] == protocol
        assert record["tasks"]["gsm8k"]["n"] == len(rows) == 4
        used[protocol] = (record["tasks"]["gsm8k"]["grader"], rows[0]["prompt"].endswith("Let's think step by step."))
    assert used == {"sound": ("sound", False), "paper": ("paper", True)}


def test_a_task_whose_set_lacks_a_protocol_is_left_out_under_it(tmp_path: Path) -> None:
    source = {"kind": "generated", "generator": "gsm8k", "rows": 4, "seed": 2}
    tasks = {"gsm8k": {"format": "gsm8k", "source": source}, "piqa": {"format": "piqa", "source": source}}
    asked = {"protocols": ["sound", "continuation"], "tasks": tasks}
    base = load_experiment([experiment_file(tmp_path, asked)]).base_evaluation
    assert base is not None
    assert {protocol: set(base.evaluation(protocol).tasks) for protocol in base.protocols} == {
        "sound": {"gsm8k", "piqa"}, "continuation": {"piqa"},
    }  # fmt: skip
    piqa = base.evaluation("continuation").tasks["piqa"]
    assert (piqa.max_new_tokens, piqa.prompt_template, piqa.score_choices) == (0, "continuation", True)
    with pytest.raises(ConfigError, match="base_evaluation.tasks"):
        load_experiment([experiment_file(tmp_path, asked | {"tasks": {"gsm8k": tasks["gsm8k"]}})])


def test_an_evaluation_that_the_experiment_does_not_ask_for_is_refused(tmp_path: Path) -> None:
    experiment = load_experiment([experiment_file(tmp_path, {"protocols": ["sound"]})])
    with pytest.raises(ConfigError, match="base_evaluation: found models .*expected model 'llama-mini' under protocol 'paper'"):
        evaluate_base(experiment, model_key="llama-mini", protocol="paper", run_dir=tmp_path, models_dir=tmp_path)


def test_a_malformed_task_is_named_when_the_experiment_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base_evaluation.tasks.gsm8k.source: found nothing"):
        load_experiment([experiment_file(tmp_path, {"tasks": {"gsm8k": {"format": "gsm8"}}})])


def test_results_are_written_in_lm_evals_form_too(tmp_path: Path) -> None:
    file = experiment_file(tmp_path)
    folder = tmp_path / "sound"
    main(["--configfile", str(file), "--model", "llama-mini", "--protocol", "sound", "--run-dir", str(folder)])
    (results,) = (folder / "lm_eval").glob("*/results_*.json")
    (samples,) = (folder / "lm_eval").glob("*/samples_*.jsonl")
    assert "gsm8k" in json.loads(results.read_text())["results"]
    assert {json.loads(row)["doc_id"] for row in samples.read_text().splitlines()} == {0, 1, 2, 3}
