"""lm-eval's sample files: the committed ones are lm-eval 0.4.13's own, of two random models on eight questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.compare import lm_eval, text
from harness.compare.paired import HIGHER_IS_BETTER, compare
from harness.compare.sources import sides
from harness.errors import ConfigError
from tests.harness.compare.conftest import DATA, DATE, is_read_or_refused, malformed, sample

FILES = [next((DATA / "lm_eval" / side).iterdir()) for side in ("first", "second")]


def test_two_files_of_lm_eval_are_compared_item_by_item() -> None:
    result = compare(*sides(FILES[:1], FILES[1:]), metric="acc_norm")
    (task,) = result.tasks
    assert (task.name, task.metric, task.other_metrics) == ("even_numbers", "acc_norm,none", ("acc,none",))
    assert (task.scores.first.mean, task.scores.second.mean, task.scores.difference.mean) == (3 / 8, 1 / 2, -1 / 8)
    assert (dict(task.higher), dict(task.lower)) == ({"0": 1}, {"5": 1, "7": 1})
    assert task.scores.difference.p_by_seed == (1.0,)  # of three flips, one way once: 2 * (1 + 3) / 8
    assert result.comparison.word == "not decided (1 seed)" and result.seeds_needed == "unknown"
    shown = text.report(result)
    assert "A 37.5, B 50.0, A − B −12.5 [" in shown and "wrong in A and right in B: 2: 5, 7" in shown


def test_a_folder_stands_for_its_test_sets(copied: Path, write_samples: Callable[..., Path]) -> None:
    first, second = (write_samples(side, values) for side, values in (("one", [1, 0, 1]), ("two", [0, 0, 1])))
    for side, path in (("first", first), ("second", second)):
        path.rename(copied / side / path.name)
    result = compare(*sides([copied / "first"], [copied / "second"]))
    assert [task.name for task in result.tasks] == ["even_numbers", "gsm8k"]
    assert result.scores.difference.mean == pytest.approx((0 + 1 / 3) / 2)  # the mean over test sets, not over items
    assert result.scores.difference.p_by_seed is None


@pytest.mark.parametrize("part", ["document", "prompt", "target"])
def test_an_item_that_is_another_is_named_with_what_differs(copied: Path, part: str) -> None:
    path = next((copied / "second").iterdir())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    key = {"document": "doc_hash", "prompt": "prompt_hash", "target": "target_hash"}[part]
    rows[3][key] = rows[4][key] = "another"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=rf"{path.name}: even_numbers: item 3: found another {part} than in .*first.*2 of 8"):
        compare(*sides([copied / "first"], [copied / "second"]))


def test_missing_and_other_items_are_named(write_samples: Callable[..., Path]) -> None:
    whole = write_samples("whole", [1] * 9)
    part = write_samples("part", [1] * 4)
    with pytest.raises(ConfigError, match=r"found 4 items, expected the 9 of .*whole.*: 5 missing \(4, 5, 6, \.\.\.\)$"):
        compare(*sides([whole], [part]))
    with pytest.raises(ConfigError, match=r"found 9 items, expected the 4 of .*part.*: 5 others"):
        compare(*sides([part], [whole]))


def test_the_order_of_the_rows_does_not_matter(write_samples: Callable[..., Path]) -> None:
    rows = [sample(i, {"acc": float(i == 1)}) for i in range(4)]
    result = compare(*sides([write_samples("a", rows[::-1])], [write_samples("b", [0, 0, 1, 0])]))
    assert (dict(result.tasks[0].higher), dict(result.tasks[0].lower)) == ({"1": 1}, {"2": 1})


def test_filters_are_metrics_of_their_own(write_samples: Callable[..., Path]) -> None:
    def rows(strict: list[int], flexible: list[int]) -> list[dict[str, Any]]:
        both = {"strict-match": strict, "flexible-extract": flexible}
        return [sample(i, {"exact_match": v}, filtered=name) for name, values in both.items() for i, v in enumerate(values)]

    models = sides([write_samples("a", rows([0, 0], [1, 1]))], [write_samples("b", rows([0, 0], [0, 0]))])
    assert compare(*models).tasks[0].metric == "exact_match,strict-match"  # lm-eval's first
    assert compare(*models, metric="exact_match,flexible-extract").scores.difference.mean == 1
    with pytest.raises(
        ConfigError, match="found 'exact_match', .* one of exact_match,strict-match, exact_match,flexible-extract"
    ):
        compare(*models, metric="exact_match")
    with pytest.raises(ConfigError, match="found 'exact_mach,strict-match', .* did you mean 'exact_match,strict-match'"):
        compare(*models, metric="exact_mach,strict-match")


def test_the_results_beside_say_what_less_means_and_what_is_no_mean(write_samples: Callable[..., Path]) -> None:
    rows = [sample(i, {"perplexity": -2.0 - i, "bleu": [i, "x"], "brier": 0.1 * (i + 1)}) for i in range(3)]
    results = {
        "results": {"gsm8k": {"perplexity,none": 20.1, "brier,none": 0.2}},
        "higher_is_better": {"gsm8k": {"perplexity": False, "bleu": True, "brier": False}},
    }
    answers = lm_eval.read(write_samples("a", rows, results=results))
    assert list(answers.scores) == ["brier,none"] and answers.higher_is_better == {"brier,none": False}
    assert list(lm_eval.read(write_samples("b", rows)).scores) == ["perplexity,none", "brier,none"]
    without = [{**row, "metrics": ["perplexity", "bleu"]} for row in rows]
    with pytest.raises(
        ConfigError, match=r"perplexity,none \(not the mean over documents\), bleu,none \(not one number a docu"
    ):
        lm_eval.read(write_samples("c", without, results=results))


def test_a_line_may_hold_other_ends_of_lines(write_samples: Callable[..., Path]) -> None:
    """lm-eval writes text outside ASCII as it is."""
    rows = [sample(i, {"acc": 1.0}, prompt=f"one\u2028two\x85{i}") for i in range(2)]
    assert list(lm_eval.read(write_samples("a", rows)).items) == ["0", "1"]


def test_broken_files_are_refused_by_name(write_samples: Callable[..., Path], tmp_path: Path) -> None:
    row = sample(0, {"acc": 1.0})
    for rows, message in (
        ([row, row], "found doc_id 0 twice under filter 'none'"),
        ([row, sample(1, {"acc": 1.0}, filtered="strict")], "found other doc_ids under filter 'strict' than under 'none'"),
        ([row, {"doc_id": 1}], rf"samples_gsm8k_{DATE}.jsonl:2: filter: found nothing, expected this key"),
        ([row, {**row, "doc_id": None}], rf"samples_gsm8k_{DATE}.jsonl:2: doc_id: found None, expected a valid string"),
        ([{**row, "metrics": None}], rf"samples_gsm8k_{DATE}.jsonl:1: metrics: found None, expected a valid list"),
        ([{**row, "metrics": [["acc"]]}], r":1: metrics.0: found \['acc'\], expected a valid string"),
        ([{**row, "filter": []}], r":1: filter: found \[\], expected a valid string"),
        ([{**row, "acc": 10**400}], r"found metrics acc,none \(not one number a document\), expected"),
        ([{**row, "acc": float("nan")}], r"found metrics acc,none \(not one number a document\), expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            lm_eval.read(write_samples("broken", rows))
    (tmp_path / "aggregates").mkdir()
    (tmp_path / f"aggregates/results_{DATE}.json").write_text("{}")
    with pytest.raises(
        ConfigError, match="found none of them in this folder, expected sample files of lm-eval .*--log_samples"
    ):
        sides([tmp_path / "aggregates"], [tmp_path / "aggregates"])


def test_two_evaluations_of_one_task_in_a_folder_are_ambiguous(write_samples: Callable[..., Path]) -> None:
    path = write_samples("a", [1, 0])
    path.with_name(path.name.replace("2026", "2027")).write_text(path.read_text())
    with pytest.raises(ConfigError, match=r"found gsm8k in samples_gsm8k_2026.* and in samples_gsm8k_2027.*, expected .* once"):
        sides([path.parent], [path.parent])


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], r"found \[\], expected a valid dictionary"),
        ({"results": None}, "results: found None, expected a valid dictionary"),
        ({"results": []}, r"results: found \[\], expected a valid dictionary"),
        ({"results": {"gsm8k": None}}, "results.gsm8k: found None, expected a valid dictionary"),
        ({"higher_is_better": None}, "higher_is_better: found None, expected a valid dictionary"),
        (
            {"higher_is_better": {"gsm8k": {"acc": "yes it is"}}},
            "higher_is_better.gsm8k.acc: found 'yes it is', expected a valid b",
        ),
    ],
)
def test_results_of_another_form_are_refused_by_key(write_samples: Callable[..., Path], results: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"results_{DATE}.json: {message}"):
        lm_eval.read(write_samples("a", [1, 0], results=results))


def test_files_with_any_part_of_another_type_are_read_or_refused(write_samples: Callable[..., Path]) -> None:
    rows = [sample(i, {"acc": 1.0}) | {"resps": [["yes"]], "filtered_resps": ["yes"]} for i in range(2)]
    results = {"results": {"gsm8k": {"alias": "gsm8k", "acc,none": 1.0}}, "higher_is_better": {"gsm8k": {"acc": True}}}
    assert is_read_or_refused(lm_eval.read, write_samples("a", rows, results=results))
    others = (write_samples("a", [rows[0], other], results=results) for other in malformed(rows[1]) if isinstance(other, dict))
    read = [is_read_or_refused(lm_eval.read, path) for path in others]
    read += [is_read_or_refused(lm_eval.read, write_samples("a", rows, results=other)) for other in malformed(results) if other]
    assert 0 < sum(read) < len(read)


def test_a_direction_that_lm_eval_does_not_know_is_not_said(write_samples: Callable[..., Path]) -> None:
    results = {"higher_is_better": {"gsm8k": {"acc": None}}}
    assert lm_eval.read(write_samples("a", [1, 0], results=results)).higher_is_better == {}


@pytest.mark.slow
def test_directions_by_name_are_what_lm_eval_registers() -> None:
    pytest.importorskip("lm_eval.api.metrics", reason="lm-eval is not installed")
    from lm_eval.api.registry import higher_is_better_registry as registry

    registered = {name: registry.get(name) for name in registry if name != "bypass"}  # which stands for no metric
    assert len(registered) == 18 and registered.items() <= HIGHER_IS_BETTER.items()


@pytest.mark.slow
def test_what_lm_eval_writes_today_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the committed files were made."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tests.tiny_models import byte_tokenizer, llama

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    questions = [{"question": f"Is {n} even?", "answer": n % 2} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(questions))
    task = {
        "task": "even_numbers", "dataset_path": "json", "dataset_kwargs": {"data_files": str(tmp_path / "rows.json")},
        "test_split": "train", "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": ["yes", "no"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/even.yaml").write_text(json.dumps(task))
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    for seed in (0, 1):
        model = HFLM(pretrained=llama(seed, initializer_range=0.5), tokenizer=byte_tokenizer(), batch_size=8)
        results = simple_evaluate(model, tasks=["even_numbers"], task_manager=manager, log_samples=True, bootstrap_iters=0)
        samples = results.pop("samples")
        tracker = EvaluationTracker(output_path=str(tmp_path / f"seed{seed}"))
        tracker.save_results_aggregated(results=results, samples=samples)
        tracker.save_results_samples("even_numbers", samples["even_numbers"])
    result = compare(*sides([tmp_path / "seed0"], [tmp_path / "seed1"]), metric="acc_norm")
    committed = compare(*sides(FILES[:1], FILES[1:]), metric="acc_norm")
    assert [m.tasks["even_numbers"].items for m in result.pairs[0]] == [
        m.tasks["even_numbers"].items for m in committed.pairs[0]
    ]
    assert result.tasks[0].other_metrics == ("acc,none",) and result.scores.difference.n_examples == 8
