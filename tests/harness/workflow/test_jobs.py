"""Where jobs are forked, and where each starts by itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.workflow import jobs

WHICH = "command -v python"


def which(prefix: str) -> Path:
    """The ``python`` of a rule's command."""
    return Path(subprocess.run(["bash", "-c", prefix + WHICH], capture_output=True, text=True, check=True).stdout.strip())


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On a machine without a GPU, with nothing to import."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(jobs, "PACKAGES", ())
    return tmp_path / "logs/preloaded.log"


def test_jobs_are_forked_until_the_workflow_ends(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = jobs.Jobs()
    own.preload(log, gpu=False)
    program = which(own.prefix())
    assert program.parent != Path(sys.executable).parent
    code = "import os, sys; print(os.getppid(), sys.executable)"
    environment = {"OMP_NUM_THREADS": "1"}  # as Snakemake gives to a job with one thread
    done = [subprocess.run([program, "-c", code], capture_output=True, text=True, env=environment) for _ in range(2)]
    assert done[0].stdout == done[1].stdout != "" and done[0].stdout.split()[1] == sys.executable
    assert own.stop() > 0
    assert which(own.prefix()).parent == Path(sys.executable).parent


@pytest.mark.parametrize(("gpu", "devices"), [(True, ""), (False, "0")])
def test_jobs_that_may_meet_a_gpu_start_by_themselves(
    log: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, devices: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    own = jobs.Jobs()
    own.preload(log, gpu=gpu)
    assert which(own.prefix()).parent == Path(sys.executable).parent
    assert own.stop() == 0 and not log.exists()


def test_where_no_parent_can_start_one_line_says_so(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = log.parent / ("n" * 100)  # a socket's name may be 107 characters long
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    own = jobs.Jobs()
    own.preload(log, gpu=False)
    said = "the process that starts jobs did not start: each job starts, and imports, by itself; see"
    assert capsys.readouterr().out == f"{said} {log}\n"
    assert "AF_UNIX path too long" in log.read_text()
    assert which(own.prefix()).parent == Path(sys.executable).parent


def test_a_shell_that_gets_sigterm_lets_its_command_end_first() -> None:
    command = jobs.Jobs().prefix() + "echo started; sleep 0.3; echo saved"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None and shell.stdout.readline() == "started\n"
        shell.terminate()
        assert shell.stdout.read() == "saved\n"
        assert shell.wait() == 0


def test_in_a_container_python_is_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    outside = jobs.Jobs().prefix()
    monkeypatch.setattr(jobs, "CONTAINER", str(tmp_path))
    prefixes = (outside, jobs.Jobs().prefix())
    said = [subprocess.run(["bash", "-c", one + "echo $PATH"], capture_output=True, text=True).stdout for one in prefixes]
    assert [one.strip() for one in said] == [f"{Path(sys.executable).parent}:/usr/bin:/bin", "/usr/bin:/bin"]
