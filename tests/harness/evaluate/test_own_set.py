"""A set from another package, the README's: planned, evaluated and rerun like our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from evaluation.graders import answers
from harness import reported
from harness.errors import ConfigError
from harness.evaluate.finished_tasks import task_key
from harness.evaluate.task import evaluate_task
from harness.experiment.runs import all_runs, load_experiment
from harness.schema.evaluation import EvaluationSpec, InferenceSpec, LmEvalSpec
from harness.workflow.dag import code_of, set_code
from harness.workflow.preflight.data import Sets, check_data
from tests import own_set
from tests.experiments import miniature, write
from tests.paths import ROOT

FILE = {"kind": "files", "hub_id": "ChilleD/MultiArith", "split": "test", "local": "multiarith.jsonl"}
TASK = {"source": FILE, "format": "multiarith"}


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    """The installed module."""
    with own_set.installed(tmp_path) as file:
        yield file


def experiment(folder: Path, **task: object) -> Path:
    """The miniature, evaluated on the set of the other package, whose records lie in ``folder``."""
    (folder / "multiarith.jsonl").write_text("".join(json.dumps(record) + "\n" for record in own_set.RECORDS))
    tasks = {"multiarith": TASK | task}
    return write(folder, miniature(**{"data_dir": str(folder), "domains.math.evaluation.tasks": tasks}))


def test_it_is_planned_and_checked_like_any_other(module: Path, tmp_path: Path) -> None:
    plan = load_experiment([experiment(tmp_path)])
    runs = all_runs(plan)
    assert len(runs) == 2
    task = runs[0].evaluation.tasks["multiarith"]
    assert (task.prompt_template, task.max_new_tokens, task.grader) == ("alpaca", 512, "sound")
    sets = Sets(plan.data_dir)
    check_data(plan, runs, sets)
    assert sets.rows["domains.math.evaluation.tasks.multiarith.source"] == len(own_set.RECORDS)
    assert (reported.label("multiarith"), reported.home("multiarith")) == ("MultiArith", None)


def test_an_unknown_set_is_named_by_its_key_and_line(module: Path, tmp_path: Path) -> None:
    expected = r"experiment.yaml:\d+: domains.math.evaluation.tasks.multiarith.format: unknown evaluation set 'multarith'; "
    with pytest.raises(ConfigError, match=expected + "did you mean 'multiarith'"):
        load_experiment([experiment(tmp_path, format="multarith")])


def test_an_unknown_training_format_is_named_by_its_key(tmp_path: Path) -> None:
    path = write(tmp_path, miniature(**{"domains.math.train.format": "metamaths"}))
    with pytest.raises(ConfigError, match=r"domains.math.train.format: unknown training format .*did you mean 'metamath'"):
        load_experiment([path])


def test_a_model_is_evaluated_on_it(module: Path, tmp_path: Path, model, tokenizer, answering) -> None:
    task = load_experiment([experiment(tmp_path)]).domains["math"].evaluation.tasks["multiarith"]
    answering([f"The answer is: {record['final_ans']}" for record in own_set.RECORDS[:3]] + ["none"] * 3)
    result = evaluate_task(model, tokenizer, "multiarith", task, own_set.RECORDS)
    assert result.metrics["accuracy"] == result.metrics["unparseable"] == 0.5
    assert result.metrics["graders"] == dict.fromkeys(answers.NUMBER_GRADERS, 0.5)
    assert result.metrics["gold_nll"] > 0 and result.metrics["floor"] is None
    assert [row["id"] for row in result.predictions] == [f"multiarith/{row}" for row in range(6)]


def test_graders_learn_that_the_token_limit_cut_an_answer_off(
    module: Path, tmp_path: Path, model, tokenizer, answering
) -> None:
    task = load_experiment([experiment(tmp_path)]).domains["math"].evaluation.tasks["multiarith"]
    answering([f"The answer is: {record['final_ans']}" for record in own_set.RECORDS], truncated=True)
    metrics = evaluate_task(model, tokenizer, "multiarith", task, own_set.RECORDS).metrics
    assert metrics["graders"]["sound"] == 0 and metrics["graders"]["metamath"] == 1


# ---------------------------------------------------------------------------------------------------------------- reruns


def evaluation(**formats: str) -> EvaluationSpec:
    source = {"kind": "generated", "generator": "gsm8k", "rows": 8, "seed": 0}
    return EvaluationSpec.model_validate({"tasks": {name: {"source": source, "format": f} for name, f in formats.items()}})


def test_its_evaluation_depends_on_its_module_and_on_the_graders_that_it_names(module: Path) -> None:
    code = set_code(evaluation(a="multiarith"))
    assert module in code and Path("evaluation/graders/math_strict.py") in code
    assert Path("evaluation/sets/gsm8k.py") not in code


def test_an_evaluation_depends_on_its_own_sets_only() -> None:
    files = {name: set(map(str, set_code(evaluation(a=name)))) for name in ("gsm8k", "svamp", "mbpp", "boolq")}
    own = ("gsm8k", "svamp", "mbpp", "commonsense")
    modules = {f"evaluation/sets/{name}.py" for name in own}
    assert [files[name] & modules for name in files] == [{f"evaluation/sets/{name}.py"} for name in own]
    assert "evaluation/graders/math_strict.py" in files["svamp"] - files["boolq"]
    assert "evaluation/graders/labels.py" in files["boolq"] - files["svamp"]
    assert set(map(str, set_code(evaluation(a="svamp", b="boolq")))) == files["svamp"] | files["boolq"]


def test_tasks_for_lm_eval_from_a_folder_bring_its_files_and_the_modules_that_they_name(tmp_path: Path) -> None:
    """The project's own: their documents and verdicts are made by a module that no import of the evaluation reaches."""
    spec = evaluation(a="boolq")
    named = spec.model_copy(update={"lm_eval": LmEvalSpec(tasks=("beamlora_boolq",), include_path="evaluation/tasks")})
    added = set(map(str, set_code(named))) - set(map(str, set_code(spec)))
    assert {"evaluation/tasks/boolq.yaml", "evaluation/tasks/_choices_yaml"} < added
    assert "harness/evaluate/lm_eval_documents.py" in added
    mine = spec.model_copy(update={"lm_eval": LmEvalSpec(tasks=("mine",), include_path=str(tmp_path))})
    (tmp_path / "mine.yaml").write_text("doc_to_text: !function utils.text\n")
    (tmp_path / "utils.py").write_text("text = str\n")
    assert set(set_code(mine)) - set(set_code(spec)) == {tmp_path / "mine.yaml", tmp_path / "utils.py"}


