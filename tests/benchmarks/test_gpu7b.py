"""The check at the paper's scale: what it measures on a tiny model, what survives a failure, its record and its figure."""

from __future__ import annotations

import json
import os
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Text

from benchmarks.gpu7b import parts, scale
from benchmarks.gpu7b import run as whole
from benchmarks.gpu7b.__main__ import main
from benchmarks.gpu7b.bench import Bench, random_llama, synthetic_set
from benchmarks.gpu7b.checks import compare_operation, operate
from benchmarks.gpu7b.parts import Circumstances, PlannedPart, attempt
from benchmarks.gpu7b.scale import LLAMA2_7B, PAPER, SMOKE, flops_per_token, timed_runs
from benchmarks.gpu7b.training import harness_candidate, measure, predicted
from harness import files
from harness.data.tokens import IGNORE_INDEX
from harness.errors import ConfigError
from harness.figures import __main__ as figures
from harness.figures import style
from harness.figures.costs import gpu7b as figure
from harness.records import gpu7b
from harness.records.gpu7b import Gpu7bRecord, MatmulRate, Part
from harness.schema.training import TrainingSpec
from harness.train.trainer import training_arguments
from tests import preloaded
from tests.paths import ROOT

NAMES = [
    "matmul", "lora", "peft-lora", "beamlora", "dora", "peft-dora", "lora-not-fused",
    "dora-not-fused", "adalora", "increlora", "relora", "pissa", "full-ft",
    "lora-again", "operation", "precision", "rotary", "decomposition", "generation-2", "generation-4", "generation-2-beams-2",
]  # fmt: skip
#: Absent where the check is meant to run; it must not need them.
ABSENT = ("datasets", "snakemake", "gguf", "math_verify", "rich", "matplotlib")
#: Runs the module without the packages named on its command line, loaded or not.
WITHOUT = """
import runpy, sys

class Without:
    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

names, sys.argv = set(sys.argv[1].split(",")), sys.argv[1:]
for name in [name for name in sys.modules if name.partition(".")[0] in names]:
    del sys.modules[name]
sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]
runpy.run_module("benchmarks.gpu7b", run_name="__main__")
"""


