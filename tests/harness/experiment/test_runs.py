"""Experiment files: what is accepted, what is refused and how, and which runs come out."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.experiment.runs import all_runs, load_experiment, load_run, metric_of, sweep_runs, table_runs
from tests.experiments import miniature, write
from tests.paths import ROOT


def load(tmp_path: Path, content: dict, **overrides: object):
    return load_experiment([write(tmp_path, content)], overrides)


def refused(tmp_path: Path, content: dict, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "experiment.yaml" in message
    return message


PRETRAINING = "models.llama-mini.source.pretraining"
TASK = "domains.math.evaluation.tasks.gsm8k"
WHERE = {"domains": ["math"], "models": ["llama-mini"], "methods": ["lora"]}
TIMING = {"domain": "math", "model": "llama-mini", "methods": ["lora", "dora"]}


def specs(experiment) -> dict:
    return {run.run_id: run for run in all_runs(experiment)}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_experiment_of_the_project_loads(path: Path) -> None:
    experiment = load_experiment([path])
    assert all_runs(experiment)
    assert experiment.name == path.stem


@pytest.mark.parametrize(
    ("graders", "metric"), [(["sound", "sound"], "accuracy"), ([None, "sound"], "gold_nll"), ([None, None], "gold_nll")]
)
def test_runs_are_judged_by_accuracy_where_every_test_set_is_answered(
    tmp_path: Path, graders: list[str | None], metric: str
) -> None:
    content = miniature()
    tasks = content["domains"]["math"]["evaluation"]["tasks"]
    shared = tasks.pop("gsm8k")
    tasks |= {f"gsm8k_{i}": {**shared, "grader": grader} for i, grader in enumerate(graders)}
    tasks["other"] = {**shared, "grader": None, "split": "secondary"}
    tasks["rows"] = {**shared, "grader": "sound", "split": "validation"}
    runs = all_runs(load(tmp_path, content))
    assert metric_of(runs) == metric and metric_of(runs, "validation") == "accuracy"


def test_unknown_key_is_named_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"models.llama-mini.source.hiden_size": 3}))
    assert "models.llama-mini.source.hiden_size" in message
    assert "did you mean 'hidden_size'" in message
    line = next(i for i, text in enumerate((tmp_path / "experiment.yaml").read_text().splitlines(), 1) if "hiden" in text)
    assert f"experiment.yaml:{line}:" in message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("learning_rate", "learning_rate: found an unknown key; did you mean 'training.learning_rate'?"),
        ("generator", "generator: found an unknown key"),
        ("seed", "seed: found an unknown key; did you mean 'seeds'?"),
    ],
)
def test_a_key_in_the_wrong_place_is_not_suggested_for_itself(tmp_path: Path, key: str, said: str) -> None:
    message = refused(tmp_path, miniature(**{key: 3}))
    assert said in message and f"mean '{key}'" not in message


def test_misspelt_method_gets_a_suggestion(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"methods": {"lora": {}, "dorra": {}}}))
    assert "unknown method 'dorra'; did you mean 'dora'" in message


def test_two_rows_of_a_table_are_not_called_alike(tmp_path: Path) -> None:
    content = miniature(**{"methods": {"lora": {}, "dora": {}, "mine": {"method": "lora"}}})
    content["tables"]["table1"]["methods"]["llama-mini"] = ["lora", "mine"]
    said = "methods.mine.label: found the label 'LoRA' of 'lora' beside it in table1, expected another"
    assert said in refused(tmp_path, content)
    content["methods"]["mine"]["label"] = "LoRA, mine"
    assert [run.method.label for run in table_runs(load(tmp_path, content), "table1")] == ["LoRA", "LoRA, mine"]


def test_a_protocol_that_no_set_of_the_base_models_has_is_refused(tmp_path: Path) -> None:
    own = miniature()["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]
    tasks = {"gsm8k": {"source": own["source"], "format": "gsm8k"}}
    base = {"models": ["llama-mini"], "protocols": ["sound", "continuation"], "tasks": tasks}
    said = "base_evaluation.protocols: found 'continuation', which no set of base_evaluation.tasks has, expected protocols of"
    assert said in refused(tmp_path, miniature(base_evaluation=base))


def test_unknown_setting_of_a_method_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"methods.lora.settings": {"lora_dropuot": 0.1}}))
    assert "lora_dropuot" in message and "lora_dropout" in message


def test_unknown_shared_adapter_setting_is_refused(tmp_path: Path) -> None:
    assert "adapter.rnak" in refused(tmp_path, miniature(**{"adapter.rnak": 4}))


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    path.write_text(path.read_text() + "\nname: other\n")
    with pytest.raises(ConfigError, match="name: found twice"):
        load_experiment([path])


def test_two_lengths_of_training_are_refused(tmp_path: Path) -> None:
    assert "exactly one" in refused(tmp_path, miniature(**{"training.num_train_epochs": 1}))


def test_attention_that_leaks_between_packed_examples_is_refused(tmp_path: Path) -> None:
    assert "attn_implementation" in refused(tmp_path, miniature(**{"training.attn_implementation": "eager"}))


def test_missing_file_suggests_the_near_one(tmp_path: Path) -> None:
    write(tmp_path, miniature())
    with pytest.raises(ConfigError, match="did you mean .*experiment.yaml"):
        load_experiment([tmp_path / "experimnt.yaml"])


@pytest.mark.parametrize(("given", "expected"), [(3, (0, 1, 2)), ("3", (0, 1, 2)), ([4, 7], (4, 7)), ("0,5", (0, 5))])
def test_seeds_can_be_counted_or_named(tmp_path: Path, given: object, expected: tuple[int, ...]) -> None:
    assert load(tmp_path, miniature(), seeds=given).seeds == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seeds", [True, False], "seeds.0: found True, expected a number"),
        ("training.learning_rate", True, "training.learning_rate: found True, expected a number"),
        ("training.per_device_train_batch_size", True, "training.per_device_train_batch_size: found True, expected a number"),
        ("training.warmup_steps", False, "training.warmup_steps: found False, expected a number"),
        ("adapter.r", True, "adapter.r: found True, expected a number"),
        ("gpus", True, "gpus: found True, expected a number"),
        ("training.weight_decay", 1e30, "training.weight_decay: found 1e+30, expected <= 10"),
        ("training.adam_epsilon", 1e30, "training.adam_epsilon: found 1e+30, expected <= 1"),
        ("training.max_grad_norm", 1e300, "training.max_grad_norm: found 1e+300, expected <= 1000000000"),
        (
            "training.gradient_accumulation_steps",
            10**6,
            "training.gradient_accumulation_steps: found 1000000, expected <= 10000",
        ),
        ("adapter.lora_alpha", 10**30, f"adapter.lora_alpha: found {10**30}, expected <= 1000000"),
        (f"{PRETRAINING}.learning_rate", 1e30, f"{PRETRAINING}.learning_rate: found 1e+30, expected <= 10"),
        (f"{PRETRAINING}.max_steps", 10**12, f"{PRETRAINING}.max_steps: found 1000000000000, expected <= 100000000"),
        (
            f"{PRETRAINING}.corpus_documents",
            10**12,
            f"{PRETRAINING}.corpus_documents: found 1000000000000, expected <= 10000000",
        ),
        (f"{PRETRAINING}.sequence_length", 513, f"{PRETRAINING}.sequence_length: found 513, expected at most max_position_emb"),
        (
            "models.llama-mini.source.num_hidden_layers",
            10**5,
            "models.llama-mini.source.num_hidden_layers: found 100000, expected <= 1000",
        ),
        (
            "domains.math.train.source.rows",
            10**13,
            "domains.math.train.source.rows: found 10000000000000, expected <= 10000000",
        ),
        (f"{TASK}.num_beams", 10**6, f"{TASK}.num_beams: found 1000000, expected <= 100"),
        (f"{TASK}.timeout_s", 1e30, f"{TASK}.timeout_s: found 1e+30, expected <= 86400"),
        (f"{TASK}.stop_strings", [""], f"{TASK}.stop_strings.0: found '', expected text of 1 characters or more"),
        ("timing", {**TIMING, "steps": 10**8}, "timing.steps: found 100000000, expected <= 100000"),
        ("timing", {**TIMING, "rounds": 10**9}, "timing.rounds: found 1000000000, expected <= 1000"),
        ("timing", {**TIMING, "warmup_steps": 10**6}, "timing.warmup_steps: found 1000000, expected <= 100000"),
        ("comparisons", {"min_seeds": 10**6}, "comparisons.min_seeds: found 1000000, expected <= 10000"),
        ("seeds", "²", "seeds: found '²', expected a number of seeds from 1 to 10000, or a list of seeds"),
        ("seeds", "9" * 5000, "seeds: found '999"),
        (
            "tables.table1.seeds",
            0,
            "tables.table1.seeds: found 0, expected a number of seeds from 1 to 10000, or a list of seeds",
        ),
        ("seeds", 0, "seeds: found 0, expected a number of seeds from 1 to 10000, or a list of seeds"),
        ("seeds", 10**21, "seeds: found 1000000000000000000000, expected a number of seeds"),
        ("seeds", [-1], "seeds.0: found -1, expected >= 0"),
        ("seeds", [2**32], "seeds.0: found 4294967296, expected < 4294967296"),
        ("seeds", [1, 2, 1], "seeds: found 1 twice, expected each once"),
        ("seeds", {"a": 1}, "seeds: found {'a': 1}, expected a number of seeds from 1 to 10000, or a list of seeds"),
        ("gpu", "perhaps", "gpu: found 'perhaps', expected true or false"),
        ("title", None, "title: found None, expected text"),
        ("name", "../x", "name: found '../x', expected text that matches ^[a-z0-9]"),
        ("adapter.r", 8.5, "adapter.r: found 8.5, expected a whole number"),
        ("adapter.target_modules", "q_proj", "adapter.target_modules: found 'q_proj', expected a list"),
        ("methods.lora", 3, "methods.lora: found 3, expected a mapping of keys"),
        ("models.llama-mini.source.kind", "huub", "models.llama-mini.source.kind: found 'huub'; did you mean 'hub'?"),
        ("training.learning_rate", "fast", "training.learning_rate: found 'fast', expected a number"),
        ("training.learning_rate", 1e30, "training.learning_rate: found 1e+30, expected <= 10"),
        ("training.learning_rate", float("inf"), "training.learning_rate: found inf, expected a finite number"),
        ("training.max_steps", 10**12, "training.max_steps: found 1000000000000, expected <= 100000000"),
        ("training.lr_scheduler_type", "step", "training.lr_scheduler_type: found 'step', expected 'cosine', 'linear' or"),
        ("tables", {}, "tables: found {}, expected at least 1"),
        ("tables.table1.methods", {"llama-mini": ["lora", "lora"]}, "tables.table1.methods.llama-mini: found 'lora' twice"),
        ("adapter.r", 0, "adapter.r: found 0, expected >= 1"),
        ("adapter.target_modules", ["q_proj", "q_proj"], "adapter.target_modules: found 'q_proj' twice, expected each once"),
        ("adapter.target_modules", [], "adapter.target_modules: found [], expected at least 1"),
        ("domains.math.adapter", {"lora_dropout": 1.5}, "domains.math.adapter.lora_dropout: found 1.5, expected < 1.0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_values_are_refused_where_they_stand(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = write(tmp_path, miniature(**{key: value}))
    with pytest.raises(ConfigError) as caught:
        load_experiment([path])
    place, _, rest = str(caught.value).partition(": ")
    assert rest.startswith(message)
    name, _, line = place.rpartition(":")
    assert name == str(path) and key.split(".")[-1] in "".join(path.read_text().splitlines()[: int(line)])


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        ({"seeds": 0}, "seeds", "found 0, expected a number of seeds"),
        ({"seeds": [3, -1]}, "seeds.1", "found -1, expected >= 0"),
        ({"training": {"learning_rate": 99}}, "training.learning_rate", "found 99, expected <= 10"),
        ({"adapter.rnak": 3}, "adapter.rnak", "found an unknown key; expected one of"),
        ({"methods.new": {"method": "lroa"}}, "methods.new", "found unknown method 'lroa'; did you mean 'lora'?"),
    ],
    ids=str,
)
def test_what_the_command_line_says_is_not_blamed_on_a_line_of_a_file(
    tmp_path: Path, overrides: dict[str, object], key: str, message: str
) -> None:
    said = refused(tmp_path, miniature(), **overrides)
    assert said.startswith(f"{tmp_path / 'experiment.yaml'}, changed by --config or --set: {key}: {message}")


def test_beside_a_change_on_the_command_line_a_file_keeps_its_own_mistakes(tmp_path: Path) -> None:
    content = miniature(**{"training.learning_rate": 99})
    said = refused(tmp_path, content, training={"max_steps": 3}, **{"methods.lora": {"label": "x"}})
    assert "experiment.yaml:" in said and ": training.learning_rate: found 99" in said
    content = miniature(**{"methods.lroa": {"settings": {}}})
    assert "experiment.yaml:" in refused(tmp_path, content, **{"methods.lroa": {"label": "x"}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("methods.beamlora.settings", {"delta_t": 5}, "delta_t: found 5, expected an even number"),
        ("methods.adalora.settings", {"init_r": 2}, "init_r: found 2, expected more than the final mean rank r = 8"),
        ("models.llama-mini.source", {"sliding_window": 3}, "sliding_window: found 3, expected null for architecture llama"),
    ],
)
def test_a_check_of_several_settings_names_the_line_of_the_one_that_is_wrong(
    tmp_path: Path, key: str, value: dict[str, object], message: str
) -> None:
    content = miniature(**{f"{key}.{name}": given for name, given in value.items()})
    content["tables"]["table1"]["methods"]["llama-mini"] = list(content["methods"])
    said = refused(tmp_path, content)
    (name,) = value
    line = next(i for i, text in enumerate((tmp_path / "experiment.yaml").read_text().splitlines(), 1) if name in text)
    assert said.startswith(f"{tmp_path / 'experiment.yaml'}:{line}: {key}.{message}")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            "training:\n  learning_rate: -1\n",
            "title: t\ntraining:\n  save_steps: 5\n",
            "1.yaml:2: training.learning_rate: found -1",
        ),
        (
            "training:\n  lerning_rate: 1\n",
            "title: t\ntraining:\n  save_steps: 5\n",
            "1.yaml:2: training.lerning_rate: found an",
        ),
        ("training:\n  save_steps: 5\n", "training:\n\n  learning_rate: -1\n", "2.yaml:3: training.learning_rate: found -1"),
        (
            "training:\n  learning_rate: -1\n",
            "training:\n\n  learning_rate: -2\n",
            "2.yaml:3: training.learning_rate: found -2",
        ),
        ("seeds: [1, 2]\n", "\nseeds: x\n", "2.yaml:2: seeds: found 'x'"),
        ("seeds:\n- 1\n- 2\n", "seeds:\n- 1\n- -1\n", "2.yaml:3: seeds.1: found -1"),
        (
            "overrides:\n- settings: {rr: 1}\n",
            "overrides:\n- {gpus: 1}\n- settings: {x: 1}\n",
            "2.yaml:3: overrides.1.settings.x: found",
        ),
        ("notes: [a]\nmethods:\n  dora: {settings: {r: 1}}\n", "methods: {dora: 3}\n", "2.yaml:1: methods.dora: found 3"),
        ("domains: {math: {gpus: 2}}\n", "domains:\n  math: {train: 3}\n", "2.yaml:2: domains.math.train: found 3"),
    ],
)
def test_of_several_files_the_one_that_is_wrong_is_named(tmp_path: Path, first: str, second: str, said: str) -> None:
    paths = [write(tmp_path, miniature()), tmp_path / "1.yaml", tmp_path / "2.yaml"]
    paths[1].write_text(first)
    paths[2].write_text(second)
    with pytest.raises(ConfigError) as caught:
        load_experiment(paths)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


def test_what_a_file_lacks_is_not_found_in_a_list_that_it_replaces(tmp_path: Path) -> None:
    sweep = {**SWEEP, "points": [{"r": 4}, {"r": 8, "lora_alpha": 0}]}
    second = tmp_path / "2.yaml"
    second.write_text("sweeps:\n  rank_sweep:\n    points:\n    - {r: 4}\n    - {lora_alpha: 8}\n")
    with pytest.raises(ConfigError, match="2.yaml:5: sweeps.rank_sweep.points.1.r: found None"):
        load_experiment([write(tmp_path, miniature(sweeps={"rank_sweep": sweep})), second])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training": {"num_train_epochs": 3}}, "training.num_train_epochs: found num_train_epochs 3.0 and max_steps 12"),
        ({"settings": {"r": 1}}, "settings.r: max_prune_fraction: found 0.5 with r 1"),
    ],
)
def test_settings_that_do_not_fit_are_blamed_on_the_one_laid_last(
    tmp_path: Path, overrides: dict[str, object], said: str
) -> None:
    content = miniature(methods={"lora": {}, "beamlora": {}}, overrides=[{"method": ["beamlora"], **overrides}])
    content["tables"]["table1"]["methods"] = {"llama-mini": ["beamlora"]}
    assert f": overrides.0.{said}" in refused(tmp_path, content)


def test_settings_of_a_method_that_is_only_timed_are_checked(tmp_path: Path) -> None:
    content = miniature(timing=TIMING, **{"methods.dora.settings": {"r": 0}})
    content["tables"]["table1"]["methods"] = {"llama-mini": ["lora"]}
    message = refused(tmp_path, content)
    assert "experiment.yaml:" in message and ": methods.dora.settings.r: found 0, expected >= 1" in message


def test_a_setting_of_another_method_is_not_suggested(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"methods.lora.settings": {"p_init": 0.9}}))
    assert "settings.p_init: found an unknown key; expected one of r, lora_alpha, lora_dropout, target_modules" in message


@pytest.mark.parametrize(("table", "near"), [("table9", "did you mean 'table1'?"), ("nonsense", "expected one of table1")])
def test_an_unknown_table_is_named(tmp_path: Path, table: str, near: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"tables: found no table '{table}'; {near}")):
        table_runs(load(tmp_path, miniature()), table)


def test_dotted_override_reaches_the_run(tmp_path: Path) -> None:
    experiment = load(tmp_path, miniature(), **{"training.learning_rate": 0.5})
    assert {run.training.learning_rate for run in all_runs(experiment)} == {0.5}


def test_a_second_file_changes_single_keys(tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("name: smaller\ntraining: {max_steps: 3}\n")
    experiment = load_experiment([write(tmp_path, miniature()), second])
    assert experiment.name == "smaller"
    assert {(run.training.max_steps, run.training.learning_rate) for run in all_runs(experiment)} == {(3, 3e-3)}


def test_mapping_override_is_merged(tmp_path: Path) -> None:
    """Snakemake's --config takes no dotted keys: ``--config training='{learning_rate: 0.5}'``."""
    before = specs(load(tmp_path, miniature()))
    after = specs(load(tmp_path, miniature(), training={"learning_rate": 0.5}))
    for run, spec in after.items():
        assert spec.training == before[run].training.model_copy(update={"learning_rate": 0.5})


