"""The numbers of finished tables, computed again from ``predictions/`` by pandas, SciPy and statsmodels alone.

Takes the committed ``results/small``; ``BEAMLORA_RESULTS=results/tiny`` names another experiment's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness.tables import __main__ as tables
from harness.tables import render
from tests.harness import fake_nll, fake_runs
from tests.paths import ROOT

FOLDER = ROOT / os.environ.get("BEAMLORA_RESULTS", "results/small")
FIELDS = {"accuracy": "correct", "gold_nll": "gold_nll"}
#: The key of the rows of base models, which have no seeds.
BASE = "base"
TABLES = sorted(path.stem for path in (FOLDER / "tables").glob("table[123].csv"))


@cache
def table(name: str) -> pd.DataFrame:
    """A table's rows; those without a number are left out."""
    rows = pd.read_csv(FOLDER / f"tables/{name}.csv", dtype={"seeds": str})
    assert (rows["rates"] == "shared").all()
    rows.loc[rows["method_key"] == BASE, "seeds"] = "none"
    return rows[rows["n_seeds"] > 0]


@cache
def scores(domain: str, model: str, method: str, seed: str, task: str, metric: str) -> np.ndarray:
    """One value an example; of a base model those of its own evaluation."""
    folder = FOLDER / domain / model / method / f"seed{seed}"
    (folder,) = FOLDER.glob(f"base/{model}/*") if method == BASE else [folder]
    path = folder / "predictions" / f"{task}.jsonl"
    return pd.read_json(path, lines=True)[FIELDS[metric]].to_numpy(dtype=float)


@cache
def split(domain: str, task: str) -> str:
    """What a task of a domain is for, as its runs say."""
    record = json.loads(next((FOLDER / domain).glob("*/*/seed*/train.json")).read_text())
    return record["spec"]["evaluation"]["tasks"][task].get("split", "test")


