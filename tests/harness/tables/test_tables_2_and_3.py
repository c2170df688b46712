"""Tables 2 and 3: eight columns, ablations beside their full method, the paper's numbers, and TeX that compiles."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness import reported
from harness.errors import ConfigError
from harness.experiment import table4
from harness.experiment.runs import load_experiment, settings_runs
from harness.records.frame import to_frame
from harness.records.read import load_records
from harness.records.versioned import MissingRecord, RecordError
from harness.schema.experiment import Experiment
from harness.statistics import stats
from harness.tables import render
from harness.tables import words as text
from harness.tables.__main__ import main
from harness.tables.build import Table
from harness.tables.cells import AVERAGE, table_columns
from tests import experiments
from tests.harness import fake_runs
from tests.harness.fake_runs import build
from tests.paths import ROOT

COMMONSENSE = ("arc_challenge", "siqa", "winogrande", "boolq", "arc_easy", "piqa", "openbookqa", "hellaswag")
ABLATIONS = ("beamlora-no-expansion", "beamlora-no-assessment", "beamlora-no-dynamic-p")


def frame(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(render.csv_text(table)), keep_default_na=True)


def filled(results: Path, *, effects: dict[str, float] | None = None, **changes: object) -> tuple[Experiment, Table]:
    experiment = fake_runs.experiment(**changes)
    fake_runs.populate(fake_runs.runs(experiment), results, effects=effects)
    return experiment, build(experiment, results)


def real_model(experiment: Experiment, **tasks: int) -> Experiment:
    """The same with the paper's own model and, where ``tasks`` says so, a public test set."""
    source = {"kind": "hub", "model_name_or_path": "meta-llama/Llama-2-7b-hf"}
    content = experiment.model_dump(mode="json")
    content["models"]["llama-tiny"] |= {"source": source, "label": "LLaMA2-7B"}
    for task, rows in tasks.items():
        where = content["domains"]["math"]["evaluation"]["tasks"][task]
        where["source"] = {"kind": "files", "hub_id": "some/set", "split": "test", "rows": rows}
    return Experiment.model_validate(content)


@pytest.fixture(scope="module")
def table2(tmp_path_factory: pytest.TempPathFactory) -> Table:
    domains = {"commonsense": dict.fromkeys(COMMONSENSE, 16)}
    methods = {"llama-tiny": ("lora", "dora", "beamlora")}
    return filled(tmp_path_factory.mktemp("table2"), methods=methods, domains=domains)[1]


@pytest.fixture(scope="module")
def table3(tmp_path_factory: pytest.TempPathFactory) -> Table:
    domains, methods = {"math": {"gsm8k": 60, "math": 60}}, {"llama-tiny": ("lora", "beamlora", *ABLATIONS)}
    effects = {"beamlora": 1.0, "beamlora-no-expansion": -3.0}
    folder = tmp_path_factory.mktemp("table3")
    return filled(folder, methods=methods, domains=domains, effects=effects, seeds=range(5))[1]


# --------------------------------------------------------------------------------------------------------------- table 2


def test_table2_has_the_papers_eight_sets_and_their_average(table2: Table) -> None:
    assert [column.task for column in table2.columns] == [*COMMONSENSE, AVERAGE]
    paper = pd.read_csv(ROOT / "config" / "paper_reported.csv").query("table == 'table2' and model == 'llama2-7b'")
    data = frame(table2).query("metric == 'accuracy'")
    for row in data.itertuples():
        metric = {"siqa": "social_iqa"}.get(row.task, row.task)
        value = paper[(paper["method"] == row.method) & (paper["metric"] == metric)]["value"]
        assert row.reported == pytest.approx(value.iloc[0] / 100)


def test_wide_table_gives_the_paper_a_line_of_its_own(table2: Table) -> None:
    text = render.markdown(table2)
    overview = [line for line in text.split("\n## ")[2].split("###")[0].splitlines() if line.startswith("|")]
    assert len(overview) == 2 + 2 * 3 and max(map(len, overview)) <= 170
    assert "64.70" in overview[2] and "±" in overview[3]


def test_validation_tasks_are_in_no_table(tmp_path: Path) -> None:
    content = fake_runs.small().model_dump(mode="json")
    tasks = content["domains"]["math"]["evaluation"]["tasks"]
    tasks["gsm8k"]["split"] = "validation"
    experiment = Experiment.model_validate(content)
    assert [c.task for c in table_columns(fake_runs.runs(experiment))] == ["math"]
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    table = build(experiment, tmp_path)
    texts = (render.markdown(table), render.tex(table), render.csv_text(table))
    assert not any("GSM8K" in text or "gsm8k" in text for text in texts)
    loaded = load_records(fake_runs.runs(experiment), results=tmp_path)
    assert set(to_frame(loaded.records)["split"]) == {"validation", "test"}


