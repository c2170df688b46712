"""What is compared with what, and decided by which rule: the tables' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.command import __main__ as command
from harness.compare import __main__ as module
from harness.compare import runs
from harness.compare.answers import seed_of
from harness.compare.paired import compare
from harness.compare.sources import sides
from harness.compare.text import record, report
from harness.errors import ConfigError
from harness.records.grader_sources import grader_sources
from tests.harness import fake_runs
from tests.harness.compare.conftest import is_read_or_refused, malformed, sample

Write = Callable[..., Path]


def answers(rng: np.random.Generator, accuracy: float, items: int = 200) -> list[int]:
    return [int(right) for right in rng.random(items) < accuracy]


def written(write: Write, side: str, *, accuracy: float, seeds: int, items: int = 200) -> list[Path]:
    rng = np.random.default_rng(len(side))
    return [write(f"{side}/seed{seed}", answers(rng, accuracy, items)) for seed in range(seeds)]


def test_runs_are_compared_as_in_the_tables(tmp_path: Path) -> None:
    experiment = fake_runs.small().model_copy(update={"seeds": (0, 1, 2, 3, 4)})
    specs = fake_runs.runs(experiment)
    fake_runs.populate(specs, tmp_path, effects={"beamlora": 2.0})
    folders = [fake_runs.run_folder(run, tmp_path).parent for run in specs]
    table = fake_runs.build(experiment, tmp_path)
    row = next(row for row in table.sections[0].rows if row.method_key == "beamlora")
    margin = experiment.comparisons.margin
    models = sides([next(f for f in folders if f.name == "beamlora")], [next(f for f in folders if f.name == "lora")])
    result = compare(*models, margin=margin.accuracy)
    assert result.by_seed and [task.name for task in result.tasks] == ["gsm8k", "math"]
    cell = row.cells["accuracy", next(column.key for column in table.columns if column.decides)]
    assert cell.comparison is not None and result.comparison.difference == cell.comparison.difference
    assert result.comparison.outcome == "better"
    less = compare(*models, metric="gold_nll", margin=margin.gold_nll)
    assert less.less_is_better and less.comparison.difference.mean < 0 and less.comparison.outcome == "better"
    assert compare(*reversed(models), metric="gold_nll").comparison.outcome == "worse"
    assert not any(task.graded_unlike for task in result.tasks)


def test_runs_that_other_code_graded_are_not_compared_in_silence(tmp_path: Path) -> None:
    folders = []
    runs = fake_runs.runs(fake_runs.small())[:2]
    for run in runs:
        folders.append(fake_runs.write_run(run, tmp_path, correct={"gsm8k": [True, False], "math": [True, True]}))
    path, grader = folders[1] / "metrics.json", grader_sources(runs[1].evaluation.tasks["math"])["grader"]
    path.write_text(path.read_text().replace(grader, "0" * 64))
    result = compare(*sides(folders[:1], folders[1:]))
    assert {task.name: task.graded_unlike for task in result.tasks} == {"gsm8k": False, "math": True}
    assert report(result).count("NOT GRADED ALIKE") == 1
    assert [task["graded_unlike"] for task in record(result)["tasks"]] == [False, True]


def test_no_word_below_five_seeds_and_the_seeds_needed_from_two_on(write_samples: Write) -> None:
    first = written(write_samples, "a", accuracy=0.9, seeds=5)
    second = written(write_samples, "bb", accuracy=0.5, seeds=5)
    words = {n: compare(*sides(first[:n], second[:n])).comparison.word for n in (1, 2, 4, 5)}
    assert words == {1: "not decided (1 seed)", 2: "not decided (2 seeds)", 4: "not decided (4 seeds)", 5: "better"}
    assert compare(*sides(first[:1], second[:1])).seeds_needed == "unknown"
    assert compare(*sides(first[:2], second[:2])).seeds_needed in range(5, 101)


def test_the_margin_makes_equivalent_and_is_what_seeds_are_needed_for(write_samples: Write) -> None:
    first = written(write_samples, "a", accuracy=0.5, seeds=6, items=400)
    second = written(write_samples, "bb", accuracy=0.5, seeds=6, items=400)
    models = sides(first, second)
    outcomes = {margin: compare(*models, margin=margin).comparison.outcome for margin in (None, 0.001, 0.2)}
    assert outcomes == {None: "undecided", 0.001: "undecided", 0.2: "equivalent"}
    assert (compare(*models, margin=0.2).seeds_needed, compare(*models, margin=0.001).seeds_needed) == (5, "too few examples")
    with pytest.raises(ConfigError, match="--margin: found -1.0, expected a number above 0"):
        compare(*models, margin=-1.0)


def test_seeds_are_paired_where_both_sides_have_the_same_and_else_in_order(write_samples: Write) -> None:
    a = [write_samples(f"a/seed{seed}", [1, seed % 2]) for seed in (10, 2)]
    b = [write_samples(f"b/seed_{seed}", [0, seed % 2]) for seed in (2, 10)]
    c = [write_samples(f"c/seed-{seed}", [0, seed % 2]) for seed in (2, 7)]
    result = compare(*sides(a, b))
    assert result.by_seed and [(x.seed, y.seed) for x, y in result.pairs] == [(2, 2), (10, 10)]
    with pytest.raises(ConfigError, match=r"found seed 10 \(.*/a/seed10/.*\), seed 7 \(.*/c/seed-7/.*\) on one side only"):
        compare(*sides(a, c))
    with pytest.raises(ConfigError, match=r"found seed 10 \(.*/a/seed10/.*\) on one side only, expected each seed on both"):
        compare(*sides(a, c[:1]))
    # A seed that stands twice on a side, and a path without one, leave the order; one pair leaves no choice.
    twice = [a[0], write_samples("other/seed10", [0, 1])]
    for first, second, seeds in (
        (twice, c, [(10, 2), (10, 7)]),
        (a, [write_samples("plain", [0, 0]), c[0]], [(10, None), (2, 2)]),
        (a[:1], c[1:], [(10, 7)]),
    ):
        result = compare(*sides(first, second))
        assert not result.by_seed and [(x.seed, y.seed) for x, y in result.pairs] == seeds
    assert [seed_of(name) for name in ("x/seed3/y", "Seed=4", "seed1/seed2", "seeds", "run3")] == [3, 4, 2, None, None]


def test_flips_are_counted_over_seeds(write_samples: Write) -> None:
    a = [write_samples(f"a{i}", values) for i, values in enumerate(([1, 1, 0], [1, 0, 0]))]
    b = [write_samples(f"b{i}", values) for i, values in enumerate(([0, 1, 0], [0, 1, 0]))]
    (task,) = compare(*sides(a, b)).tasks
    assert (dict(task.higher), dict(task.lower)) == ({"0": 2}, {"1": 1})
    assert task.scores.difference.p_by_seed == (1.0, 1.0)


def test_what_cannot_be_compared_is_refused(write_samples: Write, tmp_path: Path) -> None:
    one, two, other = write_samples("a", [1, 0]), write_samples("b", [1, 1]), write_samples("c", [1, 0], task="mmlu")
    single = [write_samples(name, [1]) for name in ("d", "e")]
    for first, second, message in (
        ([one, other], [two], "found 2 models on the first side and 1 on the second, expected as many"),
        ([one], [one], "found it twice, expected each model once"),
        ([one], [other], "found test sets mmlu, expected those of .*: gsm8k"),
        (single[:1], single[1:], "gsm8k: found 1 item, expected at least 2"),
        ([one], [tmp_path / "nowhere"], "nowhere: found no such file or folder, expected sample files of lm-eval"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(*sides(first, second))


def test_metrics_of_opposite_directions_are_not_averaged(write_samples: Write) -> None:
    for side in ("a", "b"):
        write_samples(side, [1, 0])
        less = {"results": {}, "higher_is_better": {"ppl": {"acc": False}}}
        write_samples(side, [1, 0], task="ppl", results=less)
    folders = [write_samples(side, [1, 0]).parent for side in ("a", "b")]
    with pytest.raises(
        ConfigError, match="--metric: found acc,none, acc,none, of which less is better by one .* and more by another"
    ):
        compare(*sides(folders[:1], folders[1:]))


def test_which_way_is_better_is_said_by_a_file_a_name_or_the_flag(write_samples: Write) -> None:
    errors = {"a": [0.1, 0.3], "b": [0.5, 0.9]}
    named = {"higher_is_better": {"gsm8k": {"mse": False}}}

    def models(metric: str, **results: Any) -> Any:
        rows = {side: [sample(i, {metric: value}) for i, value in enumerate(values)] for side, values in errors.items()}
        return sides(*([write_samples(f"{metric}/{side}", rows[side], results=results.get(side))] for side in errors))

    with pytest.raises(ConfigError, match="--better: found nothing, expected more or less: no file .* of mse,none of gsm8k"):
        compare(*models("mse"))
    assert compare(*models("mse"), higher_is_better=False).less_is_better
    assert not compare(*models("mse"), higher_is_better=True).less_is_better
    assert compare(*models("brier_score")).less_is_better and not compare(*models("f1")).less_is_better
    assert compare(*models("mse", b=named)).less_is_better  # beside one of them is enough
    with pytest.raises(ConfigError, match="--metric: found mse,none, of which less is better by one name, file or --better"):
        compare(*models("mse", a=named), higher_is_better=True)


def test_copies_of_one_model_are_no_seeds(write_samples: Write) -> None:
    rng = np.random.default_rng(0)
    b = [write_samples(f"b/seed{seed}", answers(rng, 0.5)) for seed in range(5)]
    a = [write_samples(f"a/seed{seed}", answers(rng, 0.6)) for seed in range(5)]
    copied = write_samples("a/seed9", [json.loads(line) for line in a[1].read_text().splitlines()][::-1])
    copied = copied.rename(a[3])  # in another order, and in the place of seed 3
    for first, second in ((a, b), (b, a)):
        with pytest.raises(
            ConfigError, match=rf"{a[3]}: found the same answers to all 200 items as in {a[1]}, expected those of another"
        ):
            compare(*sides(first, second))


def test_outputs_tell_models_apart_where_files_have_them(write_samples: Write) -> None:
    def rows(word: str, scores: list[int], kept: bool = True) -> list[dict[str, Any]]:
        return [sample(i, {"acc": s}) | ({"resps": [[f"{word} {i}"]]} if kept else {}) for i, s in enumerate(scores)]

    right = [1, 0] * 150
    b = [write_samples(f"b{i}", rows("b" * i, right)) for i in (1, 2)]
    apart = [write_samples(f"a{i}", rows("a" * i, right)) for i in (1, 2)]
    assert len(compare(*sides(apart, b)).pairs) == 2  # the same items right by other words
    scores_only = [apart[0], write_samples("d", rows("", right, kept=False))]
    with pytest.raises(ConfigError, match="found the same answers to all 300 items"):
        compare(*sides(scores_only, b))


def test_models_of_a_side_without_a_metric_in_common_are_refused(write_samples: Write) -> None:
    a = [write_samples(f"a{metric}", [sample(i, {metric: i % 2}) for i in range(40)]) for metric in ("acc", "f1")]
    b = [write_samples(f"b{i}", [i, 1] * 20) for i in (0, 1)]
    with pytest.raises(ConfigError, match="--metric: found 'acc,none', for gsm8k of .*/af1/"):
        compare(*sides(a, b))


@pytest.mark.parametrize("same", [[0] * 300, [1] * 300, [0] * 299 + [1], [1, 0] * 50], ids=["wrong", "right", "one", "few"])
def test_models_may_answer_alike_at_a_floor_or_on_few_items(write_samples: Write, same: list[int]) -> None:
    a = [write_samples(f"a{i}", same) for i in (1, 2)]
    b = [write_samples(f"b{i}", same) for i in (1, 2)]
    assert len(compare(*sides(a, b)).pairs) == 2


def test_runs_that_diverged_and_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    lora, beam = fake_runs.runs(fake_runs.small())[::3]
    diverged = fake_runs.write_run(lora, tmp_path)
    finished = fake_runs.write_run(beam, tmp_path, correct={"gsm8k": [True] * 20, "math": [False] * 15})
    with pytest.raises(ConfigError, match="metrics.json: found a run that diverged, expected answers to test sets"):
        sides([finished], [diverged])
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(ConfigError, match="notes.txt: cannot be read as one JSON object a line"):
        sides([finished], [tmp_path / "notes.txt"])
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(ConfigError, match="found list in the first line, expected sample files"):
        sides([finished], [tmp_path / "list.jsonl"])


def test_records_of_another_form_are_refused_by_key(tmp_path: Path) -> None:
    run = fake_runs.runs(fake_runs.small())[0]
    folder = fake_runs.write_run(run, tmp_path, correct={"gsm8k": [True, False], "math": [True, True]})
    predictions = folder / "predictions/gsm8k.jsonl"
    predictions.write_text('{"id": 1, "correct": true}\n{"id": 2, "correct": true, "verdicts": ["sound"]}\n')
    with pytest.raises(ConfigError, match=r"gsm8k.jsonl:2: verdicts: found \['sound'\], expected a valid dictionary"):
        sides([folder], [folder])
    fake_runs.edit_json(folder / "metrics.json", evaluation={"tasks": {"gsm8k": "test"}})
    with pytest.raises(ConfigError, match="metrics.json: evaluation.tasks.gsm8k: found 'test', expected a valid dictionary"):
        sides([folder], [folder])


def test_a_record_with_any_part_of_another_type_is_read_or_refused(tmp_path: Path) -> None:
    run = fake_runs.runs(fake_runs.small())[0]
    folder = fake_runs.write_run(run, tmp_path, correct={"gsm8k": [True, False], "math": [True, True]})
    path = folder / "predictions/gsm8k.jsonl"
    whole, row = path.read_text(), json.loads(path.read_text().splitlines()[0])
    read = []
    for other in malformed(row):
        path.write_text(json.dumps(other) + "\n")
        read.append(is_read_or_refused(runs.read_run, folder))
    path.write_text(whole)
    metrics = {"schema_version": 1, "status": "success", "evaluation": {"tasks": {"gsm8k": {"split": "test"}}}}
    for other in malformed(metrics | {"tasks": {"gsm8k": {"sources": {"grader": "0" * 64}}}}):
        (folder / "metrics.json").write_text(json.dumps(other))
        read.append(is_read_or_refused(runs.read_run, folder))
    assert 0 < sum(read) < len(read)


def test_validation_sets_are_not_compared_and_ties_are_flips(tmp_path: Path) -> None:
    run = fake_runs.runs(fake_runs.small())[0]
    folders = []
    for side, tied in (("a", 0.5), ("b", 1.0)):
        folder = fake_runs.write_run(run, tmp_path / side, correct={"gsm8k": [True, False], "math": [True, True]})
        tasks = {"gsm8k": {"split": "test"}, "math": {"split": "validation"}}
        fake_runs.edit_json(folder / "metrics.json", evaluation={"tasks": tasks})
        rows = [
            {"id": "0", "correct": tied, "verdicts": {"sound": tied}},
            {"id": "1", "correct": False, "verdicts": {"sound": 0}},
        ]
        (folder / "predictions/gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders.append(folder)
    (task,) = compare(*sides(folders[:1], folders[1:])).tasks
    assert (task.name, task.metric, task.other_metrics, task.binary) == ("gsm8k", "accuracy", ("sound",), True)
    assert dict(task.lower) == {"0": 1} and task.scores.difference.mean == -0.25


# ------------------------------------------------------------------------------------------------------------ the command


def test_the_command_works_anywhere_and_writes_all_of_it(
    write_samples: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a = written(write_samples, "a", accuracy=0.9, seeds=5)
    b = written(write_samples, "bb", accuracy=0.5, seeds=5)
    monkeypatch.chdir(tmp_path)
    words = ["compare", *map(str, a), "--against", *map(str, b), "--margin", "0.02", "--json", "out.json"]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    record: dict[str, Any] = json.loads(Path("out.json").read_text())
    assert record["word"] == "better" and "\nbetter: p of no difference <0.001, " in shown
    assert [pair["seed"] for pair in record["pairs"]] == [0, 1, 2, 3, 4] and "5 seeds, paired by seed" in shown
    (task,) = record["tasks"]
    answered = sum(task["higher_in_a"].values()) - sum(task["lower_in_a"].values())
    assert (
        task["difference"]["mean"] == pytest.approx(answered / 1000) and task["difference"] == record["average"]["difference"]
    )
    assert f"right in A and wrong in B: {sum(task['higher_in_a'].values())} answers to" in shown


def test_two_paths_are_a_and_b(write_samples: Write, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(write_samples(side, values)) for side, values in (("a", [1, 0, 1]), ("b", [0, 0, 1])))
    texts = []
    for words in ([a, b], [a, "--against", b]):
        module.main(words)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "A 66.7, B 33.3, A − B +33.3 [" in texts[0]
    with pytest.raises(ConfigError, match="found 3 paths, expected two, or several of A and then --against"):
        module.main([a, b, a])