# ------------------------------------------------------------------------------------------------------------ the smoke run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a smoke run in a process of its own, without the packages that are absent elsewhere."""
    path = tmp_path_factory.mktemp("gpu7b") / "record.json"
    command = [preloaded.python(), "-c", WITHOUT, ",".join(ABSENT), "--smoke", "--output", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture
def record(smoke: Path) -> Gpu7bRecord:
    return gpu7b.read(smoke)


def test_every_part_succeeds_without_what_is_absent_elsewhere(record: Gpu7bRecord) -> None:
    assert [(part.name, part.status) for part in record.parts] == [(name, "success") for name in NAMES]
    assert record.smoke and record.setting.rows == 395_000
    assert (record.setting.micro_batches, record.setting.examples) == (4, 8)


def test_every_method_takes_the_same_tokens_and_only_peft_pads(record: Gpu7bRecord) -> None:
    trained = {part.name: part.result for part in record.parts if part.kind == "training"}
    steps = {name: [*result.warmup, *result.timed] for name, result in trained.items()}
    assert len({tuple(step.tokens for step in own) for own in steps.values()}) == 1
    for name, own in steps.items():
        assert all((step.padding > 0) == name.startswith("peft") for step in own)
    assert trained["lora"].logged == trained["lora-again"].logged
    assert trained["adalora"].work == ("importance",) and trained["beamlora"].work == ()
    whole_model = trained["lora"].parameters
    assert trained["full-ft"].trainable_parameters == whole_model
    assert 0 < trained["lora"].trainable_parameters < whole_model
    # Two of the six operations that full fine-tuning has for each parameter, of all but the output layer.
    again = trained["full-ft"].recomputed_per_token / trained["full-ft"].flops_per_token
    assert 0.2 < again < 1 / 3 and {name for name, own in trained.items() if own.recomputed_per_token} == {"full-ft"}
    rate = record.result("matmul").flops_per_second
    assert trained["lora"].mfu == pytest.approx(trained["lora"].flops_per_token * trained["lora"].tokens_per_second / rate)


def test_the_checks_find_the_cpu_exact(record: Gpu7bRecord) -> None:
    operation = record.result("operation")
    assert operation.plans_equal and operation.differing == () and operation.pruned_ranks >= operation.modules
    assert operation.tensors == 9 * operation.modules and operation.snapshot_step < operation.operation_step
    reference, *exact = (one for one in record.result("precision").variants if one.dtype == "float32")
    assert reference.gradient_difference == 0 and not reference.fused and reference.packing
    assert len(exact) == 3 and all(variant.gradient_difference < 1e-5 for variant in exact)
    rounded = [one for one in record.result("precision").variants if one.dtype != "float32"]
    assert len({(one.packing, one.fused) for one in rounded}) == 4
    for variant in rounded:
        assert variant.dtype == "bfloat16" and 0.999 < variant.gradient_cosine < 1 and abs(variant.loss_difference) < 0.01
    loaded = [(one.loading, one.dtype, one.largest_error) for one in record.result("rotary").loaded]
    assert loaded == [("training", "float32", 0.0), ("evaluation", "float32", 0.0)]
    assert all(shape.residual < 1e-6 for shape in record.result("decomposition").shapes)


# ------------------------------------------------------------------------------------------------------- the paper's scale


def test_the_model_is_llama2_7b_and_a_token_of_lora_costs_27_6_gflop() -> None:
    model = random_llama(dict(LLAMA2_7B), device=torch.device("meta"), seed=0, attn_implementation="sdpa")
    assert model.num_parameters() == 6_738_415_616
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.get_buffer("model.rotary_emb.inv_freq").dtype == torch.float32
    adapter = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
    assert flops_per_token(PAPER, parameters=model.num_parameters(), adapter=adapter) == pytest.approx(27.6e9, rel=1e-3)
    assert flops_per_token(PAPER, parameters=model.num_parameters(), adapter=0) == pytest.approx(39.8e9, rel=1e-2)


def test_settings_are_the_papers_with_one_batch_for_all() -> None:
    runs = timed_runs(PAPER)
    shapes = {(r.training.per_device_train_batch_size, r.training.gradient_accumulation_steps) for r in runs.values()}
    assert shapes == {(8, 4)} and {r.training.dtype for r in runs.values()} == {"bfloat16"}
    assert (runs["lora"].method.settings["r"], runs["lora"].method.settings["lora_alpha"]) == (64, 128)


def test_examples_are_lognormal_cut_and_repeat() -> None:
    made = synthetic_set(PAPER, rows=395_000)
    lengths = made.offsets.diff()
    assert len(made) == 395_000 and len(lengths) == PAPER.distinct_examples
    assert lengths.min() >= 4 and lengths.max() == PAPER.max_length
    assert float(lengths.double().mean()) == pytest.approx(250, rel=0.03)
    assert 0 < made.cut == int((lengths == PAPER.max_length).sum())
    first, again = made[0], made[PAPER.distinct_examples]
    assert torch.equal(first["input_ids"], again["input_ids"])
    prompt = -(-len(first["input_ids"]) // 3)
    assert (first["labels"][:prompt] == IGNORE_INDEX).all()
    assert torch.equal(first["labels"][prompt:], first["input_ids"][prompt:])
    assert torch.equal(made.input_ids, synthetic_set(PAPER, rows=1).input_ids)


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="there is one GPU")
def test_without_one_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"GPUs, expected one of 80 GB"):
        main(["--output", str(tmp_path / "x.json")])


@pytest.mark.parametrize("on", [True, False])
def test_gradient_checkpointing_reaches_the_trainer_under_either_name(tmp_path: Path, on: bool) -> None:
    spec = TrainingSpec(learning_rate=1e-3, per_device_train_batch_size=1, max_steps=1, gradient_checkpointing=on)
    assert training_arguments(spec, total_steps=1, world_size=1, output_dir=tmp_path, seed=0).gradient_checkpointing is on


# ---------------------------------------------------------------------------------------------------------- when things fail


def planned(make: Any, *, name: str = "one", at_most_s: float = 1.0) -> PlannedPart:
    return PlannedPart(name, name, "matmul", make, at_most_s=at_most_s)


def product() -> MatmulRate:
    return MatmulRate(size=2, dtype="bfloat16", seconds=(4.0,), flops_per_second=4.0)


