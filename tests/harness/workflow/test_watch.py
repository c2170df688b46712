"""Snakemake's side of the progress line: the jobs of one invocation, weighed, and what its events make of them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.iocontainers import Wildcards
from snakemake_interface_logger_plugins.common import LogEvent

from harness import progress
from harness.cli import Config
from harness.figures.catalogue import figures
from harness.workflow import watch
from harness.workflow.dag import Dag
from harness.workflow.workload import Workload
from tests.experiments import miniature
from tests.paths import ROOT

TINY = ROOT / "config/tiny.yaml"


def wildcards(run_id: str) -> SimpleNamespace:
    domain, model, method, seed = run_id.split("/")
    return SimpleNamespace(domain=domain, model=model, method=method, seed=seed.removeprefix("seed"))


class FakeJob:
    """As much of Snakemake's as is used."""

    def __init__(self, jobid: int, rule: str, *, run: str | None = None, table: str | None = None, **resources: int) -> None:
        self.jobid = jobid
        self.rule = SimpleNamespace(name=rule)
        self.wildcards = wildcards(run) if run else Wildcards(fromdict={"table": table} if table else {})
        self.resources = {"_cores": 1, "_nodes": 1, **resources}


def workflow(jobs: dict[FakeJob, list[FakeJob]], needed: list[FakeJob], **capacity: int) -> Any:
    dag = SimpleNamespace(jobs=jobs.keys(), dependencies=jobs, needrun_jobs=lambda: iter(reversed(needed)))
    resources = {"_cores": 4, "_nodes": 1000, "_job_count": 1000, **capacity}
    return SimpleNamespace(dag=dag, scheduler=SimpleNamespace(global_resources=resources))


@pytest.fixture
def mini(tmp_path: Path) -> Dag:
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(miniature()))
    return Dag(Config(files=(path,)))


LORA, DORA = "math/llama-mini/lora/seed0", "math/llama-mini/dora/seed0"


def test_the_plan_holds_the_targets_runs_and_the_jobs_that_are_left(mini: Dag) -> None:
    """The first run is there; the second is trained and evaluated for a table, of which the target only names the files."""
    trained = FakeJob(1, "train", run=LORA)
    evaluated = FakeJob(2, "evaluate", run=LORA)
    train = FakeJob(3, "train", run=DORA)
    evaluate = FakeJob(4, "evaluate", run=DORA, _cores=2)
    table = FakeJob(5, "table", table="table1")
    target = FakeJob(0, "reproduce_table1")
    jobs = {target: [table], table: [evaluated, evaluate], evaluated: [trained], evaluate: [train], trained: [], train: []}
    plan = watch.plan_of(mini, workflow(jobs, [train, evaluate, table, target]))
    assert plan.runs == 2
    assert [(job.id, job.run, job.share, job.after) for job in plan.jobs.values()] == [
        (3, DORA, 0.25, ()),
        (4, DORA, 0.5, (3,)),
        (5, None, 0.25, (4,)),
    ]
    assert plan.jobs[3].kind == ("tokens", "training", "train", "llama-mini", "math", "dora")


@pytest.mark.parametrize(
    ("needed", "capacity", "expected"),
    [
        ({"gpu": 1}, {"gpu": 1}, 1),
        ({"gpu": 1}, {"gpu": 2}, 2),
        ({"gpu": 2}, {"gpu": 4, "_cores": 64}, 2),
        (
            {"gpu": 1},
            {"_cores": 2**63, "_nodes": 200},
            3,
        ),  # Slurm says how many GPUs there are, and all three runs may have one
        ({}, {"_cores": 2}, 2),
    ],
)
def test_how_many_runs_are_in_hand_at_a_time(needed: dict[str, int], capacity: dict[str, int], expected: int) -> None:
    due = [FakeJob(i, "train", run=f"math/llama-mini/lora/seed{i}", **needed) for i in range(3)]
    due.append(FakeJob(3, "evaluate", run="math/llama-mini/lora/seed0", **needed))
    others = [FakeJob(4, "table", table="table1")]
    assert watch.runs_at_once(workflow({}, due + others, **capacity)) == expected
    assert watch.runs_at_once(workflow({}, others, **capacity)) == 0


