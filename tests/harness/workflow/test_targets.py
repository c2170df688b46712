"""The runs behind each target of the workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import ConfigError
from harness.experiment.runs import load_experiment
from harness.schema.experiment import Experiment
from harness.workflow.targets import TABLE_TARGETS, check_targets, target_runs
from tests import preloaded
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
    check_targets(["--workflow-profile", profile], [], experiment, print)


def test_a_profile_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="--workflow-profile: found no folder slrum; did you mean 'slurm'"):
        check_targets(["--workflow-profile", "slrum"], [], experiment, print)


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
    "differences": 46,
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
        ("reproduce_all rank_sweep -n --config seeds=2", None),
        ("reproduce_all --forcerun rank_sweep --until reproduce_all", None),
        ("reproduce_all --until rank_swep", "--until: found unknown 'rank_swep'; did you mean 'rank_sweep'?"),
        ("reproduce_all -R nonsense", "--forcerun: found unknown 'nonsense'; expected one of reproduce_table1"),
        ("reproduce_all --omit-from rank_swep", "--omit-from: found unknown 'rank_swep'; did you mean 'rank_sweep'?"),
        ("reproduce_all --allowed-rules rank_swep", "--allowed-rules: found unknown 'rank_swep'; did you mean 'rank_sweep'?"),
        (
            "reproduce_all --forcerun a/b.txt",
            "target: found a/b.txt, which no rule makes; 'snakemake --list' names the targets",
        ),
        (
            "-n reproduce_tabel1",
            "target: found unknown 'reproduce_tabel1' in experiment 'mini'; did you mean 'reproduce_table1'?",
        ),
        ("--cores 2 table1", "target: found unknown 'table1'; did you mean 'reproduce_table1'?"),
        (
            "reproduce_table1 rank_swep",
            "target: found unknown 'rank_swep' in experiment 'mini'; expected one of reproduce_table1",
        ),
    ],
)
def test_a_target_of_snakemake_that_is_no_rule(tmp_path: Path, arguments: str, said: str | None) -> None:
    experiment = load_experiment([write(tmp_path, miniature())])
    names = [*TABLE_TARGETS, "reproduce_all", "rank_sweep"]
    rules = [SimpleNamespace(name=name, has_wildcards=lambda: False, products=list) for name in names]
    if said is None:
        check_targets(arguments.split(), rules, experiment, print)
    else:
        with pytest.raises(ConfigError) as caught:
            check_targets(arguments.split(), rules, experiment, print)
        assert str(caught.value).startswith(said)


RUN = "results/mini/math/llama-mini/lora/seed0"
PLANS_NO = "target: the experiment 'mini' plans no"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{RUN}/train.json", None),
        (f"./{RUN}/metrics.json", None),
        ("results/mini/tables/table1.md", None),
        ("figures/mini/pareto.png", None),
        (f"{RUN.replace('lora', 'loar')}/train.json",
         f"{PLANS_NO} run math/llama-mini/loar/seed0; did you mean 'math/llama-mini/lora/seed0'?"),
        ("results/mini/a/b/c/seed9/metrics.json", f"{PLANS_NO} run a/b/c/seed9; the experiment has 2 runs"),
        ("results/mini/tables/table9.md",
         "target: found unknown 'reproduce_table9' in experiment 'mini'; did you mean 'reproduce_table4'?"),
        ("figures/mini/rank_sweep.png", f"{PLANS_NO} runs for 'rank_sweep'; it lacks sweeps.rank_sweep"),
        (f"{RUN}/pruning.json", f"{PLANS_NO} pruning; it lacks the key pruning"),
        ("results/mini/timing.json", f"{PLANS_NO} timing; it lacks the key timing"),
        ("results/mini/base/llama-mini/sound/metrics.json",
         f"{PLANS_NO} base/llama-mini/sound; it lacks the key base_evaluation"),
        ("results/.models/llama-mini-0", "target: found no base model 'llama-mini-0'; expected one of llama-mini-"),
        ("results/mini/nonsense.txt", "target: found results/mini/nonsense.txt, which no rule makes; 'snakemake --list' names"),
        ("README.md", "target: found README.md, which no rule makes; 'snakemake --list' names the targets"),
        ("results/mini/math", "target: found results/mini/math, which no rule makes; 'snakemake --list' names the targets"),
        ("train", "target: found 'train', which makes a file for each of many, expected one of these files: "
         "results/mini/{domain}/{model}/{method}/seed{seed}/adapter"),
    ],
)  # fmt: skip
def test_a_file_as_a_target_is_planned_or_refused_in_one_line(tmp_path: Path, target: str, said: str | None) -> None:
    done = subprocess.run(
        [preloaded.python(), Path(sys.executable).with_name("snakemake"), target, "-n", "--cores", "1", "--quiet", "all",
         "--configfile", write(tmp_path, miniature())],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (0 if said is None else 2), done.stderr
    if said is not None:
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: {said}") and "Traceback" not in done.stderr
