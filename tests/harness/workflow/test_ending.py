"""The last lines of a workflow that does not come to its end."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from harness.errors import ConfigError
from harness.workflow.dag import hold_lock
from harness.workflow.ending import (
    NOTHING_SAID,
    Failures,
    end_when_interrupted,
    last_words,
    leave_interrupts_to_snakemake,
    or_refuse,
)
from tests.paths import ROOT

REFUSED = (
    "from harness.workflow.ending import refuse\ntry: refuse('a: found b, expected c')\nexcept BaseException: print('caught')"
)
#: A process with the shell of a job, as a workflow has; neither ends by itself, and the shell would tell of a killed command.
WAITING = (
    "import subprocess, sys, time; from harness.workflow.ending import end_when_interrupted; end_when_interrupted();"
    "job = subprocess.Popen(['bash', '-c', 'sleep 60 > /dev/null 2>&1; echo Killed >&2']);"
    "print('started', flush=True); job.wait()"
)


@pytest.fixture
def failures(tmp_path: Path) -> Iterator[Failures]:
    made = Failures(tmp_path)
    yield made
    atexit.unregister(made.tell)


def fail(failures: Failures, log: Path, text: str | None) -> None:
    """A job that failed, as Snakemake says it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        log.write_text(text)
    event = {"event": LogEvent.JOB_ERROR, "log": [str(log)]}
    failures.emit(logging.makeLogRecord(event))


def test_every_failed_job_is_named_with_its_words_and_the_next_command(
    failures: Failures, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/snakemake", "--config", "seeds=[0, 1]"])
    failures.tell()
    assert capsys.readouterr().err == ""
    failures.emit(logging.makeLogRecord({"event": LogEvent.JOB_FINISHED, "job_id": 3}))
    fail(failures, tmp_path / "train/lora/seed0.log", "warning\nerror: results/x: found a, expected b\n\n")
    fail(failures, tmp_path / "train/dora/seed0.log", "Traceback:\n  File\nRuntimeError: no\n")
    fail(failures, tmp_path / "train/dora/seed1.log", None)
    fail(failures, tmp_path / "train/dora/seed2.log", "x")
    failures.tell()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "",
        f"failed: train/lora/seed0: results/x: found a, expected b ({tmp_path}/train/lora/seed0.log)",
        f"failed: train/dora/seed0: RuntimeError: no ({tmp_path}/train/dora/seed0.log)",
        f"failed: train/dora/seed1: {NOTHING_SAID} ({tmp_path}/train/dora/seed1.log)",
        "failed: and 1 more",
        "next: put that right and repeat the command, which keeps what is finished: snakemake --config 'seeds=[0, 1]'",
    ]


def test_a_log_that_is_missing_or_empty_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    assert last_words(tmp_path / "empty.log") == last_words(tmp_path / "none.log") == NOTHING_SAID


def test_a_refusal_is_one_line_and_cannot_be_caught() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: a: found b, expected c\n")


def test_an_input_function_gives_files_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str) -> str:
        if name == "table9":
            raise ConfigError("no table9")
        return f"{name}.md"

    refused: list[object] = []
    monkeypatch.setattr("harness.workflow.ending.refuse", refused.append)
    assert or_refuse(ask, "table1")(None) == "table1.md" and refused == []
    or_refuse(ask, "table9")(None)
    assert [str(reason) for reason in refused] == ["no table9"]


def test_ctrl_c_ends_at_once_with_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=5)
    assert (process.returncode, out, error) == (130, "", "\ninterrupted; repeat the command to go on\n")


def test_on_a_cluster_ctrl_c_is_left_to_snakemake() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        end_when_interrupted()
        leave_interrupts_to_snakemake()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("folder", ["results", "results/.progress", "results/mini"])
def test_a_results_folder_that_cannot_be_written_is_refused_by_name(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != folder)
    if folder == "results":
        Path(folder).touch()  # nothing can be made in it
    with pytest.raises(ConfigError, match=rf"^{folder}.*: .*, expected a folder that results can be written to"):
        hold_lock("mini")
