"""The plan of a target: parameters, steps, operations, tokens, what is done, and the settings' sources."""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness import reported
from harness.data.tokens import TokenizedSet, note_lengths, training_set
from harness.errors import ConfigError
from harness.experiment.runs import all_runs, load_experiment, table_runs
from harness.models.architecture import Architecture, architecture
from harness.models.stand_in import build_tokenizer, model_config
from harness.plan.__main__ import main
from harness.plan.parameter_counts import count
from harness.plan.peaks import Peaks
from harness.plan.settings import table4_check, used_settings
from harness.plan.text import print_plan
from harness.plan.work import PlannedRun, Planner
from harness.schema.fields import SCHEMA_VERSION
from harness.train.steps import context
from harness.workflow.targets import target_runs
from methods.base import Method, OperationSteps
from methods.lora import Lora
from tests.experiments import miniature, write
from tests.paths import ROOT

PAPER = ROOT / "config/paper.yaml"
TABLE1 = ("full-ft", "lora", "dora", "pissa", "milora", "relora", "adalora", "increlora", "beamlora")


def report(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> dict[str, Any]:
    folder = path.parent
    options = ["--models-dir", str(folder), "--cache-dir", str(folder / "cache"), "--results-dir", str(folder / "results")]
    assert main(["--configfile", str(path), *options, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def table1() -> list[PlannedRun]:
    """The plan of the paper's Table 1, worked out once: it takes seconds."""
    experiment = load_experiment([PAPER])
    nowhere = Path("/nonexistent")
    planner = Planner(experiment, models_dir=nowhere, cache_dir=nowhere, results=nowhere)
    return [planner.plan(run) for run in target_runs(experiment, "reproduce_table1")]


# ----------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", TABLE1)
def test_counts_are_those_of_the_built_model(tmp_path: Path, name: str) -> None:
    """train.json counts what requires a gradient on the real model; here the model is really built too."""
    from transformers import AutoModelForCausalLM

    settings = {"delta_t": 4} if name == "beamlora" else {}
    content = miniature(**{"methods": {name: {"settings": settings}}, "tables.table1.methods": {"llama-mini": [name]}})
    experiment = load_experiment([write(tmp_path, content)])
    (run,) = table_runs(experiment, "table1")
    config = model_config(run.model.source)
    sizes = architecture(run, models_dir=tmp_path)
    assert sizes is not None
    counted = count(run, sizes, total_steps=240, steps_per_epoch=120)
    named = methods.get(name)
    known = context(run, total_steps=240, steps_per_epoch=120, cache_dir=tmp_path, base_model_hash="x")
    model = AutoModelForCausalLM.from_config(config)
    base = model.num_parameters()
    wrapped = named.cls(named.cls.Settings.model_validate(run.method.settings)).wrap(model, known)
    trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert counted.trainable == trainable
    assert counted.total == (base if name == "full-ft" else base + trainable)
    assert counted.final is None or counted.final < counted.trainable
    assert not torch.empty(0).is_meta, "counting leaves the default device alone"


@pytest.mark.parametrize("name", TABLE1)
def test_sizes_give_the_counts_of_the_methods_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = {"delta_t": 4} if name == "beamlora" else {}
    content = miniature(**{"methods": {name: {"settings": settings}}, "tables.table1.methods": {"llama-mini": [name]}})
    (run,) = table_runs(load_experiment([write(tmp_path, content)]), "table1")
    base = architecture(run, models_dir=tmp_path)
    assert base is not None
    counted = count(run, base.of_depth(3), total_steps=240, steps_per_epoch=120)
    monkeypatch.setattr(Architecture, "is_uniform", False)
    assert count(run, base.of_depth(3), total_steps=240, steps_per_epoch=120) == counted


def test_a_stand_in_without_a_window_is_planned_without_one(tmp_path: Path) -> None:
    content = miniature(**{"models.llama-mini.source.architecture": "mistral"})
    (run, *_) = table_runs(load_experiment([write(tmp_path, content)]), "table1")
    sizes = architecture(run, models_dir=tmp_path)
    assert sizes is not None and sizes.config().sliding_window is None is model_config(run.model.source).sliding_window


def test_a_method_that_does_not_say_what_it_trains_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run, _) = table_runs(load_experiment([write(tmp_path, miniature())]), "table1")
    base = architecture(run, models_dir=tmp_path)
    assert base is not None
    counted = count(run, base, total_steps=240, steps_per_epoch=120)
    monkeypatch.setattr(Lora, "trained_parameters", Method.trained_parameters)
    assert count(run, base, total_steps=240, steps_per_epoch=120) == counted


def test_the_papers_column_of_parameters(table1: list[PlannedRun]) -> None:
    """Within rounding to millions, for all fifteen pairs of model and method; a rank that moves counts as the mean rank r."""
    with (ROOT / "config/paper_reported.csv").open() as stream:
        printed = {
            (row["model"], row["method"]): float(row["params_millions"])
            for row in csv.DictReader(stream)
            if row["table"] == "table1"
        }
    labels = {name: methods.get(name).label for name in TABLE1}
    millions = {
        (run.model, labels[run.method]): (run.parameters.final or run.parameters.trainable) / 1e6
        for run in table1
        if run.parameters is not None
    }
    assert millions.keys() == printed.keys() and len(millions) == 15
    assert {key: round(value) for key, value in millions.items()} == printed


def test_an_unknown_hub_model_has_no_counts_and_nothing_is_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    source = {"kind": "hub", "model_name_or_path": "nobody/no-such-model"}
    plan = report(capsys, write(tmp_path, miniature(**{"models.llama-mini.source": source})))
    assert [run["parameters"] for run in plan["runs"]] == [None, None]
    assert [run["steps"] for run in plan["runs"]] == [12, 12]


# ------------------------------------------------------------------------------------------------- steps and operations


def test_steps_and_operations_of_the_papers_runs(table1: list[PlannedRun]) -> None:
    runs = {run.run_id: run for run in table1}
    assert len(runs) == 30
    lora = runs["math/llama2-7b/lora/seed0"]
    assert lora.rows == 395_000 and lora.operations == ()
    assert lora.steps == 37_032, "395,000 rows x 3 epochs in batches of 32, each epoch rounded up"
    assert runs["math/llama2-7b/full-ft/seed0"].steps == 9_258, "A.2: batch 128"
    beamlora = runs["math/llama2-7b/beamlora/seed0"]
    assert beamlora.pruning == tuple(range(3000, 24_001, 3000)), "in the first two epochs: 24,688 steps"
    assert set(beamlora.pruning) < set(beamlora.operations)
    assert len(runs["code/llama2-7b/beamlora/seed0"].pruning) == 5, "B.1: five operations"


def test_a_limit_and_rows_that_nobody_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"training": {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "num_train_epochs": 2}}
    plan = report(capsys, write(tmp_path, miniature(**changes, **{"domains.math.train.limit": 33})))
    assert {(run["rows"], run["steps"]) for run in plan["runs"]} == {(33, 10)}
    source = {"kind": "files", "hub_id": "some/set", "split": "train"}
    plan = report(capsys, write(tmp_path, miniature(**changes, **{"domains.math.train.source": source})))
    assert {(run["rows"], run["steps"], run["tokens"]) for run in plan["runs"]} == {(None, None, None)}
    assert plan["total"]["steps"] is None and plan["runs"][0]["parameters"]["trainable"] > 0


def test_a_run_in_which_nothing_would_be_pruned_is_refused(tmp_path: Path) -> None:
    settings = {"beamlora": {"settings": {"delta_t": 1000}}}
    path = write(tmp_path, miniature(**{"methods": settings, "tables.table1.methods": {"llama-mini": ["beamlora"]}}))
    with pytest.raises(
        ConfigError, match=r"experiment\.yaml:\d+: methods\.beamlora\.settings\.delta_t: found 1000 in a run of 12"
    ):
        main(["--configfile", str(path), "--models-dir", str(tmp_path)])
    said = r"changed by --config or --set: training\.max_steps: methods\.beamlora\.settings\.delta_t: found 1000 in a run of 9"
    with pytest.raises(ConfigError, match=said):
        main(["--configfile", str(path), "--models-dir", str(tmp_path), "--set", "training.max_steps=9"])


def test_the_steps_of_operations_are_the_methods_own_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def schedule(self: Lora, *, total_steps: int, steps_per_epoch: int) -> OperationSteps:
        return OperationSteps(all=(steps_per_epoch // 2, total_steps - 1), pruning=(steps_per_epoch // 2,))

    monkeypatch.setattr(Lora, "schedule", schedule)
    lora, dora = report(capsys, write(tmp_path, miniature(**{"training.max_steps": 30})))["runs"]
    assert (lora["operations"], lora["pruning"]) == ([6, 29], [6]), "96 rows in batches of 8: an epoch of 12 steps"
    assert (dora["operations"], dora["pruning"]) == ([6, 29], [6]), "a subclass has inherited it"


def test_operations_that_depend_on_an_epoch_of_unknown_length_stay_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is known how many steps the run has, but not where its second epoch ends."""
    changes = {"methods": {"beamlora": {"settings": {"delta_t": 4}}}, "tables.table1.methods": {"llama-mini": ["beamlora"]}}
    source = {"kind": "files", "hub_id": "some/set", "split": "train"}
    (run,) = report(capsys, write(tmp_path, miniature(**changes, **{"domains.math.train.source": source})))["runs"]
    assert (run["rows"], run["steps"], run["operations"]) == (None, 12, [])


@pytest.mark.parametrize("folder", ["harness/experiment", "harness/plan", "harness/tables", "harness/workflow"])
def test_what_plans_and_tabulates_names_no_method(folder: str) -> None:
    """Which one the baseline is, and which one the paper proposes, is said in ``harness.schema.fields``."""
    for path in sorted((ROOT / folder).glob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        assert {node.value for node in nodes if isinstance(node, ast.Constant)} & set(methods.registry()) == set(), path
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {name for name in imported if name and name.startswith("methods.")} <= {"methods.base"}, path


# ------------------------------------------------------------------------------------------------------ tokens and state


@pytest.mark.parametrize(
    "source", [None, {"kind": "hub", "model_name_or_path": "meta-llama/Llama-2-7b-hf"}], ids=["built", "hub"]
)
def test_tokens_are_bounded_then_measured_then_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: dict[str, Any] | None
) -> None:
    path = write(tmp_path, miniature(**({"models.llama-mini.source": source} if source else {})))
    experiment = load_experiment([path])
    run = table_runs(experiment, "table1")[0]
    (bounded, _) = report(capsys, path)["runs"]
    assert bounded["tokens"] == {"count": 12 * 8 * 256, "how": "at most"}

    built = table_runs(load_experiment([write(tmp_path, miniature())]), "table1")[0].model.source
    tokens = training_set(run.data, build_tokenizer(built.pretraining), data_dir=None, cache_dir=tmp_path / "cache")
    note_lengths(tokens, run.data, run.model, cache_dir=tmp_path / "cache")
    path = write(tmp_path, miniature(**({"models.llama-mini.source": source} if source else {})))
    for name in ("load_tokenizer", "load_config"):
        monkeypatch.setattr(f"harness.models.load.{name}", None)  # neither is at hand
    (measured, _) = report(capsys, path)["runs"]
    assert measured["tokens"] == {"count": len(tokens.input_ids), "how": "measured"}, "96 rows in 12 steps of 8: one epoch"

    record = tmp_path / "results/mini" / run.run_id / "train.json"
    record.parent.mkdir(parents=True)
    content = {"schema_version": SCHEMA_VERSION, "status": "success", "tokens": {"input": 4321}}
    record.write_text(json.dumps({**content, "training_hash": run.training_hash()}))
    (recorded, other) = report(capsys, path)["runs"]
    assert recorded["tokens"] == {"count": 4321, "how": "recorded"} and other["tokens"]["how"] == "measured"
    record.write_text(json.dumps({**content, "training_hash": "other"}))
    assert report(capsys, path)["runs"][0]["tokens"]["how"] == "measured", "a record of another spec says nothing"


def test_the_longest_examples_make_the_largest_batch_and_lengths_of_other_rows_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(Peaks, "of", lambda self, run, base, *, lengths, **_: asked.append(lengths))
    experiment = load_experiment([write(tmp_path, miniature())])
    run = table_runs(experiment, "table1")[0]
    for rows in (96, 95):
        lengths = [200, 190, *[180] * 5, *[100] * (rows - 7)]
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        tokens = TokenizedSet(input_ids=torch.empty(0), labels=torch.empty(0), offsets=offsets, cut=0, fingerprint="x")
        note_lengths(tokens, run.data, run.model, cache_dir=tmp_path)
        planner = Planner(experiment, models_dir=tmp_path, cache_dir=tmp_path, results=tmp_path)
        planned = planner.plan(run)
        assert planned.tokens is not None and planned.tokens.how == ("measured" if rows == 96 else "at most")
    assert asked == [[200, 190, 180, 180, 180, 180, 180, 100], [256] * 8]


def test_what_is_done_is_told_from_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from harness.records.read import MissingRecord, RecordError, StaleRecord

    content = miniature(**{"seeds": [0, 1, 2, 3, 4, 5]})
    path = write(tmp_path, content)
    answers = {
        0: SimpleNamespace(diverged=False),
        1: SimpleNamespace(diverged=True),
        2: StaleRecord("stale"),
        3: RecordError("broken"),
        4: MissingRecord("missing"),
        5: MissingRecord("missing"),
    }
    trained = tmp_path / "results/mini/math/llama-mini/lora/seed5/train.json"
    trained.parent.mkdir(parents=True)
    trained.write_text("{}")

    def load_record(run: Any, **_: Any) -> Any:
        answer = answers[run.seed]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("harness.plan.work.load_record", load_record)
    plan = report(capsys, path)
    lora = [run["state"] for run in plan["runs"] if run["method"] == "lora"]
    assert lora == ["done", "diverged", "stale", "broken", "missing", "trained"]
    assert plan["total"]["runs"] == 12 and plan["total"]["left"] == 8
    assert plan["total"]["steps_left"] == 8 * 12


# ---------------------------------------------------------------------------------------------------- target and output


def test_a_target_stands_before_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, miniature())
    main(["--json", "reproduce_table1", "--configfile", str(path)])
    assert json.loads(capsys.readouterr().out)["target"] == "reproduce_table1"
    with pytest.raises(ConfigError, match="found reproduce_table1 as a configuration file; put reproduce_table1 before"):
        main(["--json", "--configfile", str(path), "reproduce_table1"])


@pytest.mark.parametrize("target", ["reproduce_table9", "delta_t"])
def test_a_target_without_runs_is_refused(tmp_path: Path, target: str) -> None:
    message = r"experiment\.yaml: .*(found unknown 'reproduce_table9'|plans no runs for 'delta_t')"
    with pytest.raises(ConfigError, match=message):
        main([target, "--configfile", str(write(tmp_path, miniature()))])


def test_no_number_is_split_over_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The longest ones: below a million, as a bound."""
    main(["reproduce_table1", "--configfile", str(write(tmp_path, miniature(**{"training.max_steps": 480})))])
    assert f"<={480 * 8 * 256:,} " in capsys.readouterr().out


def test_the_text_fits_into_100_columns(table1: list[PlannedRun], capsys: pytest.CaptureFixture[str]) -> None:
    experiment = load_experiment([PAPER])
    specs = target_runs(experiment, "reproduce_table1")
    settings = used_settings(experiment, specs, [PAPER], {})
    print_plan(experiment, "reproduce_table1", table1, settings, table4_check(specs, reported.settings()))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "30 runs: 30 missing" in text and "12 of 12 settings agree" in text
    assert "239,883,264 159,922,176" in text and "3,000, 6,000 ... 24,000" in text and "[ours]" in text


def test_seeds_share_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--configfile", str(write(tmp_path, miniature(seeds=[0, 1, 2]))), "--models-dir", str(tmp_path)])
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith("lora")]
    assert line.split()[:2] == ["lora", "0-2"] and "6 runs: 6 missing" in text


def test_every_planned_setting_has_a_source_or_is_a_default() -> None:
    experiment = load_experiment([PAPER])
    settings = used_settings(experiment, all_runs(experiment), [PAPER], {})
    assert [setting.name for setting in settings if not setting.source.tags] == []
    rate = [s for s in settings if s.name == "training.learning_rate" and s.methods == ("full-ft",)]
    assert (5e-6, ("mistral-7b",), "[A.2]") in {(s.value, s.models, str(s.source)) for s in rate}


def test_settings_that_differ_from_table_4_are_named() -> None:
    experiment = load_experiment([PAPER])
    rows = table4_check(target_runs(experiment, "reproduce_table4"), reported.settings())
    assert len(rows) == 18 and all(row["agrees"] for row in rows)
    overrides = {"adapter.r": 32}
    changed = load_experiment([PAPER], overrides)
    runs = target_runs(changed, "reproduce_table4")
    differing = [row for row in table4_check(runs, reported.settings()) if not row["agrees"]]
    assert {(row["domain"], row["setting"], row["ours"], row["paper"]) for row in differing} == {
        ("math", "r", 32, 64.0),
        ("code", "r", 32, 64.0),
    }
    settings = used_settings(changed, runs, [PAPER], overrides)
    assert {str(s.source) for s in settings if s.name == "method.r"} == {"--set", "[Table 4]"}


def test_stand_ins_are_not_held_against_table_4() -> None:
    assert table4_check(all_runs(load_experiment([ROOT / "config/tiny.yaml"])), reported.settings()) == []
