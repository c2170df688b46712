"""What a plan says a run costs: hours, seeds, budget, and the memory that it is held against."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.experiment.runs import load_experiment, table_runs
from harness.models.architecture import KNOWN, Architecture, architecture
from harness.plan import cost, work
from harness.plan.__main__ import main
from harness.plan.calibration import Calibration
from harness.plan.peaks import Peaks, largest_batch, remedy, spared
from harness.records import gpu7b
from harness.records.timing import Measurement
from harness.schema.fields import SCHEMA_VERSION
from harness.schema.run import RunSpec
from tests.experiments import miniature, write
from tests.paths import ROOT

PAPER = ROOT / "config/paper.yaml"
LLAMA2_7B = Architecture(fields=KNOWN["meta-llama/Llama-2-7b-hf"])


def run_of(folder: Path, **changes: Any) -> RunSpec:
    return table_runs(load_experiment([write(folder, miniature(**changes))]), "table1")[0]


def plan(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> dict[str, Any]:
    folders = ["--models-dir", "/nonexistent", "--cache-dir", str(path.parent / "cache"), "--results-dir", str(path.parent)]
    main([*arguments, "--json", "--configfile", str(path), *folders])
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------------------------------------------------------- hours


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
    ],
)
def test_the_sizes_of_known_models(name: str, parameters: int) -> None:
    """As published for these checkpoints."""
    assert Architecture(fields=KNOWN[name]).parameters == parameters


def test_operations_of_a_token_on_llama2_7b() -> None:
    """4.2 N with LoRA of rank 64, 6 N and attention for all parameters."""
    lora = cost.training_flops(LLAMA2_7B, trainable=159_907_840, length=250)
    full = cost.training_flops(LLAMA2_7B, trainable=LLAMA2_7B.parameters, length=250)
    assert lora == pytest.approx(27.6e9, rel=0.005) and full / lora == pytest.approx(1.44, rel=0.01)
    again = cost.training_flops(LLAMA2_7B, trainable=LLAMA2_7B.parameters, length=250, recomputed=True) - full
    layers = LLAMA2_7B.parameters - 2 * LLAMA2_7B.head_products
    assert again == pytest.approx(2 * layers + 2 * 4096 * 250 * 32, rel=1e-3), "another forward pass of the layers"


def test_the_papers_first_table_by_operations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """11 hours for LoRA in math at 21 % of an H100. A budget keeps what the first family of comparisons needs."""
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER.read_text())
    content = plan(capsys, path, "reproduce_table1", "--budget", "100")
    hours = {run["run_id"]: run["hours"] for run in content["runs"]}
    lora = hours["math/llama2-7b/lora/seed0"]
    assert lora["how"] == "estimated" and lora["training"] == pytest.approx(11.2, abs=0.1)
    # 6 N beside 4.2 N, and with gradient checkpointing, which full fine-tuning has here, another 2 N.
    assert hours["math/llama2-7b/full-ft/seed0"]["training"] / lora["training"] == pytest.approx(1.92, abs=0.01)
    total = content["total"]["hours"]
    assert content["hours_of_seeds"] == {
        "1": pytest.approx(total),
        "3": pytest.approx(3 * total),
        "5": pytest.approx(5 * total),
    }
    out = {(kind["method"], kind["priority"]) for kind in content["left_out"]}
    assert ("full-ft", 1) in out and not {priority for method, priority in out if method in ("lora", "beamlora")}
    left = total - sum(kind["hours"] for kind in content["left_out"])
    assert 80 < left <= 100


def test_speeds_of_a_gpu_record_come_before_assumptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second forward pass counts among the operations that it reached."""
    gpu = cost.GPUS["H100"]
    assert cost.speed(gpu, results=tmp_path).of("lora") == (pytest.approx(0.21 * 989e12), "estimated")
    assert cost.speed(cost.GPUS["A100"], results=tmp_path).of("lora") == (pytest.approx(0.21 * 312e12), "estimated")
    training = {"implementation": "project", "flops_per_token": 2e10, "kind": "training"}
    results = [
        gpu7b.Training.model_construct(**training, method="lora", tokens_per_second=10_000.0),
        gpu7b.Training.model_construct(**training, method="lora", tokens_per_second=7_000.0),
        gpu7b.Training.model_construct(**training, method="dora", tokens_per_second=4_000.0, recomputed_per_token=5e9),
        gpu7b.Generation.model_construct(seconds=5.0, new_tokens=250, num_beams=1),
    ]
    parts = tuple(gpu7b.Part.model_construct(result=result) for result in results)
    device = gpu7b.Device.model_construct(name="NVIDIA H100 80GB HBM3")
    record = gpu7b.Gpu7bRecord.model_construct(smoke=False, started_at="2026", device=device, parts=parts)
    monkeypatch.setattr(gpu7b, "read", lambda path: record)
    (tmp_path / "gpu7b").mkdir()
    (tmp_path / "gpu7b/one.json").touch()
    measured = cost.speed(gpu, results=tmp_path)
    assert [measured.of(method) for method in ("lora", "dora")] == [(2e14, "measured"), (1e14, "measured")]
    assert measured.of("pissa") == (2e14, "measured"), "not measured: the median of the others"
    assert measured.decoding_s == 0.02
    calibrated = replace(measured, calibrated={"dora": 3e14})
    assert [calibrated.of(method) for method in ("lora", "dora", "pissa")] == [
        (2e14, "measured"),
        (3e14, "calibrated"),
        (3e14, "calibrated"),
    ]
    assert cost.speed(cost.GPUS["A100"], results=tmp_path).measured == {}, "another GPU"