def test_a_failure_is_recorded_and_what_it_held_is_freed(tmp_path: Path) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(kind: type[Exception], words: str) -> Any:
        def make(circumstances: Circumstances) -> MatmulRate:
            model = torch.zeros(1000)
            held.append(weakref.ref(model))
            assert circumstances.folder.is_dir()
            raise kind(words)

        return make

    def made(kind: type[Exception], words: str) -> Part:
        part = planned(fail(kind, words), name=kind.__name__)
        return attempt(part, started=time.monotonic(), scratch=tmp_path, rate=None)

    memory = made(torch.OutOfMemoryError, "Tried to allocate 20.00 GiB")
    assert (memory.status, memory.error, memory.result) == ("out_of_memory", "Tried to allocate 20.00 GiB", None)
    other = made(ValueError, "found 3")
    assert other.status == "error" and other.error.rstrip().endswith("ValueError: found 3") and "in make" in other.error
    assert [reference() for reference in held] == [None, None]


def test_nothing_begins_that_may_last_longer_than_is_left(tmp_path: Path) -> None:
    started = time.monotonic() - parts.BUDGET_S + 100
    late = attempt(planned(lambda _: product(), at_most_s=101), started=started, scratch=tmp_path, rate=None)
    assert late.status == "skipped" and late.error == "100 s were left of 450, and this part may take 101"
    early = attempt(planned(lambda _: product(), at_most_s=50), started=started, scratch=tmp_path, rate=None)
    assert early.status == "success"


