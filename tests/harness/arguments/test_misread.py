"""Targets that stand where a command line takes them for something else."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness.arguments.misread import complaint, missing, targets, unreadable

FILE = "config/small.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        f"--configfile {FILE}",
        f"reproduce_table1 --configfile {FILE}",
        f"--configfile={FILE} reproduce_table1",
        f"--configfile {FILE} my.yml -- reproduce_table1",
        f"--cores all reproduce_table1 --configfile {FILE} --config seeds=2",
        "reproduce_table1 --config experiment=small seeds=2",
        "--config seeds=2 -- reproduce_table1",
        "-- --configfile reproduce_table1",
    ],
)
def test_what_means_what_it_says(arguments: str) -> None:
    assert complaint("snakemake", shlex.split(arguments)) is None


@pytest.mark.parametrize(
    ("arguments", "swallowed", "meant"),
    [
        (f"--configfile {FILE} reproduce_table1", "reproduce_table1 as a configuration file",
         f"snakemake reproduce_table1 --configfile {FILE}"),
        (f"--cores all --configfile {FILE} pareto -n", "pareto as a configuration file",
         f"snakemake pareto --cores all --configfile {FILE} -n"),
        (f"--configfiles {FILE} a.yaml t1 t2", "t1 t2 as a configuration file",
         f"snakemake t1 t2 --configfiles {FILE} a.yaml"),
        ("--configfile reproduce_all -n", "reproduce_all as a configuration file", "snakemake reproduce_all -n"),
        ("-n --config seeds=2 reproduce_all", "reproduce_all after --config", "snakemake reproduce_all -n --config seeds=2"),
        (f"--configfile {FILE} results/small/runs.parquet", "results/small/runs.parquet as a configuration file",
         f"snakemake results/small/runs.parquet --configfile {FILE}"),
    ],
)  # fmt: skip
def test_a_swallowed_target(arguments: str, swallowed: str, meant: str) -> None:
    said = complaint("snakemake", shlex.split(arguments))
    assert said is not None and said.startswith(f"found {swallowed}; put the target before --") and said.endswith(f": {meant}")
    assert complaint("snakemake", shlex.split(meant)[1:]) is None


def test_keys_of_which_only_the_last_would_count() -> None:
    said = complaint("snakemake", shlex.split("--config experiment=small --cores 2 --config seeds=2"))
    assert said is not None and "--config twice" in said


def test_a_file_of_any_name_is_taken_but_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").touch()
    Path("results").mkdir()
    Path("results/metrics.json").touch()
    assert targets(["mine", "missing.yaml", "results/metrics.json", "missing"]) == ["results/metrics.json", "missing"]


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    assert missing(shlex.split("--configfile my.yaml --config seeds=2")) is None
    said = missing(shlex.split("reproduce_table1 --configfile my.yaml mine.yaml --cores 2"))
    assert said == "--configfile: found no file mine.yaml, expected an experiment"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: mine", None),
        ("", "my.yaml: found nothing, expected a mapping of keys"),
        ("# nothing\n", "my.yaml: found nothing, expected a mapping of keys"),
        ("- a", "my.yaml: found list, expected a mapping of keys"),
        ("name: mine\n\ttitle: x\n", "my.yaml: found invalid YAML: "),
        ("name: [", "my.yaml: found invalid YAML: "),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("a: 1")
    (tmp_path / "my.yaml").write_text(content)
    found = unreadable(shlex.split("reproduce_table1 --configfile good.yaml my.yaml --config seeds=2"))
    assert found == said or (said is not None and found is not None and found.startswith(said) and "\n" not in found)