def test_a_calibration_gives_the_hours_of_its_kind_and_by_operations_those_of_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, models_dir: Path
) -> None:
    path = write(tmp_path, miniature())
    folders = ["--models-dir", str(models_dir), "--cache-dir", str(tmp_path / "cache"), "--results-dir", str(tmp_path)]

    def planned(*arguments: str) -> dict[str, Any]:
        main([*arguments, "--configfile", str(path), "--json", *folders])
        return {run["method"]: run for run in json.loads(capsys.readouterr().out)["runs"]}

    assert planned()["lora"]["hours"] is None, "of a CPU nothing is known"
    calibrated = planned("--calibrate")
    (kept,) = (tmp_path / "cache/calibration").iterdir()
    content = json.loads(kept.read_text())
    measured = Calibration.model_validate(content)
    assert measured.run_id == "math/llama-mini/lora/seed0"
    assert {run["hours"]["how"] for run in calibrated.values()} == {"calibrated"}
    hours = {method: run["hours"]["training"] for method, run in calibrated.items()}
    assert hours["lora"] == pytest.approx(12 * measured.measurement.seconds_per_step / 3600)
    base = architecture(run_of(tmp_path), models_dir=models_dir)
    assert base is not None
    flops = {
        method: cost.training_flops(base, trainable=run["parameters"]["trainable"], length=measured.tokens_per_example)
        for method, run in calibrated.items()
    }
    assert hours["dora"] / hours["lora"] == pytest.approx(flops["dora"] / flops["lora"])
    assert planned() == calibrated, "it is kept"
    assert planned("--set", "training.micro_batch_tokens=64")["lora"]["hours"] is None, "other settings, another speed"
    main(["--configfile", str(path), *folders])
    assert "Hours: from a run of 20 steps on this machine (--calibrate)." in capsys.readouterr().out
    kept.write_text(json.dumps(content | {"device": "NVIDIA A100-SXM4-80GB"}))
    of_gpus = [planned("--set", "gpu=true", "--gpu", name)["lora"]["hours"]["how"] for name in ("A100", "H100")]
    assert of_gpus == ["calibrated", "estimated"]
    with pytest.raises(ConfigError, match=r"--calibrate: found .*, expected the H100 whose hours are asked for \(--gpu\)"):
        planned("--set", "gpu=true", "--calibrate")


def test_a_run_of_the_papers_model_and_data_gives_the_tokens_of_an_example(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of a model on the hub no plan has the tokenizer. LoRA's run read 200 tokens an example, of 395,000 in three epochs."""
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER.read_text())

    def tokens() -> dict[str, dict[str, Any]]:
        runs = plan(capsys, path, "reproduce_table1", "--gpu", "A100")["runs"]
        return {run["run_id"]: run["tokens"] for run in runs}

    before = tokens()["math/llama2-7b/dora/seed0"]
    assert before == {"count": 3 * 395_000 * 512, "how": "at most"}
    runs = {run.run_id: run for run in table_runs(load_experiment([path]), "table1")}
    lora = runs["math/llama2-7b/lora/seed0"]
    file = tmp_path / "paper" / lora.run_id / "train.json"
    file.parent.mkdir(parents=True)
    content = {"schema_version": SCHEMA_VERSION, "status": "success", "training_hash": lora.training_hash()}
    file.write_text(json.dumps({**content, "tokens": {"input": 3 * 395_000 * 200}}))
    after = tokens()
    assert after[lora.run_id] == {"count": 3 * 395_000 * 200, "how": "recorded"}
    assert after["math/llama2-7b/dora/seed0"] == {"count": 3 * 395_000 * 200, "how": "measured"}
    assert {after[name]["how"] for name in ("math/mistral-7b/lora/seed0", "code/llama2-7b/lora/seed0")} == {"at most"}
    file.write_text(json.dumps({**content, "status": "diverged", "tokens": {"input": 1000}}))
    assert tokens()["math/llama2-7b/dora/seed0"] == before, "where it ended, nothing says how many examples it had read"
    file.unlink()
    measurement = dict.fromkeys(Measurement.model_fields, 1) | {"seconds_per_step": 2.0}
    calibrated = Calibration.model_construct(
        device="NVIDIA H100",
        tokens_per_example=150.0,
        examples_per_step=32,
        measurement=Measurement.model_construct(**measurement),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "calibration_of", lambda run, **_: calibrated if run.run_id == lora.run_id else None)
        assert tokens()["math/llama2-7b/dora/seed0"] == {"count": 3 * 395_000 * 150, "how": "measured"}, "on whatever GPU"