def test_layers_of_settings_win_in_order(tmp_path: Path) -> None:
    content = miniature(
        **{
            "domains.math.training": {"learning_rate": 0.2},
            "methods.dora.training": {"learning_rate": 0.3},
            "overrides": [
                {
                    "method": ["dora"],
                    "domain": ["math"],
                    "settings": {"lora_rank": 4},
                    "training": {"gradient_checkpointing": True},
                }
            ],
        }
    )
    by_id = specs(load(tmp_path, content))
    lora, dora = by_id["math/llama-mini/lora/seed0"], by_id["math/llama-mini/dora/seed0"]
    assert (lora.training.learning_rate, dora.training.learning_rate) == (0.2, 0.3)
    assert (lora.method.settings["r"], dora.method.settings["r"]) == (8, 4)
    assert (lora.training.gradient_checkpointing, dora.training.gradient_checkpointing) == (False, True)


@pytest.mark.parametrize(
    "override", [{}, {"domain": ["math"]}, {"model": ["llama-mini"], "training": {"weight_decay": 0.1}}, {"method": ["lora"]}]
)
def test_an_override_of_what_no_method_has_is_refused(tmp_path: Path, override: dict[str, object]) -> None:
    other = {"settings": {"lora_r": 4}}
    content = miniature(overrides=[other, {**override, "settings": {"lora_alhpa": 8}}])
    message = refused(tmp_path, content)
    assert "overrides.1.settings.lora_alhpa: found an unknown key; did you mean 'lora_alpha'?" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({}, "overrides.1: found nothing that it changes, expected settings, training or gpus"),
        ({"method": ["lora"], "settings": {}}, "overrides.1: found nothing that it changes, expected settings, training or"),
        ({"method": ["beamlora"], "training": {"save_steps": 1}}, "overrides.1: found no run that it is for, expected one"),
        (
            {"settings": {"p_init": 0.9}},
            "overrides.1.settings.p_init: found an unknown key; expected one of lora_alpha, lora_d",
        ),
    ],
    ids=str,
)
def test_an_override_that_changes_nothing_is_refused(tmp_path: Path, override: dict[str, object], message: str) -> None:
    """Of beamlora nothing is planned."""
    methods = {"lora": {}, "dora": {}, "beamlora": {}}
    said = refused(tmp_path, miniature(overrides=[{"gpus": 1}, override], methods=methods))
    assert f": {message}" in said


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("methods.beamlora", {"settings": {"p_initt": 1}}, "methods.beamlora.settings.p_initt: found an unknown key; did you"),
        ("methods.beamlora", {"settings": {"p_init": 2}}, "methods.beamlora.settings.p_init: found 2.0, expected a number"),
        ("methods.beamlora", {"training": {"max_steps": 0}}, "methods.beamlora.training.max_steps: found 0, expected >= 1"),
        ("domains.other.adapter", {"rr": 1}, "domains.other.adapter.rr: found an unknown key; expected one of r, lora_alpha"),
        ("domains.other.training", {"max_steps": 0}, "domains.other.training.max_steps: found 0, expected >= 1"),
    ],
)
def test_what_no_table_uses_is_checked_too(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = miniature()
    content["domains"]["other"] = copy.deepcopy(content["domains"]["math"])
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target[parent]
    target[last] = value
    assert message in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapter", {"r": 8, "lora_alpha": 16, "lora_r": 4}),
        ("methods.lora.settings", {"lora_rank": 8, "lora_r": 4}),
        ("overrides", [{"settings": {"r": 8, "lora_r": 4}}]),
        ("sweeps", {"rank_sweep": {"setting": "r", "points": [{"r": 4, "lora_r": 8}, {"r": 2}], **WHERE}}),
    ],
)
def test_two_names_of_one_setting_beside_each_other_are_refused(tmp_path: Path, key: str, value: object) -> None:
    said = refused(tmp_path, miniature(**{key: value}))
    assert re.search(rf"experiment.yaml:\d+: {key}\.[\w.]*lora_r: found beside (r|lora_rank), which is the same setting", said)


