"""Experiment files: what is accepted, what is refused and how, and which runs come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import plan
from harness.config import ConfigError
from tests.experiments import miniature, write
from tests.paths import ROOT


def load(tmp_path: Path, content: dict, **overrides: object):
    return plan.load_experiment([write(tmp_path, content)], overrides)


def refused(tmp_path: Path, content: dict, **overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "experiment.yaml" in message
    return message


def specs(experiment) -> dict:
    return {run.run_id: run for run in plan.all_runs(experiment)}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_experiment_of_the_project_loads(path: Path) -> None:
    experiment = plan.load_experiment([path])
    assert plan.all_runs(experiment)
    assert experiment.name == path.stem


def test_unknown_key_is_named_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"models.llama-mini.source.hiden_size": 3}))
    assert "models.llama-mini.source.hiden_size" in message
    assert "did you mean 'hidden_size'" in message
    line = next(i for i, text in enumerate((tmp_path / "experiment.yaml").read_text().splitlines(), 1) if "hiden" in text)
    assert f"experiment.yaml:{line}:" in message


def test_misspelt_method_gets_a_suggestion(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"methods": {"lora": {}, "dorra": {}}}))
    assert "unknown method 'dorra'; did you mean 'dora'" in message


def test_unknown_setting_of_a_method_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, miniature(**{"methods.lora.settings": {"lora_dropuot": 0.1}}))
    assert "lora_dropuot" in message and "lora_dropout" in message


def test_unknown_shared_adapter_setting_is_refused(tmp_path: Path) -> None:
    assert "adapter.rnak" in refused(tmp_path, miniature(**{"adapter.rnak": 4}))


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, miniature())
    path.write_text(path.read_text() + "\nname: other\n")
    with pytest.raises(ConfigError, match="name: found twice"):
        plan.load_experiment([path])


def test_two_lengths_of_training_are_refused(tmp_path: Path) -> None:
    assert "exactly one" in refused(tmp_path, miniature(**{"training.num_train_epochs": 1}))


def test_attention_that_leaks_between_packed_examples_is_refused(tmp_path: Path) -> None:
    assert "attn_implementation" in refused(tmp_path, miniature(**{"training.attn_implementation": "eager"}))


def test_missing_file_suggests_the_near_one(tmp_path: Path) -> None:
    write(tmp_path, miniature())
    with pytest.raises(ConfigError, match="did you mean .*experiment.yaml"):
        plan.load_experiment([tmp_path / "experimnt.yaml"])


@pytest.mark.parametrize(("given", "expected"), [(3, (0, 1, 2)), ([4, 7], (4, 7)), ("0,5", (0, 5))])
def test_seeds_can_be_counted_or_named(tmp_path: Path, given: object, expected: tuple[int, ...]) -> None:
    assert load(tmp_path, miniature(), seeds=given).seeds == expected


def test_dotted_override_reaches_the_run(tmp_path: Path) -> None:
    experiment = load(tmp_path, miniature(), **{"training.learning_rate": 0.5})
    assert {run.training.learning_rate for run in plan.all_runs(experiment)} == {0.5}


def test_a_second_file_changes_single_keys(tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("name: smaller\ntraining: {max_steps: 3}\n")
    experiment = plan.load_experiment([write(tmp_path, miniature()), second])
    assert experiment.name == "smaller"
    assert {(run.training.max_steps, run.training.learning_rate) for run in plan.all_runs(experiment)} == {(3, 3e-3)}


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
            "overrides": [{"method": ["dora"], "domain": ["math"], "settings": {"lora_rank": 4}}],
        }
    )
    found = specs(load(tmp_path, content))
    lora, dora = found["math/llama-mini/lora/seed0"], found["math/llama-mini/dora/seed0"]
    assert (lora.training.learning_rate, dora.training.learning_rate) == (0.2, 0.3)
    assert (lora.method.settings["r"], dora.method.settings["r"]) == (8, 4)


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
        plan.load_run([path], {}, "math/llama-mini/lora/seed1")


def test_paper_table1_has_its_thirty_runs_and_settings() -> None:
    """Nine methods on LLaMA2-7B, six on Mistral-7B, two domains, one seed; intervals as in the paper's Table 4."""
    runs = plan.table_runs(plan.load_experiment([ROOT / "config/paper.yaml"]), "table1")
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
