"""Figures: the numbers behind them, what they leave out, and what they say when something is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import ConfigError
from harness.experiment.runs import all_runs, pruning_runs, sweep_runs, table_runs
from harness.figures import __main__ as command
from harness.figures import catalogue, interactive, style
from harness.figures.catalogue import figures
from harness.figures.rank_importance import default_layer
from harness.files import json_text
from harness.records import importance, pruning, timing
from harness.records.read import load_records
from harness.records.versioned import MissingRecord, RecordError
from harness.schema.experiment import Experiment
from harness.tables import rates
from harness.tables.build import build_table
from tests.harness import fake_runs
from tests.harness.figures import fake_figures
from tests.harness.figures.fake_figures import data_of, words_in, words_of

SEEDS = (0, 1)
Built = Callable[[str], style.Plot]


@pytest.fixture(scope="module")
def made() -> Experiment:
    return fake_figures.experiment(seeds=list(SEEDS))


@pytest.fixture(scope="module")
def results(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    fake_figures.write_all(made, folder)
    return folder


@pytest.fixture(scope="module")
def built(made: Experiment, results: Path) -> Built:
    """Name -> the figure of these records, drawn once."""

    @cache
    def build(name: str) -> style.Plot:
        with style.theme():
            return catalogue.build(name, fake_figures.inputs(made, results))

    return build


@pytest.fixture
def own_results(results: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(results, tmp_path / "results"))


def accuracy(results: Path, run_id: str, task: str) -> float:
    lines = (results / "fake" / run_id / "predictions" / f"{task}.jsonl").read_text().splitlines()
    return float(np.mean([json.loads(line)["correct"] for line in lines]))


# ------------------------------------------------------------------------------------------------------------- command


def test_without_a_name_every_figure_is_listed_with_a_line(capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(figures())
    assert all(len(line.split()) > 5 for line in lines)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="unknown 'rank_sweeps'; did you mean 'rank_sweep'"):
        command.main(["rank_sweeps"])


def test_options_of_rank_importance_are_refused_elsewhere():
    with pytest.raises(ConfigError, match="--layer: found it for figure pareto, expected rank_importance"):
        command.main(["pareto", "--layer", "3"])


def test_the_command_writes_picture_print_and_data(built: Built, made: Experiment, results: Path, tmp_path: Path, capsys):
    path = tmp_path / "fake.yaml"
    path.write_text(made.model_dump_json())
    arguments = ["--configfile", str(path), "--results-dir", str(results), "--output-dir", str(tmp_path / "out")]
    assert command.main(["p_init", *arguments]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.name for p in written] == ["p_init.png", "p_init.pdf", "p_init.csv"]
    assert written[0].read_bytes()[:4] == b"\x89PNG" and written[1].read_bytes()[:4] == b"%PDF"
    assert len(pd.read_csv(written[2])) == len(built("p_init").data)


# ------------------------------------------------------------------------------------------------------------- numbers


def test_rank_sweep_shows_the_test_accuracy_of_each_run(built: Built, results: Path):
    data = built("rank_sweep").data
    assert set(data["task"]) == {"gsm8k", "math"}, "validation tasks are in no figure of accuracy"
    seeds = data[data["row"] == "seed"]
    for row in seeds.itertuples():
        key = row.method if row.r == fake_figures.RANKS else f"{row.method}.r={row.r}"
        assert row.accuracy == accuracy(results, f"math/llama-tiny/{key}/seed{row.seed}", row.task)
    means = seeds.groupby(["r", "method", "task"])["accuracy"].mean()
    shown = data[data["row"] == "mean"].set_index(["r", "method", "task"])
    assert np.allclose(shown["accuracy"].sort_index(), means.sort_index())
    assert (shown["low"] < shown["accuracy"]).all() and (shown["accuracy"] < shown["high"]).all()
    assert len(shown) == 4 * 2 * 2


def test_rank_sweep_has_a_panel_for_each_test_set_domain_and_model(tmp_path: Path):
    wide = {"domains": ["math", "code"], "models": ["llama-tiny", "mistral-tiny"]}
    sweep = fake_figures.SWEEPS["rank_sweep"] | wide | {"points": [{"r": 4}, {"r": 8}]}
    models = {"llama-tiny": fake_figures.PAIR, "mistral-tiny": fake_figures.PAIR}
    made = fake_figures.experiment(seeds=[0], methods=models, sweeps={"rank_sweep": sweep})
    fake_figures.write_all(made, tmp_path)
    with style.theme():
        figure = catalogue.build("rank_sweep", fake_figures.inputs(made, tmp_path)).figure
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert len(set(titles)) == 2 * 2 * 2 and titles[-1] == "(h) MBPP (mistral-tiny, code)"


def test_sweep_figures_average_over_the_test_tasks(built: Built, results: Path):
    data = built("delta_t").data
    row = data[(data["row"] == "seed") & (data["delta_t"] == 8) & (data["seed"] == 1)].iloc[0]
    run = "math/llama-tiny/beamlora.delta_t=8/seed1"
    assert row["accuracy"] == pytest.approx((accuracy(results, run, "gsm8k") + accuracy(results, run, "math")) / 2)


def test_delta_t_counts_operations_that_change_a_rank(built: Built):
    data = built("delta_t").data
    shown = data[data["row"] == "mean"].dropna(subset="delta_t").set_index("delta_t")["operations"]
    assert shown.to_dict() == {8: 9, 16: 4, 32: 2}, "the last operation, at threshold 1, changes nothing"


def test_p_init_sums_the_operated_ranks(built: Built, results: Path):
    data = built("p_init").data
    for row in data[(data["row"] == "seed") & data["p_init"].notna()].itertuples():
        key = "beamlora" if row.p_init == 0.95 else f"beamlora.p_init={row.p_init}"
        path = results / "fake" / f"math/llama-tiny/{key}/seed{row.seed}" / "adapter" / "operations.jsonl"
        assert row.operated_ranks == sum(m["K"] for line in path.read_text().splitlines() for m in json.loads(line)["modules"])


def test_the_reference_line_is_plain_lora(built: Built, results: Path):
    data = built("p_init").data
    reference = data[data["p_init"].isna() & (data["row"] == "mean")]
    tasks = ("gsm8k", "math")
    expected = np.mean([accuracy(results, f"math/llama-tiny/lora/seed{seed}", task) for seed in SEEDS for task in tasks])
    assert list(reference["method"]) == ["lora"]
    assert reference["accuracy"].iloc[0] == pytest.approx(expected)


def test_pareto_shows_the_average_of_table_1(built: Built, made: Experiment, results: Path):
    data = built("pareto").data
    runs = table_runs(made, "table1")
    table = build_table(made, "table1", runs, load_records(runs, results=results))
    for row in table.sections[0].rows:
        own, cell = data[(data["row"] == "mean") & (data["method"] == row.method_key)].iloc[0], row.cells["accuracy", "avg"]
        assert own["accuracy"] == pytest.approx(cell.ours.mean)
        assert (own["low"], own["high"]) == pytest.approx((cell.ours.low, cell.ours.high))
        assert own["seconds"] == pytest.approx(row.seconds.mean)
        assert own["parameters"] == row.trainable_parameters


def test_differences_are_those_of_the_tables_seed_by_seed(built: Built, made: Experiment, results: Path):
    plot = built("differences")
    runs = table_runs(made, "table1")
    table = build_table(made, "table1", runs, load_records(runs, results=results))
    decisions = table.decisions()
    data = plot.data
    assert [len(data[data["row"] == row]) for row in ("mean", "seed")] == [len(decisions), len(decisions) * len(SEEDS)]
    for decision, (_, mean) in zip(decisions, data[data["row"] == "mean"].iterrows(), strict=True):
        d = decision.comparison.difference
        assert (mean["difference"], mean["low"], mean["high"]) == (d.mean, d.low, d.high)
        assert (mean["metric"], mean["method"], mean["word"]) == (
            decision.metric,
            decision.row.method_key,
            "not decided (2 seeds)",
        )
        assert mean["margin"] == getattr(made.comparisons.margin, decision.metric)
        seeds = data[(data["row"] == "seed") & (data["panel"] == mean["panel"]) & (data["metric"] == mean["metric"])]
        tasks = [task for task, spec in made.domains[decision.column.domain].evaluation.tasks.items() if spec.split == "test"]
        for seed, value in seeds[["seed", "difference"]].itertuples(index=False):
            score = {
                key: np.mean([accuracy(results, f"{decision.column.domain}/llama-tiny/{key}/seed{seed}", t) for t in tasks])
                for key in ("beamlora", "lora")
            }
            assert value == pytest.approx(score["beamlora"] - score["lora"])
        assert seeds["difference"].mean() == pytest.approx(d.mean)
    words = words_in(plot.figure)
    assert "not decided (2 seeds)" in words and "right is better" in words and "Seeds 0, 1." in words


def test_differences_say_what_diverged_and_how_far_an_interval_goes(made: Experiment, own_results: Path):
    fake_figures.diverge(next(run for run in all_runs(made) if run.run_id == "math/llama-tiny/lora/seed1"), own_results)
    data, words = data_of("differences", made, own_results), words_of("differences", made, own_results)
    own = data[data["panel"].str.contains("Math")]
    assert own.loc[own["row"] == "seed", "seed"].tolist() == [0] and (own["n_diverged"] == 1).all()
    assert "not decided (1 of 2 seeds); 1 diverged" in words and "Diverged runs are in no mean." in words


def test_a_point_is_on_the_frontier_if_no_other_beats_it():
    from harness.figures.costs.pareto import frontier

    assert frontier([1, 2, 3, 3, 1], [0.5, 0.4, 0.9, 0.8, 0.5]) == [True, False, True, False, True]


def test_learning_rate_marks_the_rate_chosen_on_validation(built: Built, made: Experiment, results: Path):
    data = built("learning_rate").data
    tuning = rates.load_tuning(made, results=results, command="snakemake", allow_missing=False)
    chosen = data[data["is_best"] & (data["row"] == "mean")].set_index("method")["learning_rate"].to_dict()
    assert chosen == {where[2]: choice.best.rate for where, choice in tuning.choices.items()}
    assert set(data.loc[data["is_shared"], "learning_rate"]) == {0.003}
    row = data[(data["row"] == "seed") & (data["learning_rate"] == 0.01) & (data["method"] == "lora")].iloc[0]
    tasks = [accuracy(results, f"math/llama-tiny/lora.learning_rate=0.01/seed{row['seed']}", t) for t in ("gsm8k", "math")]
    assert row["accuracy"] == pytest.approx(np.mean(tasks)), "the accuracy shown is of test tasks"


def test_learning_rate_shows_differences_to_lora_at_the_same_rate(built: Built):
    """On the test tasks, as its scores are."""
    data = built("learning_rate").data
    means = data[data["row"] == "mean"].set_index(["method", "learning_rate"])["accuracy"]
    apart = data[data["row"] == "difference"].set_index(["method", "learning_rate"])["difference"]
    assert len(apart) == 3 and set(apart.index.get_level_values("method")) == {"beamlora"}
    for (method, rate), difference in apart.items():
        assert difference == pytest.approx(means[method, rate] - means["lora", rate])
    titles = [panel["title"] for panel in plots_of(data, "learning_rate")["panels"]]
    assert [title.split(" (")[0] for title in titles[1:]] == [
        "Difference from LoRA at the same rate",
        "Shared rate against each one's best",
    ]


def test_time_memory_shows_the_summary_and_every_round(built: Built, made: Experiment, results: Path):
    data = built("time_memory").data
    summary = timing.summarise(timing.read(results / "fake" / "timing.json"))
    medians = data[data["row"] == "median"].set_index(["measure", "method"])
    for method, ratios in summary.items():
        for measure, ratio in (("time", ratios.time), ("peak_memory", ratios.peak), ("added_memory", ratios.added)):
            assert medians.loc[(measure, method), "ratio"] == ratio.median
    rounds = data[data["row"] == "round"]
    assert (rounds.loc[rounds["method"] == "lora", "ratio"] == 1).all()
    assert len(rounds) == 3 * 2 * made.timing.rounds


def test_pruning_curve_follows_the_verdicts(built: Built, results: Path):
    data = built("pruning_curve").data
    curves = {s: pruning.read(results / "fake" / f"math/llama-tiny/lora/seed{s}" / "pruning.json", "accuracy") for s in SEEDS}
    shown = data[(data["row"] == "mean") & (data["method"] == "lora")]
    expected = np.mean([curve.means for by_task in curves.values() for curve in by_task.values()], axis=0)
    assert np.allclose(shown["accuracy"], expected)
    assert np.allclose(shown["trend"].diff().dropna(), shown["trend"].diff().iloc[-1]), "the trend is a line"
    assert shown["trend"].mean() == pytest.approx(shown["accuracy"].mean())


def test_the_legend_of_operations_lies_beside_the_lines(built: Built):
    figure = built("operations").figure
    figure.draw_without_rendering()
    axes = [axis for axis in figure.axes if axis.get_legend()]
    assert axes and all(axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1 for axis in axes)
    assert axes[0].get_legend().get_texts()[0].get_text() == "step 16, p = 0.960"


def test_operations_hold_every_k_of_every_run(built: Built, results: Path):
    data = built("operations").data
    path = results / "fake" / "code/llama-tiny/beamlora/seed1" / "adapter" / "operations.jsonl"
    expected = [m["K"] for line in path.read_text().splitlines() for m in json.loads(line)["modules"]]
    own = data[(data["domain"] == "code") & (data["seed"] == 1) & (data["row"] == "module")]
    assert own["k"].tolist() == expected
    assert set(own["layer"]) == set(range(fake_figures.LAYERS)) and "ffn.up_proj" in set(own["module"])
    around = data[(data["row"] == "loss") & (data["domain"] == "code")]["steps_from_operation"]
    assert around.min() < 0 < around.max() and around.abs().max() <= 16


# ----------------------------------------------------------------------------------------------------- rank_importance


def test_rank_importance_shows_deciles_history_and_all_modules(built: Built, results: Path):
    data = built("rank_importance").data
    history = importance.read(results / "fake" / "math/llama-tiny/lora/seed0" / "adapter" / importance.FILE)
    name = "model.layers.1.mlp.up_proj"
    own = data[data["module"] == name]
    assert np.allclose(own.loc[own["row"] == "decile", "importance"], importance.deciles(history.last[name]))
    assert (own["row"] == "history").sum() == history.modules[name].size
    overview = data[data["row"] == "evenness"].set_index("module")["evenness"]
    assert set(overview.index) == set(history.modules)
    assert overview[name] == pytest.approx(float(importance.evenness(history.last[name])))


def test_the_default_layer_is_the_papers_scaled():
    assert [default_layer(n) for n in (32, 4, 1)] == [29, 3, 0]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"modules": ("q_proj",)}, {"model.layers.1.self_attn.q_proj"}),
        ({"layer": 0}, {"model.layers.0.mlp.up_proj", "model.layers.0.self_attn.v_proj"}),
    ],
)
def test_module_and_layer_can_be_chosen(made: Experiment, results: Path, selection: dict, expected: set[str]):
    data = data_of("rank_importance", made, results, **selection)
    assert set(data.loc[data["row"] == "decile", "module"]) == expected


@pytest.mark.parametrize("selection", [{"method": "beamlora"}, {"seed": 1}])
def test_method_and_seed_can_be_chosen(built: Built, made: Experiment, results: Path, selection: dict):
    default, other = built("rank_importance").data, data_of("rank_importance", made, results, **selection)
    assert not default["importance"].equals(other["importance"])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"modules": ("up_porj",)}, "--module: found 'up_porj', did you mean 'up_proj'"),
        ({"layer": 7}, "--layer: found 7, expected one of 0, 1"),
        ({"method": "beamlor"}, "--method: found 'beamlor', did you mean 'beamlora'"),
        ({"seed": 9}, "--seed: found 9, expected one of 0, 1"),
    ],
)
def test_a_selection_of_what_is_not_there_is_an_error(made: Experiment, results: Path, selection: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        data_of("rank_importance", made, results, **selection)


def test_rank_importance_shows_the_first_seed_that_finished(built: Built, made: Experiment, results: Path, own_results: Path):
    by_seed = {run.seed: run for run in pruning_runs(made) if run.method.key == "lora"}
    fake_figures.diverge(by_seed[0], own_results)
    expected = data_of("rank_importance", made, results, seed=1)
    pd.testing.assert_frame_equal(data_of("rank_importance", made, own_results), expected)
    assert not expected.equals(built("rank_importance").data)
    words = words_of("rank_importance", made, own_results)
    assert ": LoRA on Llama 0.8M (stand-in), math, seed 1" in words and "Diverged: seed 0." in words
    assert "Diverged" not in words_in(built("rank_importance").figure)
    data_of("rank_importance", made, own_results, method="beamlora", seed=0)
    refused = "lora/seed0/train.json: found a diverged run; choose another with --seed or --method"
    with pytest.raises(RecordError, match=refused):
        data_of("rank_importance", made, own_results, seed=0)
    fake_figures.diverge(by_seed[1], own_results)
    with pytest.raises(RecordError, match=refused):
        data_of("rank_importance", made, own_results)


# ------------------------------------------------------------------------------------------------------------ diverged


def test_a_diverged_run_is_shown_and_in_no_mean(made: Experiment, own_results: Path):
    lost = next(p.run for p in sweep_runs(made, "rank_sweep") if p.run.run_id.endswith("beamlora.r=8/seed1"))
    fake_figures.diverge(lost, own_results)
    data = data_of("rank_sweep", made, own_results)
    own = data[(data["r"] == 8) & (data["method"] == "beamlora") & (data["task"] == "math")].set_index("row")
    assert own.loc["diverged", "seed"] == 1
    assert own.loc["mean", "n_seeds"] == 1 and own.loc["mean", "accuracy"] == own.loc["seed", "accuracy"]
    assert "1 of 2 diverged" in words_of("rank_sweep", made, own_results)


@pytest.mark.parametrize("figure", ["pruning_curve", "operations", "differences", "pareto", "delta_t", "learning_rate"])
def test_figures_survive_a_method_of_which_every_run_diverged(made: Experiment, own_results: Path, figure: str):
    for run in all_runs(made):
        if run.method.key == "beamlora":
            fake_figures.diverge(run, own_results)
    with style.theme():
        plot = catalogue.build(figure, fake_figures.inputs(made, own_results))
    data = plot.data
    if "method" in data:
        lost = "lost" if figure == "differences" else "diverged"
        assert set(data.loc[data["method"] == "beamlora", "row"]) >= {lost}
    assert "diverged" in words_in(plot.figure)
    assert bool(plots_of(data, figure)["panels"]) == (figure not in ("operations", "differences")), (
        "of BeamLoRA nothing is left"
    )


@pytest.mark.parametrize("figure", ["rank_sweep", "delta_t", "p_init"])
def test_a_figure_of_which_every_run_diverged_says_so(made: Experiment, own_results: Path, figure: str):
    for run in catalogue.get(figure).runs(made):
        fake_figures.diverge(run, own_results)
    assert "Every run diverged." in words_of(figure, made, own_results)


# ------------------------------------------------------------------------------------------------------ missing, stale


@pytest.mark.parametrize(
    ("figure", "lost", "make"),
    [
        ("rank_sweep", "math/llama-tiny/lora.r=4/seed0/metrics.json", "-- rank_sweep"),
        ("pareto", "code/llama-tiny/lora/seed1/train.json", "-- pareto"),
        ("differences", "code/llama-tiny/lora/seed1/train.json", "-- differences"),
        ("learning_rate", "math/llama-tiny/lora.learning_rate=0.01/seed0/metrics.json", "-- reproduce_learning_rate"),
        ("rank_importance", "math/llama-tiny/lora/seed0/adapter/rank_importance.npz", "--force -- .*seed0/train.json"),
        ("pruning_curve", "math/llama-tiny/beamlora/seed1/pruning.json", "-- .*beamlora/seed1/pruning.json"),
        ("operations", "code/llama-tiny/beamlora/seed0/adapter/operations.jsonl", "--force -- .*seed0/train.json"),
        ("time_memory", "timing.json", "-- .*fake/timing.json"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(
    made: Experiment, own_results: Path, figure: str, lost: str, make: str
):
    (own_results / "fake" / lost).unlink()
    with pytest.raises(MissingRecord, match=f"make (it|them): snakemake --cores all {make}") as caught:
        data_of(figure, made, own_results)
    assert lost.removesuffix("/metrics.json").removesuffix("/train.json") in str(caught.value)


@pytest.mark.parametrize(
    ("figure", "key"),
    [
        ("rank_importance", "pruning"),
        ("pruning_curve", "pruning"),
        ("rank_sweep", "sweeps.rank_sweep"),
        ("delta_t", "sweeps.delta_t"),
        ("p_init", "sweeps.p_init"),
        ("learning_rate", "sweeps.learning_rate"),
        ("time_memory", "timing"),
        ("pareto", "tables.table1"),
        ("differences", "tables"),
        ("operations", "tables"),
    ],
)
def test_a_figure_without_a_plan_names_the_key_it_wants(made: Experiment, tmp_path: Path, figure: str, key: str):
    content = made.model_dump(mode="json") | {"sweeps": {}, "pruning": None, "timing": None, "comparisons": {}}
    table = content["tables"].pop("table1")
    content["tables"]["other"] = table | {"methods": {"llama-tiny": ["lora"]}}
    with pytest.raises(ConfigError, match=f"^fake.yaml: {key}: found nothing, expected"):
        data_of(figure, Experiment.model_validate(content), tmp_path)


def test_without_snapshots_the_missing_setting_is_named(made: Experiment, tmp_path: Path):
    content = made.model_dump(mode="json")
    content["training"].pop("importance_every")
    plain = Experiment.model_validate(content)
    fake_figures.write_all(plain, tmp_path)
    for path in tmp_path.rglob(importance.FILE):
        path.unlink()
    with pytest.raises(ConfigError, match="training.importance_every: found nothing"):
        data_of("rank_importance", plain, tmp_path)


@pytest.mark.parametrize(
    ("figure", "path", "changes", "message"),
    [
        ("pruning_curve", "math/llama-tiny/lora/seed0/pruning.json", {"training_hash": "0"}, "training_hash: .* stale"),
        ("pruning_curve", "math/llama-tiny/lora/seed0/pruning.json", {"fractions": [0.0]}, "fractions: .* stale"),
        ("pruning_curve", "math/llama-tiny/lora/seed0/pruning.json", {"schema_version": 0}, "schema_version: found 0"),
        ("pruning_curve", "math/llama-tiny/lora/seed0/pruning.json", {"tasks": {}}, r"tasks: found \[\], expected .*stale"),
        ("time_memory", "timing.json", {"settings": {}}, "settings: .* stale"),
        ("time_memory", "timing.json", {"measurements": []}, "found no measurement"),
    ],
)
def test_a_stale_or_broken_file_is_refused(
    made: Experiment, own_results: Path, figure: str, path: str, changes: dict, message: str
):
    fake_runs.edit_json(own_results / "fake" / path, **changes)
    with pytest.raises(RecordError, match=f"{path}: {message}.*--force -- "):
        data_of(figure, made, own_results)


def test_a_broken_operations_file_is_refused(made: Experiment, own_results: Path):
    path = own_results / "fake" / "math/llama-tiny/beamlora/seed0" / "adapter" / "operations.jsonl"
    path.write_text('{"step": 4}\n')
    with pytest.raises(RecordError, match="operations.jsonl: found an incomplete or foreign line .*make it again"):
        data_of("operations", made, own_results)


def test_a_broken_snapshot_file_is_refused(made: Experiment, own_results: Path):
    path = own_results / "fake" / "math/llama-tiny/lora/seed0" / "adapter" / importance.FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match="rank_importance.npz: cannot be read: .*make it again: .*--force -- .*train.json"):
        data_of("rank_importance", made, own_results)


def test_other_examples_in_one_seed_are_refused(made: Experiment, own_results: Path):
    path = own_results / "fake" / "math/llama-tiny/lora.r=4/seed1" / "predictions" / "gsm8k.jsonl"
    path.write_text(path.read_text().replace('"gsm8k/0"', '"gsm8k/other"'))
    with pytest.raises(RecordError, match="lora.r=4/seed1/predictions/gsm8k.jsonl: found other examples than"):
        data_of("rank_sweep", made, own_results)


def test_other_pruned_examples_in_one_seed_are_refused(made: Experiment, own_results: Path):
    path = own_results / "fake" / "math/llama-tiny/lora/seed1" / "pruning.json"
    path.write_text(path.read_text().replace('"gsm8k/0"', '"gsm8k/other"'))
    with pytest.raises(RecordError, match="seed1/pruning.json, gsm8k: found other examples than .*/seed0/pruning.json"):
        data_of("pruning_curve", made, own_results)


# --------------------------------------------------------------------------------------------------------------- plots


def plots_of(data: pd.DataFrame, figure: str) -> dict:
    return catalogue.plots(figure, interactive.read(StringIO(style.csv_text(data))))


def layers_of(panel: dict) -> list[dict]:
    return [one for layer in panel["spec"]["layer"] for one in layer.get("layer", [layer])]


@pytest.mark.parametrize("figure", figures())
def test_the_plots_of_a_figure_show_its_data_in_the_methods_colours(built: Built, figure: str):
    data = built(figure).data
    plots = plots_of(data, figure)
    for panel in plots["panels"]:
        layers = layers_of(panel)
        fields = {channel["field"] for layer in layers for channel in layer["encoding"].values() if "field" in channel}
        assert layers and fields <= set(panel["columns"])
        assert len({len(values) for values in panel["columns"].values()}) == 1
        assert any(layer["encoding"].get("tooltip") for layer in layers)
    labels = dict(plots["legend"])
    if "method" in data:
        shown = data.drop_duplicates("method")
        assert labels == {label: style.colour_of(key) for key, label in zip(shown["method"], shown["label"], strict=True)}
    else:
        assert len(set(labels.values())) == len(labels) > 1
    assert json.loads(json_text(plots)) == plots


def test_a_plot_has_the_values_of_its_csv(built: Built):
    data = built("rank_sweep").data
    panel = plots_of(data, "rank_sweep")["panels"][0]
    own = data[data["task"] == "gsm8k"]
    assert panel["title"] == "GSM8K" and panel["columns"]["r"] == own["r"].tolist()
    assert panel["columns"]["accuracy"] == pytest.approx(own["accuracy"].tolist(), rel=1e-5)


def test_sliders_reach_every_step_and_layer(made: Experiment, results: Path):
    plots = plots_of(data_of("rank_importance", made, results, layer=0), "rank_importance")
    assert {one["name"]: (one["values"], one["start"]) for one in plots["sliders"]} == {
        "step": ([0, 20, 40, 60, 80, 100, 120], 6), "layer": ([0, 1], 0),
    }  # fmt: skip
    rows = pd.DataFrame(plots["panels"][0]["columns"])
    history = importance.read(results / "fake" / "math/llama-tiny/lora/seed0" / "adapter" / importance.FILE)
    for (step, layer), own in rows.groupby(["step", "layer"]):
        values = history.modules[f"model.layers.{layer}.mlp.up_proj"][list(history.steps).index(step)]
        assert own.sort_values("rank")["importance"].tolist() == pytest.approx(values.tolist(), rel=1e-5)
        assert sorted(own["place"]) == list(range(1, fake_figures.RANKS + 1))


def test_of_many_snapshots_the_other_layers_keep_some(made: Experiment, own_results: Path):
    path = own_results / "fake" / "math/llama-tiny/lora/seed0" / "adapter" / importance.FILE
    history = importance.read(path)
    steps = np.arange(100)
    modules = {name: np.repeat(values[-1:], 100, axis=0) for name, values in history.modules.items()}
    importance.write(path, importance.ImportanceHistory(steps=steps, modules=modules))
    data = data_of("rank_importance", made, own_results)
    snapshots = data[data["row"] == "history"].groupby("layer")["step"].nunique()
    assert snapshots.to_dict() == {0: 20, 1: 100}
    assert plots_of(data, "rank_importance")["sliders"][0]["values"][::19] == [0, 99]


# ------------------------------------------------------------------------------------------------------------- honesty


@pytest.mark.parametrize("figure", figures())
def test_a_stand_in_is_called_one(built: Built, figure: str):
    words = words_in(built(figure).figure)
    assert "stand-in, not the paper's LLaMA2-7B" in words
    if figure != "time_memory":
        assert "generated" in words and "seed" in words


def test_the_papers_numbers_stand_only_beside_its_own_models(built: Built, made: Experiment):
    from harness.figures.inputs import paper_accuracy

    run = table_runs(made, "table1")[0]
    assert paper_accuracy(run, [("math", "gsm8k")]) is None
    source = {"kind": "hub", "model_name_or_path": "meta-llama/Llama-2-7b-hf"}
    real = run.model_validate(run.model_dump() | {"model": run.model.model_dump() | {"source": source}})
    assert paper_accuracy(real, [("math", "gsm8k")]) == pytest.approx(0.6631)
    assert paper_accuracy(real, [("math", "gsm8k"), ("math", "math")]) == pytest.approx(0.4270)
    assert built("rank_sweep").data["paper"].isna().all()