def test_layers_may_call_a_setting_otherwise(tmp_path: Path) -> None:
    content = miniature(**{"adapter": {"lora_r": 2}, "methods.lora.settings": {"lora_rank": 4}})
    runs = {run.method.key: run.method.settings["r"] for run in all_runs(load(tmp_path, content))}
    assert runs == {"lora": 4, "dora": 2}


def test_runs_with_different_settings_do_not_share_a_name(tmp_path: Path) -> None:
    sweep = {"setting": "r", "points": [{"r": 4}, {"r": 2}], **WHERE}
    content = miniature(sweeps={"rank_sweep": sweep, "mine": sweep})
    assert len(all_runs(load(tmp_path, content))) == 4
    content["sweeps"]["mine"] = {**sweep, "points": [{"r": 4, "lora_alpha": 4}, {"r": 2}]}
    message = refused(tmp_path, content)
    assert "sweeps: found runs with different settings that are all called math/llama-mini/lora.r=4/seed0" in message


def test_an_override_for_all_methods_reaches_those_that_have_the_setting(tmp_path: Path) -> None:
    content = miniature(overrides=[{"settings": {"p_init": 0.8}}], methods={"lora": {}, "beamlora": {}})
    content["tables"]["table1"]["methods"] = {"llama-mini": ["lora", "beamlora"]}
    runs = {run.method.key: run.method.settings for run in all_runs(load(tmp_path, content))}
    assert runs["beamlora"]["p_init"] == 0.8 and "p_init" not in runs["lora"]


