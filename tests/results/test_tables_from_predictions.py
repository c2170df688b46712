"""The numbers of finished tables, computed again from ``predictions/`` by pandas, SciPy and statsmodels alone.

Takes the committed ``results/small``; ``BEAMLORA_RESULTS=results/tiny`` names another experiment's folder.
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from tests.paths import ROOT

FOLDER = ROOT / os.environ.get("BEAMLORA_RESULTS", "results/small")
FIELDS = {"accuracy": "correct", "gold_nll": "gold_nll"}
TABLES = sorted(path.stem for path in (FOLDER / "tables").glob("table[123].csv"))


@cache
def table(name: str) -> pd.DataFrame:
    """A table's rows; those without a number are left out."""
    rows = pd.read_csv(FOLDER / f"tables/{name}.csv", dtype={"seeds": str})
    assert (rows["rates"] == "shared").all()
    return rows[rows["n_seeds"] > 0]


@cache
def scores(domain: str, model: str, method: str, seed: str, task: str, metric: str) -> np.ndarray:
    """One value an example."""
    path = FOLDER / domain / model / method / f"seed{seed}" / "predictions" / f"{task}.jsonl"
    return pd.read_json(path, lines=True)[FIELDS[metric]].to_numpy(dtype=float)


def matrices(rows: pd.DataFrame, row: pd.Series, method: str, seeds: list[str]) -> list[np.ndarray]:
    """(seeds, examples) for each task behind a row: its own, or every task of the table for the average."""
    mine = rows[(rows["model_key"] == row["model_key"]) & (rows["task"] != "avg")]
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
        elif row["metric"] == "accuracy" and row["task"] != "avg" and not prefix:
            a, b = first[0][0], second[0][0]
            only = [[0, int(((a == 1) & (b == 0)).sum())], [int(((a == 0) & (b == 1)).sum()), 0]]
            assert row["p_value"] == pytest.approx(mcnemar(only, exact=True).pvalue)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prefix", ["", "parent_"])
def test_verdicts_follow_from_holms_correction_within_the_table(name: str, prefix: str) -> None:
    rows = table(name)
    rows = rows[rows[f"{prefix}p_value"].notna()]
    for (metric, _), family in rows.groupby(["metric", rows["task"] == "avg"]):
        adjusted = multipletests(family[f"{prefix}p_value"], method="holm")[1]
        assert family[f"{prefix}p_holm"].to_numpy() == pytest.approx(adjusted)
        gain = family[f"{prefix}difference_mean"].to_numpy() * (1 if metric == "accuracy" else -1)
        told_apart = (adjusted < 0.05) & (gain != 0)
        expected = np.where(told_apart, np.where(gain > 0, "better", "worse"), "tie")
        assert family[f"{prefix}verdict"].tolist() == expected.tolist()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_best_rate_is_the_best_on_validation(split: str) -> None:
    path = FOLDER / "tables/learning_rate.csv"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(ROOT)}: not made")
    rows = pd.read_csv(path, dtype={"seeds": str})
    tests = table("table1")[["domain", "task"]].drop_duplicates()
    for _, row in rows[rows[f"{split}_accuracy"].notna()].iterrows():
        run = FOLDER / row["domain"] / row["model_key"] / row["run_key"]
        names = {p.stem for p in (run / f"seed{row['seeds'].split()[0]}" / "predictions").glob("*.jsonl")}
        in_table = set(tests.loc[tests["domain"] == row["domain"], "task"])
        tasks = sorted(names & in_table if split == "test" else names - in_table)
        accuracies = [
            np.mean([scores(row["domain"], row["model_key"], row["run_key"], seed, task, "accuracy").mean() for task in tasks])
            for seed in row["seeds"].split()
        ]
        assert row[f"{split}_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-9), dict(row)
    for _, group in rows.groupby(["domain", "model_key", "method_key"]):
        if split == "validation":
            assert group.loc[group["best"], "validation_accuracy"].tolist() == [group["validation_accuracy"].max()]