def test_a_finished_run_gives_its_hours_and_those_of_its_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, miniature(seeds=[0, 1]))
    assert {run["hours"] for run in plan(capsys, path)["runs"]} == {None}, "no GPU and no record: nothing says it"
    run = table_runs(load_experiment([path]), "table1")[0]
    file = tmp_path / "mini" / run.run_id / "train.json"
    file.parent.mkdir(parents=True)
    content = {"schema_version": SCHEMA_VERSION, "status": "success", "training_hash": run.training_hash()}
    content |= {"tokens": {"input": 12 * 8 * 64}, "wall_time_s": 36.0, "world_size": 2}
    file.write_text(json.dumps({**content, "hardware": {"accelerators": ["NVIDIA A100-SXM4-80GB"] * 2}}))
    first, second, *others = plan(capsys, path)["runs"]
    assert first["hours"] == {"training": 0.01, "evaluation": None, "how": "recorded"}
    assert second["hours"] == {"training": pytest.approx(0.01), "evaluation": None, "how": "measured"}
    assert {run["hours"] for run in others} == {None}, "another method"
    first, second, *_ = plan(capsys, path, "--set", "gpu=true", "--gpu", "A100")["runs"]
    assert (first["hours"]["training"], first["hours"]["how"]) == (0.02, "recorded"), "of one GPU: two were at work"
    assert (second["hours"]["training"], second["hours"]["how"]) == (pytest.approx(0.02), "measured")
    of_another = plan(capsys, path, "--set", "gpu=true", "--gpu", "H100")["runs"]
    assert {run["hours"]["how"] for run in of_another} == {"estimated"}


def test_a_budget_keeps_priorities_and_what_is_compared_together() -> None:
    def kind(domain: str, method: str, hours: float, priority: int) -> cost.Kind:
        return cost.Kind(domain=domain, model="m", method=method, runs=1, hours=hours, priority=priority)

    math = [
        kind("math", "lora", 10, 0),
        kind("math", "beamlora", 12, 0),
        kind("math", "pissa", 11, 1),
        kind("math", "dora", 20, 1),
    ]
    code = [kind("code", "lora", 5, 0), kind("code", "beamlora", 6, 0), kind("code", "pissa", 4, 1)]
    sweep = [kind("code", "beamlora.r=4", 1, 2)]

    def out(budget: float) -> set[str]:
        return {kind.name for kind in cost.left_out([*sweep, *math, *code], budget=budget)}

    everything = {kind.name for kind in [*math, *code, *sweep]}
    assert out(69) == set() and out(68) == {"code/m/beamlora.r=4"}
    assert out(67) == {"math/m/dora", "code/m/beamlora.r=4"}, "the figure would fit, and comes after every row"
    assert out(33) == everything - {"math/m/lora", "math/m/beamlora", "code/m/lora", "code/m/beamlora"}
    # LoRA in math and PiSSA in code would fit too, but decide nothing.
    assert out(32) == everything - {"code/m/lora", "code/m/beamlora"}
    assert out(5) == everything


@pytest.mark.parametrize(("text", "value"), [("200h", 200.0), ("7.5", 7.5)])
def test_a_budget_in_hours(text: str, value: float) -> None:
    assert cost.hours(text) == value


