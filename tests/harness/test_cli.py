"""How a command learns which experiment it is about: once, and the same as the commands that it starts or prints."""

from __future__ import annotations

import argparse
import ast
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors import SafetensorError
from snakemake.cli import get_argument_parser

from harness import cli, progress
from harness.arguments import overrides
from harness.errors import ConfigError
from harness.experiment.runs import load_experiment
from harness.measure import timing
from harness.workflow.dag import Dag, read_config
from harness.workflow.preflight import __main__ as preflight
from tests.experiments import miniature
from tests.paths import ROOT

TIMING = {"model": "llama-mini", "domain": "math", "methods": ["lora", "dora"], "rounds": 2, "steps": 2}
#: Words after ``--set`` that JSON, YAML or a shell could each take for something else.
CHANGES = [
    "seeds=[0,3]",
    "training.learning_rate=1e-5",
    "training={max_steps: 7, warmup_ratio: 0.1}",
    'title="It\'s 50 % of $HOME, {all}"',
    "methods={lora: {}, full-ft: {}, dora: {settings: {lora_dropout: 0.2}}}",
    "methods.dora.settings.r=4",
]


def parsed(*words: str) -> cli.Config:
    parser = argparse.ArgumentParser()
    cli.add_config_arguments(parser)
    return cli.parse_config(parser.parse_args(words))


def from_snakemake(command: str) -> cli.Config:
    """What the Snakefile makes of a command line that was printed, read by Snakemake's own parser."""
    program, *words = shlex.split(command)
    assert program == "snakemake"
    args = get_argument_parser().parse_args(words)
    return read_config([file.absolute() for file in args.configfile], args.config or ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two experiments in config/ and one beside it."""
    (tmp_path / "config").mkdir()
    for name, steps in (("tiny", 12), ("other", 24)):
        content = miniature(**{"name": name, "training.max_steps": steps, "timing": TIMING})
        (tmp_path / f"config/{name}.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "my own.yaml").write_text(yaml.safe_dump({"name": "own", "seeds": [4]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: Ways to name an experiment there, and its name and number of steps.
CHOICES: Mapping[tuple[str, ...], tuple[str, int]] = {
    (): ("tiny", 12),
    ("--experiment", "other"): ("other", 24),
    ("--configfile", "config/other.yaml"): ("other", 24),
    ("--configfile", "config/other.yaml", "my own.yaml"): ("own", 24),
    ("--configfile", "config/other.yaml", "--configfile", "my own.yaml"): ("own", 24),
}


# ----------------------------------------------------------------------------------------------------------- one reading


@pytest.mark.parametrize(("words", "expected"), CHOICES.items())
def test_the_experiment_that_is_named(folder: Path, words: tuple[str, ...], expected: tuple[str, int]) -> None:
    config = parsed(*words)
    experiment = load_experiment(config.files, config.overrides)
    assert (experiment.name, experiment.training["max_steps"]) == expected


@pytest.mark.parametrize("words", CHOICES)
@pytest.mark.parametrize("changes", [[], CHANGES])
def test_a_child_process_and_the_workflow_get_the_same_experiment(
    folder: Path, words: tuple[str, ...], changes: list[str]
) -> None:
    config = parsed(*words, *(["--set", *changes] if changes else []))
    experiment = load_experiment(config.files, config.overrides)
    order = list(experiment.methods)
    if changes:
        assert experiment.seeds == (0, 3) and experiment.training["learning_rate"] == 1e-5 and order[2] == "full-ft"
    for again in (parsed(*config.arguments), parsed(*config.short_arguments), from_snakemake(config.snakemake)):
        same = load_experiment(again.files, again.overrides)
        assert same == experiment and list(same.methods) == order
    for options in ("-- reproduce_table1", "--force -- reproduce_table1"):
        read = get_argument_parser().parse_args(shlex.split(f"{config.snakemake} {options}")[1:])
        assert read.targets == {"reproduce_table1"} or list(read.targets) == ["reproduce_table1"]


def test_a_rules_command_gets_the_same_experiment(folder: Path) -> None:
    """What the Snakefile hands to its rules and to preflight, through a shell."""
    dag = Dag(read_config([folder / "config/other.yaml"], ["seeds=2", "training={learning_rate: 1.0e-5}"]))
    assert dag.configfiles == [Path("config/other.yaml")]
    rule = ["--configfile", *map(str, dag.configfiles), *shlex.split(dag.override_arguments)]
    for words in (rule, shlex.split(dag.arguments)):
        config = parsed(*words)
        assert load_experiment(config.files, config.overrides) == dag.experiment
    assert dag.experiment.seeds == (0, 1) and dag.experiment.training["learning_rate"] == 1e-5


def test_short_arguments_are_what_a_person_types(folder: Path) -> None:
    assert parsed().short_arguments == [] and parsed().snakemake == "snakemake --cores all"
    other = parsed("--configfile", "config/other.yaml", "--set", "training.max_steps=3", "training.save_steps=2")
    assert other.short_arguments[:2] == ["--experiment", "other"]
    assert other.snakemake == ("""snakemake --cores all --config experiment=other 'training={"max_steps":3,"save_steps":2}'""")
    own = parsed("--configfile", "my own.yaml", "--set", "seeds=2")
    assert own.snakemake == "snakemake --cores all --configfile 'my own.yaml' --config seeds=2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experiment", "othr"], "experiment: found no config/othr.yaml; did you mean 'other'"),
        (["--experiment", "../my own"], "expected one of other, tiny"),
        (["--configfile", "config/other.yaml", "reproduce_table1"], "found reproduce_table1 as a configuration file; put"),
        (["--set", "seeds"], "--set: found 'seeds', expected KEY=VALUE"),
        (["--set", "seeds=[1"], r"--set seeds: found '\[1', expected a YAML value"),
        (["--set", "title=2024-01-01"], "put text in double quotes"),
    ],
)
def test_what_is_refused(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(*words)


def test_outside_a_checkout_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected a checkout of beamlora-harness"):
        parsed("--experiment", "small")


# -------------------------------------------------------------------------------------------------------------- overrides


def test_set_may_be_repeated_and_mappings_are_merged() -> None:
    assert parsed("--set", "a=1", "b=2", "--set", "b=3").overrides == {"a": 1, "b": 3}
    assert parsed("--set", "t={x: 1, y: 2}", "t={y: 3}").overrides == {"t": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-3", 1e-3),
        ("0,3", "0,3"),
        ("NaN", "NaN"),
        ("", None),
        ("yes", True),
        ("/a b", "/a b"),
        ("{1: 2}", {"1": 2}),
    ],
)
def test_values(word: str, value: Any) -> None:
    settings = overrides.parse([f"key={word}"], option="--set")
    assert settings == {"key": value} and type(settings["key"]) is type(value)
    assert overrides.parse(overrides.words(settings), option="--set") == settings


def test_a_later_key_changes_no_earlier_value() -> None:
    settings = {"training": {"max_steps": 1}, "training.max_steps": 2}
    assert overrides.nested(settings) == {"training": {"max_steps": 2}}
    assert settings["training"] == {"max_steps": 1}


def test_the_workflow_takes_a_name_or_files(folder: Path) -> None:
    assert read_config([], []) == cli.Config()
    assert read_config([], ["experiment=other", "seeds=2"]) == cli.Config(
        files=(Path("config/other.yaml"),), overrides={"seeds": 2}
    )
    with pytest.raises(ConfigError, match="found 'other' beside --configfile my own.yaml"):
        read_config([folder / "my own.yaml"], ["experiment=other"])


# ------------------------------------------------------------------------------------ commands that start another command

READ_ONCE = {"configfile", "experiment", "overrides"}


def sources() -> list[Path]:
    return [
        path
        for package in ("beamlora", "harness", "evaluation", "methods", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
    ]


def namespaces(tree: ast.AST) -> set[str]:
    """Names of parsed arguments: results of parse_args and parse_known_args, and parameters of that type."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None and "Namespace" in ast.unparse(node.annotation):
            names.add(node.arg)
        if isinstance(node, ast.Assign) and re.search(r"\.parse_(known_)?args\(", ast.unparse(node.value)):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_only_parse_config_reads_the_arguments_that_name_an_experiment() -> None:
    read = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = namespaces(tree)
        read += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in READ_ONCE
            and isinstance(node.value, ast.Name)
            and node.value.id in names
        ]
    assert {place.partition(":")[0] for place in read} == {"harness/cli.py"} and len(read) >= 3