# --------------------------------------------------------------------------------------------------------------- table 3


def test_ablations_are_compared_with_lora_and_with_beamlora(table3: Table) -> None:
    data = frame(table3).query("metric == 'accuracy' and task == 'gsm8k'").set_index("method_key")
    assert data.loc[list(ABLATIONS), "parent"].eq(data.loc["beamlora", "method"]).all()
    assert data.loc[["lora", "beamlora"], "parent_difference_mean"].isna().all()
    for key in ABLATIONS:
        mean = data.loc[key, "mean"]
        assert data.loc[key, "difference_mean"] == pytest.approx(mean - data.loc["lora", "mean"])
        assert data.loc[key, "parent_difference_mean"] == pytest.approx(mean - data.loc["beamlora", "mean"])
    assert data["verdict"].isna().all() and data["parent_verdict"].isna().all()  # of a single test set
    average = frame(table3).query("metric == 'accuracy' and task == 'avg'").set_index("method_key")
    assert average.loc["beamlora-no-expansion", "parent_verdict"] == "worse"


def test_both_comparisons_are_corrected_in_their_own_families(table3: Table) -> None:
    data = frame(table3)
    for prefix, name, size in (("", "primary", 1), ("", "secondary", 3), ("parent_", "ablations", 3)):
        family = data[data[f"{prefix}family"] == name]
        assert len(family) == size and set(family["task"]) == {"avg"} and (family[f"{prefix}comparisons"] == size).all()
        expected = multipletests(family[f"{prefix}p_value"], method="holm")[1]
        assert family[f"{prefix}p_holm"].to_numpy() == pytest.approx(expected)
    assert [(family.name, family.size) for family in table3.families] == [("primary", 1), ("secondary", 3), ("ablations", 3)]


def test_ablations_have_the_papers_numbers_and_its_difference_to_beamlora(table3: Table) -> None:
    data = frame(table3).query("metric == 'accuracy'").set_index(["method_key", "task"])
    assert data.loc[("beamlora-no-expansion", "gsm8k"), "reported"] == 0.6588
    assert data.loc[("beamlora-no-expansion", "gsm8k"), "reported_difference"] == pytest.approx(0.6588 - 0.6705)
    assert data.loc[("beamlora", "avg"), "reported_difference"] == pytest.approx(0.4322 - 0.4270)
    text = render.markdown(table3)
    assert "vs full method" in text and "ablations (3 comparisons with BeamLoRA by accuracy" in text


def test_words_for_an_ablation_name_the_full_method(table3: Table) -> None:
    one = next(one for one in table3.decisions() if one.parent and one.row.method_key == "beamlora-no-expansion")
    said = text.sentence(one)
    assert said.startswith("beamlora-no-expansion − BeamLoRA on Average†: −") and said.endswith(", worse, 5 seeds")


# ----------------------------------------------------------------------------------------------------- against the paper


def test_stand_ins_get_a_direction_and_no_verdict_on_numbers(table3: Table) -> None:
    data = frame(table3).query("metric == 'accuracy'")
    assert set(data["paper_score"]) == {"stand-in"} and data["paper_score_low"].isna().all()
    assert set(data["paper_difference"].dropna()) <= {"same direction", "opposite direction", "undecided"}
    text = render.markdown(table3)
    assert "says nothing about the paper's absolute numbers" in text and "not reproduced" not in text


def test_the_papers_model_is_compared_in_numbers(tmp_path: Path) -> None:
    domains = {"math": {"gsm8k": 40, "math": 30}}
    base = fake_runs.experiment(methods={"llama-tiny": ("lora", "beamlora")}, domains=domains, seeds=range(5))
    experiment = real_model(base, gsm8k=40, math=30)
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    table = build(experiment, tmp_path)
    data = frame(table).query("metric == 'accuracy'")
    assert set(data["paper_score"]) <= {"reproduced", "within noise", "not reproduced"}
    assert (data["paper_score_low"] < data["mean"] - data["reported"]).all()
    assert "### Against the paper" in render.markdown(table) and "reports no spread" in render.markdown(table)


