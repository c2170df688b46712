"""Learning rates are chosen on validation tasks, and on nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.errors import ConfigError
from harness.experiment.runs import load_experiment, sweep_runs, table_runs
from harness.records.read import load_record
from harness.records.versioned import MissingRecord
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.tables import rates, rates_table
from harness.tables.__main__ import main
from harness.tables.build import build_table
from harness.tables.rates import best_rates
from tests import experiments
from tests.harness import fake_runs

RATES = (1e-3, 3e-3, 1e-2)


def content(**changes: object) -> dict:
    """Two methods at three rates, one of them the experiment's own; two seeds; a validation and a test task."""
    config = experiments.miniature()
    task = config["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]
    task["source"]["rows"] = 20
    config["domains"]["math"]["evaluation"]["tasks"]["validation"] = {
        **task, "split": "validation", "source": {**task["source"], "seed": 3},
    }  # fmt: skip
    config["seeds"] = [0, 1]
    config["sweeps"] = {"learning_rate": {
        "setting": "learning_rate", "points": [{"learning_rate": rate} for rate in RATES], "domains": ["math"],
        "models": ["llama-mini"], "methods": ["lora", "dora"],
    }}  # fmt: skip
    return config | changes


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return load_experiment([experiments.write(tmp_path, content())])


def fill(experiment: Experiment, results: Path, validation: dict[tuple[str, float], int], *, test: int = 10,
         nll: dict[float, float] | None = None, diverged: tuple[str, float, int] | None = None) -> None:  # fmt: skip
    """Records of the sweep: ``validation`` of 20 solved for (method, rate), ``test`` of 20 everywhere."""
    for point in sweep_runs(experiment, "learning_rate"):
        rate = point.run.training.learning_rate
        if diverged == (point.method, rate, point.run.seed):
            fake_runs.write_run(point.run, results)
            continue
        solved = {"gsm8k": test, "validation": validation.get((point.method, rate), 5)}
        losses = {task: [(nll or {}).get(rate, 1.0)] * 20 for task in solved}
        correct = {task: [i < n for i in range(20)] for task, n in solved.items()}
        fake_runs.write_run(point.run, results, correct=correct, gold_nll=losses)


def choose(experiment: Experiment, results: Path, *, allow_missing: bool = False) -> dict[str, rates.Choice]:
    tuning = rates.load_tuning(experiment, results=results, command="snakemake", allow_missing=allow_missing)
    return {method: choice for (_, _, method), choice in tuning.choices.items()}


BEST = {("lora", 3e-3): 12, ("dora", 1e-2): 12}


def test_best_validation_accuracy_wins_for_each_method(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, BEST)
    choices = choose(experiment, tmp_path)
    assert {method: choice.best.rate for method, choice in choices.items()} == {"lora": 3e-3, "dora": 1e-2}
    assert (choices["lora"].edge, choices["dora"].edge) == (None, "highest")
    assert [point.rate for point in choices["lora"].points] == sorted(RATES)


@pytest.mark.parametrize("seed", range(5))
def test_test_scores_never_change_the_choice(experiment: Experiment, tmp_path: Path, seed: int) -> None:
    """Whatever the test sets say, the chosen rates are the same."""
    fill(experiment, tmp_path, BEST)
    before = choose(experiment, tmp_path)
    rng = np.random.default_rng(seed)
    for point in sweep_runs(experiment, "learning_rate"):
        folder = fake_runs.run_folder(point.run, tmp_path)
        record = load_record(point.run, results=tmp_path)
        kept = record.predictions["validation"]
        correct = {"gsm8k": rng.random(20) < rng.random(), "validation": kept.correct.astype(bool)}
        losses = {"gsm8k": rng.random(20).tolist(), "validation": kept.gold_nll.tolist()}
        assert folder == fake_runs.write_run(point.run, tmp_path, correct=correct, gold_nll=losses)
    assert choose(experiment, tmp_path) == before


def test_validation_scores_do_change_the_choice(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, BEST)
    fill(experiment, tmp_path, {("lora", 1e-3): 12, ("dora", 3e-3): 12})
    choices = choose(experiment, tmp_path)
    assert {method: choice.best.rate for method, choice in choices.items()} == {"lora": 1e-3, "dora": 3e-3}
    assert choices["lora"].edge == "lowest"


def test_ties_go_to_the_lower_nll_then_to_the_smaller_rate(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, {}, nll={1e-2: 0.5})
    assert choose(experiment, tmp_path)["lora"].best.rate == 1e-2
    fill(experiment, tmp_path, {})
    assert choose(experiment, tmp_path)["lora"].best.rate == 1e-3


def test_a_rate_that_diverged_cannot_win(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, BEST, diverged=("lora", 3e-3, 1))
    choices = choose(experiment, tmp_path)
    assert choices["lora"].best.rate != 3e-3
    assert {p.rate: p.n_diverged for p in choices["lora"].points} == {1e-3: 0, 3e-3: 1, 1e-2: 0}
    shown = rates_table.markdown(comparison(experiment, tmp_path))
    assert "60.0; diverged (1 of 2)" in shown


def test_an_unfinished_rate_cannot_win(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, BEST)
    run = next(p.run for p in sweep_runs(experiment, "learning_rate") if p.run.training.learning_rate == 1e-2
               and p.method == "dora" and p.run.seed == 1)  # fmt: skip
    (fake_runs.run_folder(run, tmp_path) / "metrics.json").unlink()
    with pytest.raises(MissingRecord, match="-- reproduce_learning_rate"):
        choose(experiment, tmp_path)
    assert choose(experiment, tmp_path, allow_missing=True)["dora"].best.rate != 1e-2
    assert "not run (1 of 2)" in rates_table.markdown(comparison(experiment, tmp_path, allow_missing=True))


def test_validation_tasks_are_required(tmp_path: Path) -> None:
    without = content()
    del without["domains"]["math"]["evaluation"]["tasks"]["validation"]
    experiment = load_experiment([experiments.write(tmp_path, without)])
    with pytest.raises(ConfigError, match="no task with split: validation"):
        best_rates(sweep_runs(experiment, "learning_rate"), [])


def test_experiment_without_the_sweep_says_so(tmp_path: Path) -> None:
    experiment = load_experiment([experiments.write(tmp_path, content(sweeps={}))])
    with pytest.raises(ConfigError, match="expected 'learning_rate'"):
        rates.load_tuning(experiment, results=tmp_path, command="snakemake", allow_missing=True)


# ------------------------------------------------------------------------------------------------------------ rendering


def comparison(experiment: Experiment, results: Path, *, allow_missing: bool = False) -> rates_table.RateComparison:
    tuning = rates.load_tuning(experiment, results=results, command="snakemake", allow_missing=allow_missing)
    return rates_table.build_rates_table(experiment, tuning, results=results, command="snakemake")


def test_ranks_at_the_shared_and_at_the_best_rate(experiment: Experiment, tmp_path: Path) -> None:
    """DoRA is worse at the shared rate and better at its own best: the ranks swap."""
    fill(experiment, tmp_path, BEST)
    test_scores = {("lora", 3e-3): 10, ("dora", 3e-3): 4, ("dora", 1e-2): 16}
    for point in sweep_runs(experiment, "learning_rate"):
        at = (point.method, point.run.training.learning_rate)
        solved = {"gsm8k": test_scores.get(at, 5), "validation": BEST.get(at, 5)}
        fake_runs.write_run(point.run, tmp_path, correct={t: [i < n for i in range(20)] for t, n in solved.items()})
    compared = comparison(experiment, tmp_path)
    lora, dora = compared.groups[0].lines
    assert (lora.shared.rank, lora.tuned.rank, dora.shared.rank, dora.tuned.rank) == (1, 2, 2, 1)
    assert lora.shared.rate == dora.shared.rate == 3e-3 and dora.tuned.rate == 1e-2
    assert dora.shared.difference.mean == pytest.approx(-0.3) and dora.tuned.difference.mean == pytest.approx(0.3)
    data = pd.read_csv(io.StringIO(rates_table.csv_text(compared)))
    assert len(data) == 6 and data.groupby("method_key")["best"].sum().tolist() == [1, 1]
    best = data[data["best"]].set_index("method_key")
    assert best.loc["dora", "test_accuracy"] == 0.8 and best.loc["dora", "edge"] == "highest"
    shown = rates_table.markdown(compared)
    assert "60.0 *" in shown and "math/llama-mini/dora (highest)" in shown and "(learning_rate" not in shown


def test_differences_are_to_lora_at_the_same_rate_on_the_seeds_of_both(experiment: Experiment, tmp_path: Path) -> None:
    """Of a seed that diverged with one method the other's is left out; they are of validation scores, not of test scores."""
    fill(experiment, tmp_path, BEST, diverged=("lora", 1e-3, 1))
    compared = comparison(experiment, tmp_path)
    lora, dora = compared.groups[0].lines
    assert lora.differences == (None, None, None)
    assert [(d.mean, d.n_seeds) for d in dora.differences] == [(0, 1), (pytest.approx(-7 / 20), 2), (pytest.approx(7 / 20), 2)]
    data = pd.read_csv(io.StringIO(rates_table.csv_text(compared))).set_index(["method_key", "learning_rate"])
    at = data.loc["dora", 1e-2]
    assert at["difference"] == pytest.approx(7 / 20) and at["difference_low"] < at["difference"] < at["difference_high"]
    shown = rates_table.markdown(compared)
    assert "minus that of LoRA at the same rate" in shown and "| −35.0 [" in shown and "where they share one seed." in shown
    assert "minus that of LoRA at the same rate" in rates_table.tex(compared)


def test_without_plain_lora_there_are_no_differences(tmp_path: Path) -> None:
    changed = content()
    changed["sweeps"]["learning_rate"]["methods"] = ["dora"]
    experiment = load_experiment([experiments.write(tmp_path, changed)])
    fill(experiment, tmp_path, BEST)
    assert "minus that of" not in rates_table.markdown(comparison(experiment, tmp_path))


def test_table_at_tuned_rates_takes_the_sweeps_runs(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path, BEST)
    runs = table_runs(experiment, "table1")
    tuning = rates.load_tuning(experiment, results=tmp_path, command="snakemake", allow_missing=False)
    planned, loaded, notes = rates.tuned_runs(runs, tuning)
    chosen = {r.run.method.key: r.run.training.learning_rate for r in loaded.records}
    assert chosen == {"lora": 3e-3, "dora": 1e-2} and not loaded.missing
    assert {r.folder.parent.name for r in loaded.records} == {"lora", "dora.learning_rate=0.01"}
    table = build_table(experiment, "table1", planned, loaded, rates="tuned", rate_notes=notes)
    assert table.file_name == "table1_tuned" and [row.label for row in table.sections[0].rows] == ["LoRA", "DoRA"]
    assert "DoRA 0.01 (the highest of its grid)" in notes[0]


def test_a_method_outside_the_sweep_is_not_run_in_the_tuned_table(tmp_path: Path) -> None:
    changed = content()
    changed["sweeps"]["learning_rate"]["methods"] = ["lora"]
    path = experiments.write(tmp_path, changed)
    experiment = load_experiment([path])
    fill(experiment, tmp_path / "results", BEST)
    arguments = ["table1", "--configfile", str(path), "--results-dir", str(tmp_path / "results")]
    main([*arguments, "--rates", "tuned"])
    text = (tmp_path / "results/mini/tables/table1_tuned.md").read_text()
    assert next(line for line in text.splitlines() if line.startswith("| DoRA")).count("not run") == 1
    assert "Not run, math on llama-mini: DoRA" in text and "best-tuned learning rates" in text
    assert not (tmp_path / "results/mini/tables/table1.md").exists()


def test_the_command_writes_the_same_bytes_twice(experiment: Experiment, tmp_path: Path) -> None:
    fill(experiment, tmp_path / "results", BEST)
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content(), sort_keys=False))
    arguments = ["--configfile", str(path), "--results-dir", str(tmp_path / "results")]
    for folder in "ab":
        main(["learning_rate", *arguments, "--output-dir", str(tmp_path / folder)])
    for suffix in ("md", "tex", "csv"):
        name = f"learning_rate.{suffix}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_every_method_has_the_same_number_of_tries(experiment: Experiment) -> None:
    points = sweep_runs(experiment, "learning_rate")
    tries: dict[str, list[RunSpec]] = {}
    for point in points:
        tries.setdefault(point.method, []).append(point.run)
    assert {len(runs) for runs in tries.values()} == {len(RATES) * 2}


def test_seeds_of_the_sweep_are_all_that_a_covered_column_plans(tmp_path: Path) -> None:
    """The sweep has one seed of the table's two: a covered method has one of one, one that is not covered none of two."""
    changed = content()
    changed["sweeps"]["learning_rate"] |= {"methods": ["lora"], "seeds": [0]}
    experiment = load_experiment([experiments.write(tmp_path, changed)])
    fill(experiment, tmp_path, BEST)
    tuning = rates.load_tuning(experiment, results=tmp_path, command="snakemake", allow_missing=False)
    planned, loaded, notes = rates.tuned_runs(table_runs(experiment, "table1"), tuning)
    table = build_table(experiment, "table1", planned, loaded, rates="tuned", rate_notes=notes)
    lora, dora = (row.cells["accuracy", "math/gsm8k"] for row in table.sections[0].rows)
    assert (lora.n_seeds_planned, len(lora.seeds)) == (1, 1) and (dora.n_seeds_planned, dora.n_missing) == (2, 2)
