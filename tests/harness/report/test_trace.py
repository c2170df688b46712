"""One number in the terminal: found by the names that people use, shown with its runs, and recomputed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.records.grader_sources import grader_sources
from harness.report import sources, trace
from harness.report.one_number import pick
from harness.report.sources import Source
from tests.harness import fake_runs
from tests.harness.report import fake_report


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return fake_report.write(tmp_path_factory.mktemp("trace"), picture=fake_report.picture())


@pytest.fixture
def copy(source: Source, tmp_path: Path) -> Source:
    """The same records in a folder that a test may spoil."""
    shutil.copytree(source.results, tmp_path / "results")
    return sources.open_source(source.config, results=tmp_path / "results", figures=source.figures)


def traced(source: Source, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = trace.main([*words, "--configfile", str(source.config.files[0]), "--results-dir", str(source.results)])
    return status, capsys.readouterr().out


def test_shows_the_number_its_runs_and_the_commands(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    other = source.folder / "math/llama-tiny/beamlora/seed1/metrics.json"
    before, now = other.read_text(), grader_sources(source.experiment.domains["math"].evaluation.tasks["gsm8k"])
    other.write_text(before.replace(now["grader"], "0" * 64))
    status, out = traced(source, capsys, "table1", "llama2-7b", "BeamLoRA", "gsm8k")
    other.write_text(before)
    assert status == 0
    assert out.count(f"graded      as this code grades: grader {now['grader'][:16]}; packages {now['packages']}; metric") == 4
    assert out.count(f"graded      by other sources than this code's (grader): grader {'0' * 16};") == 1
    rows = [
        [json.loads(line)["correct"] for line in path.read_text().splitlines()]
        for path in sorted(source.folder.glob("math/llama-tiny/beamlora/seed*/predictions/gsm8k.jsonl"))
    ]
    mean = 100 * sum(map(sum, rows)) / sum(map(len, rows))
    assert re.search(rf"accuracy\s+{mean:.1f} ± \d+\.\d %, 95 % interval \[\S+, \S+\], 5 seeds, n = 40", out)
    assert re.search(r"− LoRA\s+[+−]\S+ \[\S+, \S+\], df \d+\.\d$", out, flags=re.MULTILINE)
    assert "Holm" not in out, "a single test set is described, not decided"
    for seed, solved in enumerate(map(sum, rows)):
        assert f"seed {seed}  {source.folder}/math/llama-tiny/beamlora/seed{seed}" in out
        assert f"= {solved} of 40 in predictions/gsm8k.jsonl (grader sound" in out
    for said in ("stand-in", "protocol      sound", "0123456789abcdef", "sha256 cdcdcdcd", "torch 2.13.0", "--force -- "):
        assert said in out
    assert "the predictions, read anew, give the same numbers" in out


def test_goes_by_key_label_or_what_it_stands_for(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    by_key = traced(source, capsys, "table1", "llama-tiny", "beamlora", "math/gsm8k")
    assert by_key[0] == 0
    for words in (("TABLE1", "Llama 0.8M", "beamLORA", "GSM8K"), ("table1", "LLaMA2-7B", "BeamLoRA", "gsm8k")):
        assert traced(source, capsys, *words) == by_key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tabel1", "llama2-7b", "lora", "gsm8k"), "table of fake: found unknown 'tabel1'; did you mean 'table1'?"),
        (("table1", "llama2-7", "lora", "gsm8k"), "found unknown 'llama2-7'; did you mean 'LLaMA2-7B'?"),
        (("table1", "llama2-7b", "bemlora", "gsm8k"), "found unknown 'bemlora'; did you mean 'BeamLoRA'?"),
        (("table1", "llama2-7b", "lora", "gsm8"), "found unknown 'gsm8'; did you mean 'GSM8K'?"),
        (("table1", "mistral-7b", "dora", "gsm8k"), "table1 on mistral-tiny: found unknown 'dora'; did you mean 'LoRA'?"),
        (("table1", "llama2-7b", "lora", "zzz"), "expected one of math/gsm8k, math/math, math/avg, code/humaneval, "),
    ],
)  # fmt: skip
def test_an_unknown_name_gets_a_suggestion(source: Source, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        trace.main([*words, "--configfile", str(source.config.files[0]), "--results-dir", str(source.results)])


def test_the_average_of_a_domain_goes_by_its_name(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = traced(source, capsys, "table1", "llama-tiny", "dora", "math average")
    assert status == 0 and "not decided (4 of 5 seeds) (family secondary)" in out and "predictions/humaneval" not in out
    assert traced(source, capsys, "table1", "llama-tiny", "dora", "math/avg") == (status, out)


def test_a_name_that_two_go_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="which 2 go by; expected one of a/x, b/x"):
        pick("x", {1: ["a/x", "x"], 2: ["b/x", "x"]}, what="test set")


def test_the_average_shows_every_task_and_both_comparisons(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = traced(source, capsys, "table3", "llama-tiny", "beamlora-no-expansion", "avg")
    assert "− LoRA" in out and "(family ablations), p = " in out
    assert re.search(r"− BeamLoRA\s+[+−]\S+ \[\S+, \S+\], df \d+\.\d, (better|worse|undecided|equivalent) \(family", out)
    assert out.count("predictions/gsm8k.jsonl") == out.count("predictions/math.jsonl") == 5


def test_a_diverged_run_is_shown_as_diverged(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = traced(source, capsys, "table1", "llama-tiny", "dora", "gsm8k")
    assert status == 0 and "4 seeds, n = 40; 1 of 5 diverged" in out
    assert f"seed 1  {source.folder}/math/llama-tiny/dora/seed1: diverged" in out


def test_an_adapter_that_is_another_file_fails(copy: Source, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy.folder / "math/llama-tiny/lora/seed0"
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    words = ("table1", "llama-tiny", "lora", "gsm8k")
    status, out = traced(copy, capsys, *words)
    assert status == 1 and "the file here has" in out
    digest = hashlib.sha256(b"weights").hexdigest()
    fake_runs.edit_json(folder / "train.json", artefact={"adapter_model.safetensors": digest})
    status, out = traced(copy, capsys, *words)
    assert status == 0 and "the file agrees" in out


def test_a_run_that_is_missing_names_the_command(copy: Source, capsys: pytest.CaptureFixture[str]) -> None:
    (copy.folder / "math/llama-tiny/lora/seed0/metrics.json").unlink()
    status, out = traced(copy, capsys, "table1", "llama-tiny", "lora", "gsm8k")
    assert status == 0 and "1 of 5 not run" in out
    assert re.search(r"make it +snakemake .* -- \S+/math/llama-tiny/lora/seed0/metrics.json", out)
