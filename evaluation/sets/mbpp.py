"""MBPP, Austin et al. 2021 (``google-research-datasets/mbpp``), and EvalPlus's MBPP+: a task in a sentence and assertions.

Which names in a test belong to the program is decided from the set's own reference solution, never from the program:
else a program could define ``set`` or ``sorted`` and have the tests use it.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.example import Example, Record, field, text
from evaluation.graders import evalplus
from evaluation.graders.code import CODE_GRADERS, CodeExample
from evaluation.sets.base import EvaluationSet
from evaluation.sets.training import fenced

if TYPE_CHECKING:
    from evaluation.sandbox.run import Job

#: What stands between the task and the assertion that is shown.
_ASSERTION = " Your code should satisfy the following assertion:"


@dataclass(frozen=True, kw_only=True)
class _MbppExample(CodeExample):
    def source(self, program: str) -> str:
        return program

    def job(self, program: str) -> Job:
        from evaluation.sandbox.run import Job

        record = self.record
        if "test_list" not in record:
            raise ValueError(f"{self.id}: field 'test_list' is missing, expected a list of assertions")
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


def _read(record: Record, row: int, where: str) -> Example:
    """Rows of MBPP itself, or of EvalPlus's MBPP+: as on the hub, or as released, where the prompt is a docstring that ends
    in one assertion."""
    if evalplus.is_release(record):
        body = text(record, "prompt", where).strip().strip('"').strip()
        task, mark, assertion = body.rpartition("\nassert ")
        if not mark:
            raise ValueError(f"{where}: field 'prompt': found no assertion, expected EvalPlus's docstring with one")
        assertion, solution = "assert " + assertion, "canonical_solution"
    else:
        tests = field(record, "test_list", where)
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise ValueError(f"{where}: field 'test_list': found {str(tests)[:60]}, expected a list of assertions")
        task, assertion, solution = text(record, "text" if "text" in record else "prompt", where), tests[0], "code"
    task = task.strip()
    task += "" if task.endswith(".") else "."
    return _MbppExample(
        id=f"Mbpp/{str(field(record, 'task_id', where)).rpartition('/')[2]}",
        query=f"{task}{_ASSERTION}\n```python\n{assertion.strip()}\n```",
        gold=None,
        record=record,
        reference=fenced(text(record, solution, where)),
        evalplus=evalplus.read(record, dataset="mbpp", where=where),
    )


def _description(example: Example) -> str:
    return example.query.partition(_ASSERTION)[0]


SETS = (
    EvaluationSet(
        name="mbpp",
        label="MBPP",
        read=_read,
        graders=CODE_GRADERS,
        protocols={
            "sound": {"prompt_template": "alpaca-mbpp", "max_new_tokens": 512, "grader": "code_tests"},
            "paper": {"prompt_template": "pissa-mbpp", "max_new_tokens": 1024, "grader": "pissa_code_tests"},
        },
        metric="pass@1",
        core=_description,
        # Its splits share tasks with MBPP+.
        all_splits={
            "hub_id": "google-research-datasets/mbpp",
            "hub_config": "full",
            "split": "train+test+validation+prompt",
            "local": "mbpp/mbpp.jsonl",
            "rows": 974,
        },
        paper_domain="code",
    ),
)