def test_the_record_is_whole_after_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    seen: list[list[str]] = []

    def look(circumstances: Circumstances) -> MatmulRate:
        seen.append([part.name for part in gpu7b.read(path).parts])
        assert circumstances.rate == product().flops_per_second
        raise KeyError("x")

    todo = [planned(lambda _: product(), name="one"), planned(look, name="two"), planned(lambda _: product(), name="three")]
    monkeypatch.setattr(whole, "planned_parts", lambda bench: iter(todo))
    whole.run(SMOKE, output=path, arguments=["--smoke"], started=time.monotonic())
    assert seen == [["one"]]
    assert [part.status for part in gpu7b.read(path).parts] == ["success", "error", "success"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of(SMOKE, device=torch.device("cpu"), scratch=tmp_path_factory.mktemp("bench"))


def test_time_that_is_up_ends_a_method_after_one_timed_step(bench: Bench, tmp_path: Path) -> None:
    result = measure(bench, harness_candidate(bench, "lora"), folder=tmp_path, rate=None, deadline=time.monotonic())
    assert (len(result.warmup), len(result.timed), result.mfu) == (SMOKE.warmup_steps, 1, None)
    assert result.seconds_per_step == result.timed[0].seconds and result.peak_bytes > 0
    assert result.predicted_bytes is None, "the peak is the process's, with all that it loads"


def test_the_peak_of_a_step_is_predicted(bench: Bench) -> None:
    """More than weights, and more with more tokens."""
    weights = 2 * sum(p.numel() for p in bench.model(attn_implementation="packed_sdpa").parameters())
    few, many = (predicted(bench, bench.runs["lora"], [length] * 4) for length in (8, 64))
    assert few is not None and many is not None and weights < few < many


def test_one_flipped_bit_is_found(bench: Bench, tmp_path: Path) -> None:
    made, recorder, settings = operate(bench, tmp_path)
    name = made.modules[3].name
    tensor = recorder.copies["after"][name]["B.exp_avg"]
    tensor.view(torch.int32)[0, 0] ^= 1
    replay = compare_operation(made, recorder, settings=settings, seed=bench.runs["beamlora"].seed)
    assert replay.differing == ("03.B.exp_avg",) and replay.plans_equal
    recorder.copies["before"][name]["g"].copy_(torch.arange(8.0))  # far more ranks to prune than there were
    with pytest.raises(RuntimeError, match="cannot be repeated on the CPU: .*found a recorded permutation"):
        compare_operation(made, recorder, settings=settings, seed=bench.runs["beamlora"].seed)


# --------------------------------------------------------------------------------------------------------------- the record


def edited(smoke: Path, folder: Path, edit: Any) -> Path:
    """A copy of the smoke record with one change."""
    content = json.loads(smoke.read_text())
    edit(content, {part["name"]: part for part in content["parts"]})
    files.write_json(folder / "edited.json", content)
    return folder / "edited.json"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c, p: c.update(schema_version=2), "schema_version: found 2, expected 1"),
        (lambda c, p: c.update(extra=1), "extra: Extra inputs"),
        (lambda c, p: p["lora"]["result"].update(tokens_per_second=1e9), "tokens_per_second: found 1000000000.0"),
        (lambda c, p: p["lora"].update(result=None), "lora: found status success"),
        (lambda c, p: p["lora"].update(status="error", result=None), "lora: found status error"),
        (lambda c, p: p["lora"].update(kind="rotary"), "lora: found a result of kind training, expected rotary"),
        (lambda c, p: p["lora"].update(name="matmul"), "expected no repetition"),
        (lambda c, p: p["dora"]["result"].update(timed=[]), "at least 1 item"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(smoke: Path, tmp_path: Path, edit: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpu7b.read(edited(smoke, tmp_path, edit))


def test_no_record_and_half_a_record_are_refused(smoke: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no such file; make it: python -m benchmarks.gpu7b"):
        gpu7b.read(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(smoke.read_text()[:1000])
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        gpu7b.read(tmp_path / "half.json")


# --------------------------------------------------------------------------------------------------------------- the figure


def at_the_papers_scale(content: dict[str, Any], named: dict[str, Any]) -> None:
    """As if the record were of the whole model: DoRA twice as slow and thrice as large as LoRA, full fine-tuning too large."""
    content["smoke"] = False
    timed = named["lora"]["result"]["timed"]
    slow = [{**step, "seconds": 2 * step["seconds"]} for step in timed]
    seconds = sum(step["seconds"] for step in slow)
    rates = {"seconds_per_step": seconds / 2, "tokens_per_second": sum(step["tokens"] for step in slow) / seconds}
    named["dora"]["result"].update(timed=slow, peak_bytes=3 * named["lora"]["result"]["peak_bytes"], **rates)
    named["full-ft"].update(status="out_of_memory", error="out of memory", result=None)


def test_the_figure_shows_ratios_on_the_same_batch_beside_the_papers(smoke: Path, tmp_path: Path) -> None:
    with style.theme():
        plot = figure.build(edited(smoke, tmp_path, at_the_papers_scale))
    medians = plot.data[plot.data["row"] == "median"].set_index(["measure", "part"])["ratio"]
    assert medians["time", "dora"] == pytest.approx(2) and medians["memory", "dora"] == 3
    assert medians["time", "lora"] == medians["memory", "lora"] == 1
    paper = plot.data[plot.data["row"] == "paper"].set_index(["measure", "part"])["ratio"].to_dict()
    doras = ("dora", "peft-dora", "dora-not-fused")
    times, bytes_ = ({(measure, part): value for part in doras} for measure, value in (("time", 1.73), ("memory", 1.35)))
    assert paper == {**times, ("time", "adalora"): 1.62, **bytes_}
    words = [text.get_text() for text in plot.figure.findobj(Text)]
    assert words.count("out of memory") == 2 and {"LoRA, again", "DoRA (PEFT)", "Full-FT"} <= set(words)
    assert any("LLaMA2-7B of random weights" in word for word in words)


def test_the_papers_ratios_are_not_beside_a_tiny_model(smoke: Path, tmp_path: Path) -> None:
    arguments = ["time_memory", "--gpu7b", str(smoke), "--output-dir", str(tmp_path)]
    assert figures.main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"time_memory.{kind}" for kind in ("png", "pdf", "csv")}
    with style.theme():
        plot = figure.build(smoke)
    assert not (plot.data["row"] == "paper").any()
    words = " ".join(text.get_text().replace("\n", " ") for text in plot.figure.findobj(Text))
    assert "its numbers mean nothing" in words and "paper" not in words.lower()


def test_the_figure_wants_lora_and_its_own_name(smoke: Path, tmp_path: Path) -> None:
    failed = edited(smoke, tmp_path, lambda c, p: p["lora"].update(status="error", error="x", result=None))
    with pytest.raises(ConfigError, match="found no steps of lora"):
        figure.build(failed)
    with pytest.raises(ConfigError, match="--gpu7b: found it for figure pareto, expected time_memory"):
        figures.main(["pareto", "--gpu7b", str(smoke)])


def test_the_config_file_is_the_papers() -> None:
    assert scale.CONFIGFILE == ROOT / "config" / "paper.yaml"
