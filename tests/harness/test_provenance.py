"""What a record says about the code that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import provenance


def test_a_checkout_is_dirty_where_its_code_is_and_not_where_runs_wrote(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=b", *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    assert provenance.git_state(tmp_path) == {"commit": None, "dirty": None}
    files = [tmp_path / name for name in ("harness/code.py", "config/tiny.yaml", "results/small/train.json")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    code, setting, record = files
    record.write_text("2")
    state = provenance.git_state(code.parent)
    assert state["dirty"] is False and len(state["commit"]) == 40
    setting.write_text("2")
    assert provenance.git_state(code.parent)["dirty"] is True