def test_a_part_of_the_test_set_is_another_test_set(tmp_path: Path) -> None:
    base = fake_runs.experiment(methods={"llama-tiny": ("lora", "beamlora")}, domains={"math": {"gsm8k": 40, "math": 30}})
    content = real_model(base, gsm8k=40, math=30).model_dump(mode="json")
    content["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]["limit"] = 40
    experiment = Experiment.model_validate(content)
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    data = frame(build(experiment, tmp_path)).query("metric == 'accuracy' and method_key == 'lora'").set_index("task")
    assert data.loc["gsm8k", "paper_score"] == data.loc["avg", "paper_score"] == "other test set"
    assert data.loc["math", "paper_score"] != "other test set"


def test_what_has_not_run_is_not_run_against_the_paper(tmp_path: Path) -> None:
    table = build(fake_runs.small(), tmp_path, allow_missing=True)
    data = frame(table).query("metric == 'accuracy'")
    assert set(data["paper_score"]) == {"not run"}
    assert set(data[data["method_key"] == "beamlora"]["paper_difference"]) == {"not run"}


def test_the_papers_average_over_a_domain_is_that_of_its_numbers(tmp_path: Path) -> None:
    """Table 1 prints none; Table 3 prints that of maths, for three rows of LLaMA2-7B."""
    experiment = fake_runs.experiment(methods={"llama-tiny": ("lora", "dora", "beamlora")})
    data = frame(build(experiment, tmp_path, allow_missing=True)).query("metric == 'accuracy' and task == 'avg'")
    numbers = data.set_index(["method_key", data["domain"].fillna("all")])["reported"]
    assert numbers["lora", "code"] == pytest.approx((0.3923 + 0.4347) / 2) and numbers["lora", "math"] == 0.4270
    paper = pd.read_csv(ROOT / "config" / "paper_reported.csv").query("table == 'table1' and model == 'llama2-7b'")
    dora = paper[paper["method"] == "DoRA"].set_index("metric")["value"] / 100
    assert numbers["dora", "math"] == pytest.approx((dora["gsm8k"] + dora["math"]) / 2)
    assert numbers["dora", "all"] == pytest.approx(dora["avg"])


# ------------------------------------------------------------------------------------------------------------- bad input


def test_missing_records_name_the_target_that_makes_them(tmp_path: Path) -> None:
    path = experiments.write(tmp_path, experiments.miniature())
    with pytest.raises(MissingRecord, match=r"make them: snakemake .* -- reproduce_table1$"):
        main(["table1", "--configfile", str(path), "--results-dir", str(tmp_path)])


@pytest.mark.parametrize(("change", "problem"), [({"schema_version": 0}, "schema_version: found 0, expected"),
                                                 ({"status": "half"}, "status")])  # fmt: skip
def test_broken_records_are_errors_even_in_partial_tables(tmp_path: Path, change: dict, problem: str) -> None:
    experiment = fake_runs.small()
    runs = fake_runs.runs(experiment)
    fake_runs.populate(runs, tmp_path)
    fake_runs.edit_json(fake_runs.run_folder(runs[0], tmp_path) / "train.json", **change)
    with pytest.raises(RecordError, match=problem) as error:
        build(experiment, tmp_path, allow_missing=True)
    assert "make it again: snakemake" in str(error.value) and "--force" in str(error.value)


def test_unknown_table_lists_the_known_ones(tmp_path: Path) -> None:
    path = experiments.write(tmp_path, experiments.miniature())
    with pytest.raises(ConfigError, match="tables: found no table 'table9'; did you mean 'table1'"):
        main(["table9", "--configfile", str(path), "--results-dir", str(tmp_path)])


# --------------------------------------------------------------------------------------------------------------- table 4


def beamlora_experiment(folder: Path) -> Path:
    """A miniature whose table has BeamLoRA; the comment names a source."""
    content = experiments.miniature()
    content["methods"]["beamlora"] = {"settings": {"p_init": 0.95, "delta_t": 4}}
    content["tables"]["table1"]["methods"]["llama-mini"] = ["lora", "beamlora"]
    path = experiments.write(folder, content)
    path.write_text(path.read_text().replace("p_init: 0.95", "p_init: 0.95  # [Table 4]"))
    return path


def test_table4_shows_what_the_record_says(tmp_path: Path) -> None:
    path = beamlora_experiment(tmp_path)
    experiment = load_experiment([path])
    for run in settings_runs(experiment):
        fake_runs.write_run(run, tmp_path / "results", correct={"gsm8k": [True] * 8})
    main(["table4", "--configfile", str(path), "--results-dir", str(tmp_path / "results")])
    data = pd.read_csv(tmp_path / "results/mini/tables/table4.csv").set_index("setting")
    assert (data.loc["method.r", "paper"], float(data.loc["method.r", "ours"])) == (64, 8)
    assert (data.loc["method.delta_t", "paper"], float(data.loc["method.delta_t", "ours"])) == (3000, 4)
    assert data.loc["method.p_init", "source"] == "[Table 4]" and data.loc["method.flavor", "source"] == "default"
    assert set(data["verdict"].dropna()) == {"stand-in"}
    assert float(data.loc["training.learning_rate", "ours"]) == 3e-3


def test_table4_of_the_papers_models_agrees_or_differs() -> None:
    experiment = load_experiment([ROOT / "config/paper.yaml"])
    runs = settings_runs(experiment)
    assert len(runs) == 6
    for run in runs:
        settings = table4.compare(run, run.method.settings, reported.settings())
        assert [(one.name, one.verdict) for one in settings] == [(name, "agrees") for name in ("r", "p_init", "delta_t")]
        (rank, _, steps) = table4.compare(run, {**run.method.settings, "r": 2, "delta_t": None}, reported.settings())
        assert (rank.verdict, steps.verdict) == ("differs", "not run")


def test_table4_without_its_runs_names_the_command(tmp_path: Path) -> None:
    path = beamlora_experiment(tmp_path)
    arguments = ["table4", "--configfile", str(path), "--results-dir", str(tmp_path)]
    with pytest.raises(MissingRecord, match="-- reproduce_table4"):
        main(arguments)
    main([*arguments, "--allow-missing"])
    text = (tmp_path / "mini/tables/table4.md").read_text()
    assert "not run" in text and "Partial table: 1 planned runs have no usable record" in text


def test_table4_needs_beamlora(tmp_path: Path) -> None:
    path = experiments.write(tmp_path, experiments.miniature())
    with pytest.raises(ConfigError, match="found no method 'beamlora'"):
        main(["table4", "--configfile", str(path), "--results-dir", str(tmp_path)])


# ------------------------------------------------------------------------------------------------------------------- TeX


OVERFULL = "Overfull \\hbox"


def compiled(text: str, folder: Path) -> str:
    """What pdflatex says of a document that it could set."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (folder / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "table.pdf").stat().st_size > 5000
    return done.stdout


def test_table2_compiles(table2: Table, tmp_path: Path) -> None:
    assert OVERFULL not in compiled(render.tex(table2), tmp_path)


def test_table3_compiles_with_any_label(table3: Table, tmp_path: Path) -> None:
    notes = ("100 % of #1 & _all_ {x} ~ ^ \\ < > | · ± — − † Δ é “q” 漢 λ",)
    experiment = table3.experiment.model_copy(update={"notes": notes})
    assert OVERFULL not in compiled(render.tex(replace(table3, experiment=experiment)), tmp_path)


def test_table4_compiles(tmp_path: Path) -> None:
    path = beamlora_experiment(tmp_path)
    main(["table4", "--configfile", str(path), "--results-dir", str(tmp_path), "--allow-missing"])
    assert OVERFULL not in compiled((tmp_path / "mini/tables/table4.tex").read_text(), tmp_path)


# ------------------------------------------------------------------------------------------------------------ statistics


def test_exact_mcnemar_of_each_seed_is_in_the_csv(table3: Table) -> None:
    results = table3.sections[0].rows[1].cells["accuracy", "math/gsm8k"]
    assert results.comparison is not None and len(results.comparison.difference.p_by_seed or ()) == 5
    cell = frame(table3).query("metric == 'accuracy' and task == 'gsm8k' and method_key == 'beamlora'").iloc[0]
    assert [float(p) for p in cell["mcnemar_by_seed"].split()] == list(results.comparison.difference.p_by_seed or ())
    scores = np.random.default_rng(0).random((2, 3, 50)) < 0.5
    difference = stats.paired_difference([scores[0]], [scores[1]], rng=np.random.default_rng(0), binary=True)
    for seed, p in enumerate(difference.p_by_seed or ()):
        b, c = int((scores[0, seed] > scores[1, seed]).sum()), int((scores[0, seed] < scores[1, seed]).sum())
        assert p == pytest.approx(mcnemar([[0, b], [c, 0]], exact=True).pvalue)