@pytest.mark.parametrize("text", ["", "0", "-3h", "two days", "nan"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget: found .*, expected hours of one GPU"):
        cost.hours(text)


def test_a_plan_loads_no_torch() -> None:
    """It answers within seconds because of that."""
    code = "import sys; from harness.plan.__main__ import main; main(); sys.exit('torch' in sys.modules)"
    paper = ["--configfile", str(PAPER), "--models-dir", "/nonexistent", "--cache-dir", "/nonexistent"]
    command = [sys.executable, "-c", code, "reproduce_table1", *paper]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Cost on one H100" in done.stdout, done.stderr


# --------------------------------------------------------------------------------------------------------------- memory


def test_a_peak_is_predicted_once_and_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    base = architecture(run, models_dir=tmp_path)
    assert base is not None
    asked: list[Any] = []
    monkeypatch.setattr("harness.measure.rehearsal.peak_bytes", lambda run, base, **how: asked.append(how) or 7)
    peaks = Peaks(tmp_path, gpu=True)
    assert peaks.of(run, base, lengths=[3], predict=False) is None and asked == []
    assert [peaks.of(run, base, lengths=[3]), peaks.of(run, base, lengths=[3], predict=False)] == [7, 7]
    assert asked == [{"lengths": [3], "gpu": True}]

    def changed(**training: Any) -> RunSpec:
        return run.model_copy(update={"training": run.training.model_copy(update=training)})

    assert peaks.of(changed(learning_rate=1.0), base, lengths=[3], predict=False) == 7, "no tensor depends on it"
    assert peaks.of(changed(gradient_checkpointing=True), base, lengths=[3], predict=False) is None
    assert peaks.of(run, base, lengths=[4], predict=False) is None
    assert Peaks(tmp_path, gpu=False).of(run, base, lengths=[3], predict=False) is None
    assert peaks.of(changed(packing=False), base, lengths=[3]) is None and len(asked) == 1, "padding: not predicted"


def test_the_largest_batch_is_of_the_longest_examples(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert largest_batch(run) == [256] * 8
    assert largest_batch(run, [30, 20, 20, 10, 9, 8, 7, 6, 5, 4]) == [30, 20, 20, 10, 9, 8, 7, 6]


def test_the_first_setting_that_makes_a_run_fit(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert remedy(run, lambda changed, _: changed.training.gradient_checkpointing) == "training: {gradient_checkpointing: true}"
    in_parts = remedy(run, lambda changed, _: len(largest_batch(changed)) <= 2)
    assert in_parts == "training: {micro_batch_tokens: 512}"
    assert remedy(run, lambda changed, gpus: gpus == 8).startswith("a larger GPU")


def test_several_gpus_help_where_parameters_are_sharded(tmp_path: Path) -> None:
    training = {"training.dtype": "bfloat16", "training.gradient_accumulation_steps": 4}
    full = run_of(tmp_path, **training, **{"methods": {"full-ft": {}}, "tables.table1.methods": {"llama-mini": ["full-ft"]}})
    assert remedy(full, lambda changed, gpus: gpus == 4) == "gpus: 4 and training: {bf16_update: float32}"
    assert remedy(full, lambda changed, gpus: gpus == 8).startswith("larger GPUs"), "four micro-batches are for four at most"
    base = architecture(full, models_dir=tmp_path)
    assert base is not None
    assert spared(full, base, gpus=4) == 12 * base.parameters
    assert spared(run_of(tmp_path), base, gpus=4) == 0


def test_what_does_not_fit_is_marked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.measure.rehearsal.peak_bytes", lambda run, base, **_: (9 if run.method.name == "dora" else 5) << 30
    )
    path = write(tmp_path, miniature())
    content = plan(capsys, path, "--gpu-memory", "8")
    assert [run["peak_bytes"] for run in content["runs"]] == [5 << 30, 9 << 30]
    main(
        ["--gpu-memory", "8", "--configfile", str(path), "--models-dir", "/nonexistent", "--cache-dir", str(tmp_path / "cache")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.rstrip().endswith("does not fit")] == ["math/llama-mini/dora"]


def test_a_run_needs_disk_for_its_artefact_and_three_checkpoints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of LLaMA2-7B in float32 with two moments."""
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER.read_text())
    runs = {run["run_id"]: run for run in plan(capsys, path, "reproduce_table1")["runs"]}
    assert runs["math/llama2-7b/full-ft/seed0"]["disk_bytes"] == 4 * (1 + 3 * 3) * LLAMA2_7B.parameters
    assert runs["math/llama2-7b/lora/seed0"]["disk_bytes"] == 4 * (1 + 3 * 3) * 159_907_840
    main(["reproduce_table1", "--configfile", str(path), "--models-dir", "/nonexistent", "--cache-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("math/llama2-7b/full-ft")]
    assert line.split()[:4] == ["math/llama2-7b/full-ft", "1", "?", "251.0"]


@pytest.mark.parametrize(("text", "value"), [("80", 80 * 2**30), ("0.5GiB", 2**29)])
def test_the_memory_of_a_gpu_in_gib(text: str, value: int) -> None:
    assert cost.memory_bytes(text) == value


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "1e300", "-4", "0", "large"])
def test_no_memory_of_a_gpu(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpu-memory: found '{text}', expected GiB of one GPU, such as 80"):
        cost.memory_bytes(text)
