"""A method in a package of someone else's, the README's example: installed, it goes through the whole workflow."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import readme
from tests.workflow.test_dag import SNAKEMAKE, Copy, edit

#: A minute of CPU time; the first test waits for the whole workflow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
#: The README's example beside LoRA, and with a ratio at which it is LoRA. Without dropout the three draw the same numbers.
METHODS = {
    "lora": {},
    "lora-plus": {},
    "lora-plus-1": {"method": "lora-plus", "label": "LoRA+ (1)", "settings": {"ratio": 1}},
}
CHANGES = {"methods": METHODS, "tables.table1.methods": {"llama-mini": list(METHODS)}, "adapter.lora_dropout": 0.0}


class CopyWithPlugin(Copy):
    """A copy of the project in an environment in which the example is installed."""

    def __init__(self, root: Path, *, site: Path) -> None:
        self.site = site
        root.mkdir()
        super().__init__(root)

    def configure(self, **changes: object) -> None:
        super().configure(**{**CHANGES, **changes})

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{self.root}:{self.site}"}
        return subprocess.run(
            [SNAKEMAKE, "--cores", "2", *arguments], cwd=self.root, env=environment, capture_output=True, text=True
        )

    def run_folder(self, method: str) -> Path:
        return self.root / f"results/mini/math/llama-mini/{method}/seed0"

    def record(self, method: str) -> dict:
        return json.loads((self.run_folder(method) / "train.json").read_text())


def install(source: Path, site: Path) -> None:
    """Write the example as a package and install it, as its author would, with nothing but what is installed already."""
    source.mkdir()
    (source / "my_package.py").write_text(readme.example("method"))
    entry_point = next(block for block in readme.blocks("toml") if "entry-points" in block)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        '[project]\nname = "my-package"\nversion = "1.0"\n\n[tool.setuptools]\npy-modules = ["my_package"]\n\n' + entry_point
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            site,
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            source,
        ],
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> CopyWithPlugin:
    """The miniature with the plugged-in method, from its base model to Table 1."""
    folder = tmp_path_factory.mktemp("plugin")
    install(folder / "source", folder / "site")
    copy = CopyWithPlugin(folder / "project", site=folder / "site")
    done = copy.snakemake()
    assert done.returncode == 0, done.stderr + done.stdout
    return copy


def test_it_is_trained_evaluated_and_in_the_table(finished: CopyWithPlugin) -> None:
    record = finished.record("lora-plus")
    assert record["status"] == "success"
    method = record["spec"]["method"]
    assert (method["name"], method["label"], method["settings"]["ratio"]) == ("lora-plus", "LoRA+", 16.0)
    metrics = json.loads((finished.run_folder("lora-plus") / "metrics.json").read_text())
    assert metrics["tasks"]["gsm8k"]["n"] == 8
    assert len((finished.run_folder("lora-plus") / "predictions/gsm8k.jsonl").read_text().splitlines()) == 8
    table = finished.root / "results/mini/tables/table1.md"
    assert "| LoRA+ " in table.read_text()
    rows = list(csv.reader(table.with_suffix(".csv").open()))
    assert any("lora-plus" in row for row in rows)


def test_its_mechanism_happened(finished: CopyWithPlugin) -> None:
    """At a ratio of 1 it is LoRA to the bit. At 16, B is another after the same steps, and larger."""
    weights = {name: load_file(finished.run_folder(name) / "adapter/adapter_model.safetensors") for name in METHODS}
    assert finished.record("lora-plus-1")["artefact"] == finished.record("lora")["artefact"]
    assert finished.record("lora-plus")["artefact"] != finished.record("lora")["artefact"]
    norms = {
        name: sum(float(value.norm()) for key, value in tensors.items() if "lora_B" in key) for name, tensors in weights.items()
    }
    assert norms["lora-plus"] > 3 * norms["lora"] > 0


def test_its_model_card_is_complete_and_names_no_folder(finished: CopyWithPlugin) -> None:
    for method in METHODS:
        adapter = finished.run_folder(method) / "adapter"
        card = (adapter / "README.md").read_text()
        assert "More Information Needed" not in card and "| `ratio` | 16 |" in card or method != "lora-plus"
        for path in adapter.rglob("*.*"):
            assert str(finished.root).encode() not in path.read_bytes(), path
        assert ".models" not in card


def test_nothing_is_left_to_do_until_its_source_changes(finished: CopyWithPlugin) -> None:
    """The model cards, which the evaluation writes into a folder of the training, do not count as a change."""
    assert finished.planned() == {}
    source = finished.site / "my_package.py"
    edit(source)
    assert finished.planned() == {"train": 2, "evaluate": 2, "table": 1}
