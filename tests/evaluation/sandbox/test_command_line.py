"""``python -m evaluation.sandbox FILE.py --tests TESTS.json``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.sandbox import __main__ as command_line
from evaluation.sandbox.run import level

SPEC = {"entry_point": "f", "inputs": [[1], [2]], "expected": [2, 3], "timeout_s": 1, "memory_mb": 300}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "evaluation.sandbox", *arguments], capture_output=True, text=True, timeout=60)


def test_a_program_is_run_and_its_record_printed(tmp_path: Path) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("print('hello')\ndef f(x): return x + 1")
    tests.write_text(json.dumps(SPEC))
    done = command(str(program), "--tests", str(tests))
    assert done.returncode == 0 and done.stderr == ""
    last = json.loads(done.stdout.strip().split("\n")[-1])
    assert 0 < last.pop("seconds") < 30
    assert last == {
        "outcome": "passed",
        "detail": "",
        "retried": False,
        "level": level(),
        "timeout_s": 1,
        "memory_mb": 300,
        "scratch_mb": 16,
        "files": 2000,
        "processes": 64,
    }


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("def f(x): return x", "failed"),
        ("def f(x): open('/etc/passwd')", "forbidden"),
        ("def f(x):\n    while True: pass", "timed_out"),
        ("x = bytearray(1 << 40)", "out_of_memory"),
        ("\0", "failed"),
        ("\udcff", "failed"),
    ],
)
def test_the_exit_status_is_0_whatever_the_outcome(
    source: str, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text(source, errors="surrogateescape")
    tests.write_text(json.dumps(SPEC))
    assert command_line.main([str(program), "--tests", str(tests)]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


@pytest.mark.parametrize(
    ("value", "expected", "atol", "outcome"),
    [
        ("42", 42, 0, "passed"),
        ("42.0", 42, 0, "passed"),
        ("42.0000005", 42, 0, "failed"),
        ("42.0000005", 42, 1e-6, "passed"),
        ("42.0000005", 42.0, 0, "passed"),
        ("42.00005", 42.0, 0, "failed"),
        ("(1, [2.0000005])", [1, [2]], 0, "failed"),
        ("(1, (2,))", [1, [2]], 0, "passed"),
        ("{'a': (1,)}", {"a": [1]}, 0, "passed"),
        ("{'a': 1.0000005}", {"a": 1}, 0, "failed"),
        ("float('nan')", math.nan, 0, "failed"),
    ],
)
def test_values_are_compared_by_the_rule_of_the_graders(
    value: str, expected: Any, atol: float, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text(f"def f(): return {value}")
    tests.write_text(json.dumps({"entry_point": "f", "inputs": [[]], "expected": [expected], "atol": atol, "timeout_s": 20}))
    assert command_line.main([str(program), "--tests", str(tests)]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_a_float_before_it_brings_no_tolerance_for_a_whole_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("def f(x): return x")
    spec = {"entry_point": "f", "inputs": [[0.5], [42.0000005]], "expected": [0.5, 42], "timeout_s": 20}
    tests.write_text(json.dumps(spec))
    assert command_line.main([str(program), "--tests", str(tests)]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "failed"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("{", "Expecting"),
        ("[]", "found list"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "utf-8"),
        ({"entry_point": "f"}, "found keys entry_point, expected entry_point, inputs, expected"),
        ({**SPEC, "timeout": 1}, "timeout"),
        ({**SPEC, "entry_point": 1}, "entry_point: found 1, expected a string"),
        ({**SPEC, "inputs": {}}, "inputs: found {}, expected a list"),
        ({**SPEC, "inputs": [[1], 1]}, "inputs[1]: found 1, expected a list of arguments"),
        ({**SPEC, "expected": []}, "found 2 inputs and 0 expected values"),
        ({**SPEC, "timeout_s": "1"}, 'timeout_s: found "1", expected a number'),
        ({**SPEC, "timeout_s": 0}, "timeout_s: found 0, expected at least"),
        ({**SPEC, "timeout_s": float("inf")}, "timeout_s: found inf"),
        ({**SPEC, "memory_mb": 1.5}, "memory_mb: found 1.5, expected a whole number"),
        ({**SPEC, "memory_mb": True}, "memory_mb: found true, expected a whole number"),
        ({**SPEC, "memory_mb": 1}, "memory_mb: found 1, expected at least 32"),
        ({**SPEC, "atol": -1}, "atol: found -1, expected at least 0"),
    ],
    ids=range(17),
)
def test_bad_tests_are_named(spec: Any, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("")
    tests.write_text(spec if isinstance(spec, str) else json.dumps(spec), errors="surrogateescape")
    assert command_line.main([str(program), "--tests", str(tests)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tests}: ") and named in error and error.count("\n") == 1


@pytest.mark.parametrize("missing", ["p.py", "t.json"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("")
    tests.write_text(json.dumps(SPEC))
    (tmp_path / missing).unlink()
    assert command_line.main([str(program), "--tests", str(tests)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / missing}: No such file or directory\n"


def test_the_least_memory_is_enough_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, tests = tmp_path / "p.py", tmp_path / "t.json"
    program.write_text("def f(x): return x + 1")
    tests.write_text(json.dumps({**SPEC, "memory_mb": 32, "timeout_s": 10}))
    assert command_line.main([str(program), "--tests", str(tests)]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "passed"


def test_bad_options_exit_with_2() -> None:
    assert command("p.py").returncode == 2
    assert command("p.py", "--tests", "t.json", "--unsafe").returncode == 2