def test_the_command_that_starts_another_is_known() -> None:
    """Of those that have an experiment. Another one has to be tested as timing is, below."""
    starting = set()
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if "parse_config(" in text and ("sys.executable" in text or "subprocess" in text or "os.exec" in text):
            starting.add(str(path.relative_to(ROOT)))
    assert starting == {"harness/measure/timing.py"}


class Started(Exception):
    """Stands for the child process."""


@pytest.mark.parametrize("words", CHOICES)
@pytest.mark.parametrize("changes", [[], ["seeds=[1]", "training={learning_rate: 1.0e-5}"]])
def test_timing_measures_the_experiment_that_it_was_asked_for(
    folder: Path, words: Sequence[str], changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> None:
        started.append(command)
        raise Started

    monkeypatch.setattr(timing, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE))
    arguments = [*words, *(["--set", *changes] if changes else [])]
    with pytest.raises(Started):
        timing.main([*arguments, "--output", "timing.json"])
    asked, (command,) = parsed(*arguments), started
    assert command[1:3] == ["-m", "harness.measure.timing"]
    child = argparse.ArgumentParser()
    cli.add_config_arguments(child)
    config = cli.parse_config(child.parse_known_args(command[3:])[0])
    measured = load_experiment(config.files, config.overrides)
    assert measured == load_experiment(asked.files, asked.overrides)
    assert measured.seeds == ((1,) if changes else measured.seeds)