def test_a_methods_setting_changes_only_its_own_runs(tmp_path: Path) -> None:
    before = specs(load(tmp_path, miniature()))
    after = specs(load(tmp_path, miniature(**{"methods.dora.settings": {"lora_dropout": 0.2}})))
    changed = {run for run in before if before[run].training_hash() != after[run].training_hash()}
    assert changed == {"math/llama-mini/dora/seed0"}


def test_evaluation_is_no_part_of_the_training_spec(tmp_path: Path) -> None:
    before = specs(load(tmp_path, miniature()))
    after = specs(load(tmp_path, miniature(**{"domains.math.evaluation.tasks.gsm8k.limit": 3})))
    run = "math/llama-mini/lora/seed0"
    assert before[run].training_json() == after[run].training_json()
    assert before[run].evaluation_json() != after[run].evaluation_json()


def test_labels_change_no_hash(tmp_path: Path) -> None:
    before = specs(load(tmp_path, miniature()))
    after = specs(load(tmp_path, miniature(**{"methods.lora.label": "Other", "models.llama-mini.label": "Other"})))
    assert {r: s.training_hash() for r, s in before.items()} == {r: s.training_hash() for r, s in after.items()}


def test_unknown_run_suggests_the_near_one(tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    with pytest.raises(ConfigError, match="did you mean 'math/llama-mini/lora/seed0'"):
        load_run([path], {}, "math/llama-mini/lora/seed1")


def test_paper_table1_has_its_thirty_runs_and_settings() -> None:
    """Nine methods on LLaMA2-7B, six on Mistral-7B, two domains, one seed; intervals as in the paper's Table 4."""
    runs = table_runs(load_experiment([ROOT / "config/paper.yaml"]), "table1")
    assert len(runs) == 30
    beam = {(r.domain, r.model_key): r.method.settings for r in runs if r.method.name == "beamlora"}
    assert {key: s["delta_t"] for key, s in beam.items()} == {
        ("math", "llama2-7b"): 3000,
        ("math", "mistral-7b"): 2500,
        ("code", "llama2-7b"): 1200,
        ("code", "mistral-7b"): 800,
    }
    assert {(s["r"], s["p_init"]) for s in beam.values()} == {(64, 0.95)}
    rates = {(r.method.name, r.model_key): r.training.learning_rate for r in runs}
    assert rates["full-ft", "llama2-7b"] == 2e-5 and rates["full-ft", "mistral-7b"] == 5e-6
    assert rates["lora", "mistral-7b"] == 3e-4
    batches = {r.method.name: r.training.per_device_train_batch_size * r.training.gradient_accumulation_steps for r in runs}
    assert batches["lora"] == 32 and batches["full-ft"] == 128


# ------------------------------------------------------------------------------------------- protocols, sweeps, figures

SWEEP = {
    "setting": "r",
    "points": [{"r": 4, "lora_alpha": 8}, {"r": 8, "lora_alpha": 16}],
    "domains": ["math"],
    "models": ["llama-mini"],
    "methods": ["lora"],
}


def test_protocol_completes_what_a_task_leaves_out(tmp_path: Path) -> None:
    content = miniature(protocol="paper")
    task = content["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]
    del task["prompt_template"], task["grader"]
    evaluation = load_experiment([write(tmp_path, content)]).domains["math"].evaluation
    assert evaluation.protocol == "paper"
    asked = evaluation.tasks["gsm8k"]
    assert (asked.prompt_template, asked.grader, asked.stop_strings[0]) == ("alpaca-cot", "paper", "Instruction:")
    assert asked.max_new_tokens == 16  # stated by the task itself
    content["protocol"] = "sound"
    asked = load_experiment([write(tmp_path, content)]).domains["math"].evaluation.tasks["gsm8k"]
    assert (asked.prompt_template, asked.grader, asked.stop_strings) == ("alpaca", "sound", ())


def test_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protocol: found 'papre'"):
        load_experiment([write(tmp_path, miniature(protocol="papre"))])


def test_sweep_makes_runs_of_its_own_and_shares_the_ordinary_one(tmp_path: Path) -> None:
    experiment = load_experiment([write(tmp_path, miniature(sweeps={"rank_sweep": SWEEP}))])
    by_value = {point.value: point.run for point in sweep_runs(experiment, "rank_sweep")}
    assert by_value[8] == table_runs(experiment, "table1")[0]
    assert by_value[4].run_id == "math/llama-mini/lora.r=4/seed0"
    assert (by_value[4].method.settings["r"], by_value[4].method.settings["lora_alpha"]) == (4, 8)
    assert len(all_runs(experiment)) == 3


def test_sweep_over_a_training_setting_reaches_the_training_spec(tmp_path: Path) -> None:
    sweep = {
        **SWEEP,
        "setting": "learning_rate",
        "points": [{"learning_rate": 0.001}, {"learning_rate": 0.01}],
        "seeds": [3, 4],
    }
    experiment = load_experiment([write(tmp_path, miniature(sweeps={"learning_rate": sweep}))])
    runs = [point.run for point in sweep_runs(experiment, "learning_rate")]
    assert [(run.training.learning_rate, run.seed) for run in runs] == [(0.001, 3), (0.001, 4), (0.01, 3), (0.01, 4)]
    assert runs[0].method.key == "lora.learning_rate=0.001"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": [{"r": 4}, {"r": 4}]}, "sweeps.rank_sweep.points.1.r: found 4 beside 4, expected values that six digits"),
        ({"points": [{"r": 4}, {"r": 4.0}]}, "sweeps.rank_sweep.points.1.r: found 4.0 beside 4, expected .* called r=4"),
        (
            {"setting": "learning_rate", "points": [{"learning_rate": 0.00100000001}, {"learning_rate": 0.00100000002}]},
            "points.1.learning_rate: found 0.00100000002 beside 0.00100000001, expected .* called learning_rate=0.001",
        ),
        ({"points": [{"r": 4}, {"lora_alpha": 4}]}, "sweeps.rank_sweep.points.1.r: found None, expected a value of it in each"),
        (
            {"setting": "target_modules", "points": [{"target_modules": ["q_proj"]}, {"target_modules": ["k_proj"]}]},
            r"points.0.target_modules: found \['q_proj'\], expected a value",
        ),
        ({"setting": "dtype", "points": [{"dtype": "a/b"}, {"dtype": "c"}]}, "found 'dtype=a/b', expected a letter or digit"),
        ({"methods": ["lroa"]}, "sweeps.rank_sweep.methods.*did you mean 'lora'"),
        ({"points": [{"r": 4}, {"r": 0}]}, "sweeps.rank_sweep.points.1.r: found 0, expected >= 1"),
    ],
)
def test_wrong_sweep_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment([write(tmp_path, miniature(sweeps={"rank_sweep": {**SWEEP, **change}}))])


