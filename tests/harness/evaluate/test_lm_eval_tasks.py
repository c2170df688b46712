"""lm-eval's tasks on a model in memory: bad names are refused early, and the twelve sets ask what we ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.sets import examples, llm_adapters
from evaluation.sets.llm_adapters import COMMONSENSE
from evaluation.sets.prompts import TEMPLATES, continuation
from harness.data.load import load_records
from harness.errors import ConfigError
from harness.protocols import with_defaults
from harness.schema.evaluation import LmEvalSpec
from tests.paths import ROOT, SHARED, needs_shared

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from harness.evaluate import lm_eval as lm_eval_tasks  # noqa: E402
from harness.evaluate.lm_eval_check import TASKS, settings  # noqa: E402
from harness.evaluate.lm_eval_documents import task_spec  # noqa: E402
from harness.experiment.runs import load_experiment  # noqa: E402

SETS = ("gsm8k", "math", "humaneval", "mbpp", *COMMONSENSE)
TEMPLATE = {
    "dataset_path": "json",
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "question",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": "answer",
    "metadata": {"version": 3},
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Tasks of one's own: two that work, one that executes code, one without data, a group and a tag."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Is {n} even? ", "answer": n % 2} for n in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = {"dataset_kwargs": {"data_files": str(tmp_path / "rows.json")}}
    content: dict[str, dict[str, Any]] = {
        "even": data | {"task": "even_numbers"},
        "odd": data | {"task": "odd_numbers", "tag": "parity"},
        "code": data | {"task": "write_code", "unsafe_code": True},
        "gone": {"task": "lost_numbers", "dataset_kwargs": {"data_files": str(tmp_path / "gone.json")}},
    }
    (tmp_path / "tasks").mkdir()
    for name, config in content.items():
        (tmp_path / f"tasks/{name}.yaml").write_text(yaml.safe_dump(TEMPLATE | config))
    mean = [{"metric": "acc", "aggregation": "mean"}]
    group = {"group": "numbers", "task": ["even_numbers", "odd_numbers"], "aggregate_metric_list": mean}
    (tmp_path / "tasks/numbers.yaml").write_text(yaml.safe_dump(group))
    (tmp_path / "tasks/all.yaml").write_text(yaml.safe_dump({"group": "everything", "task": ["numbers", "write_code"]}))
    return tmp_path / "tasks"


def _spec(folder: Path, *tasks: str, **changes: Any) -> LmEvalSpec:
    return LmEvalSpec(tasks=tasks, include_path=str(folder), **changes)


def _load(folder: Path, *tasks: str) -> dict[str, Any]:
    return lm_eval_tasks.load_tasks(_spec(folder, *tasks), include_defaults=False)


def test_an_unknown_name_is_refused_with_the_nearest_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="found 'even_number', expected tasks .* did you mean 'even_numbers'"):
        _load(folder, "even_numbers", "even_number")


@pytest.mark.parametrize("name", ["write_code", "everything"])
def test_tasks_that_execute_code_are_refused_by_name_also_inside_a_group(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="write_code executes what the model writes"):
        _load(folder, name)


def test_data_that_cannot_be_had_is_one_error_that_names_the_task(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load lost_numbers \(FileNotFoundError"):
        _load(folder, "even_numbers", "lost_numbers")


def test_a_folder_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="include_path: found no folder .*/nowhere"):
        _load(folder / "nowhere", "even_numbers")


def test_without_lm_eval_the_error_says_how_to_get_it(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        _load(folder, "even_numbers")


@pytest.mark.slow
def test_lm_evals_own_code_tasks_are_refused_without_the_network() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in ("humaneval", "mbpp_plus"):
        with pytest.raises(ConfigError, match="executes what the model writes"):
            lm_eval_tasks.check_names(manager, [name])
    with pytest.raises(ConfigError, match="did you mean .*hellaswag"):
        lm_eval_tasks.check_names(manager, ["helaswag"])
    lm_eval_tasks.check_names(manager, ["hellaswag", "mmlu", "ai2_arc"])


def test_results_are_lm_evals_and_the_train_mode_is_kept(folder: Path) -> None:
    from tests.tiny_models import byte_tokenizer, llama

    model = llama()
    spec = _spec(folder, "numbers", limit=4, batch_size=3)
    for training in (True, False):
        model.train(training)
        results = lm_eval_tasks.run_lm_eval(model, byte_tokenizer(), spec, tasks=_load(folder, "numbers"))
        assert model.training is training
    even = results["even_numbers"]
    assert (even["n"], even["n_original"], even["version"], even["higher_is_better"]) == (4, 6, 3, {"acc": True})
    assert even["metrics"]["acc,none"] == sum(sample["acc"] for sample in even["samples"]) / 4
    assert json.loads(json.dumps(even)) == even
    assert results["numbers"]["subtasks"] == ["even_numbers", "odd_numbers"] and results["numbers"]["n"] == 8
    assert results["numbers"]["samples"] == []


def test_limit_and_few_shot_examples_reach_lm_eval(folder: Path) -> None:
    from tests.tiny_models import byte_tokenizer, llama

    def run(**changes: Any) -> dict[str, Any]:
        spec = _spec(folder, "odd_numbers", **changes)
        return lm_eval_tasks.run_lm_eval(llama(), byte_tokenizer(), spec, tasks=_load(folder, "odd_numbers"))["odd_numbers"]

    zero, two = run(limit=2), run(limit=2, num_fewshot=2)
    assert (zero["n"], zero["num_fewshot"], two["num_fewshot"]) == (2, 0, 2)
    prompts = [result["samples"][0]["arguments"]["gen_args_0"]["arg_0"] for result in (zero, two)]
    assert [prompt.count("even?") for prompt in prompts] == [1, 3]


# ------------------------------------------------------------------------------------------------- the twelve sets


def _manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=False)


def test_every_set_has_a_generation_task_and_the_commonsense_sets_a_choice_task() -> None:
    manager = _manager()
    running = {f"beamlora_{name}_continuation" for name in COMMONSENSE}
    expected = {f"beamlora_{name}" for name in SETS} | {f"beamlora_{name}_generate" for name in COMMONSENSE} | running
    assert set(manager.all_subtasks) == expected
    kinds = {name: manager.task_index[name].cfg["output_type"] for name in expected}
    choices = {f"beamlora_{name}" for name in COMMONSENSE}
    assert {name for name, kind in kinds.items() if kind == "multiple_choice"} == choices | running
    assert manager.task_index["beamlora_continuation"].tags == running
    assert manager.task_index["beamlora_choices"].tags == {f"beamlora_{name}" for name in COMMONSENSE}


def test_the_yaml_files_state_the_limits_and_stops_of_the_sound_protocol() -> None:
    for entry in _manager().task_index.values():
        if entry.cfg and entry.cfg["output_type"] == "generate_until":
            sound = with_defaults("sound", {"format": entry.cfg["dataset_kwargs"]["format"]})
            generation = entry.cfg["generation_kwargs"]
            assert generation["max_gen_toks"] == sound["max_new_tokens"], entry.name
            assert generation["until"] == list(sound.get("stop_strings", ())), entry.name


def test_the_yaml_files_read_the_sets_of_the_paper_experiment() -> None:
    index = _manager().task_index
    tasks = [task for domain in load_experiment([ROOT / "config/paper.yaml"], {}).domains.values()
             for task in domain.evaluation.tasks.values() if task.split == "test"]  # fmt: skip
    assert {task.format for task in tasks} == set(SETS)
    for task in tasks:
        source = task_spec(**index[f"beamlora_{task.format}"].cfg["dataset_kwargs"]).source
        pinned = {"revision", "sha256"}
        assert source.model_dump(exclude=pinned) == task.source.model_dump(exclude=pinned), task.format


@needs_shared
@pytest.mark.parametrize("name", ["gsm8k", "mbpp", "arc_easy", "winogrande_generate"])
def test_documents_ask_our_prompts_and_offer_our_choices(name: str) -> None:
    spec = LmEvalSpec(tasks=(f"beamlora_{name}",), include_path=str(TASKS))
    tasks = lm_eval_tasks.load_tasks(spec, include_defaults=False, metadata={"data_dir": str(SHARED / "data")})
    task = tasks["tasks"][f"beamlora_{name}"]
    ours = settings(task)
    asked = examples(ours.format, load_records(ours.source, data_dir=str(SHARED / "data")))
    assert len(task.eval_docs) == len(asked)
    for row in (0, 1, len(asked) - 1):
        document = task.eval_docs[row]
        assert task.doc_to_text(document) == TEMPLATES[ours.prompt_template](asked[row].query)
        if name == "arc_easy":
            statements = [llm_adapters.statement(label) for label in asked[row].choices]
            assert task.doc_to_choice(document) == [continuation(ours.prompt_template, text) for text in statements]
            assert asked[row].choices[task.doc_to_target(document)] == asked[row].gold
    if name == "arc_easy":
        assert {len(task.doc_to_choice(document)) for document in task.eval_docs} == {3, 4, 5}


@needs_shared
@pytest.mark.parametrize("name", ["gsm8k", "math", "humaneval", "mbpp", "boolq_generate"])
def test_the_gold_response_scores_one_and_another_zero(name: str) -> None:
    spec = LmEvalSpec(tasks=(f"beamlora_{name}",), include_path=str(TASKS))
    tasks = lm_eval_tasks.load_tasks(spec, include_defaults=False, metadata={"data_dir": str(SHARED / "data")})
    task = tasks["tasks"][f"beamlora_{name}"]
    documents = [task.eval_docs[row] for row in range(3)]
    assert [task.process_results(document, [document["reference"]]) for document in documents] == [{"exact_match": 1.0}] * 3
    assert [task.process_results(document, ["I do not know"]) for document in documents] == [{"exact_match": 0.0}] * 3