def test_one_gpu_is_the_whole_machine(mini: Dag) -> None:
    train = FakeJob(3, "train", run=LORA, gpu=1)
    assert watch.plan_of(mini, workflow({train: []}, [train], gpu=1)).jobs[3].share == 1
    assert watch.plan_of(mini, workflow({train: []}, [train], gpu=2)).jobs[3].share == 0.5


def event(kind: LogEvent | None, **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"event": kind, **fields})


def test_snakemakes_events_become_starts_and_ends(mini: Dag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, evaluate = FakeJob(3, "train", run=LORA), FakeJob(4, "evaluate", run=LORA)
    path = tmp_path / "plan.json"
    watching = watch.Watch(path, watch.plan_of(mini, workflow({train: [], evaluate: [train]}, [train, evaluate])))
    clock = 100.0
    monkeypatch.setattr(watch.time, "time", lambda: clock)
    watching.handle(event(LogEvent.JOB_STARTED, jobs=[3, 99]))
    clock = 160.0
    watching.handle(event(LogEvent.JOB_FINISHED, job_id=3))
    watching.handle(event(LogEvent.JOB_STARTED, jobs=[4]))
    clock = 170.0
    watching.handle(event(LogEvent.JOB_ERROR, jobid=4))
    watching.handle(event(None))
    jobs = progress.Plan.read(path).jobs
    assert [(job.started, job.ended, job.failed) for job in jobs.values()] == [(100, 160, False), (160, 170, True)]


# -------------------------------------------------------------------------------------------------------------- workload


def test_every_rule_with_a_command_is_weighed() -> None:
    """Read from the Snakefile: in tokens where it takes a slot of the GPU or trains a base model, else in seconds."""
    rules = {rule.split(":")[0]: rule for rule in (ROOT / "Snakefile").read_text().split("\nrule ")[1:]}
    tiny = Dag(Config(files=(TINY,)))
    workload = Workload(tiny)
    of_run = vars(wildcards("math/llama-tiny/lora/seed0"))
    (base,) = (name for name, (model, _) in tiny.base_models.items() if model == "llama-tiny")
    for rule, text in rules.items():
        given = Wildcards(fromdict={**of_run, "name": base, "protocol": "sound", "table": "table1", "figure": "loss"})
        work = workload.of(rule, given)
        runs_a_model = re.search(r"\n +gpu=", text) or "harness.models.pretrain" in text
        assert (work is not None) == ("shell:" in text), rule
        if work is not None:
            assert work.amount > 0 and work.kind[0] == ("tokens" if runs_a_model else "seconds"), rule
    assert all(workload.of(rule, Wildcards()) is None for rule in figures())


def test_a_job_weighs_the_tokens_of_its_steps_or_of_its_answers() -> None:
    workload = Workload(Dag(Config(files=(TINY,))))
    math, code = wildcards("math/llama-tiny/lora/seed0"), wildcards("code/llama-tiny/lora/seed0")
    steps = 240 * 8 * 128
    assert workload.of("train", math).amount == workload.of("train", code).amount == 3 * steps
    assert workload.of("evaluate", math).amount == (150 + 150 + 100) * (20 * 48 + 250)
    assert workload.of("prune", math).amount == 11 * (150 + 150) * (20 * 48 + 250)


def test_an_evaluation_that_generates_nothing_weighs_the_rows_that_it_scores() -> None:
    evidence = Workload(Dag(Config(files=(ROOT / "config/evidence.yaml",))))
    assert evidence.of("evaluate", wildcards("rates/smollm2-135m/lora/seed100")).amount == 300 * 250


def test_epochs_are_counted_in_rows() -> None:
    small = Workload(Dag(Config(files=(ROOT / "config/small.yaml",))))
    assert small.of("train", wildcards("math/smollm2-135m/lora/seed0")).amount == 3 * 3 * 128 * 512