@pytest.mark.parametrize(
    ("fractions", "message"),
    [([0, 2], "pruning.fractions.1: found 2, expected <= 1.0"), ([0, 0.5, 0.5], "pruning.fractions: found 0.5 twice")],
)
def test_shares_of_ranks_that_cannot_be_pruned_are_refused(tmp_path: Path, fractions: list[float], message: str) -> None:
    pruning = {"domain": "math", "model": "llama-mini", "methods": ["lora"], "fractions": fractions}
    assert message in refused(tmp_path, miniature(pruning=pruning))


def test_pruning_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    pruning = {"domain": "math", "model": "llama-mini", "methods": ["lora"], "tasks": ["gsm"]}
    with pytest.raises(ConfigError, match="pruning.tasks.*did you mean 'gsm8k'"):
        load_experiment([write(tmp_path, miniature(pruning=pruning))])


def test_pruning_of_a_method_without_ranks_to_prune_is_refused(tmp_path: Path) -> None:
    pruning = {"domain": "math", "model": "llama-mini", "methods": ["dora"]}
    with pytest.raises(ConfigError, match="pruning.methods: found 'dora', expected methods whose ranks can be pruned"):
        load_experiment([write(tmp_path, miniature(pruning=pruning))])


@pytest.mark.parametrize(("seeds", "expected"), [([5, 6], {5, 6}), (3, {0, 1, 2}), ("5,6", {5, 6})])
def test_a_tables_own_seeds_take_the_place_of_the_experiments(tmp_path: Path, seeds: object, expected: set[int]) -> None:
    content = miniature()
    content["tables"]["table1"]["seeds"] = seeds
    experiment = load_experiment([write(tmp_path, content)])
    assert {run.seed for run in table_runs(experiment, "table1")} == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "{x}", "<b>", "lo\nra", "lora*", "a b", "-x", "é"])
