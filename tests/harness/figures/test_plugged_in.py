"""A tenth figure, the README's example, from a package of someone else's: listed, planned, drawn and part of the workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import Config
from harness.errors import ConfigError
from harness.experiment.runs import all_runs, load_experiment, table_runs
from harness.figures import __main__ as command
from harness.figures import catalogue, interactive
from harness.schema.experiment import Experiment
from harness.workflow.dag import Dag, figure_code
from harness.workflow.targets import target_runs
from tests import preloaded, readme
from tests.experiments import miniature, write
from tests.harness import fake_runs
from tests.paths import ROOT

NAME = "seconds"
#: A sweep without its name.
SWEEP = {"setting": "r", "points": [{"r": 4}, {"r": 8}], "domains": ["math"], "models": ["llama-mini"], "methods": ["lora"]}
SNAKEMAKE = Path(sys.executable).with_name("snakemake")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages that holds the example."""
    folder = tmp_path / "site"
    metadata = folder / "my_figures-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "my_figures.py").write_text(readme.example("figure"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-figures\nVersion: 1.0\n")
    (table,) = [block for block in readme.blocks("toml") if catalogue.ENTRY_POINT_GROUP in block]
    (metadata / "entry_points.txt").write_text(table.replace("project.entry-points.", "").replace('"', ""))
    monkeypatch.syspath_prepend(folder)
    catalogue.figures.cache_clear()
    yield folder
    sys.modules.pop("my_figures", None)
    catalogue.figures.cache_clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, miniature())


@pytest.fixture
def made(path: Path) -> Experiment:
    return load_experiment([path])


def test_it_is_listed_after_the_projects_own(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1].split() == [NAME, "ours", "training", "time", "of", "every", "run"]


def test_it_is_planned(site: Path, path: Path, made: Experiment) -> None:
    assert [figure.name for figure in catalogue.planned(made)] == ["differences", "pareto", NAME]
    assert target_runs(made, NAME) == all_runs(made)
    dag = Dag(Config(files=(path,)))
    assert dag.drawn == ["figures/mini/differences.png", "figures/mini/pareto.png", "figures/mini/seconds.png"]
    assert dag.figure_files(NAME) == dag.records(all_runs(made), "train.json", "metrics.json")
    own = set(figure_code(NAME)) - set(figure_code("time_memory"))
    assert own == {site / "my_figures.py"}


def test_it_is_drawn(site: Path, path: Path, made: Experiment, tmp_path: Path) -> None:
    for run in table_runs(made, "table1"):
        fake_runs.write_run(run, tmp_path / "results", correct={"gsm8k": [True] * 8})
    arguments = ["--configfile", str(path), "--results-dir", str(tmp_path / "results"), "--output-dir", str(tmp_path / "drawn")]
    assert command.main([NAME, *arguments]) == 0
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["seconds.csv", "seconds.pdf", "seconds.png"]
    runs = [run.run_id for run in table_runs(made, "table1")]
    assert list(pd.read_csv(tmp_path / "drawn/seconds.csv")["run"]) == runs
    (panel,) = catalogue.plots(NAME, interactive.read(tmp_path / "drawn/seconds.csv"))["panels"]
    assert panel["columns"]["run"] == runs and set(panel["columns"]) == {"run", "seconds"}


def test_it_is_a_target_of_the_workflow(site: Path, path: Path) -> None:
    done = subprocess.run(
        [preloaded.python(), SNAKEMAKE, NAME, "--cores", "1", "--dry-run", "--quiet", "rules", "--configfile", path],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{site}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in (done.stdout + done.stderr).splitlines() if len(line.split()) == 2)
    assert {rule: jobs[rule] for rule in ("base_model", "train", "evaluate", "figure", NAME)} == {
        "base_model": "1", "train": "2", "evaluate": "2", "figure": "1", NAME: "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "near"), [("rank_swep", "did you mean 'rank_sweep'"), ("mine", "expected one of rank_sweep, delta_t, p_init")]
)
def test_a_sweep_that_no_figure_shows_is_refused(site: Path, tmp_path: Path, sweep: str, near: str) -> None:
    path = write(tmp_path, miniature(**{"sweeps": {sweep: SWEEP}}))
    with pytest.raises(ConfigError, match=rf"experiment.yaml:\d+: sweeps.{sweep}: found a sweep that no figure shows; {near}"):
        Dag(Config(files=(path,)))
    added = Config(files=(write(tmp_path, miniature()),), overrides={"sweeps": {sweep: SWEEP}})
    with pytest.raises(ConfigError, match=rf"experiment.yaml, changed by --config or --set: sweeps.{sweep}: found a sweep"):
        Dag(added)


@pytest.mark.parametrize(
    ("sweep", "setting", "message"),
    [
        (
            "rank_sweep",
            "lora_alpha",
            "sweeps.rank_sweep.setting: found 'lora_alpha', expected 'r', which the figure",
        ),
        (
            "learning_rate",
            "weight_decay",
            "sweeps.learning_rate.setting: found 'weight_decay', expected 'learning_rate'",
        ),
        (
            "learning_rate",
            "learning_rate",
            "sweeps.learning_rate.domains: found 'math', which has no task with split: val",
        ),
        ("delta_t", "delta_t", None),
        ("p_init", "p_init", None),
    ],
)
def test_a_sweep_is_what_its_figure_shows(tmp_path: Path, sweep: str, setting: str, message: str | None) -> None:
    points = [{setting: 4}, {setting: 8}] if setting != "p_init" else [{setting: 0.5}, {setting: 0.75}]
    method = "beamlora" if setting in ("delta_t", "p_init") else "lora"
    content = miniature(
        sweeps={sweep: {**SWEEP, "setting": setting, "points": points, "methods": [method]}}, methods={"lora": {}, method: {}}
    )
    content["tables"]["table1"]["methods"]["llama-mini"] = ["lora"]
    config = Config(files=(write(tmp_path, content),))
    if message is None:
        assert Dag(config).drawn
        content["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]["split"] = "validation"
        write(tmp_path, content)
        message = f"sweeps.{sweep}.domains: found 'math', which has no task with split: test, expected domains with one"
    with pytest.raises(ConfigError, match=rf"experiment.yaml:\d+: {message}"):
        Dag(config)


def test_a_figure_of_another_package_may_show_a_sweep_of_its_own(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.figures(), NAME, replace(catalogue.get(NAME), sweep="mine"))
    path = write(tmp_path, miniature(**{"sweeps": {"mine": SWEEP}}))
    assert "math/llama-mini/lora.r=4/seed0" in Dag(Config(files=(path,))).runs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "pareto"}, "figure name 'pareto' is claimed by harness.figures.costs.pareto:build and my_figures:build"),
        ({"name": "not a rule"}, "my_figures:SECONDS: found .*, expected a harness.figures.catalogue.Figure"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    import my_figures

    monkeypatch.setattr(my_figures, "SECONDS", replace(my_figures.SECONDS, **changes))
    with pytest.raises(ConfigError, match=message):
        catalogue.figures()


def test_a_module_that_is_not_there_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import my_figures

    monkeypatch.setattr(my_figures, "SECONDS", replace(my_figures.SECONDS, builder="your_figures:build"))
    with pytest.raises(ConfigError, match="found no module 'your_figures'"):
        figure_code(NAME)


def test_planning_loads_no_plotting() -> None:
    code = "import sys, harness.workflow.dag; print({'matplotlib', 'pandas', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
