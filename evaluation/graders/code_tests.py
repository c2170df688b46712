"""From a code task's record and a program to a job of the sandbox. Nothing runs here; no torch.

Which names in a test belong to the program is decided from the set's own reference solution, never from the program:
else a program could define ``set`` or ``sorted`` and have the tests use it.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from typing import Any

from evaluation.sandbox.run import Job
from evaluation.sets.examples import Example


def job_of(format: str, example: Example, program: str) -> Job:
    """The job that runs a program against the tests of its record.

    Raises:
        ValueError: the example has no record, or the record no tests.
    """
    record = example.record
    if record is None:
        raise ValueError(f"{example.id}: found no record, expected one with tests")
    if format == "humaneval":
        return Job(
            source=source_of(format, example, program),
            tests=f"{record['test']}\ncheck({record['entry_point']})\n",
            names=(record["entry_point"],),
            # Tests see the helpers of the reference solution, never the program's.
            reference=record["prompt"] + record["canonical_solution"],
        )
    if "test_list" not in record:
        raise ValueError(f"{example.id}: field 'test_list' is missing, expected a list of assertions")
    return _mbpp_job(record, program)


def source_of(format: str, example: Example, program: str) -> str:
    """What is run for a program. For HumanEval, what precedes the function in the stub goes first, so that its imports and
    helpers exist; a completion that does not define the function is taken as its body."""
    if format != "humaneval" or example.record is None:
        return program
    prompt, entry_point = example.record["prompt"], example.record["entry_point"]
    definition = rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b"
    if not re.search(definition, program, re.MULTILINE):
        return prompt + _as_body(program)
    return re.split(definition, prompt, maxsplit=1, flags=re.MULTILINE)[0] + "\n" + program


def _as_body(program: str) -> str:
    """The program as a function body: indented, unless it is already."""
    first = next((line for line in program.split("\n") if line.strip()), "")
    if first[:1].isspace():
        return program
    return "\n".join("    " + line if line.strip() else line for line in program.split("\n"))


def _mbpp_job(record: dict[str, Any], program: str) -> Job:
    setup = record.get("test_setup_code") or "\n".join(record.get("test_imports") or [])
    tests = "\n".join([setup, *record["test_list"]])
    imports, defined = _imports_and_definitions(record.get("code", ""))
    called, read = _used_names(ast.parse(tests), known=_imported(imports), defined=defined)
    return Job(
        source=program,
        tests=tests,
        reference=imports,
        names=tuple(sorted(called)),
        values=tuple(sorted(read - called)),
    )


def _imports_and_definitions(code: str) -> tuple[str, set[str]]:
    """The import statements of a reference solution, and the names that it defines at top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = ast.parse(code.replace("\r\n", "\n")).body
    imports = "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom))
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        target.id for node in body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)
    }
    return imports, defined


def _imported(source: str) -> set[str]:
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _used_names(tests: ast.Module, *, known: set[str], defined: set[str]) -> tuple[set[str], set[str]]:
    """(called, read) names in the tests that belong to the program: those that the reference solution defines, and
    those that nobody does."""
    nodes = list(ast.walk(tests))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | _imported(ast.unparse(tests)) | known
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    of_program = {node.id for node in names} - own
    of_program = {name for name in of_program if name in defined or not hasattr(builtins, name)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return of_program & called, of_program