def counting(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of test sets: those that averages are made of."""
    single = rows[rows["task"] != "avg"]
    return single[[split(domain, task) == "test" for domain, task in zip(single["domain"], single["task"], strict=True)]]


def matrices(rows: pd.DataFrame, row: pd.Series, method: str, seeds: list[str]) -> list[np.ndarray]:
    """(seeds, examples) for each task behind a row: its own, or for an average the test sets of its domain, or of the table."""
    mine = counting(rows[rows["model_key"] == row["model_key"]])
    mine = mine if pd.isna(row["domain"]) else mine[mine["domain"] == row["domain"]]
    tasks = (
        [(row["domain"], row["task"])] if row["task"] != "avg" else sorted(set(zip(mine["domain"], mine["task"], strict=True)))
    )
    return [np.stack([scores(d, row["model_key"], method, s, t, row["metric"]) for s in seeds]) for d, t in tasks]


def each(name: str) -> list[tuple[pd.Series, list[np.ndarray]]]:
    rows = table(name)
    return [(row, matrices(rows, row, row["method_key"], row["seeds"].split())) for _, row in rows.iterrows()]


def compared(name: str, prefix: str) -> list[tuple[pd.Series, list[np.ndarray], list[np.ndarray]]]:
    """Rows with a difference (to LoRA, or to the method that a variant is of), and the scores of both sides on shared seeds."""
    rows = table(name)
    comparisons = []
    for _, row in rows[rows[f"{prefix}difference_mean"].notna()].iterrows():
        other = "lora" if not prefix else rows.loc[rows["method"] == row["parent"], "method_key"].iloc[0]
        there = rows[
            (
                rows[["model_key", "domain", "task", "metric"]].fillna("")
                == row[["model_key", "domain", "task", "metric"]].fillna("")
            ).all(axis=1)
        ]
        theirs = there.loc[there["method_key"] == other, "seeds"].iloc[0].split()
        seeds = [seed for seed in row["seeds"].split() if seed in theirs]
        comparisons.append((row, matrices(rows, row, row["method_key"], seeds), matrices(rows, row, other, seeds)))
    return comparisons


def per_seed(tasks: list[np.ndarray]) -> np.ndarray:
    """The mean over tasks of each seed's mean over examples."""
    return np.mean([task.mean(axis=1) for task in tasks], axis=0)


@pytest.mark.parametrize("name", TABLES)
def test_means_are_those_of_the_predictions(name: str) -> None:
    rows = each(name)
    assert rows
    for row, tasks in rows:
        assert row["mean"] == pytest.approx(per_seed(tasks).mean(), abs=1e-9), dict(row)
        assert row["n_seeds"] == len(tasks[0]) and row["n_examples"] == sum(task.shape[1] for task in tasks)
        assert row["low"] <= row["mean"] <= row["high"]


@pytest.mark.parametrize("name", TABLES)
def test_the_spread_is_that_of_the_seeds(name: str) -> None:
    for row, tasks in each(name):
        if row["n_seeds"] == 1:
            assert np.isnan(row["seed_stderr"])
        else:
            assert row["seed_stderr"] == pytest.approx(scipy.stats.sem(per_seed(tasks)), abs=1e-9)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", ["", "parent_"])
def test_differences_are_those_of_the_predictions(name: str, prefix: str) -> None:
    for row, first, second in compared(name, prefix):
        own, other = per_seed(first), per_seed(second)
        assert row[f"{prefix}difference_mean"] == pytest.approx(own.mean() - other.mean(), abs=1e-9), dict(row)
        if len(own) > 1:
            # Sheppard's correction: a share of n examples is rounded to a multiple of 1/n.
            rounding = sum(1 / (12 * task.shape[1] ** 2) for task in first) / len(first) ** 2 / len(own)
            if row["metric"] == "gold_nll":
                rounding = 0
            expected = np.sqrt(scipy.stats.sem(own - other) ** 2 + rounding)
            assert row[f"{prefix}difference_seed_stderr"] == pytest.approx(expected, abs=1e-9)
            half = scipy.stats.t.ppf(0.975, row[f"{prefix}difference_dof"]) * row[f"{prefix}difference_stderr"]
            low = row[f"{prefix}difference_mean"] - half
            assert row[f"{prefix}difference_low"] == pytest.approx(max(low, -1) if row["metric"] == "accuracy" else low)
        elif row["metric"] == "accuracy" and row["task"] != "avg" and not prefix:
            a, b = first[0][0], second[0][0]
            only = [[0, int(((a == 1) & (b == 0)).sum())], [int(((a == 0) & (b == 1)).sum()), 0]]
            assert float(row["mcnemar_by_seed"]) == pytest.approx(mcnemar(only, exact=True).pvalue)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", ["", "parent_"])
def test_only_averages_over_a_domain_of_enough_seeds_are_decided(name: str, prefix: str) -> None:
    rows = table(name)
    tests = counting(rows)
    several = tests["domain"].nunique() > 1
    for _, row in rows[rows[f"{prefix}family"].notna()].iterrows():
        there = tests[tests["domain"] == row["domain"]] if several else tests
        assert row["task"] == "avg" or there["task"].nunique() == 1
        seeds = int(row[f"{prefix}difference_n_seeds"])
        decided = row[f"{prefix}verdict"] in ("better", "worse", "equivalent", "undecided")
        planned = len(row["seeds"].split()) + row["n_diverged"] + row["n_missing"]
        of = "" if seeds == planned else f" of {planned}"
        assert decided or row[f"{prefix}verdict"] == f"not decided ({seeds}{of} seed{'' if planned == 1 else 's'})"
        assert decided == (5 <= seeds == planned) == pd.notna(row[f"{prefix}p_holm"])
    described = rows[rows[f"{prefix}family"].isna()]
    assert described[[f"{prefix}verdict", f"{prefix}p_value", f"{prefix}p_holm"]].isna().all(axis=None)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", ["", "parent_"])
def test_words_follow_from_holms_correction_within_the_family(name: str, prefix: str) -> None:
    """What has not run, or with too few seeds, counts as p = 1."""
    rows = table(name)
    for _, family in rows[rows[f"{prefix}p_value"].notna()].groupby(f"{prefix}family"):
        lost = [1.0] * (int(family[f"{prefix}comparisons"].iloc[0]) - len(family))
        unlike, alike = (
            multipletests([*family[f"{prefix}{p}"].fillna(1.0), *lost], method="holm")[1][: len(family)]
            for p in ("p_value", "p_beyond_margin")
        )
        assert family[f"{prefix}p_holm"].to_numpy() == pytest.approx(unlike)
        gain = family[f"{prefix}difference_mean"] * np.where(family["metric"] == "accuracy", 1, -1)
        word = np.where(alike < 0.05, "equivalent", "undecided")
        word = np.where((unlike < 0.05) & (gain != 0), np.where(gain > 0, "better", "worse"), word)
        assert family[f"{prefix}verdict"].tolist() == word.tolist()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", ["", "parent_"])
def test_tests_are_those_of_the_differences_of_seeds_and_examples(name: str, prefix: str) -> None:
    """A decided p-value is never below that of the t test over seeds alone by more than examples allow: the interval that it
    belongs to touches zero at this level; sign flips are those of the seeds' differences."""
    for row, first, second in compared(name, prefix):
        if pd.isna(row[f"{prefix}p_value"]):
            continue
        by_seed = per_seed(first) - per_seed(second)
        result = scipy.stats.permutation_test((by_seed,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert row[f"{prefix}p_sign_flip"] == pytest.approx(result.pvalue)
        beside_zero = row[f"{prefix}difference_low"] > 0 or row[f"{prefix}difference_high"] < 0
        assert beside_zero == (row[f"{prefix}p_value"] < 0.05)


@pytest.mark.parametrize("use", ["validation", "test"])
def test_the_best_rate_is_the_best_on_validation(use: str) -> None:
    path = FOLDER / "tables/learning_rate.csv"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(ROOT)}: not made")
    rows = pd.read_csv(path, dtype={"seeds": str})
    for metric in FIELDS:
        for _, row in rows[rows[f"{use}_{metric}"].notna()].iterrows():
            where, seeds = (row["domain"], row["model_key"], row["run_key"]), row["seeds"].split()
            names = {p.stem for p in FOLDER.joinpath(*where, f"seed{seeds[0]}", "predictions").glob("*.jsonl")}
            tasks = [name for name in sorted(names) if split(row["domain"], name) == use]
            means = [np.mean([scores(*where, seed, task, metric).mean() for task in tasks]) for seed in seeds]
            assert row[f"{use}_{metric}"] == pytest.approx(np.mean(means), abs=1e-9), dict(row)
    if use == "validation":
        for _, group in rows.groupby(["domain", "model_key", "method_key"]):
            score = group["validation_accuracy"].fillna(-group["validation_gold_nll"])
            assert score[group["best"]].tolist() == [score.max()]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of invented results, which the tests above then read."""
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path / "results/fake")
    for cached in (table, scores, split):
        cached.cache_clear()
    yield tmp_path / "results/fake"
    for cached in (table, scores, split):
        cached.cache_clear()


def check_table_1() -> None:
    test_means_are_those_of_the_predictions("table1")
    test_the_spread_is_that_of_the_seeds("table1")
    for check in (
        test_differences_are_those_of_the_predictions,
        test_only_averages_over_a_domain_of_enough_seeds_are_decided,
        test_words_follow_from_holms_correction_within_the_family,
        test_tests_are_those_of_the_differences_of_seeds_and_examples,
    ):
        check("table1", "")


def test_the_same_holds_of_a_table_that_decides(own: Path) -> None:
    """Invented answers of five seeds; one seed of a method diverged, one method did not run."""
    experiment = fake_runs.experiment(seeds=range(5), methods={"llama-tiny": fake_runs.MISTRAL}, domains=fake_runs.TASKS)
    runs = [run for run in fake_runs.runs(experiment) if run.method.key != "dora"]
    fake_runs.populate(runs, own.parent, effects={"full-ft": 2.0, "adalora": -2.0})
    lost = next(run for run in runs if run.method.key == "milora")
    shutil.rmtree(fake_runs.run_folder(lost, own.parent))
    fake_runs.write_run(lost, own.parent)
    render.write(fake_runs.build(experiment, own.parent, allow_missing=True), own / "tables")
    assert {"better", "worse", "undecided", "not decided (4 of 5 seeds)"} <= set(table("table1")["verdict"].dropna())
    check_table_1()


def test_the_same_holds_of_a_table_by_nll_with_secondary_tasks_and_base_model(own: Path) -> None:
    _, file, results = fake_nll.write(own.parent.parent)
    for name in ("table1", "learning_rate"):
        tables.main([name, "--configfile", str(file), "--results-dir", str(results)])
    shown = table("table1")
    assert len(shown[shown["method_key"] == BASE]) == 4 and shown["family"].dropna().tolist() == ["primary"]
    check_table_1()
    for use in ("validation", "test"):
        test_the_best_rate_is_the_best_on_validation(use)