@pytest.mark.parametrize("key", ["models", "domains", "methods", "tables", "domains.math.evaluation.tasks"])
def test_a_name_that_cannot_be_a_path_is_refused(tmp_path: Path, key: str, name: str) -> None:
    content = miniature()
    names = content
    for part in key.split("."):
        names = names[part]
    names[name] = next(iter(names.values()))
    message = refused(tmp_path, content)
    assert f"{key}.{name}: found {name!r}, expected a letter or digit, and then".replace("\n", " ") in message


@pytest.mark.parametrize(
    ("key", "name"),
    [("domains", "base"), ("domains", "logs"), ("domains", "tables"), ("tables", "table4"), ("tables", "learning_rate")],
)
def test_a_name_that_the_harness_uses_itself_is_refused(tmp_path: Path, key: str, name: str) -> None:
    content = miniature()
    content[key][name] = next(iter(content[key].values()))
    assert f"{key}.{name}: found {name!r}, expected another name than" in refused(tmp_path, content)


@pytest.mark.parametrize("name", ["lora.x", "lora=x"])
def test_a_method_is_not_called_like_a_point_of_a_sweep(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, miniature(methods={"lora": {}, "dora": {}, name: {"method": "lora"}}))
    assert f"methods.{name}: found {name!r}, expected a letter or digit" in message