@pytest.mark.parametrize("rule", ["base_model", "train", "timing"])
def test_no_training_depends_on_a_set_or_a_grader(rule: str) -> None:
    files = {str(path) for path in code_of(rule)}
    assert not [path for path in files if path.startswith("evaluation/graders/")]
    assert not {"evaluation/sets/gsm8k.py", "evaluation/sets/commonsense.py"} & files
    assert "evaluation/sets/prompts.py" in files


def test_what_prints_a_sets_label_depends_on_all_sets(module: Path) -> None:
    assert {module, Path("evaluation/sets/svamp.py")} <= set(code_of("table"))
    assert Path("evaluation/sets/svamp.py") not in code_of("evaluate")


def test_a_kept_task_is_worth_the_code_of_its_set(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = evaluation(svamp="svamp", gsm8k="gsm8k", own="multiarith").tasks
    read = Path.read_bytes

    def keys(changed: Path) -> dict[str, str]:
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path == changed else b""))
        key = partial(task_key, how=InferenceSpec(), engine={}, weights="w", data_sha256="d")
        return {name: key(task) for name, task in tasks.items()}

    before = keys(ROOT / "nothing")

    def redone(changed: Path) -> set[str]:
        return {name for name, key in keys(changed).items() if key != before[name]}

    assert redone(ROOT / "evaluation/sets/svamp.py") == {"svamp"}
    assert redone(module) == {"own"}
    assert redone(ROOT / "evaluation/sets/prompts.py") == redone(ROOT / "evaluation/graders/answers.py") == set(tasks)
    assert redone(ROOT / "evaluation/graders/labels.py") == set(tasks)  # every evaluation may score choices
    assert redone(ROOT / "evaluation/sets/commonsense.py") == set()