@pytest.mark.parametrize("words", [("--experiment", "other"), ("--configfile", "config/other.yaml")])
def test_preflight_names_the_file_that_it_checks(folder: Path, words: Sequence[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"^config/other\.yaml, changed by --config or --set: methods\.lora\.settings\.r: found 65"
    ):
        preflight.main([*words, "--set", "methods.lora.settings.r=65", "--output", "preflight.json"])


# ---- a disk that is full or cannot be written

#: What torch, safetensors and Python raised on a full tmpfs, and Python on one that is read-only; and what is no fault of it.
FULL = "found a full disk, with"
DISK_ERRORS: list[tuple[Exception, float, str | None]] = [
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 126336 vs 126224"), 0, FULL),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 2**30, FULL),
    (OSError(errno.ENOSPC, "No space left on device"), 2**30, FULL),
    (OSError(errno.EROFS, "Read-only file system", "results/x"), 2**30, "results/x: Read-only file system; put that right"),
    (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        2**30,
        "found a file that could not be w",
    ),
    (RuntimeError("unexpected position"), 2**30, None),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "results/x"), 2**30, None),
]


@pytest.mark.parametrize(("error", "free", "said"), DISK_ERRORS)
def test_a_disk_that_fails_is_one_line(
    error: Exception,
    free: float,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(arguments: list[str] | None) -> int:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setenv(progress.ENVIRONMENT_VARIABLE, "plan.json")
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    out, written = capsys.readouterr()
    if said is None:
        assert ended.value.code == 1 and "Traceback" in written and out.startswith("failed: ")
    else:
        assert ended.value.code == 2 and out == written and len(out.splitlines()) == 1 and said in out


def test_the_disk_that_is_named_is_the_fullest_that_the_command_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["--run", "a/b", "--scratch", str(tmp_path / "scratch/new/one"), "--set", "x=" + 300 * "long/" + 300 * "y"]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    room = {tmp_path / "scratch": 2**12}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room.get(folder, 2**30)))
    said = cli.disk_fault(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"))
    assert said is not None and said.startswith(f"{tmp_path}/scratch: found a full disk, with 0.0 MiB left (RuntimeError: ")


# ---- the workflow behind a job

JOB = "from harness import cli; cli.end_with_workflow(); print('goes on', flush=True); input()"


def job(workflow: str | None) -> subprocess.Popen[str]:
    """A process that a workflow started, as the variable says; it ends when its standard input does."""
    environment = {key: value for key, value in os.environ.items() if key != cli.WORKFLOW}
    environment |= {} if workflow is None else {cli.WORKFLOW: workflow}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", JOB], env=environment, cwd=ROOT, text=True, **pipes)


def led_by(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process.pid)
        patch.setenv(cli.WORKFLOW, "")
        cli.lead_jobs()
        return os.environ[cli.WORKFLOW]


def test_a_job_ends_with_the_workflow_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = subprocess.Popen(["sleep", "60"])
    led = led_by(workflow, monkeypatch)
    running = job(led)
    assert running.stdout is not None and running.stdout.readline() == "goes on\n"
    workflow.kill()
    workflow.wait()
    assert running.wait(timeout=10) == 143
    late = job(led)
    out, error = late.communicate("\n", timeout=10)
    assert late.returncode == 143 and out == ""
    assert error == f"ended: the workflow that started this job, process {workflow.pid}, is gone\n"


@pytest.mark.parametrize("part", ["host", "boot", "namespace"])
def test_a_job_on_another_machine_does_not_look_for_the_workflow_there(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    workflow = subprocess.Popen(["true"])
    pid, machine, allocation = led_by(workflow, monkeypatch).split()
    workflow.wait()
    host, boot, namespace = machine.split("/")
    elsewhere = {"host": "node2", "boot": "0", "namespace": "pid:[1]"}
    parts = {"host": host, "boot": boot, "namespace": namespace, part: elsewhere[part]}
    out, _ = job(f"{pid} {'/'.join(parts.values())} {allocation}").communicate("\n", timeout=10)
    assert out == "goes on\n"


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    command = "from harness import cli; cli.run(lambda _: [print('line') for _ in range(10**6)] and 0)"
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", command], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_without_a_workflow_a_command_goes_on() -> None:
    assert job(None).communicate("\n", timeout=10)[0] == "goes on\n"


@pytest.mark.parametrize(
    ("of_workflow", "of_job", "own"),
    [(None, None, False), ("7", "7", False), (None, "8", True), ("7", "8", True)],
    ids=["no scheduler", "workflow inside one allocation", "submitted from a head node", "submitted from an allocation"],
)
def test_whose_devices_a_job_has(
    monkeypatch: pytest.MonkeyPatch, of_workflow: str | None, of_job: str | None, own: bool
) -> None:
    def allocate(value: str | None) -> None:
        monkeypatch.delenv(cli.SCHEDULER_JOB, raising=False)
        if value is not None:
            monkeypatch.setenv(cli.SCHEDULER_JOB, value)

    monkeypatch.delenv(cli.WORKFLOW, raising=False)
    allocate(of_job)
    assert not cli.has_own_allocation(), "no workflow: the command line is the user's"
    allocate(of_workflow)
    monkeypatch.setenv(cli.WORKFLOW, "")
    cli.lead_jobs()
    allocate(of_job)
    assert cli.has_own_allocation() is own
