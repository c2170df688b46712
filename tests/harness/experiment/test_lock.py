"""The lock beside an experiment's file: which revisions it replaces, and that a run's spec then has the commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.experiment.hub_sources import hub_sources
from harness.experiment.lock import Lock, LockedRepository, lock_file, read_lock, write_lock
from harness.experiment.runs import all_runs, load_experiment
from harness.schema.base_models import HubModel
from harness.schema.data import FileData
from tests.experiments import miniature, write
from tests.paths import ROOT

A, B = "a" * 40, "b" * 40
SET = {"kind": "files", "hub_id": "some/set", "split": "test"}
ON_THE_HUB = {
    "models.llama-mini.source": {"kind": "hub", "model_name_or_path": "some/model"},
    "domains.math.train.source": {**SET, "split": "train", "local": "train.jsonl"},
    "domains.math.evaluation.tasks.gsm8k.source": SET,
    "base_evaluation": {"models": ["llama-mini"], "tasks": {"gsm8k": {"source": SET, "format": "gsm8k"}}},
}


def locked(kind: Any, name: str, commit: str, revision: str = "main") -> LockedRepository:
    return LockedRepository(kind=kind, name=name, revision=revision, commit=commit, files={})


def lock(experiment: Path, *repositories: LockedRepository) -> None:
    write_lock(lock_file([experiment]), repositories)


def revisions(*experiments: Path) -> dict[str, str]:
    return {".".join(map(str, source.at)): source.revision for source in hub_sources(load_experiment(experiments))}


def test_a_locked_commit_is_part_of_the_spec_of_every_run(tmp_path: Path) -> None:
    path = write(tmp_path, miniature(**ON_THE_HUB))
    before = all_runs(load_experiment([path]))[0]
    lock(path, locked("model", "some/model", A), locked("dataset", "some/set", B))
    experiment = load_experiment([path])
    run = all_runs(experiment)[0]
    assert isinstance(run.model.source, HubModel) and run.model.source.model_revision == A
    assert isinstance(run.data.source, FileData) and run.data.source.revision == B
    assert experiment.base_evaluation is not None
    task = experiment.base_evaluation.evaluation("sound").tasks["gsm8k"]
    assert isinstance(task.source, FileData) and task.source.revision == B
    assert run.training_hash() != before.training_hash() and run.evaluation_json() != before.evaluation_json()
    assert all_runs(load_experiment([path], locked=False))[0] == before


def test_only_what_the_lock_names_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, miniature(**ON_THE_HUB))
    lock(path, locked("dataset", "some/model", A), locked("dataset", "some/set", B, revision="v2"))
    assert set(revisions(path).values()) == {"main"}
    changed = load_experiment([path], {"domains.math.evaluation.tasks.gsm8k.source.revision": "v2"})
    assert B in {source.revision for source in hub_sources(changed)}


def test_a_local_copy_is_of_no_revision(tmp_path: Path) -> None:
    """What does not come from the hub is neither locked nor fetched."""
    path = write(tmp_path, miniature(**ON_THE_HUB, data_dir=str(tmp_path)))
    before = all_runs(load_experiment([path]))[0]
    lock(path, locked("dataset", "some/set", B))
    assert all_runs(load_experiment([path]))[0].data == before.data
    assert revisions(path) == {
        "models.llama-mini.source.model_revision": "main",
        "domains.math.evaluation.tasks.gsm8k.source.revision": B,
    }


def test_the_lock_of_a_later_file_wins(tmp_path: Path) -> None:
    path = write(tmp_path, miniature(**ON_THE_HUB))
    own = tmp_path / "own.yaml"
    own.write_text("seeds: [3]\n")
    lock(path, locked("model", "some/model", A), locked("dataset", "some/set", A))
    lock(own, locked("dataset", "some/set", B))
    assert set(revisions(path, own).values()) == {A, B} and set(revisions(path).values()) == {A}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected what 'beamlora fetch' writes"),
        ('{"lock_version": 2}', "lock_version: Input should be 1"),
        (json.dumps({"repositories": [locked("model", "x/y", A).model_dump() | {"commit": "main"}]}), "repositories.0.commit"),
    ],
)
def test_a_lock_that_is_none_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, miniature(**ON_THE_HUB))
    lock_file([path]).write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_experiment([path])
    assert message in str(caught.value) and str(caught.value).startswith(f"{lock_file([path])}: ")
    assert "\n" not in str(caught.value)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    assert read_lock([path]) == Lock()
    lock(path, locked("model", "z/z", A), locked("dataset", "a/a", B))
    assert [one.name for one in read_lock([path]).repositories] == ["a/a", "z/z"]


def test_the_papers_models_and_test_sets_are_pinned() -> None:
    """But for three sets whose commits are not cited anywhere: fetch finds and keeps those."""
    sources = hub_sources(load_experiment([ROOT / "config/paper.yaml"], locked=False))
    assert len(sources) == 18
    assert {one.name for one in sources if one.revision == "main"} == {
        "fxmeng/CodeFeedback-Python105K",
        "zwhe99/commonsense_170k",
        "lighteval/siqa",
    }
