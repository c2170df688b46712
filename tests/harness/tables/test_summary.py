"""What tables and summaries say in words, and their command lines."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from harness.cli import Config, parse_config
from harness.records.read import load_records
from harness.schema.experiment import Experiment
from harness.statistics import stats
from harness.statistics.comparison import Comparison
from harness.tables import render, summary
from harness.tables import words as text
from harness.tables.arguments import add_table_arguments
from harness.tables.build import Table
from tests import preloaded
from tests.harness import fake_runs
from tests.harness.fake_runs import build, full_table, small
from tests.paths import ROOT


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, Table]:
    """All fifteen method-model pairs of Table 1."""
    return full_table(tmp_path_factory.mktemp("results"))


# ------------------------------------------------------------------------------------------------------ words and notes


@pytest.mark.parametrize(("value", "shown"), [(0.004, "+0.4"), (-0.011, "−1.1"), (0.0, "+0.0"), (-0.00001, "−0.0")])
def test_signed_percentage_points(value: float, shown: str) -> None:
    assert text.signed(value, "accuracy") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0004, "−0.0004"), (-0.00004, "−0.0000"), (0.00004, "+0.0000"), (-1e-17, "+0.0000")]
)
def test_a_difference_of_nats_never_rounds_to_the_other_side_of_zero(value: float, shown: str) -> None:
    assert text.signed(value, "gold_nll") == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0497, "0.0497"), (0.0503, "0.0503"), (0.049996, "0.049996"), (0.05, "0.050"), (0.044, "0.044"), (0.0004, "<0.001")],
)
def test_a_p_value_never_rounds_to_the_level_that_decides(value: float, shown: str) -> None:
    assert text.p_value(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(512, "512"), (61440, "61.4 k"), (159907840, "160 M"), (6738415616, "6.74 G")])
def test_parameter_counts(value: int, shown: str) -> None:
    assert text.count(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(4.21, "4.2 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (8040, "2 h 14 min")])
def test_durations(value: float, shown: str) -> None:
    assert text.duration(value) == shown


def test_notes_say_what_the_table_can_tell(full) -> None:
    experiment, _, table = full
    notes = "\n".join(text.notes(table))
    assert "Nothing here was trained." in notes
    assert "Llama 0.8M in the place of LLaMA2-7B" in notes
    assert "GSM8K† n = 40" in notes and "not the public set" in notes and "Planned seeds: 0, 1, 2, 3, 4" in notes
    assert "primary (4 comparisons with LoRA by accuracy, margin ±5.0 points); secondary (22 comparisons" in notes
    assert "primary: a true difference of " in notes and "seeds to find one as large as the margin: " in notes
    assert "each with its own t quantile (Banerjee 1960)" in notes and "decides nothing" not in notes
    wall = sum(r.train.wall_time_s + 2.0 for r in load_records(fake_runs.runs(experiment), results=full[1]).records)
    assert f"150 runs, {text.duration(wall)} of wall time" in notes and "CPU time" not in notes


def test_cpu_time_is_shown_if_every_record_has_it(tmp_path: Path) -> None:
    experiment = small()
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    for run in fake_runs.runs(experiment):
        for name, seconds in (("train.json", 30.0), ("metrics.json", 10.0)):
            fake_runs.edit_json(fake_runs.run_folder(run, tmp_path) / name, cpu_time_s=seconds)
    assert "4 min 00 s of CPU time" in text.cost(build(experiment, tmp_path))


def decision(tmp_path: Path, *, p_adjusted: float | None, outcome: str | None, seeds: int = 5, **rules: float) -> str:
    """A sentence about a difference of 30 points with an interval beside zero."""
    made = stats.Difference(mean=0.3, stderr=0.03, seed_stderr=0.03, example_stderr=0.01, low=0.2, high=0.4, dof=6.25,
                            n_seeds=seeds, n_planned=seeds, n_examples=100, p_value=0.01)  # fmt: skip
    experiment = small()
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    (one,) = build(experiment, tmp_path).decisions()
    comparison = Comparison(difference=made, family=one.family, p_adjusted=p_adjusted, outcome=outcome, **rules)
    cell = replace(one.cell, comparison=comparison)
    return text.sentence(replace(one, row=replace(one.row, cells={("accuracy", one.column.key): cell})))


def test_sentences_say_the_interval_its_degrees_of_freedom_the_word_and_the_seeds(tmp_path: Path) -> None:
    shown = "BeamLoRA − LoRA on Average†: +30.0 [+20.0, +40.0], df 6.2, "
    assert decision(tmp_path, p_adjusted=0.02, outcome="better") == f"{shown}better, 5 seeds"
    assert decision(tmp_path, p_adjusted=None, outcome=None, seeds=3) == f"{shown}not decided (3 seeds)"


def test_an_interval_beside_zero_of_what_is_undecided_is_explained(tmp_path: Path) -> None:
    said = decision(tmp_path, p_adjusted=0.21, outcome="undecided")
    assert said.endswith(", undecided (p = 0.210 after correction), 5 seeds")


def test_a_difference_that_is_smaller_than_any_of_interest_says_so(tmp_path: Path) -> None:
    said = decision(tmp_path, p_adjusted=0.01, outcome="better", p_equivalent=0.01)
    assert said.endswith(", better (by less than the margin), 5 seeds")


def test_three_seeds_decide_nothing(tmp_path: Path) -> None:
    experiment = small()
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    table = build(experiment, tmp_path)
    shown = summarise(table, tmp_path)
    said = "This table decides nothing: not decided (3 seeds), and a word needs 5."
    assert said in shown and said in render.markdown(table) and said in render.tex(table)
    assert "primary, 1 comparison: 0 better, 0 worse, 0 equivalent, 0 undecided, 1 not decided, 0 not run." in shown
    assert "--config seeds=5 -- reproduce_table1" in shown


# ------------------------------------------------------------------------------------------------------- command lines


def summarise(table: Table, folder: Path) -> str:
    console = Console(file=io.StringIO(), width=summary.MAX_WIDTH, highlight=False)
    summary.print_summary(table, console=console, folder=folder, config=Config())
    return console.file.getvalue()


def test_summary_fits_the_terminal_and_spells_out_beamlora(full) -> None:
    _, results, table = full
    shown = summarise(table, results / "fake")
    commands = [line for line in shown.splitlines() if "snakemake" in line]
    assert all(len(line) <= 120 for line in shown.splitlines() if line not in commands)
    assert "LLaMA2-7B [paper] | Llama 0.8M stand-in [ours]" in shown
    for label in ("Math average†", "Code average†"):
        sentence = rf"primary: BeamLoRA − LoRA on {label}: [+−]\d+\.\d \[.*\], df \d+\.\d, (better|worse|undecided)"
        assert len(re.findall(sentence, shown)) == 2
    assert "primary, 4 comparisons: " in shown and "secondary, 22 comparisons: " in shown and "tie" not in shown.split()
    assert "150 runs" in shown and "--config seeds=7 -- reproduce_table1" in commands[0]


@pytest.mark.parametrize("config", [Config(), Config(overrides={"training.max_steps": 20})])
def test_every_next_command_plans_its_runs(full, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    table = replace(full[2], experiment=full[2].experiment.model_copy(update={"seeds": (0,)}))
    commands = [words for words, _ in summary.next_commands(table, config)]
    assert len(commands) == 3
    for command in commands if config == Config() else commands[:1]:
        program, *words = shlex.split(command)
        dry = [
            preloaded.python(),
            Path(sys.executable).with_name(program),
            "--quiet",
            "rules",
            "--dry-run",
            "--forceall",
            *words,
        ]
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and re.search(r"^train +\d+$", done.stdout + done.stderr, flags=re.MULTILINE), done.stderr


def test_next_names_only_experiments_that_have_the_table(full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [words for words, _ in summary.next_commands(replace(full[2], name="table3"), Config())]
    assert [re.findall("experiment=(\\w+)", words) for words in commands] == [[], ["paper"]]


def test_summary_names_only_files_that_exist(full, tmp_path: Path) -> None:
    table = full[2]
    assert "table1.md" not in summarise(table, tmp_path)
    render.write(table, tmp_path / "tables")
    assert "table1.md" in summarise(table, tmp_path).replace("\n", "")


def yaml_experiment(folder: Path) -> Path:
    content = small().model_dump(mode="json", exclude_unset=True)
    content["models"] = {"llama-tiny": content["models"]["llama-tiny"]}
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_tables_command(tmp_path: Path) -> None:
    """The command itself, on a real experiment file: missing records are one line, a partial table is possible."""
    config = yaml_experiment(tmp_path)
    command = [
        preloaded.python(),
        "-m",
        "harness.tables",
        "table1",
        "--configfile",
        str(config),
        "--results-dir",
        str(tmp_path),
    ]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "no complete record for 6 of 6 runs" in failed.stderr
    assert f"snakemake --cores all --configfile {config} --" in failed.stderr
    done = subprocess.run([*command, "--allow-missing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for suffix in ("md", "tex", "csv"):
        assert (tmp_path / "fake" / "tables" / f"table1.{suffix}").exists()


def test_experiment_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_table_arguments(parser)
    args = parser.parse_args(["table1", "--experiment", "small", "--set", "seeds=2"])
    assert parse_config(args) == Config(files=(Path("config/small.yaml"),), overrides={"seeds": 2})
    assert parse_config(parser.parse_args(["table1"])).files == (Path("config/tiny.yaml"),)
    with pytest.raises(SystemExit):
        parser.parse_args(["table1", "--experiment", "small", "--configfile", "config/paper.yaml"])
    assert "not allowed with argument --experiment" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["claims", "report", "figures", "tables", "report.trace", "plan", "records"])
def test_every_command_on_records_takes_the_name_of_an_experiment(module: str) -> None:
    arguments = {
        "figures": ["pareto"],
        "tables": ["table1"],
        "report.trace": ["table1", "x", "y", "z"],
        "records": ["--output", "x"],
    }
    command = [preloaded.python(), "-m", f"harness.{module}", *arguments.get(module, []), "--experiment", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "config/nothing.yaml" in done.stderr and "Traceback" not in done.stderr


def test_no_torch_behind_records_and_tables() -> None:
    code = "import sys, harness.tables.summary, harness.tables.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
