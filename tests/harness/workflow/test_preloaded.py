"""The program that takes the place of the interpreter: what it does as an interpreter would, and what it has one do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.workflow.preloaded import Parent
from tests import preloaded


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([preloaded.python(), *arguments], capture_output=True, text=True, **options)


def sleeping(program: str, before: str = "pass") -> tuple[subprocess.Popen[str], Path]:
    """A call that sleeps, and its process in /proc."""
    code = f"import os, time; {before}; print(os.getpid(), flush=True); time.sleep(60)"
    client = subprocess.Popen([program, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    process = Path("/proc", client.stdout.readline().strip())
    assert process.exists()
    return client, process


def ends(process: Path) -> bool:
    patience = time.monotonic() + 10
    while process.exists() and time.monotonic() < patience:
        time.sleep(0.01)
    return not process.exists()


LOADED = "import sys; print('torch' in sys.modules, 'harness' in sys.modules, *sys.argv)"


def test_it_has_the_packages_and_nothing_of_this_project() -> None:
    """Also with whatever the tests' own imports have put into the environment."""
    done = run("-c", LOADED, "a", "-b")
    assert (done.returncode, done.stdout) == (0, "True False -c a -b\n"), done.stderr


@pytest.mark.parametrize("arguments", [["-s", "-c", LOADED], ["-c", LOADED]])
def test_what_only_a_new_interpreter_does_is_given_to_one(arguments: list[str]) -> None:
    environment = os.environ if arguments[0] == "-s" else {**os.environ, "PYTHONHASHSEED": "1"}
    assert run(*arguments, env=environment).stdout == "False False -c\n"


def test_modules_and_scripts_come_from_the_folder_and_the_path_of_the_call(tmp_path: Path) -> None:
    code = "import sys, other; print(__name__, other.VALUE, sys.argv[1:]); sys.exit(input())"
    for name, text in {"here/main.py": code, "there/other.py": "VALUE = 7", "script/run.py": code}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    for arguments in (["-m", "main"], ["../script/run.py"]):
        done = run(*arguments, "a", cwd=tmp_path / "here", env=environment, input="why\n")
        assert (done.returncode, done.stdout, done.stderr) == (1, "__main__ 7 ['a']\n", "why\n")


def test_it_ends_as_its_process_does() -> None:
    assert run("-c", "raise SystemExit(3)").returncode == 3
    raised = run("-c", "import atexit; atexit.register(print, 'last'); 1 / 0")
    assert (raised.returncode, raised.stdout) == (1, "last\n") and raised.stderr.endswith("division by zero\n")
    assert run("-c", "import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_process_ends_with_it(number: int) -> None:
    client, process = sleeping(preloaded.python())
    client.send_signal(number)
    assert client.wait() == -number
    assert ends(process)


# ------------------------------------------------------------------------------------------------- a parent of one's own


def loading(folder: Path, module: str) -> Parent:
    """A parent that imports this instead of packages."""
    (folder / "loaded.py").write_text(module)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with (folder / "log").open("w") as log:
        return Parent(["loaded"], environment=environment, executable=sys.executable, log=log)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    parent = loading(tmp_path, "number = 0")
    yield parent
    parent.close()
    assert not Path(parent.program).parent.exists()


def said(parent: Parent, code: str) -> str:
    return subprocess.run([parent.program, "-c", code], capture_output=True, text=True, check=True).stdout


def test_calls_share_the_imports_and_nothing_that_a_call_does(parent: Parent) -> None:
    code = "import loaded, os, sys; loaded.number += 1; print(loaded.number, os.getppid(), sys.executable)"
    first = said(parent, code)
    assert first == said(parent, code) and first.split()[::2] == ["1", sys.executable]


def test_a_call_costs_its_caller_next_to_nothing(parent: Parent) -> None:
    said(parent, "")
    client = subprocess.Popen([parent.program, "-c", ""])
    _, status, spent = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    assert status == 0 and spent.ru_utime + spent.ru_stime < 0.1


def test_an_interrupt_reaches_the_process_unless_the_caller_ignores_it(parent: Parent) -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may ignore it
    try:
        client, process = sleeping(parent.program)
    finally:
        signal.signal(signal.SIGINT, heard)
    client.send_signal(signal.SIGINT)
    assert client.wait() == 1 and ends(process)  # a KeyboardInterrupt
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        client, process = sleeping(parent.program)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    client.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(timeout=0.3)
    assert process.exists()
    client.kill()
    assert client.wait() == -signal.SIGKILL and ends(process)


def test_all_processes_end_with_the_parents_user(tmp_path: Path) -> None:
    parent = loading(tmp_path, "")
    calls = [sleeping(parent.program) for _ in range(2)]
    assert 0 < parent.close() < 5
    for client, process in calls:
        assert ends(process) and client.wait() == 143, "by an exit status, of which no shell makes a line"


def test_calls_outlive_a_parent_that_is_killed_and_one_of_them_says_so(parent: Parent) -> None:
    """Each begins again in an interpreter of its own, after the process that was forked for it has ended."""
    pid = int(said(parent, "import os; print(os.getppid())"))
    here = f"again = os.getppid() != {pid}; again and os._exit(7)"
    calls = [sleeping(parent.program, here) for _ in range(2)]
    os.kill(pid, signal.SIGKILL)
    output = ""
    for client, process in calls:
        assert client.wait(timeout=20) == 7 and ends(process)
        assert client.stdout is not None
        output += client.stdout.read()
    output += said(parent, "print('next')")
    line = "the process that starts jobs is gone: from now on each job starts, and imports, by itself\n"
    assert output == f"{line}next\n"


def test_a_parent_with_threads_does_not_fork(tmp_path: Path) -> None:
    """A lock that one of them held would be held for ever."""
    parent = loading(tmp_path, "import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()")
    assert said(parent, "print('alone')").endswith("by itself\nalone\n")
    assert "found 2 threads after the imports, expected 1" in (tmp_path / "log").read_text()
    parent.close()
