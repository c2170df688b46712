"""PEFT's own tests of a LoRA configuration, from the source package of the installed release, with ``BeamLoraConfig``."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.paths import ROOT

#: Parts of the ids of tests that must pass: PEFT's cases by their names, and tests that have none.
MUST_PASS = (
    *(f"Vanilla MLP {number} BeamLoRA" for number in range(1, 9)),
    "Embedding + transformers Conv1D 1 BeamLoRA-EmbConv1D",
    "Embedding + transformers Conv1D 1 LoRA trainable_tokens-EmbConv1D",
    "[BeamLoRA Same-",
    "[BeamLoRA Different-",
    "BeamLoraConfig-mandatory_kwargs",
    "test_save_pretrained_with_target_modules[",
    "test_set_adapter_non_overlapping_modules[",
    "test_set_adapter_non_overlapping_modules_to_save[",
    "test_multiple_active_adapters_with_same_modules_to_save_raises[",
    "test_multiple_active_adapters_with_overlapping_modules_to_save_raises[",
    "test_multiple_active_adapters_with_different_modules_to_save_works[",
    "test_set_requires_grad[",
    "test_multiple_adapters_mixed_modules_to_save[",
    "test_multiple_adapters_mixed_modules_to_save_order_switched[",
    "test_multiple_active_adapters_forward[LoRA + trainable tokens",
    "test_multiple_active_adapters_merge_and_unmerge[",
    "test_merge_layers_multi[",
    "test_sequential_merge_matches_batch_merge[",
    "test_unmerge_after_sequential_merge_restores_base[",
    "test_loading_model_requires_grad_set_correctly[",
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly[",
    "test_default_target_modules_not_set_raises[",
    "test_default_target_modules_not_set_model_type_set_raises[",
    "test_default_target_modules_list_of_str[",
    "test_default_target_modules_str[",
)
#: PEFT's cases that the added rows are the same as, and which they take the place of.
REPEATED = (*(f"Vanilla MLP {number} LoRA-MLP" for number in range(1, 7)), "Embedding + transformers Conv1D 1 LoRA-EmbConv1D")
#: Beginnings of the names of tests that ask the hub.
ONLINE = ("test_from_pretrained[", "test_from_pretrained_cache_dir[", "test_save_pretrained_with_runtime_config[")
#: Parts of the ids of tests that BeamLoRA refuses -> what the refusal names. The first that fits counts.
MUST_REFUSE = {
    "DoRA": "found use_dora",
    "KaSA": "found kasa_config",
    "MiCA": "init_lora_weights: found 'mica'",
    "VeLoRA": "found velora_config",
    "lora_b bias": "found lora_bias",
    "nn.Parameter": "found target_parameters",
    "Monteclora": "found monteclora_config",
    "BD-LoRA": "found use_bdlora",
    "Conv1d LoRA": "torch.nn.modules.conv.Conv1d",
    "Conv2d": "torch.nn.modules.conv.Conv2d",
    "Conv3d": "torch.nn.modules.conv.Conv3d",
    "Embedding + transformers Conv1D 2 LoRA": "torch.nn.modules.sparse.Embedding",
    "Embedding + transformers Conv1D 3 LoRA": "torch.nn.modules.sparse.Embedding",
    "MHA": "torch.nn.modules.activation.MultiheadAttention",
    "test_add_weighted_adapter_cat_with_rank_pattern[": "add_weighted_adapter: found a BeamLoRA adapter",
    "test_multiple_active_adapters_forward[LoRA Same": "add_weighted_adapter: found a BeamLoRA adapter",
    "test_multiple_active_adapters_forward[LoRA Different": "add_weighted_adapter: found a BeamLoRA adapter",
}
ROWS = ROOT / "packages/beamlora/upstream/tests/rows.py"
#: File of PEFT's -> its list -> the list of ``ROWS`` that belongs there.
ADDED_ROWS = {
    "test_custom_models.py": {
        "TEST_CASES": "CUSTOM_MODELS",
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": "MULTIPLE_ACTIVE_ADAPTERS",
    },
    "test_config.py": {"ALL_CONFIG_CLASSES": "CONFIG_CLASSES"},
    "test_decoder_models.py": {"ALL_CONFIGS": "DECODER_MODELS"},
}
#: Of PEFT 0.21.2; another release may have more.
PASSES, REFUSED = 615, 79


def refusal(test_id: str) -> str | None:
    """What the refusal of a test names; None for a test that must pass."""
    return next((named for part, named in MUST_REFUSE.items() if part in test_id), None)


@pytest.fixture(scope="module")
def peft_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's tests, from PyPI's source package of the installed release."""
    folder = tmp_path_factory.mktemp("peft")
    version = importlib.metadata.version("peft")
    pip = ["download", "--quiet", "--no-binary", ":all:", "--no-deps", "--no-build-isolation", f"peft=={version}"]
    fetched = subprocess.run([sys.executable, "-m", "pip", *pip], cwd=folder, capture_output=True, text=True)
    if fetched.returncode != 0:
        pytest.skip(f"the source package of peft {version} cannot be fetched: {fetched.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as package:
        package.extractall(folder, filter="data")
    tests = next(folder.glob("peft-*/tests"), None)
    if tests is None:
        pytest.skip(f"the source package of peft {version} holds no tests")
    (tests / "__init__.py").touch()
    add_rows(tests)
    return tests.rename(tests.with_name("peft_own_tests"))  # `tests` is this project's package


def add_rows(tests: Path) -> None:
    """The rows that docs/upstream.md proposes, in the lists that they are for."""
    shutil.copy(ROWS, tests / "rows.py")
    for name, lists in ADDED_ROWS.items():
        text = (tests / name).read_text()
        for target, rows in lists.items():
            start = f"\n{target} = "
            assert text.count(start) == 1, f"{name}: expected one {target}"
            bracket = text[text.index(start) + len(start)]
            text = text.replace(start + bracket, f"\nfrom .rows import {rows}\n{start}{bracket}\n    *{rows},\n")
        (tests / name).write_text(text)


def outcomes(report: Path) -> Iterator[tuple[str, str, str]]:
    """Id, ``pass``, ``skip`` or ``fail``, and the message of each test in a JUnit file."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None:
            yield case.attrib["name"], "fail", bad.attrib.get("message", "")
        else:
            yield case.attrib["name"], "skip" if case.find("skipped") is not None else "pass", ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pefts_own_tests(peft_tests: Path, tmp_path: Path) -> None:
    """Each passes, or is skipped by PEFT, or is refused by the name of what BeamLoRA does not support."""
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-p", "tests.beamlora.peft_plugin", "-c", os.devnull]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={peft_tests.parent}", "--tb=line"]
        + [f"--junitxml={tmp_path / 'report.xml'}", "peft_own_tests/test_custom_models.py", "peft_own_tests/test_config.py"],
        cwd=peft_tests.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "report.xml").is_file(), run.stdout[-3000:] + run.stderr[-3000:]
    wrong, counts = [], {"pass": 0, "refused": 0, "skip": 0}
    for test_id, outcome, message in outcomes(tmp_path / "report.xml"):
        named = refusal(test_id)
        if named is None and not any(part in test_id for part in MUST_PASS):
            wrong.append(f"{test_id}: in neither list")
        elif outcome == "skip":
            counts["skip"] += 1
        elif named is None and outcome == "pass":
            counts["pass"] += 1
        elif named is not None and re.match("ValueError", message) and named in message:
            counts["refused"] += 1
        else:
            wrong.append(f"{test_id}: {outcome}, expected {'a pass' if named is None else named}; {message[:200]}")
    assert not wrong, "\n".join(wrong)
    assert counts["pass"] >= PASSES and counts["refused"] >= REFUSED, counts
