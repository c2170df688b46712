"""What is rerun follows from the imports: each stage of the workflow, and finished tasks of an interrupted evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import source_files
from harness.evaluate.finished_tasks import task_key
from harness.figures.catalogue import figures
from harness.schema.data import GeneratedData
from harness.schema.evaluation import InferenceSpec, TaskSpec
from harness.workflow.dag import MODULES, code_of, figure_code, method_code

#: A package of its own: main imports in three ways, one of them inside a function, and names a process by its module.
PACKAGE = {
    "__init__": "",
    "main": (
        "from typing import TYPE_CHECKING\nimport evaluation.plain\nfrom evaluation import listed\n"
        "if TYPE_CHECKING:\n    from evaluation import typed\n"
        "def late():\n    from evaluation.inner.deep import value\n"
        "COMMAND = ['-m', 'evaluation.server']\n"
    ),
    "plain": "import json\n",
    "listed": "",
    "typed": "",
    "server": "from evaluation import behind\n",
    "behind": "",
    "apart": "from evaluation import main\n",
    "inner/__init__": "",
    "inner/deep": "value = 'evaluation.nothing'\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PACKAGE under the name ``evaluation`` in place of this project."""
    for name, text in PACKAGE.items():
        path = tmp_path / "evaluation" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(source_files, "ROOT", tmp_path)
    caches = (source_files._file, source_files._imports, source_files._reached)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


def names(*modules: str) -> set[str]:
    return {str(path.relative_to("evaluation").with_suffix("")) for path in source_files.source_files(*modules)}


def test_every_form_of_import_counts_but_those_for_type_checkers(project: Path) -> None:
    expected = {"__init__", "main", "plain", "listed", "server", "behind", "inner/__init__", "inner/deep"}
    assert names("evaluation.main") == expected
    assert names("evaluation.plain") == {"__init__", "plain"}


def test_an_unknown_module_is_refused(project: Path) -> None:
    with pytest.raises(ValueError, match="no module 'evaluation.mian'"):
        source_files.source_files("evaluation.mian")


def test_the_hash_follows_the_content_of_these_files_only(project: Path) -> None:
    before = source_files.source_hash("evaluation.main")
    (project / "evaluation/apart.py").write_text("import os\n")
    assert source_files.source_hash("evaluation.main") == before
    (project / "evaluation/behind.py").write_text("import os\n")
    assert source_files.source_hash("evaluation.main") != before


def test_a_package_can_be_left_out_of_the_hash(project: Path) -> None:
    (project / "evaluation/plain.py").write_text("from harness.helper import help\n")
    (project / "harness").mkdir()
    (project / "harness/__init__.py").touch()

    def hashes(helper: str) -> tuple[str, str]:
        (project / "harness/helper.py").write_text(helper)
        return source_files.source_hash("evaluation.plain"), source_files.source_hash("evaluation.plain", without="harness")

    (one, kept), (other, same) = hashes("help = 1\n"), hashes("help = 2\n")
    assert one != other and kept == same != one


def test_releases_are_those_of_what_else_the_files_import(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "evaluation/behind.py").write_text("def late():\n    import sympy.core, not_installed\n    import os.path\n")
    installed = {"sympy": "1.14.0"}
    monkeypatch.setattr(source_files, "_release", installed.get)
    assert source_files.releases("evaluation.plain") == "" and source_files.releases("evaluation.main") == "sympy 1.14.0"
    installed["sympy"] = "1.15.0"
    assert source_files.releases("evaluation.main") == "sympy 1.15.0"


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("base_model", "harness/synthetic/corpus.py", "harness/train/trainer.py"),
        ("train", "harness/data/tokens.py", "evaluation/graders/math_strict.py"),
        ("train", "beamlora/fused.py", "beamlora/operation.py"),  # of every method; of BeamLoRA alone
        ("evaluate", "harness/data/overlap.py", "harness/export/model_card_text.py"),
        ("evaluate", "harness/evaluate/lm_eval.py", "harness/tables/words.py"),
        ("evaluate", "evaluation/sandbox/tester.py", "harness/answers/audit.py"),  # started by its name
        ("prune", "methods/importance.py", "harness/train/trainer.py"),
        ("timing", "harness/measure/time_lapse.py", "harness/engine/generate.py"),
        ("records", "harness/records/frame.py", "harness/tables/words.py"),
        ("table", "config/paper_reported.csv", "harness/report/page.py"),
        ("figure", "harness/figures/style.py", "harness/figures/costs/pareto.py"),
        ("claims", "harness/claims/ranks.py", "harness/figures/costs/pareto.py"),
        ("report", "harness/report/assets/core.js", "harness/train/trainer.py"),
    ],
)
def test_a_rule_depends_on_what_its_module_imports(rule: str, inside: str, outside: str) -> None:
    files = {str(path) for path in code_of(rule)}
    assert inside in files and outside not in files


@pytest.mark.parametrize("rule", sorted(MODULES))
def test_no_number_hangs_on_how_a_command_prints(rule: str) -> None:
    assert not {"harness/cli.py", "harness/progress.py"} & {str(path) for path in code_of(rule)}


@pytest.mark.parametrize("rule", ["base_model", "evaluate_base", "prune"])
def test_no_base_model_or_answer_hangs_on_how_an_experiment_is_read_or_a_record_handed_on(rule: str) -> None:
    folders = {str(path.parent) for path in code_of(rule)}
    assert folders.isdisjoint({"harness/experiment", "harness/export", "harness/tables"})


def test_a_method_brings_its_own_files_and_no_other_methods() -> None:
    dora = {str(path) for path in method_code("dora")}
    assert {"methods/dora.py", "methods/lora.py", "methods/importance.py"} <= dora
    assert not [path for path in dora if "beamlora" in path or "relora" in path]
    assert "beamlora/operation.py" in {str(path) for path in method_code("beamlora-no-expansion")}


@pytest.mark.parametrize(
    ("edited", "redrawn"),
    [
        ("harness/figures/rank_importance.py", {"rank_importance"}),
        ("harness/figures/costs/pareto.py", {"pareto"}),
        ("harness/figures/pruning_curve.py", {"pruning_curve", "rank_importance"}),
        ("harness/records/importance.py", {"rank_importance"}),
        ("harness/tables/rates.py", {"differences", "learning_rate"}),
        ("harness/figures/style.py", set(figures())),
        ("harness/report/page.py", set()),
    ],
)
def test_a_figure_depends_on_its_own_module_and_on_what_all_share(edited: str, redrawn: set[str]) -> None:
    assert {name for name in figures() if Path(edited) in figure_code(name)} == redrawn


def test_a_kept_task_is_worth_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a finished task changes with a file of the evaluation, not with one that only prints."""
    source = GeneratedData(kind="generated", generator="gsm8k", rows=3, seed=0)
    task = TaskSpec(source=source, format="gsm8k", prompt_template="alpaca", max_new_tokens=4, grader="sound")
    read = Path.read_bytes

    def key_with_a_change_of(changed: str) -> str:
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if str(path).endswith(changed) else b""))
        return task_key(task, how=InferenceSpec(), engine={}, weights="w", data_sha256="d")

    unchanged = key_with_a_change_of("nothing")
    assert key_with_a_change_of("harness/data/tokens.py") != unchanged
    assert key_with_a_change_of("harness/tables/words.py") == unchanged
