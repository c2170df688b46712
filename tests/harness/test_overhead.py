"""The CPU time of a workflow's parts, against processes that burn a known amount of it."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import overhead
from tests.paths import ROOT

#: Ends as soon as this process has spent that much CPU time more.
BURN = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
#: A command of the harness: 0.3 s before it runs, 0.5 s in nested imports (of which 0.2 s in the inner one), 0.7 s of work.
COMMAND = """
from burn import burn
from harness import cli
burn(0.3)
def main(argv):
    import outer
    burn(0.7)
    return 1 if argv else 0
cli.run(main)
"""
#: Snakemake's part: 0.4 s before the clock, 0.6 s under it, and two commands.
WORKFLOW = """
import subprocess, sys
from pathlib import Path
from burn import burn
from harness.overhead import WorkflowClock, measured
burn(0.4)
clock = WorkflowClock(Path("results/cpu.jsonl"))
for _ in range(2):
    subprocess.run(f"{sys.executable} command.py", shell=True, check=True)
burn(0.6)
assert measured() is None
clock.stop()
"""
#: Python itself, the imports of the harness, and what a busy machine adds to CPU time, in seconds a process.
SLACK = 1.0


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the workflow above leaves."""
    folder = tmp_path_factory.mktemp("overhead")
    files = {
        "burn.py": BURN,
        "inner.py": "from burn import burn\nburn(0.2)\n",
        "outer.py": "import inner\nfrom burn import burn\nburn(0.3)\n",
        "command.py": COMMAND,
        "workflow.py": WORKFLOW,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    environment.pop(overhead.ENVIRONMENT_VARIABLE, None)
    subprocess.run([sys.executable, "workflow.py"], cwd=folder, env=environment, check=True)
    return folder / "results/cpu.jsonl"


def test_every_part_has_the_time_it_burnt(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(overhead.ENVIRONMENT_VARIABLE, str(workflow))
    spent = overhead.measured()
    assert spent is not None and spent.processes == 2
    assert 0.4 <= spent.snakemake_start_s < 0.4 + SLACK
    assert 0.6 <= spent.snakemake_s < 0.7
    assert 2 * (0.3 + 0.5) <= spent.starts_s < 2 * (0.3 + 0.5 + SLACK)
    assert 2 * 0.7 <= spent.work_s < 2 * (0.7 + 0.3)
    assert spent.wall_s >= spent.jobs_s + spent.snakemake_s - 0.1  # one after the other


def test_an_import_within_an_import_counts_once(workflow: Path) -> None:
    lines = [json.loads(line) for line in workflow.read_text().splitlines()]
    imports = [line["imports_s"] for line in lines if "imports_s" in line]
    assert len(imports) == 2 and all(0.5 <= seconds < 0.6 for seconds in imports)


def test_the_sentence_states_shares_of_wall_time() -> None:
    spent = overhead.Overhead(wall_s=3600, snakemake_start_s=2, snakemake_s=36, starts_s=720, processes=180, jobs_s=6120)
    assert spent.sentence() == (
        "Overhead: CPU time in shares of the 1 h 00 min that this run took (one busy core is 100 %): Snakemake 1.0 % (36 s, "
        "and 2 s to start it), starts and imports of 180 processes 20.0 % (12 min 00 s), their work 150.0 % (1 h 30 min)."
    )


def test_imports_made_once_for_all_jobs_are_a_start_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(overhead.ENVIRONMENT_VARIABLE, "")  # put back afterwards
    overhead.WorkflowClock(tmp_path / "cpu.jsonl").stop(preloading_s=7.5)
    spent = overhead.measured()
    assert spent is not None and (spent.starts_s, spent.processes) == (7.5, 1)


def test_outside_a_workflow_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(overhead.ENVIRONMENT_VARIABLE, raising=False)
    before = builtins.__import__
    with overhead.counted():
        assert builtins.__import__ is before
    assert overhead.measured() is None


def test_a_command_that_fails_is_counted_and_leaves_imports_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(overhead.ENVIRONMENT_VARIABLE, str(tmp_path / "cpu.jsonl"))
    before = builtins.__import__
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), overhead.counted():
        import no_such_module  # noqa: F401
    assert builtins.__import__ is before
    assert json.loads((tmp_path / "cpu.jsonl").read_text())["imports_s"] > 0


def test_a_record_that_cannot_be_written_fails_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(overhead.ENVIRONMENT_VARIABLE, str(tmp_path / "gone" / "cpu.jsonl"))
    with overhead.counted():
        done = True
    assert done and not (tmp_path / "gone").exists()


def test_imports_of_another_thread_pass_uncounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_import.py").write_text(BURN + "burn(0.2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    clock = overhead.ImportClock()
    with clock.running():
        thread = threading.Thread(target=lambda: __import__("slow_import"))
        thread.start()
        thread.join()
    assert "slow_import" in sys.modules and clock.seconds < 0.1
