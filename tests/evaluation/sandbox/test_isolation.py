"""Which level is used is found by trying; without one nothing runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.sandbox import bubblewrap, confinement, isolation, seccomp
from evaluation.sandbox.isolation import BUBBLEWRAP, LANDLOCK, UNSAFE, SandboxUnavailable, choose
from evaluation.sandbox.run import Job, run

JOB = Job(source="def f(x): return x + 1", entry_point="f", inputs=((1,),), expected=(2,))


def reasons(monkeypatch: pytest.MonkeyPatch, **by_level: str | None) -> list[str]:
    """Give the self-tests these results; the levels tried are appended to the list."""
    tried: list[str] = []

    def self_test(level: str) -> str | None:
        tried.append(level)
        return by_level[level]

    monkeypatch.setattr(isolation, "self_test", self_test)
    return tried


def test_bubblewrap_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = reasons(monkeypatch, bubblewrap=None, landlock=None)
    assert choose() == BUBBLEWRAP and tried == [BUBBLEWRAP]


def test_landlock_where_bubblewrap_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = reasons(monkeypatch, bubblewrap="no namespaces", landlock=None)
    assert choose() == LANDLOCK and tried == [BUBBLEWRAP, LANDLOCK]


def test_else_a_refusal_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons(monkeypatch, bubblewrap="no namespaces", landlock="no Landlock")
    expected = "bubblewrap: no namespaces; landlock: no Landlock.*install bubblewrap.*--allow-unsafe"
    with pytest.raises(SandboxUnavailable, match=expected):
        choose()
    assert choose(allow_unsafe=True) == UNSAFE


def test_allowing_the_unsafe_does_not_choose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons(monkeypatch, bubblewrap=None, landlock=None)
    assert choose(allow_unsafe=True) == BUBBLEWRAP


def test_the_unsafe_level_runs_and_says_so() -> None:
    result = run(JOB, isolation=UNSAFE)
    assert result.outcome == "passed" and result.level.startswith("unsafe+rlimits") and "seccomp" not in result.level


def in_tester(code: str) -> str:
    """What a process prints that may change itself, as testers do when they try."""
    done = subprocess.run(
        [sys.executable, "-c", f"from evaluation.sandbox import bubblewrap, confinement, isolation, seccomp\n{code}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    return done.stdout.strip() or done.stderr


@pytest.fixture
def working_bubblewrap() -> None:
    """Skip where it is not installed, or may make no namespaces."""
    if (reason := in_tester("print(isolation.self_test('bubblewrap'))")) != "None":
        pytest.skip(reason)


def test_the_self_test_fails_where_nothing_isolates() -> None:
    """It finds what a program could do without a layer: so it tests something."""
    passed = in_tester("isolation.UNSAFE = 'other'\nprint(isolation.self_test('unsafe'))")
    assert passed.startswith("a probe could ")
    for deed in ("open a connection", "read a file", "start a process"):
        assert deed in passed
    without_landlock = in_tester("confinement.restrict_files = lambda folder: None\nprint(isolation.self_test('landlock'))")
    assert without_landlock.startswith("a probe could read a file") and "process" not in without_landlock
    without_filter = in_tester("seccomp.install = lambda: None\nprint(isolation.self_test('landlock'))")
    assert "start a process" in without_filter


@pytest.mark.parametrize(
    ("level", "change", "reason"),
    [
        ("bubblewrap", "bubblewrap.shutil.which = lambda *a, **k: None", "bwrap is not installed"),
        ("landlock", "confinement.landlock_version = lambda: 0", "no Landlock"),
        ("landlock", "seccomp.program = lambda: None", "no seccomp filter"),
        ("landlock", "isolation.sys.platform = 'darwin'", "needs Linux, this is darwin"),
    ],
)
def test_the_self_test_names_what_is_missing(level: str, change: str, reason: str) -> None:
    assert reason in in_tester(f"{change}\nprint(isolation.self_test({level!r}))")


def test_the_self_test_says_what_bubblewrap_says(working_bubblewrap: None) -> None:
    change = "bubblewrap._NAMESPACES += ('--no-such-option',)"
    assert "no-such-option" in in_tester(f"{change}\nprint(isolation.self_test('bubblewrap'))")


def test_a_sandbox_that_breaks_is_an_error_and_not_a_wrong_program() -> None:
    printed = in_tester(
        "from evaluation.sandbox import tester\ntester._STARTS = 1\n"
        "isolation.bubblewrap.interpreter = lambda: '/none'\n"
        "limits = confinement.ProcessLimits(cpu_s=1, memory_mb=64)\n"
        "try: tester._start_child('landlock', timeout_s=1, limits=limits)\n"
        "except isolation.SandboxUnavailable as error: print(error)"
    )
    assert printed.startswith("a program could not be started under landlock: ") and "/none" in printed


def test_the_filter_is_for_x86_64_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("platform.machine", "aarch64"), ("sys.platform", "darwin")):
        with monkeypatch.context() as patch:
            patch.setattr(f"evaluation.sandbox.seccomp.{name}", (lambda v=value: v) if name == "platform.machine" else value)
            assert seccomp.program.__wrapped__() is None
    assert seccomp.program() is None or len(seccomp.program() or b"") % 8 == 0


def test_limits_on_processes_leave_room_for_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = confinement.ProcessLimits(cpu_s=1, memory_mb=64, processes=10)
    existing = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
    assert limits.allowed_tasks(own_namespace=False) > existing / 2
    release = list(os.uname())
    for text, counted_apart in (("6.18.44-fc", True), ("5.14.0", True), ("5.10.0-30-amd64", False)):
        monkeypatch.setattr(os, "uname", lambda text=text: os.uname_result([release[0], release[1], text, *release[3:]]))
        assert (limits.allowed_tasks(own_namespace=True) == 10) is counted_apart


def test_the_command_line_of_bubblewrap_shows_no_more_than_it_must(working_bubblewrap: None) -> None:
    arguments = in_tester("print(*bubblewrap.command(['python'], scratch_mb=16), sep='\\n')").split("\n")
    assert not {"--bind", "--share-net", "--proc"} & set(arguments)
    shown = [arguments[place + 2] for place, option in enumerate(arguments) if option in ("--ro-bind", "--dev-bind")]
    assert set(shown) == {*confinement.libraries(), "/dev/null", "/dev/urandom", "/dev/zero"}
    assert bubblewrap.SCRATCH in arguments and "--remount-ro" in arguments
