"""The program that takes the place of the interpreter: what it does as an interpreter would, and what it has one do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import preloaded


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([preloaded.python(), *arguments], capture_output=True, text=True, **options)


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
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    client = subprocess.Popen([preloaded.python(), "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    with client.stdout:
        process = Path("/proc", client.stdout.readline().strip())
    assert process.exists()
    client.send_signal(number)
    assert client.wait() == -number
    patience = time.monotonic() + 10
    while process.exists() and time.monotonic() < patience:
        time.sleep(0.01)
    assert not process.exists()
