"""Where settings come from: the tags in an experiment's comments, and which key gave a run's setting."""

from __future__ import annotations

from pathlib import Path

import pytest

import methods
from harness.errors import KeyPath
from harness.experiment.runs import all_runs, load_experiment, origins, sweep_runs, table_runs
from harness.experiment.sources import DEFAULT, TAGS, read_sources, source_of
from harness.schema.evaluation import InferenceSpec
from methods.lora import Lora
from tests.experiments import miniature, write
from tests.paths import ROOT

PAPER = ROOT / "config/paper.yaml"


def sources(tmp_path: Path, text: str) -> dict[str, tuple[str, ...]]:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return {".".join(map(str, key)): source.tags for key, source in read_sources([path]).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1  # [A.2] why\nb: 2\n", {"a": ("A.2",), "b": ()}),
        ("a: 1  # [script] alpha = 2r; for the baselines [ours]\n", {"a": ("script", "ours")}),
        ("# [B.1] both lines\n# of this\na: 1\nb: 2\n", {"a": ("B.1",), "b": ()}),
        ("a:  # [Table 4]\n  b: 1\n  c: 2  # [ours]\n", {"a.b": ("Table 4",), "a.c": ("ours",)}),
        ("a: {b: 1, c: [1, 2]}  # [ours]\n", {"a.b": ("ours",), "a.c": ("ours",)}),
        ("a:\n  - {b: 1}  # [A.2]\n  # [ours]\n  - b: 2\n  - {b: 3}\n", {"a.0.b": ("A.2",), "a.1.b": ("ours",), "a.2.b": ()}),
        ("a: '# [A.2]'\nb: \"x # [ours]\"\n", {"a": (), "b": ()}),
        ("a: 1  # [nobody]\n", {"a": ()}),
        ("a: &x {b: 1, c: 2}  # [A.2]\nd: {<<: *x, c: 3}  # [ours]\n", {
            "a.b": ("A.2",), "a.c": ("A.2",), "d.b": ("A.2",), "d.c": ("ours",)}),
    ],
)  # fmt: skip
def test_a_comment_tags_its_key_and_what_is_below(tmp_path: Path, text: str, expected: dict[str, tuple[str, ...]]) -> None:
    assert sources(tmp_path, text) == expected


def test_the_comment_is_kept_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1  # [A.2] batch 128; the rest [ours]\n")
    (source,) = read_sources([path]).values()
    assert source.note == "[A.2] batch 128; the rest [ours]" and str(source) == "[A.2] [ours]" and source.line == 1


def test_later_files_and_the_command_line_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("a: {b: 1, c: 2}  # [A.2]\nl: [{x: 1}, {x: 2}]  # [A.2]\n")
    second.write_text("a: {b: 5}  # [ours]\nl: [{x: 7}]\n")
    tags = {key: source.tags for key, source in read_sources([first, second], {"a.c": 9}).items()}
    assert tags == {("a", "b"): ("ours",), ("a", "c"): ("--set",), ("l", 0, "x"): ()}


def is_setting(path: KeyPath) -> bool:
    """Whether a key says how runs are trained, evaluated or chosen, rather than what a set or a model is and is called."""
    match path:
        case ("seeds" | "protocol" | "training" | "adapter", *_):
            return True
        case ("domains", _, "train", key, *_):
            return key not in ("source", "format")
        case ("domains", _, "training" | "adapter", *_):
            return True
        case ("domains", _, "evaluation", key):
            return key == "protocol" or key in InferenceSpec.model_fields
        case ("domains", _, "evaluation", "tasks", _, key, *_):
            return key not in ("source", "format", "split")
        case ("methods" | "overrides", _, "settings" | "training", *_) | ("sweeps", _, "points", *_):
            return True
        case ("pruning" | "timing", "limit" | "fractions" | "rounds" | "steps" | "warmup_steps"):
            return True
    return False


def untagged(path: Path) -> list[str]:
    """The settings of a file that have no source."""
    return [".".join(map(str, key)) for key, source in read_sources([path]).items() if is_setting(key) and not source.tags]


def test_every_setting_of_the_papers_experiment_names_its_source() -> None:
    assert untagged(PAPER) == []


def test_a_setting_without_a_source_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(PAPER.read_text().replace("max_length: 512          # [script]", "max_length: 512"))
    assert untagged(path) == ["domains.math.train.max_length"]


def test_the_head_of_the_file_explains_the_tags_that_it_uses() -> None:
    used = {tag for source in read_sources([PAPER]).values() for tag in source.tags}
    head = PAPER.read_text().partition("\nname:")[0]
    assert used <= set(TAGS) and all(f"[{tag}]" in head for tag in used)


