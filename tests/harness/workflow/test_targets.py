"""The runs behind each target of the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import ConfigError, Experiment
from harness.experiment.runs import load_experiment
from harness.workflow.targets import TABLE_TARGETS, check_targets, target_runs
from tests.experiments import miniature, write
from tests.paths import ROOT


def test_unknown_target_suggests_the_near_one(tmp_path: Path) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    with pytest.raises(ConfigError, match="did you mean 'reproduce_table1'"):
        target_runs(experiment, "reproduce_tabel1")


@pytest.mark.parametrize(
    ("target", "lacks"),
    [
        ("rank_sweep", "sweeps.rank_sweep"),
        ("reproduce_table2", "tables.table2"),
        ("reproduce_learning_rate", "sweeps.learning_rate"),
        ("pruning_curve", "the key that names them"),
    ],
)
def test_a_target_without_runs_names_the_key_that_is_missing(tmp_path: Path, target: str, lacks: str) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    with pytest.raises(ConfigError, match=f"the experiment 'mini' plans no runs for '{target}'; it lacks {lacks}$"):
        target_runs(experiment, target)


@pytest.mark.parametrize("profile", ["none", "slurm", "profiles/slurm"])
def test_a_profile_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    monkeypatch.chdir(ROOT)
    check_targets(["--workflow-profile", profile], [], experiment)


def test_a_profile_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="--workflow-profile: found no folder slrum; did you mean 'slurm'"):
        check_targets(["--workflow-profile", "slrum"], [], experiment)


#: What the paper's matrix needs for one seed, target by target.
PAPER_COUNTS = {
    "reproduce_table1": 30,  # 9 methods on LLaMA2-7B, 6 on Mistral-7B; math and code
    "reproduce_table2": 13,  # 8 on LLaMA2-7B, 5 on LLaMA2-13B
    "reproduce_table3": 5,  # three ablations beside LoRA and BeamLoRA
    "reproduce_table4": 6,  # BeamLoRA in every column of the paper's Table 4
    "rank_sweep": 10,
    "delta_t": 8,  # seven intervals and LoRA
    "p_init": 7,  # six thresholds and LoRA
    "rank_importance": 2,
    "pruning_curve": 2,
    "operations": 6,
    "pareto": 30,
    "reproduce_learning_rate": 36,
}


@pytest.fixture(scope="module")
def papers() -> tuple[Experiment, Experiment]:
    """The paper's experiment with one seed, and with three."""
    file = ROOT / "config/paper.yaml"
    return load_experiment([file]), load_experiment([file], {"seeds": 3})


@pytest.mark.parametrize(("target", "count"), PAPER_COUNTS.items())
def test_the_papers_matrix(target: str, count: int, papers: tuple[Experiment, Experiment]) -> None:
    experiment, three_seeds = papers
    runs = target_runs(experiment, target)
    assert len(runs) == len({run.run_id for run in runs}) == count
    per_seed = 1 if target == "reproduce_table4" else 3  # settings are the same at every seed
    assert len(target_runs(three_seeds, target)) == per_seed * count


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--cores 2 -- reproduce_table1", None),
        ("results/mini/tables/table1.md runs.parquet train -n --config seeds=2", None),
        ("-n reproduce_tabel1", "found unknown 'reproduce_tabel1' in experiment 'mini'; did you mean 'reproduce_table1'?"),
        ("--cores 2 table1", "found unknown 'table1'; did you mean 'reproduce_table1'?"),
        ("reproduce_table1 rank_swep", "found unknown 'rank_swep' in experiment 'mini'; expected one of reproduce_table1"),
    ],
)
def test_a_target_of_snakemake_that_is_no_rule(tmp_path: Path, arguments: str, said: str | None) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    rules = [*TABLE_TARGETS, "reproduce_all", "train", "rank_sweep"]
    if said is None:
        check_targets(arguments.split(), rules, experiment)
    else:
        with pytest.raises(ConfigError) as caught:
            check_targets(arguments.split(), rules, experiment)
        assert str(caught.value).startswith(f"target: {said}")
