"""Tables: every number against an independent computation, and nothing shown as more than it is."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console
from statsmodels.stats.multitest import multipletests

from harness import reported
from harness.records.grader_sources import grader_sources
from harness.records.versioned import MissingRecord, RecordError
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.tables import render, summary
from harness.tables.base_row import load_base_answers
from harness.tables.build import Table
from harness.tables.words import tallies
from tests.harness import fake_runs
from tests.harness.fake_runs import build, full_table, small
from tests.paths import ROOT, SHARED, needs_shared


def frame(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(render.csv_text(table)), keep_default_na=True)


def one(frame: pd.DataFrame, **where: str) -> pd.Series:
    for key, value in where.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def scores(run_filter: dict[str, str], experiment: Experiment, results: Path, task: str, key: str) -> np.ndarray:
    """(seeds, examples), read with pandas and without harness.records.read."""
    rows = []
    for run in fake_runs.runs(experiment):
        if (run.model_key, run.method.key) == (run_filter["model"], run_filter["method"]) and task in run.evaluation.tasks:
            path = fake_runs.run_folder(run, results) / "predictions" / f"{task}.jsonl"
            rows.append(pd.read_json(path, lines=True)[key].astype(float).to_numpy())
    return np.array(rows)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, Table]:
    """All fifteen method-model pairs of Table 1."""
    return full_table(tmp_path_factory.mktemp("results"))


# -------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("metric", ["accuracy", "gold_nll"])
@pytest.mark.parametrize(
    ("model", "method", "task"), [("llama-tiny", "full-ft", "gsm8k"), ("mistral-tiny", "beamlora", "mbpp")]
)
def test_cell_is_the_mean_of_the_predictions(full, model: str, method: str, task: str, metric: str) -> None:
    experiment, results, table = full
    key = {"accuracy": "correct", "gold_nll": "gold_nll"}[metric]
    own = scores({"model": model, "method": method}, experiment, results, task, key)
    base = scores({"model": model, "method": "lora"}, experiment, results, task, key)
    row = one(frame(table), model_key=model, method_key=method, task=task, metric=metric)
    assert row["mean"] == pytest.approx(own.mean()) and row["n_seeds"] == 5 and row["n_examples"] == own.shape[1]
    assert row["difference_mean"] == pytest.approx((own - base).mean())
    assert row["seed_stderr"] == pytest.approx(scipy.stats.sem(own.mean(axis=1)))
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["difference_low"] <= row["difference_mean"] <= row["difference_high"]


def test_average_is_over_tasks_not_over_examples(full) -> None:
    experiment, results, table = full
    by_task = [scores({"model": "llama-tiny", "method": "dora"}, experiment, results, task, "correct").mean()
               for tasks in fake_runs.TASKS.values() for task in tasks]  # fmt: skip
    averages = {row.domain: row.mean for row in averages_of(frame(table), "llama-tiny", "dora").itertuples()}
    assert averages["all"] == pytest.approx(np.mean(by_task))
    assert averages["math"] == pytest.approx(np.mean(by_task[:2])) and averages["code"] == pytest.approx(np.mean(by_task[2:]))


def averages_of(data: pd.DataFrame, model: str, method: str) -> pd.DataFrame:
    """The rows of averages of accuracy; the domain of that over all is ``all``."""
    rows = data[(data["task"] == "avg") & (data["metric"] == "accuracy")]
    return rows[(rows["model_key"] == model) & (rows["method_key"] == method)].fillna({"domain": "all"})


def test_words_are_said_of_domain_averages_in_the_families_and_of_nothing_else(full) -> None:
    data = frame(full[2])
    decided = data[data["verdict"].notna()]
    assert (decided["task"] == "avg").all() and decided["domain"].notna().all() and (decided["metric"] == "accuracy").all()
    assert decided["family"].notna().all() and data.loc[data["verdict"].isna(), "p_holm"].isna().all()
    assert data.loc[data["verdict"].isna(), ["p_value", "p_beyond_margin", "p_sign_flip"]].isna().all(axis=None)
    assert set(decided.loc[decided["family"] == "primary", "method_key"]) == {"beamlora"}
    assert decided["family"].value_counts().to_dict() == {"primary": 2 * 2, "secondary": (7 + 4) * 2}
    described = data[data["method_key"].ne("lora")]
    assert described[["difference_mean", "difference_low", "difference_high", "difference_dof"]].notna().all(axis=None)


def test_p_values_are_corrected_within_their_family(full) -> None:
    data = frame(full[2])
    for _, family in data[data["verdict"].notna()].groupby("family"):
        assert (family["comparisons"] == len(family)).all() and (family["margin"] == 0.05).all()
        for name in ("p_value", "p_beyond_margin"):
            corrected = family["p_holm" if name == "p_value" else "p_beyond_margin_holm"]
            assert corrected.to_numpy() == pytest.approx(multipletests(family[name], method="holm")[1])


def test_word_follows_the_corrected_p_values_and_the_direction(full) -> None:
    data = frame(full[2]).dropna(subset=["verdict"])
    direction = np.where(data["difference_mean"] > 0, "better", "worse")
    expected = np.where(data["p_beyond_margin_holm"] < 0.05, "equivalent", "undecided")
    assert data["verdict"].tolist() == np.where(data["p_holm"] < 0.05, direction, expected).tolist()
    assert {"better", "worse", "undecided"} <= set(data["verdict"])


def test_intervals_of_differences_have_the_degrees_of_freedom_that_they_say(full) -> None:
    data = frame(full[2]).dropna(subset=["difference_mean"]).query("metric == 'gold_nll'")
    half = scipy.stats.t.ppf(0.975, data["difference_dof"]) * data["difference_stderr"]
    assert (data["difference_high"] - data["difference_mean"]).to_numpy() == pytest.approx(half.to_numpy())
    assert data["difference_dof"].between(4, data["n_examples"]).all()


def equal_methods(results: Path, **changes: object) -> Table:
    """Two methods with the same answers but for one example in a hundred that each alone solves, from five seeds."""
    methods = {"llama-tiny": ("lora", "beamlora")}
    experiment = fake_runs.experiment(seeds=range(5), methods=methods, domains={"math": {"gsm8k": 400}}, **changes)
    for run in fake_runs.runs(experiment):
        alone = range(run.seed, 8, 2) if run.method.key == "lora" else range(8 + run.seed, 16, 2)
        fake_runs.write_run(run, results, correct={"gsm8k": [i in alone or i % 2 == 0 and i > 16 for i in range(400)]})
    return build(experiment, results)


def test_equal_methods_are_equivalent_within_a_margin_that_the_file_fixes(tmp_path: Path) -> None:
    def said(margin: float | None) -> pd.Series:
        spec = {"margin": {"accuracy": margin}, "families": {"primary": {"tables": ["table1"], "methods": ["beamlora"]}}}
        return one(frame(equal_methods(tmp_path, comparisons=spec)), method_key="beamlora", metric="accuracy")

    assert said(0.05)["verdict"] == "equivalent"
    assert said(0.005)["verdict"] == said(None)["verdict"] == "undecided"
    assert np.isnan(said(None)["p_beyond_margin"])


def test_a_family_decides_by_the_measure_that_the_file_fixes(full) -> None:
    experiment, results, _ = full
    family = {"tables": ["table1"], "methods": ["beamlora", "full-ft"], "metric": "gold_nll"}
    spec = {"margin": {"gold_nll": 0.02}, "families": {"primary": family}}
    changed = fake_runs.experiment(seeds=range(5), comparisons=spec)
    data = frame(build(changed, results)).dropna(subset=["verdict"])
    assert set(data["metric"]) == {"gold_nll"} and set(data["method_key"]) == {"beamlora", "full-ft"}
    assert set(data.loc[data["method_key"] == "full-ft", "verdict"]) == {"better"}  # a lower NLL


def test_without_a_family_everything_is_described(full) -> None:
    experiment, results, _ = full
    table = build(fake_runs.experiment(seeds=range(5), comparisons={}), results)
    assert frame(table)["verdict"].isna().all()
    shown = render.markdown(table)
    assert "This table decides nothing: the experiment fixes no family of comparisons" in shown
    assert not re.search(r"\b(better|worse|equivalent|undecided)\b", shown.split("## Notes")[0].replace("less is better", ""))


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ({"tables": ["tabel1"]}, "found no table 'tabel1'; did you mean 'table1'?"),
        ({"tables": ["table1"], "methods": ["bemlora"]}, "methods: found no row of table1 'bemlora'; did you mean 'beamlora'?"),
        ({"tables": ["table1"], "against": "nothing"}, "against: found no row of table1 'nothing'; expected one of"),
        ({"tables": ["table1"], "methods": ["lora"]}, "methods: found 'lora', expected rows other than against"),
        ({"tables": ["table1"], "methods": ["dora"], "against": "pissa"}, "against: found 'pissa', with which table1 does not"),
        ({"tables": ["table1"], "methods": ["dora"]}, "in 'one' and in 'two', expected each comparison in one family"),
    ],
)
def test_a_family_of_no_comparison_is_refused(full, family: dict[str, object], said: str) -> None:
    families = {"one": family} | ({"two": family} if "each comparison" in said else {})
    with pytest.raises(ValueError, match=re.escape(said)):
        build(fake_runs.experiment(seeds=range(5), comparisons={"families": families}), full[1])


def test_the_seeds_rule_cannot_be_loosened() -> None:
    with pytest.raises(ValueError, match="min_seeds"):
        fake_runs.experiment(comparisons={"min_seeds": 3})


def test_what_has_not_run_counts_in_the_correction(full, tmp_path: Path) -> None:
    experiment, results, table = full
    without = [run for run in fake_runs.runs(experiment) if run.method.key != "dora"]
    for run in without:
        shutil.copytree(fake_runs.run_folder(run, results), fake_runs.run_folder(run, tmp_path))
    partial = frame(build(experiment, tmp_path, allow_missing=True)).query("family == 'secondary' and verdict == verdict")
    assert (partial["comparisons"] == 22).all() and len(partial) == 22 - 4
    expected = multipletests([*partial["p_value"], *[1.0] * 4], method="holm")[1][:-4]
    assert partial["p_holm"].to_numpy() == pytest.approx(expected)


def test_baseline_is_not_compared_with_itself(full) -> None:
    data = frame(full[2])
    assert data[data["method_key"] == "lora"]["difference_mean"].isna().all()
    assert data[data["method_key"] != "lora"]["difference_mean"].notna().all()


def test_markdown_rounds_the_same_numbers(full) -> None:
    table = full[2]
    row = one(frame(table), model_key="llama-tiny", method_key="full-ft", task="gsm8k", metric="accuracy")
    text = render.markdown(table)
    line = next(x for x in text.split("### GSM8K†: accuracy")[1].splitlines() if x.startswith("| Full-FT"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "66.50"
    assert cells[2] == f"{100 * row['mean']:.1f} ± {100 * row['stderr']:.1f}"
    assert cells[3] == f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert cells[4] == "5"
    assert cells[5] == f"{100 * row['difference_mean']:+.1f}"
    assert cells[7] == f"{row['difference_dof']:.1f}" and len(cells) == 8
    decided = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| seco")]
    average = one(frame(table), model_key="llama-tiny", method_key="full-ft", domain="math", task="avg", metric="accuracy")
    shown = next(cells for cells in decided if cells[1].startswith("Full-FT") and "Math" in cells[3] and "Llama" in cells[2])
    assert shown[5] == f"{100 * average['difference_mean']:+.1f}" and shown[-1] == average["verdict"] == "better"


# --------------------------------------------------------------------------------------------- the paper's own numbers


def test_where_nothing_is_answered_the_table_is_of_the_nll_alone(tmp_path: Path) -> None:
    made = fake_runs.without_answers(fake_runs.experiment(methods={"llama-tiny": ("lora", "beamlora")}, seeds=range(5)))
    fake_runs.populate(fake_runs.runs(made), tmp_path, effects={"beamlora": 2.0})
    table = build(made, tmp_path)
    data = frame(table)
    measured = data[data["mean"].notna()]
    assert set(measured["metric"]) == {"gold_nll"} and len(measured) == len(table.columns) * 2
    decided = [decision for decision in table.decisions() if decision.comparison is not None]
    assert {decision.metric for decision in decided} == {"gold_nll"}
    assert {decision.comparison.word for decision in decided if decision.comparison} == {"better"}
    console = Console(width=100, file=io.StringIO())
    console.print(summary.grid(table, table.sections[0]))
    for text in (render.markdown(table), render.tex(table), console.file.getvalue()):
        assert "ccuracy, %" not in text and "Accuracy of" not in text and "in the paper" not in text
    level = f"{one(data, method_key='lora', task='gsm8k', metric='gold_nll')['mean']:.3f}"
    assert "NLL of the gold answer of" in render.markdown(table)
    assert level in render.markdown(table) and level in console.file.getvalue()


def test_papers_numbers_stand_beside_the_model_that_stands_for_them(full) -> None:
    data = frame(full[2])
    paper = pd.read_csv(ROOT / "config" / "paper_reported.csv")
    for row in data[(data["metric"] == "accuracy") & ~((data["task"] == "avg") & data["domain"].notna())].itertuples():
        match = paper[(paper["table"] == "table1") & (paper["model"] == row.stands_for) & (paper["method"] == row.method)
                      & (paper["metric"] == row.task)]  # fmt: skip
        assert len(match) == 1 and row.reported == pytest.approx(match["value"].iloc[0] / 100)
    assert data[data["metric"] == "gold_nll"]["reported"].isna().all()


@needs_shared
def test_reported_numbers_are_an_exact_copy() -> None:
    assert (ROOT / "config" / "paper_reported.csv").read_bytes() == (SHARED / "paper" / "tables.csv").read_bytes()


def test_paper_has_no_number_after_other_fine_tuning() -> None:
    names = ["LoRA"]
    assert reported.value(table="table1", model="llama2-7b", method_names=names, domain="math", task="gsm8k") == 0.6631
    assert reported.value(table="table1", model="llama2-7b", method_names=names, domain="math", task="humaneval") is None
    assert reported.value(table="table1", model="mistral-7b", method_names=["PiSSA"], domain="math", task="gsm8k") is None


def test_the_papers_number_belongs_to_the_method_of_that_name_alone() -> None:
    def gsm8k(*names: str) -> float | None:
        return reported.value(table="table1", model="llama2-7b", method_names=names, domain="math", task="gsm8k")

    assert gsm8k("lora") == gsm8k("a label", "LoRA") == 0.6631
    assert [gsm8k(name) for name in ("LoRA+", "lora-plus", "LoRA-FA", "(LoRA)", "Beam-LoRA")] == [None] * 5


def test_papers_average_needs_the_same_tasks() -> None:
    four = [("math", "gsm8k"), ("math", "math"), ("code", "humaneval"), ("code", "mbpp")]

    def average(parts: list[tuple[str, str]]) -> float | None:
        return reported.average(table="table1", model="llama2-7b", method_names=["LoRA"], parts=parts)

    assert average(four) == 0.4203
    assert average(four[:2]) == 0.4270  # Table 3 averages over these two
    assert average(four[:3]) is None
    assert average([("code", "gsm8k"), *four[1:]]) is None


def test_stand_ins_are_named_and_the_papers_column_is_marked(full) -> None:
    table = full[2]
    title = "LLaMA2-7B [paper] | Llama 0.8M stand-in [ours]"
    assert f"## {title}" in render.markdown(table)
    assert render.tex_escape(title) in render.tex(table)
    data = frame(table)
    assert data["is_stand_in"].all() and set(data["stands_for"]) == {"llama2-7b", "mistral-7b"}
    assert set(data[data["task"] != "avg"]["test_set"]) == {"generated"}


def test_model_without_a_counterpart_has_no_papers_column(tmp_path: Path) -> None:
    experiment = fake_runs.experiment(methods={"alone": ("lora", "dora")}, domains={"math": {"gsm8k": 10}})
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    text = render.markdown(build(experiment, tmp_path))
    assert "## Unrelated [ours; not in the paper]" in text and "Paper |" not in text and "66.31" not in text


def test_task_of_another_domain_is_labelled_and_has_no_papers_number(tmp_path: Path) -> None:
    domains = {"math": {"gsm8k": 9, "humaneval": 8}}
    experiment = fake_runs.experiment(methods={"llama-tiny": ("lora", "beamlora")}, domains=domains)
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    table = build(experiment, tmp_path)
    assert [column.label for column in table.columns] == ["GSM8K", "HumanEval (after math fine-tuning)", "Average"]
    rows = frame(table).query("metric == 'accuracy' and method_key == 'lora'").set_index("task")
    assert rows.loc["gsm8k", "reported"] == 0.6631
    assert np.isnan(rows.loc["humaneval", "reported"]) and np.isnan(rows.loc["avg", "reported"])


# ----------------------------------------------------------------------------------------- diverged, missing, one seed


def run_of(experiment: Experiment, method: str, seed: int) -> RunSpec:
    return next(r for r in fake_runs.runs(experiment) if r.method.key == method and r.seed == seed)


def test_diverged_seed_is_shown_and_in_no_mean(tmp_path: Path) -> None:
    experiment = small()
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    before = one(frame(build(experiment, tmp_path)), method_key="beamlora", task="gsm8k", metric="accuracy")
    fake_runs.write_run(run_of(experiment, "lora", 1), tmp_path)
    table = build(experiment, tmp_path)
    lora = one(frame(table), method_key="lora", task="gsm8k", metric="accuracy")
    beam = one(frame(table), method_key="beamlora", task="gsm8k", metric="accuracy")
    assert (lora["n_diverged"], lora["seeds"], lora["n_seeds"]) == (1, "0 2", 2)
    assert (beam["n_seeds"], beam["difference_n_seeds"]) == (3, 2)
    assert beam["mean"] == before["mean"] and beam["difference_mean"] != before["difference_mean"]
    text = render.markdown(table)
    assert "diverged (1 of 3)" in text and "2 of 3" in text and "Diverged runs are shown as such" in text


def test_collapsed_seeds_are_marked_and_stay_in_the_mean(tmp_path: Path) -> None:
    """One seed of LoRA answers PIQA no better than a constant, and ARC-Easy as the others do; another one nothing of GSM8K."""
    made, correct = fake_runs.collapsed(tmp_path)
    base = load_base_answers(made, fake_runs.runs(made), results=tmp_path, command="", allow_missing=False)
    table = fake_runs.build(made, tmp_path, base=base)
    data, text = frame(table), render.markdown(table)
    lora = data[(data["method_key"] == "lora") & (data["metric"] == "accuracy")].set_index("task")
    assert lora["n_collapsed"].to_dict() == {"piqa": 1, "arc_easy": 0, "gsm8k": 1, "avg": 2}
    for task in ("piqa", "gsm8k"):
        assert lora.loc[task, "mean"] == pytest.approx(np.mean(correct[task])) and lora.loc[task, "n_seeds"] == 3
    assert data.loc[data["method_key"].eq("beamlora"), "n_collapsed"].eq(0).all()
    assert data.loc[data["metric"].eq("gold_nll"), "n_collapsed"].eq(0).all()
    assert "no fine-tuning" not in text, "its record decides what has collapsed, and is in no row"
    rows = [line for line in text.splitlines() if line.startswith("| LoRA")]
    assert (rows[0].count("1 of 3 collapsed"), rows[0].count("2 of 3 collapsed")) == (2, 1)
    assert "Collapsed runs are in every mean" in text
    unknown = frame(fake_runs.build(made, tmp_path)).query("method_key == 'lora' and task == 'gsm8k'")
    assert unknown["n_collapsed"].eq(0).all(), "without the base model's record nothing is known of open answers"


def test_a_number_of_another_grader_says_so(tmp_path: Path) -> None:
    experiment = small()
    fake_runs.populate(fake_runs.runs(experiment), tmp_path)
    before = render.markdown(build(experiment, tmp_path))
    assert "Graded" not in before

    def note(sources: dict[str, str] | None) -> str:
        path = fake_runs.run_folder(run_of(experiment, "lora", 1), tmp_path) / "metrics.json"
        content = json.loads(path.read_text())
        content["tasks"]["gsm8k"]["sources"] = sources
        fake_runs.write_json(path, content)
        (line,) = [
            line for line in render.markdown(build(experiment, tmp_path)).splitlines() if line not in before.splitlines()
        ]
        return line

    older = {
        **grader_sources(run_of(experiment, "lora", 1).evaluation.tasks["gsm8k"]),
        "grader": "0" * 64,
        "packages": "sympy 1.0",
    }
    said = "by other sources than this code's (grader, packages)"
    assert note(older) == f"- Graded {said}, not all records alike; shown as recorded: GSM8K†."
    unnamed = "by sources that the record does not name"
    assert note(None) == f"- Graded {unnamed}, not all records alike; shown as recorded: GSM8K†."


def test_method_that_always_diverged_has_no_number(tmp_path: Path) -> None:
    experiment = small()
    runs = fake_runs.runs(experiment)
    fake_runs.populate(runs, tmp_path)
    for run in runs:
        if run.method.key == "beamlora":
            fake_runs.write_run(run, tmp_path)
    table = build(experiment, tmp_path)
    row = one(frame(table), method_key="beamlora", task="avg", metric="accuracy")
    assert np.isnan(row["mean"]) and np.isnan(row["p_value"]) and row["n_diverged"] == 3
    assert "diverged (3 of 3)" in render.markdown(table) and "1 not decided, 0 not run" in tallies(table)[0]


def test_what_has_not_run_says_so_and_is_counted(tmp_path: Path) -> None:
    experiment = small()
    runs = fake_runs.runs(experiment)
    fake_runs.populate([run for run in runs if run.method.key == "lora"], tmp_path)
    with pytest.raises(MissingRecord, match="3 of 6 runs"):
        build(experiment, tmp_path)
    table = build(experiment, tmp_path, allow_missing=True)
    text = render.markdown(table)
    beam = next(line for line in text.splitlines() if line.startswith("| BeamLoRA"))
    assert re.search(r"67.05 / not run", beam)
    assert "Partial table: 3 planned runs have no record" in text
    assert one(frame(table), method_key="beamlora", task="gsm8k", metric="accuracy")["n_missing"] == 3


def test_nothing_at_all_renders(tmp_path: Path) -> None:
    table = build(small(), tmp_path, allow_missing=True)
    for text in (render.markdown(table), render.tex(table), render.csv_text(table)):
        assert "BeamLoRA" in text and "nan" not in text


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_no_word_below_five_seeds(tmp_path: Path, seeds: int) -> None:
    """All of 40 against none of 40, and still nothing is decided between the methods."""
    methods = {"llama-tiny": ("lora", "beamlora")}
    experiment = fake_runs.experiment(seeds=range(seeds), methods=methods, domains={"math": {"gsm8k": 40}})
    tasks = {"lora": [False] * 40, "beamlora": [True] * 40}
    for run in fake_runs.runs(experiment):
        fake_runs.write_run(run, tmp_path, correct={"gsm8k": tasks[run.method.key]})
    table = build(experiment, tmp_path)
    row = one(frame(table), method_key="beamlora", metric="accuracy")
    few = f"not decided ({seeds} seed{'s' if seeds > 1 else ''})"
    assert row["verdict"] == few and row[["p_value", "p_holm", "p_beyond_margin", "p_sign_flip"]].isna().all()
    if seeds == 1:
        assert np.isnan(row["seed_stderr"]) and np.isnan(row["difference_dof"])
        assert (row["low"], row["high"]) == pytest.approx((0.9124, 1.0), abs=1e-4)
    shown = render.markdown(table)
    assert f"This table decides nothing: {few}, and a word needs 5." in shown
    assert re.search(rf"\| primary .* \| {re.escape(few)} +\|", shown)
    before = shown.split("## Notes")[0].replace("less is better", "").replace(tallies(table)[0], "")
    assert not re.search(r"\b(tie|better|worse|equivalent|undecided)\b|<0\.001", before)
    assert ("neither contains the noise of training" in shown) == (seeds == 1)
    assert "NLL of the gold answer" not in shown  # it was not measured


def test_nothing_solved_shows_an_interval_not_certainty(tmp_path: Path) -> None:
    experiment = fake_runs.experiment(methods={"llama-tiny": ("lora",)}, domains={"math": {"gsm8k": 8}})
    for run in fake_runs.runs(experiment):
        fake_runs.write_run(run, tmp_path, correct={"gsm8k": [False] * 8})
    text = render.markdown(build(experiment, tmp_path))
    assert "66.31 / 0.0 [0.0, 32.4]" in text and "± 0.0" not in text


def test_stand_in_is_said_once(full) -> None:
    section = full[2].sections[0]
    model = section.model.model_copy(update={"label": "Llama stand-in, 0.8M"})
    assert replace(section, model=model).title == "LLaMA2-7B [paper] | Llama stand-in, 0.8M [ours]"


def test_other_examples_are_not_paired(tmp_path: Path) -> None:
    experiment = small()
    runs = fake_runs.runs(experiment)
    fake_runs.populate(runs, tmp_path)
    path = fake_runs.run_folder(runs[-1], tmp_path) / "predictions" / "gsm8k.jsonl"
    path.write_text(path.read_text().replace("gsm8k/19", "gsm8k/20"))
    with pytest.raises(RecordError, match="found other examples than"):
        build(experiment, tmp_path)


# -------------------------------------------------------------------------------------------------------------- formats


def test_same_records_give_the_same_bytes(full, tmp_path: Path) -> None:
    experiment, results, table = full
    first = [path.read_bytes() for path in render.write(table, tmp_path / "a")]
    second = [path.read_bytes() for path in render.write(build(experiment, results), tmp_path / "b")]
    assert first == second


def test_a_number_does_not_depend_on_the_rows_around_it(full) -> None:
    experiment, results, table = full
    smaller = fake_runs.experiment(seeds=range(5), methods={"llama-tiny": ("lora", "beamlora")})
    where = {"model_key": "llama-tiny", "method_key": "beamlora", "domain": "math", "task": "avg", "metric": "gold_nll"}
    columns = ["mean", "low", "high", "difference_mean", "difference_low", "difference_high", "difference_dof"]
    assert one(frame(table), **where)[columns].equals(one(frame(build(smaller, results)), **where)[columns])


def test_markdown_columns_line_up(full) -> None:
    block: list[str] = []
    for line in [*render.markdown(full[2]).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        assert len({len(row) for row in block}) <= 1 and len({row.count("|") for row in block}) <= 1
        block = []


def test_markdown_never_decides_by_bold(full) -> None:
    assert "**" not in render.markdown(full[2]) and r"\textbf" not in render.tex(full[2])


def test_tex_is_well_formed(full) -> None:
    text = render.tex(full[2])
    for environment in ("document", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}")
    assert all(ord(c) < 128 for c in text), "pdflatex knows no such character"
    assert re.sub(r"\\[{}]", "", text).count("{") == re.sub(r"\\[{}]", "", text).count("}")
    for spec, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in body.splitlines():
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(spec) - 1, line


@pytest.mark.parametrize("character", list("\\&%$#_{}~^<>|"))
def test_tex_special_characters_are_escaped(character: str) -> None:
    assert render.tex_escape(character) != character


def test_an_option_keeps_both_hyphens_in_tex() -> None:
    assert render.tex_escape("table1 --rates") == "table1 -{}-rates" and render.tex_escape("a-b") == "a-b"


def test_csv_has_every_cell_unrounded(full) -> None:
    data = frame(full[2])
    assert len(data) == (9 + 6) * (4 + 3) * 2  # four test sets, two averages over a domain, one over all
    raw = render.csv_text(full[2])
    value = one(data, model_key="llama-tiny", method_key="lora", task="mbpp", metric="accuracy")["stderr"]
    assert repr(float(value)) in raw