@pytest.mark.parametrize(
    ("run_id", "setting", "key"),
    [
        ("math/llama2-7b/lora/seed0", "method.r", "adapter.r"),
        ("commonsense/llama2-7b/lora/seed0", "method.r", "domains.commonsense.adapter.r"),
        ("math/llama2-7b/lora/seed0", "training.learning_rate", "training.learning_rate"),
        ("math/llama2-7b/lora/seed0", "data.max_length", "domains.math.train.max_length"),
        ("math/llama2-7b/lora/seed0", "evaluation.protocol", "protocol"),
        ("math/llama2-7b/lora.r=4/seed0", "method.r", "sweeps.rank_sweep.points.0.r"),
        ("math/llama2-7b/beamlora-no-expansion/seed0", "method.expansion", "methods.beamlora-no-expansion"),
        ("code/llama2-7b/beamlora.p_init=0.93/seed0", "method.p_init", "sweeps.p_init.points.0.p_init"),
    ],
)
def test_the_key_that_gave_a_setting(run_id: str, setting: str, key: str) -> None:
    experiment = load_experiment([PAPER])
    runs = {run.run_id: run for run in all_runs(experiment)}
    assert ".".join(map(str, origins(experiment, runs[run_id])[setting])) == key


def test_every_key_holds_the_value_that_the_run_has() -> None:
    """Over all runs of the paper's experiment: following the key into the file gives the run's own value."""
    experiment = load_experiment([PAPER])
    content = experiment.model_dump(mode="json")
    for run in all_runs(experiment):
        spec = run.model_dump(mode="json")
        for name, path in origins(experiment, run).items():
            section, _, field = name.partition(".")
            value = (spec["method"]["settings"] if section == "method" else spec[section])[field]
            if path is not None and path != ("methods", run.method.key):
                node = content
                for part in path:
                    node = node[part]
                assert node == value, (run.run_id, name, path)


def test_what_makes_a_variant_overrules_what_all_adapters_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lora, "variants", {"lora-narrow": ("LoRA (r = 2)", {"r": 2})})
    methods.registry.cache_clear()
    try:
        changes = {"methods": {"lora-narrow": {}, "lora": {}}, "tables.table1.methods.llama-mini": ["lora-narrow", "lora"]}
        experiment = load_experiment([write(tmp_path, miniature(**changes))])
        narrow, plain = table_runs(experiment, "table1")
        assert (narrow.method.settings["r"], origins(experiment, narrow)["method.r"]) == (2, ("methods", "lora-narrow"))
        assert (plain.method.settings["r"], origins(experiment, plain)["method.r"]) == (8, ("adapter", "r"))
    finally:
        methods.registry.cache_clear()


def test_a_length_that_a_methods_own_replaces_gives_nothing(tmp_path: Path) -> None:
    experiment = load_experiment([write(tmp_path, miniature(**{"methods.lora.training": {"num_train_epochs": 2}}))])
    own, shared = table_runs(experiment, "table1")
    assert (own.training.max_steps, own.training.num_train_epochs, shared.training.max_steps) == (None, 2, 12)
    assert origins(experiment, own)["training.max_steps"] is None
    assert origins(experiment, own)["training.num_train_epochs"] == ("methods", "lora", "training", "num_train_epochs")
    assert origins(experiment, shared)["training.max_steps"] == ("training", "max_steps")


def test_a_point_is_looked_for_among_the_sweeps_of_the_runs_own_place(tmp_path: Path) -> None:
    place = {"setting": "r", "models": ["llama-mini"], "methods": ["lora"]}
    content = miniature(**{"domains.other": miniature()["domains"]["math"]})
    content["sweeps"] = {
        "first": {**place, "domains": ["math"], "points": [{"r": 2}, {"r": 4, "lora_alpha": 4}]},
        "second": {**place, "domains": ["other"], "points": [{"r": 2}, {"r": 4, "lora_alpha": 32}]},
    }
    experiment = load_experiment([write(tmp_path, content)])
    (_, run) = (point.run for point in sweep_runs(experiment, "second"))
    assert run.method.settings["lora_alpha"] == 32
    assert origins(experiment, run)["method.lora_alpha"] == ("sweeps", "second", "points", 1, "lora_alpha")


def test_what_no_file_states_is_a_default(tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    experiment = load_experiment([path])
    (run, _) = table_runs(experiment, "table1")
    where = origins(experiment, run)
    assert where["training.weight_decay"] is None and where["method.lora_dropout"] is None
    assert source_of(read_sources([path]), None).tags == (DEFAULT,)
