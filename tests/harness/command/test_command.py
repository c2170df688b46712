"""``beamlora``: every command has the arguments of its module, is there at once, and fails in one line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from harness.command import __main__ as command
from harness.command import demo
from harness.errors import ConfigError
from tests.experiments import miniature, write
from tests.paths import ROOT

#: The packages that a command may load before its arguments are read: this project's.
OURS = {"beamlora", "harness", "methods", "evaluation"}


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "harness.command", *words]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_console_script_exists() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["beamlora"].partition(":")
    assert callable(getattr(import_module(module), function))


#: Commands of their own, as they stand after ``python -m``: those that ``beamlora`` has and those that it has not.
MODULES = ("figures", "tables", "tables.summary", "claims", "plan", "report", "report.trace")


@pytest.mark.parametrize(
    ("module", "words"),
    [("command", ()), *(("command", (name,)) for name in command.COMMANDS), *((module, ()) for module in MODULES)],
)
def test_help_imports_the_standard_library_alone(module: str, words: tuple[str, ...]) -> None:
    file = f"harness.{module}" if "." in module else f"harness.{module}.__main__"
    code = (
        f"import sys\nbefore = set(sys.modules)\nfrom {file} import main\n"
        f"try: main({[*words, '--help']!r})\nexcept SystemExit:\n"
        "    loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        f"    print(sorted(loaded - sys.stdlib_module_names - {OURS!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    program = "beamlora" if module == "command" else f"python -m harness.{module}"
    assert done.stdout.startswith(f"usage: {' '.join([program, *words])} ") and done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table", "table1", "--output-dir", "README.md"), "README.md: found a file, expected a folder to write table1.md in"),
        (("figure", "pareto", "--output-dir", "/proc/x"), "/proc: cannot be written ("),
        (("report", "--output", "docs"), "docs: found a folder, expected a file to write"),
        (("compare", "nothing", "nowhere", "--json", "docs"), "docs: found a folder, expected a file to write"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """There are no records: what is said first is what was looked at first."""
    if words[0] != "compare":
        words = (*words, "--results-dir", str(tmp_path))
    done = run(*words)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("module", "file"),
    [("harness.train", "train.json"), ("harness.evaluate", "metrics.json")],
)
def test_a_run_whose_folder_cannot_be_written_is_refused_before_the_work(module: str, file: str, tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    main = import_module(f"{module}.__main__").main
    folder = tmp_path / "folder"
    folder.touch()
    with pytest.raises(ConfigError, match=rf"^{folder}: found a file, expected a folder to write {file} in$"):
        main(["--configfile", str(path), "--run", "math/llama-mini/lora/seed0", "--run-dir", str(folder)])


@pytest.mark.parametrize(
    ("name", "module"),
    [("table", "harness.tables"), ("figure", "harness.figures"), ("plan", "harness.plan"),
     ("trace", "harness.report.trace"), ("report", "harness.report")],
)  # fmt: skip
def test_a_command_has_the_options_of_its_module(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    texts = []
    main = import_module(module if module.endswith("trace") else f"{module}.__main__").main
    for call, words in ((command.main, [name, "--help"]), (main, ["--help"])):
        with pytest.raises(SystemExit):
            call(words)
        texts.append(capsys.readouterr().out.partition("\n\n")[2])
    assert texts[0] == texts[1] and "--configfile" in texts[0]


def test_check_is_the_report_with_check(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("_check", "_write"):
        monkeypatch.setattr(f"harness.report.__main__.{name}", lambda *_, name=name, **__: calls.append(name) or 0)
    monkeypatch.chdir(ROOT)
    assert command.main(["check", "--experiment", "small"]) == 0 and command.main(["report", "--experiment", "small"]) == 0
    assert calls == ["_check", "_write"]


def test_plan_runs_as_the_module_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert command.main(["plan", "reproduce_table1", "--experiment", "demo", "--set", "seeds=1"]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_demo_is_what_make_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words; further ones stand where make puts SNAKEMAKE_ARGS."""
    started: list[list[str]] = []
    monkeypatch.setattr(demo.os, "execv", lambda program, words: started.append(words))
    monkeypatch.chdir(ROOT)
    command.main(["demo", "--config", "seeds=3", "-n"])
    made = subprocess.run(
        ["make", "--dry-run", "demo", "SNAKEMAKE_ARGS=--config seeds=3 -n"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in made.stdout.splitlines() if "/snakemake " in line)
    assert started[0][1:] == shlex.split(re.sub(r"^.*?/snakemake ", "", line))
    assert started[0][0] == str(Path(sys.executable).with_name("snakemake"))


def test_demo_takes_no_word_for_a_file_of_the_experiment() -> None:
    with pytest.raises(ConfigError, match="^demo: found 'nonsense', expected options of Snakemake, such as --config seeds=3$"):
        command.main(["demo", "nonsense"])


@pytest.mark.parametrize("words", [["demo"], ["table", "table1"], ["plan"], ["check"]])
def test_outside_a_checkout_one_line_says_so(words: list[str], tmp_path: Path) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"error: {tmp_path}: found no Snakefile, expected a checkout of beamlora-harness: cd {ROOT}" in done.stderr


def test_bad_input_is_one_line() -> None:
    done = run("table", "table1", "--experiment", "smal")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: experiment: found no config/smal.yaml; did you mean 'small'?\n"
    done = run("table", "table1", "--nope")
    assert done.returncode == 2 and "unrecognized arguments: --nope" in done.stderr


def test_a_checkout_is_required_of_what_reads_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="found no Snakefile"):
        command.require_checkout()
    Path("Snakefile").touch()
    command.require_checkout()
