"""The workflow on a miniature, run for real: it finishes, and a change reruns what depends on it and nothing else."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_args

from harness.cli import RESULTS, SCRATCH, Config
from harness.errors import ConfigError
from harness.figures.catalogue import figures
from harness.progress import Plan
from harness.records import bench
from harness.workflow.dag import Dag, read_config
from tests import preloaded, readme
from tests.experiments import miniature
from tests.paths import ROOT

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
DORA = "math/llama-mini/dora/seed0"
LORA = "results/mini/math/llama-mini/lora/seed0"
SOURCES = ("Snakefile", "beamlora", "methods", "harness", "evaluation", "config", "profiles")


class Copy:
    """A copy of the project's sources in which the workflow runs the miniature as its default experiment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        self.configure()

    def configure(self, **changes: object) -> None:
        (self.root / "config/tiny.yaml").write_text(yaml.safe_dump(miniature(**changes)))

    def snakemake(self, *arguments: str, cores: tuple[str, ...] = ("--cores", "2")) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "CUDA_VISIBLE_DEVICES": ""}
        command = [preloaded.python(), SNAKEMAKE, *cores, *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a run would start now."""
        return self.dry_run(*arguments, options=("--quiet", "rules"))[0]

    def dry_run(self, *arguments: str, options: tuple[str, ...] = ()) -> tuple[dict[str, int], dict[str, set[str]]]:
        """The same, and the reasons that each of these jobs gives, with the files that they name: message -> words."""
        done = self.snakemake(*options, "--dry-run", *arguments)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}
        reasons = re.findall(r"^Job \d+: (.*)\nReason: (.*)$", output, flags=re.MULTILINE)
        return (
            {rule: count for rule, count in counts.items() if rule not in ("total", "reproduce_table1")},
            {message: set(re.split("[:;,] ", reason)) for message, reason in reasons},
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """The miniature, from its base model to Table 1."""
    copy = Copy(tmp_path_factory.mktemp("workflow"))
    done = copy.snakemake()
    assert done.returncode == 0, done.stderr + done.stdout
    copy.output = done.stdout
    yield copy


@pytest.fixture
def unchanged(finished: Copy) -> Iterator[Copy]:
    """The finished miniature; sources and settings are put back afterwards."""
    before = {p: (p.read_bytes(), p.stat()) for p in finished.root.rglob("*.py")}
    yield finished
    finished.configure()
    for path, (content, stat) in before.items():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def edit(path: Path) -> None:
    """A change of a source file, later than every result."""
    path.write_text(path.read_text() + "\n# changed\n")


def test_it_leaves_records_predictions_artefacts_and_the_table(finished: Copy) -> None:
    run = finished.root / "results/mini/math/llama-mini/lora/seed0"
    assert json.loads((run / "train.json").read_text())["status"] == "success"
    assert json.loads((run / "metrics.json").read_text())["tasks"]["gsm8k"]["n"] == 8
    assert len((run / "predictions/gsm8k.jsonl").read_text().splitlines()) == 8
    assert (run / "adapter/adapter_model.safetensors").is_file()
    for suffix in ("md", "tex", "csv"):
        assert (finished.root / f"results/mini/tables/table1.{suffix}").stat().st_size > 0


def test_a_job_of_the_workflow_trains_as_any_other_process(finished: Copy, tmp_path: Path) -> None:
    """This one, which imported for itself. See also test_forked_jobs.py."""
    import torch

    from harness.train.__main__ import main

    if torch.cuda.is_available():
        pytest.skip("this process would train on the GPU")
    arguments = ["--configfile", str(finished.root / "config/tiny.yaml"), "--run", "math/llama-mini/lora/seed0"]
    arguments += ["--run-dir", str(tmp_path / "run"), "--models-dir", str(finished.root / "results/.models")]
    main([*arguments, "--scratch", str(tmp_path / "scratch"), "--cache-dir", str(tmp_path / "cache")])
    run = finished.root / "results/mini/math/llama-mini/lora/seed0"
    ours, forked = (json.loads((folder / "train.json").read_text()) for folder in (tmp_path / "run", run))
    assert ours["artefact"] == forked["artefact"] and ours["loss_curve"] == forked["loss_curve"]


def test_the_record_has_the_blocks_that_pefts_comparison_reads(finished: Copy) -> None:
    """The keys that peft's method_comparison/processing.py takes from each result file."""
    record = json.loads((finished.root / "results/mini/math/llama-mini/dora/seed0/train.json").read_text())
    run, train, meta = record["run_info"], record["train_info"], record["meta_info"]
    assert {"created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config"} <= set(run)
    assert run["peft_config"]["peft_type"] == "LORA" and run["peft_config"]["use_dora"] is True
    assert run["train_config"]["model_id"] == run["peft_config"]["base_model_name_or_path"] == "llama-mini"
    assert train["status"] == "success" and train["train_time"] > 0
    weights = finished.root / "results/mini/math/llama-mini/dora/seed0/adapter/adapter_model.safetensors"
    assert train["file_size"] == weights.stat().st_size
    assert {f"accelerator_memory_{name}" for name in ("max", "reserved_avg", "reserved_99th")} <= set(train)
    last = train["metrics"][-1]
    assert last["train loss"] == record["loss_curve"][-1]["loss"]
    assert (last["train samples"], last["train total tokens"]) == (12 * 8, record["tokens"]["input"])
    assert last["test accuracy"] is None
    assert {f"{name}-version" for name in ("transformers", "peft", "datasets", "bitsandbytes", "torch")} <= set(
        meta["package_info"]
    )
    assert set(meta["system_info"]) >= {"system", "release", "machine", "accelerator"}


def test_it_shows_progress_and_ends_with_the_table(finished: Copy) -> None:
    assert "train math/llama-mini/lora/seed0 · 12/12" in finished.output
    assert re.search(r"\d of 2 runs done, about \d+ .* left in all", finished.output)
    plan = Plan.read(finished.root / "results/.progress/mini.json")
    assert plan.runs == 2 and len(plan.jobs) == 6
    assert all(job.done and job.started < job.ended for job in plan.jobs.values())
    trained = [job for job in plan.jobs.values() if job.title.startswith(("train ", "base model "))]
    assert len(trained) == 3 and {job.last.share for job in trained} == {1.0}
    assert "LoRA" in finished.output and "results/mini/tables/table1.md" in finished.output


def test_it_ends_with_what_snakemake_and_the_starts_of_its_jobs_cost(finished: Copy) -> None:
    """Preflight, base model, two trainings, two evaluations and the table start, and before them the process that they are
    forked from; the summary itself is not in. What the jobs take is not here: under the tests' own preloaded processes they are
    no children of Snakemake's (see tests/harness/test_overhead.py)."""
    said = re.search(r"Overhead: .*? their\s+work .*?\)\.", finished.output, flags=re.DOTALL)
    assert said is not None and "starts and imports of 8 processes" in " ".join(said[0].split())
    snakemake, starts = (float(share) for share in re.findall(r"([\d.]+)\s+% \(\d", said[0])[:2])
    assert snakemake > 0 and starts > 0 and snakemake + starts < 100 * os.cpu_count()
    lines = (finished.root / "results/.progress/mini.cpu.jsonl").read_text().splitlines()
    (jobs,) = (line["jobs_s"] for line in map(json.loads, lines) if "jobs_s" in line)
    assert jobs > 0


def test_a_resumed_workflow_counts_what_is_left_of_its_target(unchanged: Copy) -> None:
    """One of two runs is to be evaluated again, since its record was cut off, and no base model and no training is on the
    plan. The table is made again with it."""
    record, table = (unchanged.root / "results/mini" / name for name in (f"{DORA}/metrics.json", "tables/table1.md"))
    content, made = record.read_bytes(), table.stat().st_mtime_ns
    record.write_bytes(content[: len(content) // 2])
    assert unchanged.planned("reproduce_table1") == {"evaluate": 1, "table": 1}
    assert record.stat().st_size == len(content) // 2, "a dry run sets nothing aside"
    done = unchanged.snakemake("reproduce_table1")
    assert done.returncode == 0, done.stderr + done.stdout
    half = f"results/mini/{DORA}/metrics.json: found {len(content) // 2} bytes, which end within the file"
    assert f"{half}; set aside as damaged-metrics.json, made again\n" in done.stdout
    assert json.loads(record.read_text())["status"] == "success" and table.stat().st_mtime_ns > made
    assert set(re.findall(r"\d of \d runs done", done.stdout)) == {"1 of 2 runs done"}
    plan = Plan.read(unchanged.root / "results/.progress/mini.json")
    assert {job.title for job in plan.jobs.values()} == {"evaluate math/llama-mini/dora/seed0", "table table1"}


def test_whole_outputs_that_are_wrong_are_made_again_by_the_same_command(unchanged: Copy) -> None:
    """DoRA's answers were cut between two lines, LoRA's artefact is an empty folder: each gets its bytes again."""
    lora, dora = (unchanged.root / f"results/mini/math/llama-mini/{method}/seed0" for method in ("lora", "dora"))
    answers, weights = dora / "predictions/gsm8k.jsonl", lora / "adapter/adapter_model.safetensors"
    before = answers.read_bytes(), weights.read_bytes()
    answers.write_bytes(b"".join(before[0].splitlines(keepends=True)[:4]))
    for path in (lora / "adapter").glob("[!.]*"):
        path.unlink()
    assert unchanged.planned("reproduce_table1") == {"train": 1, "evaluate": 2, "table": 1}
    done = unchanged.snakemake("reproduce_table1")
    assert done.returncode == 0, done.stderr + done.stdout
    cut, whole = answers.parent.parent / "damaged-predictions" / answers.name, len(before[0])
    said = f"gsm8k.jsonl: found {cut.stat().st_size} bytes, metrics.json says {whole}; set aside as damaged-predictions"
    assert said in done.stdout
    assert "adapter: found an empty folder, expected adapter_model.safetensors as in train.json; set aside as d" in done.stdout
    assert (answers.read_bytes(), weights.read_bytes()) == before
    assert unchanged.planned("reproduce_table1") == {}


def test_snakemakes_own_report_holds_the_table(finished: Copy, tmp_path: Path) -> None:
    done = finished.snakemake("--report", str(tmp_path / "report.html"), cores=())
    assert done.returncode == 0, done.stderr
    assert "Adding table1.csv" in done.stderr and (tmp_path / "report.html").stat().st_size > 100_000


def test_the_workflow_as_a_ro_crate(finished: Copy, tmp_path: Path) -> None:
    """By the command of docs/exports.md. The plugin comes with ``make setup``."""
    if find_spec("snakemake_report_plugin_fairscape") is None:
        pytest.skip("snakemake-report-plugin-fairscape is not installed: make setup")
    (command,) = (block for block in readme.commands("console") if "--reporter fairscape" in block)
    crate = tmp_path / "ro-crate-metadata.json"
    words = [str(crate) if word.endswith(crate.name) else word for word in shlex.split(command)]
    assert words[:3] == ["snakemake", "--cores", "all"]
    done = finished.snakemake(*words[3:])
    assert done.returncode == 0, done.stderr + done.stdout
    parts = {part["@id"]: part for part in json.loads(crate.read_text())["@graph"]}
    (root,) = (part for part in parts.values() if any("ROCrate" in kind for kind in part["@type"]))
    assert (root["author"], root["license"]) == ("A Person", "https://spdx.org/licenses/Apache-2.0")
    jobs = {part["name"].partition(", seed")[0]: part for part in parts.values() if "isPartOf" in part and "startTime" in part}
    runs = [
        f"{rule} (domain=math, method={method}, model=llama-mini"
        for rule in ("train", "evaluate")
        for method in ("lora", "dora")
    ]
    assert {name for name in jobs if not name.startswith("base_model")} == {*runs, "table (table=table1)"} and len(jobs) == 6

    def files(job: str, role: str) -> set[str]:
        return {parts[one["@id"]]["localPath"] for one in jobs[job][role]}

    assert (
        files(runs[0], "generated") == {f"{LORA}/{name}" for name in ("adapter", "train.json")} < files(runs[2], "usedDataset")
    )
    assert f"{LORA}/metrics.json" in files(runs[2], "generated") & files("table (table=table1)", "usedDataset")
    assert (
        "python -m harness.train --configfile config/tiny.yaml  --run math/llama-mini/lora/seed0 " in jobs[runs[0]]["command"]
    )
    for name, job in jobs.items():
        assert job["startTime"] <= job["endTime"]
        assert all((finished.root / path).exists() for role in ("generated", "usedDataset") for path in files(name, role))


def test_nothing_is_left_to_do(unchanged: Copy) -> None:
    assert unchanged.planned() == {}


def test_files_of_several_methods_are_targets_where_no_workflow_has_run(unchanged: Copy) -> None:
    """Snakemake lists a folder when it first meets one of its files: what stands for the code must lie there by then."""
    shutil.rmtree(unchanged.root / ".snakemake/code")
    assert unchanged.planned(*(f"results/mini/math/llama-mini/{method}/seed0/train.json" for method in ("lora", "dora"))) == {}


def test_one_methods_setting_reruns_only_that_methods_runs(unchanged: Copy) -> None:
    unchanged.configure(**{"methods.dora.settings": {"lora_dropout": 0.2}})
    assert unchanged.planned() == {"train": 1, "evaluate": 1, "table": 1}


def test_an_evaluation_setting_reruns_no_training(unchanged: Copy) -> None:
    unchanged.configure(**{"domains.math.evaluation.tasks.gsm8k.limit": 4})
    assert unchanged.planned() == {"evaluate": 2, "table": 1}


def test_what_is_decided_renders_the_table_again_and_trains_nothing(unchanged: Copy) -> None:
    assert unchanged.planned("--config", "comparisons={margin: {accuracy: 0.03}}") == {"table": 1}


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        # The table asks for numbers alone; what the others print stands behind none.
        (["harness/tables/build.py", "harness/tables/summary.py", "harness/answers/audit.py"], {"table": 1}),
        (["evaluation/graders/math_strict.py"], {"evaluate": 2, "table": 1}),
        (["methods/dora.py"], {"train": 1, "evaluate": 1, "table": 1}),
        (["harness/synthetic/records.py"], {"base_model": 1, "train": 2, "evaluate": 2, "table": 1}),
    ],
)
def test_an_edited_source_reruns_its_stage(unchanged: Copy, edited: list[str], expected: dict[str, int]) -> None:
    """See tests/harness/test_source_files.py for what belongs to which stage."""
    for source in edited:
        edit(unchanged.root / source)
    assert unchanged.planned() == expected


def test_an_edit_that_is_taken_back_and_a_newer_date_rerun_nothing(unchanged: Copy) -> None:
    source = unchanged.root / "harness/train/trainer.py"
    content = source.read_text()
    edit(source)
    assert unchanged.planned() == {"train": 2, "evaluate": 2, "table": 1}
    source.write_text(content)
    assert unchanged.planned() == {}


def test_an_edit_reruns_results_that_came_without_snakemakes_records(unchanged: Copy, tmp_path: Path) -> None:
    """Those of a clone."""
    records = unchanged.root / ".snakemake"
    records.rename(tmp_path / "records")
    try:
        assert unchanged.planned() == {}
        edit(unchanged.root / "harness/tables/build.py")
        assert unchanged.planned() == {"table": 1}
    finally:
        shutil.rmtree(records)
        (tmp_path / "records").rename(records)


def test_records_that_came_by_git_are_finished_until_their_code_changes(unchanged: Copy, tmp_path: Path) -> None:
    """git dates files in the order in which it writes them, and keeps of an adapter what is no weight, or nothing of it."""
    clone = Copy(tmp_path)
    shutil.copytree(unchanged.root / "results", clone.root / "results", ignore=shutil.ignore_patterns(".snakemake_timestamp"))
    runs = sorted((clone.root / "results/mini").glob("*/*/*/seed*"))
    for run in runs:
        for weights in run.glob("adapter/**/*.safetensors"):
            weights.unlink()
        for name in ("adapter", "metrics.json", "predictions", "train.json"):  # each older than the next
            os.utime(run / name)
    shutil.rmtree(runs[0] / "adapter")
    assert clone.planned() == {"table": 1}
    edit(clone.root / "harness/engine/generate.py")
    assert clone.planned() == {"train": 2, "evaluate": 2, "table": 1}
    assert len(runs) == 2


def test_the_train_rule_asks_for_the_devices_and_starts_the_processes(unchanged: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of the run that is meant for two. A job with a message of its own shows no resources."""
    snakefile = (unchanged.root / "Snakefile").read_text()
    (unchanged.root / "plain.smk").write_text(snakefile.replace('    message:\n        "Train {params.run}"\n', ""))
    unchanged.configure(**{"training.gradient_accumulation_steps": 2, "gpu": True, "methods.lora.gpus": 2})
    options = ["--dry-run", "--printshellcmds", "--resources", "gpu=4", "--snakefile", "plain.smk", "--forcerun", "train"]
    jobs = unchanged.snakemake(*options).stdout.split("\n\n")
    jobs = [job for job in jobs if "rule train:" in job]
    (two,), (one,) = ([job for job in jobs if f"--run math/llama-mini/{name}/" in job] for name in ("lora", "dora"))
    assert "harness.workflow.gpu_slot --gpus 2 python -m harness.train " in two and " --gpus 1 python" in one
    assert "threads: 2" in two and "threads: " not in one
    assert "gpu=2, processes=2" in two and "gpu=1, processes=1" in one, two
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(unchanged.root)
    with pytest.raises(
        ConfigError, match=r"tiny.yaml:\d+: methods.lora.gpus: found 2 for math/llama-mini/lora/seed0, expected at most 1, the"
    ):
        Dag(Config(files=(Path("config/tiny.yaml"),))).check_devices()
    unchanged.configure(gpus=2)
    refused = unchanged.snakemake("--dry-run")
    assert refused.returncode == 2
    assert re.match(
        r"error: config/tiny.yaml:\d+: gpus: found 2 for math/llama-mini/lora/seed0, but gradient_accumulation_steps: found 1 ",
        refused.stderr.splitlines()[-1],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"lora": {}, "dorra": {}}}, "unknown method 'dorra'; did you mean 'dora'"),
        ({"training.lerning_rate": 1}, "did you mean 'learning_rate'"),
    ],
)
def test_bad_settings_stop_everything_and_touch_nothing(unchanged: Copy, changes: dict, message: str) -> None:
    record = unchanged.root / "results/mini/math/llama-mini/lora/seed0/train.json"
    before = record.read_bytes()
    unchanged.configure(**changes)
    done = unchanged.snakemake()
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert record.read_bytes() == before


def test_bad_input_that_only_shows_on_disk_stops_before_any_training(unchanged: Copy) -> None:
    unchanged.configure(**{"methods.lora.settings": {"r": 65}})
    done = unchanged.snakemake()
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: config/tiny\.yaml:\d+: methods\.lora\.settings\.r: found 65, expected ranks of at most 64", last)
    assert "harness.train" not in done.stderr + done.stdout
    assert (done.stderr + done.stdout).count("r: found 65") == 1


def test_a_second_workflow_on_the_same_results_is_refused(unchanged: Copy) -> None:
    script = (
        "import sys, time; from harness.workflow.dag import hold_lock; "
        "l = hold_lock('mini'); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([preloaded.python(), "-c", script], cwd=unchanged.root, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        done = unchanged.snakemake()
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: results/.progress/mini.lock: another workflow is running")
        assert unchanged.planned() == {}, "a dry run disturbs nobody"
    finally:
        holder.kill()
        holder.wait()
    assert unchanged.snakemake().returncode == 0


def jobs_of(copy: Copy) -> list[int]:
    """Processes that work in the copy."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == copy.root and b"harness." in (process / "cmdline").read_bytes():
                pids.append(int(process.name))
        except OSError:
            continue
    return pids


@pytest.mark.slow
def test_killed_anywhere_and_repeated_it_finishes(tmp_path: Path) -> None:
    """SIGKILL of Snakemake alone while a run trains: its jobs end with it, and the same command then finishes."""
    copy = Copy(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(copy.root)}
    process = subprocess.Popen(
        [SNAKEMAKE, "--cores", "2"], cwd=copy.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((copy.root / SCRATCH).glob("*/checkpoint-*")) and process.poll() is None:
        time.sleep(0.02)
    assert jobs_of(copy)
    process.send_signal(signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + 10
    while jobs_of(copy) and time.monotonic() < patience:
        time.sleep(0.1)
    assert jobs_of(copy) == []
    done = copy.snakemake()
    assert done.returncode == 0, done.stderr + done.stdout
    assert copy.planned() == {}


@pytest.mark.slow
def test_interrupted_while_a_run_trains_it_ends_within_seconds_with_one_line(tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal."""
    copy = Copy(tmp_path)
    command = [SNAKEMAKE, "--cores", "2", "--quiet", "rules", "host"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(copy.root)}
    process = subprocess.Popen(command, cwd=copy.root, env=environment, start_new_session=True, **pipes)
    while not list((copy.root / SCRATCH).glob("*/checkpoint-*")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 130
    assert output.endswith("\ninterrupted; repeat the command to go on\n") and "Error" not in output
    assert copy.snakemake().returncode == 0


@pytest.mark.slow
def test_an_adapter_of_other_weights_is_named_at_the_end_and_trained_again(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    assert copy.snakemake().returncode == 0
    weights = copy.root / "results/mini" / DORA / "adapter/adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (weights.parents[1] / "metrics.json").unlink()
    (copy.root / "results/mini/tables/table1.md").unlink()
    failed = copy.snakemake("reproduce_table1")
    assert failed.returncode == 1
    blank, line, following = failed.stderr.splitlines()[-3:]
    assert blank == "" and following.endswith("keeps what is finished: snakemake --cores 2 reproduce_table1")
    named = f"failed: evaluate/{DORA}: results/mini/{DORA}/adapter: adapter_model.safetensors: found sha256 "
    assert line.startswith(named) and f"(results/mini/logs/evaluate/{DORA}.log)" in line
    assert copy.snakemake("reproduce_table1").returncode == 0
    assert weights.read_bytes() == content


# ------------------------------------------------------------------------------------------------ choosing an experiment


@pytest.mark.parametrize(
    "words",
    [
        ["reproduce_table1", "--config", "experiment=tiny"],
        ["--config", "experiment=tiny", "--", "reproduce_table1"],
        ["reproduce_table1", "--configfile", "config/tiny.yaml"],
        ["--configfile=config/tiny.yaml", "reproduce_table1"],
    ],
)
def test_however_it_is_named_it_is_the_same_experiment(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """As Snakemake reads the words; that nothing then reruns is asked below, of one of them."""
    monkeypatch.chdir(ROOT)
    _, arguments = parse_args(["--cores", "2", *words])
    assert list(arguments.targets) == ["reproduce_table1"]
    files = [Path(file).absolute() for file in arguments.configfile]
    assert read_config(files, arguments.config or ()) == Config(files=(Path("config/tiny.yaml"),))


def test_keys_and_files_stand_beside_the_experiment(unchanged: Copy) -> None:
    assert unchanged.planned("reproduce_table1", "--config", "experiment=tiny") == {}
    another = {"train": 2, "evaluate": 2, "table": 1}  # the second seed's alone
    assert unchanged.planned("reproduce_table1", "--config", "experiment=tiny", "seeds=2") == another
    (unchanged.root / "my.yaml").write_text("name: mine\nseeds: [0, 1, 2]\n")
    planned = unchanged.planned("reproduce_table1", "--configfile", "config/tiny.yaml", "my.yaml")
    assert (planned["train"], planned["evaluate"], planned["table"]) == (6, 6, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--configfile", "config/paper.yaml", "reproduce_table1"],
         "error: found reproduce_table1 as a configuration file; put the target before --configfile: "
         "snakemake reproduce_table1 --cores 2 --dry-run --configfile config/paper.yaml"),
        (["--config", "seeds=2", "reproduce_all"], "error: found reproduce_all after --config, expected KEY=VALUE; put"),
        (["--config", "experiment=paper", "--config", "seeds=2"], "error: found --config twice, of which Snakemake takes the"),
        (["--config", "experiment=papr"], "experiment: found no config/papr.yaml; did you mean 'paper'?"),
        (["--config", "experiment=paper", "--configfile", "config/tiny.yaml"],
         "found 'paper' beside --configfile config/tiny.yaml, expected one of them"),
    ],
)  # fmt: skip
def test_a_command_line_that_does_not_mean_what_it_says(unchanged: Copy, words: list[str], message: str) -> None:
    done = unchanged.snakemake("--dry-run", *words)
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    assert message in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------- dry runs

#: Training runs of the paper's matrix, one seed, behind each of its tables and some figures.
PAPER_RUNS = {
    "Render table1": 30,
    "Render table2": 13,
    "Render table3": 5,
    "Render table4": 6,
    "Render learning_rate": 36,
    "Draw operations": 6,
    "Draw rank_sweep": 10,
    "Draw delta_t": 8,
    "Draw p_init": 7,
}


def test_dry_run_of_the_papers_matrix(unchanged: Copy) -> None:
    planned, reasons = unchanged.dry_run("reproduce_all", "--config", "experiment=paper")
    assert (planned["train"], planned["evaluate"]) == (92, 92)
    assert (planned["timing"], planned["prune"], planned["figure"], planned["table"]) == (1, 2, len(figures()), 5)
    runs = {
        message: {Path(file).parent for file in reasons[message] if Path(file).name == "metrics.json"} for message in PAPER_RUNS
    }
    base = {message: {folder for folder in folders if "base" in folder.parts} for message, folders in runs.items()}
    assert {message: len(folders - base[message]) for message, folders in runs.items()} == PAPER_RUNS
    assert {message: {folder.parts[-2] for folder in folders} for message, folders in base.items() if folders} == {
        "Render table1": {"llama2-7b", "mistral-7b"},
        "Render table3": {"llama2-7b"},
    }, "tables of open answers, which have no floor"


def test_dry_run_of_two_targets_of_the_papers_matrix(unchanged: Copy) -> None:
    planned = unchanged.planned("--config", "experiment=paper", "--", "reproduce_table3", "p_init")
    runs = PAPER_RUNS["Render table3"] + PAPER_RUNS["Draw p_init"]
    assert (planned["train"], planned["evaluate"]) == (runs, runs)


def test_targets_that_the_experiment_does_not_plan_are_refused(unchanged: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    done = unchanged.snakemake("--dry-run", "reproduce_table2")
    assert done.returncode != 0
    assert (refusal := "the experiment 'mini' plans no runs for '{}'").format("reproduce_table2") in done.stdout + done.stderr
    monkeypatch.chdir(unchanged.root)
    plan = Dag(Config(files=(Path("config/tiny.yaml"),)))
    for target, ask in {
        "rank_sweep": lambda: plan.figure_of("rank_sweep"),
        "base_evaluations": plan.planned_base_metrics,
    }.items():
        with pytest.raises(ConfigError, match=refusal.format(target)):
            ask()


def test_the_report_depends_on_the_benchmarks_once_they_have_been_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Dag(Config(files=(ROOT / "config/tiny.yaml",)))
    monkeypatch.chdir(tmp_path)
    assert plan.bench == []
    record = RESULTS / bench.FILE
    record.parent.mkdir(parents=True)
    record.touch()
    assert plan.bench == [str(record)]
    inputs = (ROOT / "Snakefile").read_text().split("rule report:")[1].split("output:")[0]
    assert "bench=PLAN.bench," in inputs
