"""What Snakemake itself costs while jobs run and others wait."""

from __future__ import annotations

import re
from pathlib import Path

from tests.workflow.test_dag import Copy

#: Rule -> what it does here in the place of its command.
STAND_INS = {
    "base_model": "mkdir {output}",
    "train": "sleep 0.7; mkdir -p {output.adapter}; touch {output.record}",
    "evaluate": "sleep 0.7; mkdir -p {output.predictions}; touch {output.metrics}",
    "table": "touch {output}",
}


def replace_commands(snakefile: Path) -> None:
    """Put the stand-ins into a copy of the Snakefile, and drop the summary of a table that has no records."""
    text = snakefile.read_text()
    for rule, command in STAND_INS.items():
        pattern = rf'(\nrule {rule}:.*?\n    shell:\n)(?: {{8}}"[^\n]*\n)+'
        text, replaced = re.subn(pattern, lambda match, c=command: f'{match[1]}        "{c}"\n', text, count=1, flags=re.DOTALL)
        assert replaced == 1, rule
    snakefile.write_text(text[: text.index("\nonsuccess:")])


def test_the_scheduler_wakes_once_for_each_job_that_ends(tmp_path: Path) -> None:
    """Two runs at a time of eight: passes over the waiting jobs come from jobs, not from timers that never stop."""
    copy = Copy(tmp_path)
    replace_commands(copy.root / "Snakefile")
    done = copy.snakemake("--verbose", "--config", "seeds=4")
    assert done.returncode == 0, done.stderr + done.stdout
    output = done.stdout + done.stderr
    jobs = len(re.findall(r"^Finished jobid", output, flags=re.MULTILINE))
    passes = len(re.findall(r"^Ready jobs: \d+$", output, flags=re.MULTILINE))
    assert jobs == 1 + 8 + 8 + 1 + 1  # base model, train, evaluate, table, target
    assert 0 < passes <= jobs + 1
