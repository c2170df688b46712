"""HumanEval, Chen et al. 2021 (``openai/openai_humaneval``), and EvalPlus's HumanEval+: a function stub to complete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.example import Example, Record, text
from evaluation.graders import evalplus
from evaluation.graders.code import CODE_GRADERS, CodeExample
from evaluation.sets.base import EvaluationSet
from evaluation.sets.training import fenced

if TYPE_CHECKING:
    from evaluation.sandbox.run import Job

_DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
#: Where the prose of a docstring ends and its examples begin.
_EXAMPLES = re.compile(r"^\s*(>>>|(for )?examples?\b)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class _HumanEvalExample(CodeExample):
    def source(self, program: str) -> str:
        """What precedes the function in the stub goes first, so that its imports and helpers exist; a completion that does
        not define the function is taken as its body."""
        prompt, entry_point = self.record["prompt"], self.record["entry_point"]
        definition = rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b"
        if not re.search(definition, program, re.MULTILINE):
            return prompt + _as_body(program)
        return re.split(definition, prompt, maxsplit=1, flags=re.MULTILINE)[0] + "\n" + program

    def job(self, program: str) -> Job:
        from evaluation.sandbox.run import Job

        record = self.record
        return Job(
            source=self.source(program),
            tests=f"{record['test']}\ncheck({record['entry_point']})\n",
            names=(record["entry_point"],),
            # Tests see the helpers of the reference solution, never the program's.
            reference=record["prompt"] + record["canonical_solution"],
        )


def _as_body(program: str) -> str:
    """The program as a function body: indented, unless it is already."""
    first = next((line for line in program.split("\n") if line.strip()), "")
    if first[:1].isspace():
        return program
    return "\n".join("    " + line if line.strip() else line for line in program.split("\n"))


def _read(record: Record, row: int, where: str) -> Example:
    prompt = text(record, "prompt", where)
    for name in ("test", "entry_point"):
        text(record, name, where)
    return _HumanEvalExample(
        id=text(record, "task_id", where),
        query=prompt,
        gold=None,
        record=record,
        reference=fenced(prompt + text(record, "canonical_solution", where)),
        evalplus=evalplus.read(record, dataset="humaneval", where=where),
    )


def _description(example: Example) -> str:
    """The prose of the stub's docstring (StarCoder, arXiv 2305.06161, section 3 looks for HumanEval's docstrings likewise)."""
    docstrings = _DOCSTRING.findall(example.query)
    prose = _EXAMPLES.split(docstrings[-1][1], maxsplit=1)[0] if docstrings else ""
    return prose.strip() or example.query


SETS = (
    EvaluationSet(
        name="humaneval",
        label="HumanEval",
        read=_read,
        graders=CODE_GRADERS,
        protocols={
            "sound": {"prompt_template": "alpaca-humaneval", "max_new_tokens": 512, "grader": "code_tests"},
            "paper": {"prompt_template": "pissa-humaneval", "max_new_tokens": 1024, "grader": "pissa_code_tests"},
        },
        metric="pass@1",
        core=_description,
        paper_domain="code",
    ),
)
