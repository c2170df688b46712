"""packages/beamlora as a distribution of its own: what it needs, what is in its wheel, and the notebook that uses it alone."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file

from beamlora import BeamLora
from tests.beamlora.beam_fixtures import beam_model
from tests.paths import ROOT

FOLDER = ROOT / "packages/beamlora"
NOTEBOOK = ROOT / "examples/beamlora.ipynb"
NEEDED = {"packaging", "peft", "safetensors", "torch", "transformers"}
#: transformers' command line alone needs typer, which needs pydantic.
NOT_LINKED = {"typer"}


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_it_imports_its_dependencies_and_nothing_else() -> None:
    imported = set()
    for path in (FOLDER / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {"beamlora", *NEEDED}


def test_both_distributions_ask_for_the_same_releases() -> None:
    """The harness is tested with its own ranges, and holds the same module."""
    own, whole = project(FOLDER), project(ROOT)
    assert {re.match(r"\w+", needed).group() for needed in own["dependencies"]} == NEEDED
    assert set(own["dependencies"]) <= set(whole["dependencies"]) and own["version"] == whole["version"]
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / "beamlora").resolve() == FOLDER / "src/beamlora"


def check(output: str, folder: Path) -> None:
    """What the notebook printed and wrote: ranks were pruned, and stock PEFT computes what was trained."""
    pruned = {int(step): int(k) for step, k in re.findall(r"after step (\d+): .* (\d+) ranks pruned", output)}
    assert list(pruned) == [4, 8, 12] and pruned[4] > 0
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert not any("lora_gate" in key for key in load_file(folder / "adapter_model.safetensors"))
    difference = re.search(r"logits differ by at most (\S+)", output)
    assert difference is not None and float(difference.group(1)) < 1e-5


def test_the_notebook_goes_from_a_model_to_an_exported_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = code_cells()
    assert len(cells) == 5
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"{NOTEBOOK.name}: code cell {number + 1}", "exec"), names)
    check(capsys.readouterr().out, tmp_path / "adapter")
    assert max(tensor.abs().max() for tensor in load_file("adapter/adapter_model.safetensors").values()) > torch.finfo().eps


def needed_by(names: set[str]) -> dict[str, metadata.Distribution]:
    """The distributions of this environment with these names, and those that they need, by normalised name."""
    found: dict[str, metadata.Distribution] = {}
    left = sorted(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found and name not in NOT_LINKED:
            found[name] = metadata.distribution(name)
            wanted = map(Requirement, found[name].requires or [])
            left += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def empty_environment(folder: Path) -> tuple[Path, Path]:
    """An environment that holds what the package declares, and what that needs, linked from this one; and nothing else.

    Returns:
        Its interpreter and its folder of packages.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    declared = {Requirement(needed).name for needed in project(FOLDER)["dependencies"]}
    for distribution in needed_by(declared).values():
        parts = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for part in parts:
            if not (site / part).exists() and not part.endswith(".pth"):
                (site / part).symlink_to(Path(str(distribution.locate_file(part))))
    return folder / "bin/python", site


@pytest.mark.slow
def test_the_wheel_runs_the_notebook_in_an_environment_of_what_it_declares(tmp_path: Path) -> None:
    """Built from a copy, since setuptools writes beside its sources."""
    shutil.copytree(FOLDER, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([*build, tmp_path / "source"], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("beamlora-*.whl")
    python, site = empty_environment(tmp_path / "environment")
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    assert (site / "beamlora/py.typed").is_file()
    assert [path.name for path in site.glob("beamlora-*/licenses/*")] == ["LICENSE"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    for absent in ("harness", "methods", "evaluation", "pydantic", "datasets", "snakemake", "pandas"):
        assert f"No module named '{absent}'" in run("-c", f"import {absent}").stderr, absent
    names = "BeamLoraConfig, BeamLoraCallback, BeamLora, export_lora"
    last = f"import beamlora\nfrom beamlora import {names}\nprint(beamlora.__file__)\n"
    (tmp_path / "notebook.py").write_text("\n\n".join([*code_cells(), last]))
    done = run("notebook.py")
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "adapter")
    assert done.stdout.splitlines()[-1] == str(site / "beamlora/__init__.py")


def test_the_loop_of_the_readme_operates_in_the_first_two_epochs() -> None:
    (line,) = re.findall(r"`beam = (BeamLora\(.*?\))`,", (FOLDER / "README.md").read_text())
    model = beam_model(horizon_steps=None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    loop = {"BeamLora": BeamLora, "model": model, "optimizer": optimizer, "loader": range(16)}
    assert eval(line, loop).schedule.pruning_steps() == [6, 12, 18, 24, 30]
