"""The docs' example of data of one's own, typed as written in a fresh checkout."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import own_data, readme
from tests.workflow.test_dag import Copy

#: Fewer seeds and steps than the commands have.
SHORTER = ("--config", "seeds=1", "training={max_steps: 26, save_steps: 26}")


@pytest.mark.slow  # what is read and asked is tested in tests/harness/data and tests/harness/evaluate
@pytest.mark.timeout(900)
def test_data_of_ones_own_is_checked_trained_on_asked_and_in_the_table(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    own_data.write_example(tmp_path)
    check, workflow = (shlex.split(line) for line in readme.example("own-data-commands").splitlines())
    process = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True}
    checked = subprocess.run([sys.executable, *check[1:]], **process)
    assert checked.returncode == 0 and "sums: 40 training rows" in checked.stdout, checked.stderr
    options = (*workflow[3:], *SHORTER)
    made = copy.snakemake(*options)
    assert made.returncode == 0, made.stderr + made.stdout
    for method in ("lora", "beamlora"):
        run = tmp_path / f"results/mine/sums/llama-demo/{method}/seed0"
        metrics = json.loads((run / "metrics.json").read_text())
        assert {name: (task["n"], task["grader"]) for name, task in metrics["tasks"].items()} == {
            "sums": (16, "number"),
            "quiz": (12, "label"),
        }
        assert metrics["contamination"]["sums"]["exact"] == 1
        assert all(task["gold_nll"] > 0 for task in metrics["tasks"].values())
        assert "loglikelihood" in metrics["tasks"]["quiz"]["graders"]
    table = (tmp_path / "results/mine/tables/table1.md").read_text()
    assert "sums" in table and "quiz" in table and "BeamLoRA" in table
    assert copy.planned(*options) == {}
    (tmp_path / "data/test.jsonl").write_text((tmp_path / "data/test.jsonl").read_text().replace("Ann", "Eve"))
    assert copy.planned(*options) == {"evaluate": 2, "table": 1}, "an edited test set trains nothing"
