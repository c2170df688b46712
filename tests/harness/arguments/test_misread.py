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
        "--config 'training={max_steps: 2}' 'training={save_steps: 2}'",
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
        ("-n --config seeds=2 reproduce_all", "reproduce_all after --config, expected KEY=VALUE",
         "snakemake reproduce_all -n --config seeds=2"),
        (f"--configfile {FILE} results/small/runs.parquet", "results/small/runs.parquet as a configuration file",
         f"snakemake results/small/runs.parquet --configfile {FILE}"),
    ],
)  # fmt: skip
def test_a_swallowed_target(arguments: str, swallowed: str, meant: str) -> None:
    said = complaint("snakemake", shlex.split(arguments))
    assert said is not None and said.startswith(f"found {swallowed}; put the target before --") and said.endswith(f": {meant}")
    assert complaint("snakemake", shlex.split(meant)[1:]) is None


@pytest.mark.parametrize(
    ("arguments", "option", "what"),
    [
        ("--config experiment=small --cores 2 --config seeds=2", "--config", "keys"),
        ("--config=experiment=small --config=seeds=2", "--config", "keys"),
        ("-C experiment=small -Cseeds=2", "-C", "keys"),
        ("--config experiment=small -C seeds=2", "-C", "keys"),
        (f"--configfile {FILE} --configfile mine.yaml", "--configfile", "files"),
        (f"--configfiles={FILE} reproduce_table1 --configfile=mine.yaml", "--configfile", "files"),
    ],
)
def test_an_option_of_which_only_the_last_would_count(arguments: str, option: str, what: str) -> None:
    said = complaint("snakemake", shlex.split(arguments))
    assert said == f"found {option} twice, of which Snakemake takes the last one only; put all {what} after one {option}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("training.learning_rate=0", "found the key 'training.learning_rate', expected 'training={learning_rate: 0}'"),
        ("seeds=2 a1.b.c=x", "found the key 'a1.b.c', expected 'a1={b: {c: x}}'"),
        ("1=2", "found the key '1', expected the name of a key"),
        ("=2", "found the key '', expected the name of a key"),
        ("a=b=c", "found the key 'a', expected the name of a key"),
        ("experiment=demo experiment=tiny", "found experiment twice, expected each key once"),
    ],
)
def test_keys_that_snakemake_does_not_take(arguments: str, said: str) -> None:
    assert complaint("snakemake", ["--config", *shlex.split(arguments)]) == f"--config: {said}"


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
    assert said == "--configfile: found no file mine.yaml, expected an experiment's file"
    assert missing(["--configfile=mine.yaml"]) == said
    (tmp_path / "config").mkdir()
    assert missing(["--configfile", "config"]) == "--configfile: found the folder config, expected an experiment's file"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: mine", None),
        ("", "my.yaml: found nothing, expected a mapping of keys"),
        ("# nothing\n", "my.yaml: found nothing, expected a mapping of keys"),
        ("- a", "my.yaml: found list, expected a mapping of keys"),
        ("name: mine\n\ttitle: x\n", "my.yaml: found invalid YAML: "),
        ("name: [", "my.yaml: found invalid YAML: "),
        ("day: 2026-02-31", "my.yaml: found invalid YAML: "),
        ("a: &a\n  b: *a\n", "my.yaml: found an alias (*) inside what its anchor (&) names, expected an end"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("a: 1")
    (tmp_path / "my.yaml").write_text(content)
    found = unreadable(shlex.split("reproduce_table1 --configfile good.yaml my.yaml --config seeds=2"))
    assert found == said or (said is not None and found is not None and found.startswith(said) and "\n" not in found)