def test_a_dot_in_a_name_is_part_of_it_in_every_file(tmp_path: Path) -> None:
    content = miniature()
    content["models"] = {"qwen2.5-0.5b": content["models"]["llama-mini"]}
    content["tables"]["table1"]["methods"] = {"qwen2.5-0.5b": ["lora"]}
    second = tmp_path / "second.yaml"
    second.write_text("models:\n  qwen2.5-0.5b:\n    label: Qwen\n")
    runs = all_runs(load_experiment([write(tmp_path, content), second]))
    assert [(run.run_id, run.model.label) for run in runs] == [("math/qwen2.5-0.5b/lora/seed0", "Qwen")]
    second.write_text("training.learning_rate: 1\n")
    with pytest.raises(ConfigError, match="second.yaml:1: training.learning_rate: found an unknown key"):
        load_experiment([write(tmp_path, content), second])


@pytest.mark.parametrize(
    ("line", "found"),
    [("1: 2", "1"), ("~: 2", "None"), ("no: {}", "False"), ("methods: {7: {}}", "7"), ("? [a]\n: 2", "['a']")],
)
def test_a_key_that_is_no_text_is_refused_with_its_line(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: x\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_experiment([path])
    assert str(caught.value) == f"{path}:2: found {found} as a key, expected text; put it in quotes"


def test_a_run_that_several_targets_need_appears_once() -> None:
    """Of the 155 runs of all targets 92 are left: Table 3 adds three to Table 1's, Figure 5 eight, Figures 6 and 7
    eleven, the learning rates 27."""
    experiment = load_experiment([ROOT / "config/paper.yaml"])
    assert len(all_runs(experiment)) == 30 + 13 + 3 + 8 + 6 + 5 + 27
    assert len({run.training_hash() for run in all_runs(experiment)}) == 92


def test_commonsense_runs_of_the_paper() -> None:
    runs = table_runs(load_experiment([ROOT / "config/paper.yaml"]), "table2")
    beam = {run.model_key: run for run in runs if run.method.key == "beamlora"}
    settings = {key: [run.method.settings[name] for name in ("r", "p_init", "delta_t")] for key, run in beam.items()}
    assert settings == {"llama2-7b": [32, 0.96, 3200], "llama2-13b": [32, 0.96, 2400]}
    run = beam["llama2-7b"]
    assert (run.data.loss_on, run.data.max_length, run.training.lr_scheduler_type) == ("all", 256, "linear")
    assert run.training.per_device_train_batch_size * run.training.gradient_accumulation_steps == 16
    assert set(run.method.settings["target_modules"]) == {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}
    relora = next(run for run in runs if run.method.key == "relora")
    assert relora.training.learning_rate == 3e-4  # A.2: in commonsense these settings are all methods'
    assert {task.num_beams for task in run.evaluation.tasks.values()} == {4}
