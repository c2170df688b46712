"""What is made of an experiment whose test sets are not answered: tables, figures, claims and report, all by the NLL."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.claims import __main__ as claims
from harness.cli import Config
from harness.figures import catalogue, style
from harness.records.versioned import MissingRecord
from harness.report import one_number, page
from harness.report.check import check
from harness.report.recompute import Raw, TableNumbers
from harness.report.sources import Source, open_source
from harness.schema.experiment import Experiment
from harness.tables import __main__ as tables
from harness.tables.build import load_table
from harness.tables.cells import Table
from harness.workflow.dag import Dag
from tests.harness import fake_nll
from tests.harness.figures import fake_figures
from tests.harness.report import fake_report


@dataclass(frozen=True, kw_only=True)
class Made:
    experiment: Experiment
    file: Path
    source: Source

    @property
    def folder(self) -> Path:
        return self.source.folder

    def table(self, *, allow_missing: bool = False) -> Table:
        return load_table("table1", self.source.config, results=self.source.results, allow_missing=allow_missing)

    def mean(self, run: str, task: str, field: str = "gold_nll") -> float:
        lines = (self.folder / run / "predictions" / f"{task}.jsonl").read_text().splitlines()
        return float(np.mean([json.loads(line)[field] for line in lines]))


def opened(experiment: Experiment, file: Path, results: Path) -> Made:
    source = open_source(Config(files=(file,)), results=results, figures=results.parent / "figures")
    return Made(experiment=experiment, file=file, source=source)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The records with claims, tables and page; in the place of every figure a small picture."""
    one = opened(*fake_nll.write(tmp_path_factory.mktemp("nll")))
    arguments = ["--configfile", str(one.file), "--results-dir", str(one.source.results)]
    claims.main(arguments)
    for name in ("table1", "learning_rate"):
        tables.main([name, *arguments])
    one.source.figures.mkdir()
    for figure in catalogue.planned(one.experiment):
        (one.source.figures / f"{figure.name}.png").write_bytes(fake_report.picture())
    (one.folder / "report.html").write_text(page.render_page(one.source))
    return one


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Made:
    """Records and page that a test may spoil."""
    shutil.copytree(made.source.results, tmp_path / "results")
    shutil.copytree(made.source.figures, tmp_path / "figures")
    return opened(made.experiment, made.file, tmp_path / "results")


# -------------------------------------------------------------------------------------------------------------- tables


def test_secondary_tasks_stand_behind_and_decide_nothing(made: Made) -> None:
    table = made.table()
    assert [(column.task, column.counts, column.decides) for column in table.columns] == [
        ("gsm8k", True, True), ("math", False, False), ("arc_easy", False, False),
    ]  # fmt: skip
    (one,) = table.decisions()
    assert (one.column.task, one.metric, one.comparison.outcome is not None) == ("gsm8k", "gold_nll", True)
    text = (made.folder / "tables/table1.md").read_text()
    assert "In no average and no decision: MATH†, ARC-e (after math fine-tuning)†." in text
    assert "ARC-e (after math fine-tuning)†: accuracy, %" in text and "GSM8K†: accuracy" not in text
    assert "Against the paper" not in text


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"math": "t"}, "math/gsm8k"),
        ({"math": "tts"}, "math/gsm8k math/math avg math/svamp"),
        ({"math": "tts", "code": "st"}, "math/gsm8k math/math math/avg math/svamp code/math code/gsm8k avg"),
        ({"math": "tt", "code": "s"}, "math/gsm8k math/math avg code/gsm8k"),
    ],
)
def test_columns_stand_in_one_order_in_the_table_and_in_its_recomputation(
    tmp_path: Path, splits: dict[str, str], expected: str
) -> None:
    content = fake_nll.experiment(base_evaluation=None, pruning=None, sweeps={}).model_dump(mode="json")
    domain, task = content["domains"]["math"], content["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]
    words = {"t": "test", "s": "secondary"}
    for name, letters in splits.items():
        pairs = zip(("gsm8k", "math", "svamp"), letters, strict=False)
        tasks = {key: {**task, "split": words[letter]} for key, letter in pairs}
        # In the order of the file: a secondary task that stands first is shown last.
        content["domains"][name] = {**domain, "evaluation": {"tasks": tasks}}
    content["tables"]["table1"]["domains"] = list(splits)
    file = tmp_path / "fake.yaml"
    file.write_text(json.dumps(content))
    one = opened(Experiment.model_validate(content), file, tmp_path / "results")
    columns = TableNumbers(Raw(one.source), "table1").columns
    recomputed = [f"{domain}/{task or 'avg'}" if domain else "avg" for domain, task in columns]
    assert [column.key for column in one.table(allow_missing=True).columns] == recomputed == expected.split()


def test_the_base_model_stands_on_top_with_what_it_scored_before(made: Made) -> None:
    section = made.table().sections[0]
    assert section.base is not None and section.shown[0] == section.base and section.base not in section.rows
    for task in fake_nll.MATH:
        cell = section.base.cells["gold_nll", f"math/{task}"]
        assert cell.ours.mean == pytest.approx(made.mean("base/llama-tiny/sound", task)) and cell.comparison is None
    accuracy = section.base.cells["accuracy", "math/arc_easy"].ours
    assert accuracy.mean == made.mean("base/llama-tiny/sound", "arc_easy", "correct") and accuracy.low < accuracy.mean
    assert section.base.cells["accuracy", "math/gsm8k"].ours is None
    rows = pd.read_csv(made.folder / "tables/table1.csv")
    assert rows["method_key"].drop_duplicates().tolist() == ["base", "lora", "beamlora"]


def made_otherwise(folder: Path, task: str, part: str) -> None:
    """Make what a record says of a task that of other sources."""
    content = json.loads((folder / "metrics.json").read_text())
    content["tasks"][task]["sources"][part] = "0" * 64
    (folder / "metrics.json").write_text(json.dumps(content))


def test_another_grader_of_the_base_model_or_of_a_sweep_is_named(copy: Made) -> None:
    def notes() -> list[str]:
        arguments = ["--configfile", str(copy.file), "--results-dir", str(copy.source.results)]
        names = ("table1", "learning_rate")
        for name in names:
            tables.main([name, *arguments])
        texts = [(copy.folder / f"tables/{name}.md").read_text() for name in names]
        return [line for text in texts for line in text.splitlines() if line.startswith("- Graded")]

    assert notes() == []
    made_otherwise(copy.folder / "base/llama-tiny/sound", "arc_easy", "grader")
    made_otherwise(copy.folder / "rates/llama-tiny/lora/seed9", "gsm8k_validation", "metric")
    assert notes() == [
        f"- Graded by other sources than this code's ({part}), not all records alike; shown as recorded: {task}."
        for part, task in (("grader", "ARC-e (after math fine-tuning)†"), ("metric", "gsm8k_validation (rates)"))
    ]


def test_without_its_record_the_base_model_has_not_run(copy: Made) -> None:
    (copy.folder / "base/llama-tiny/sound/metrics.json").unlink()
    with pytest.raises(MissingRecord, match="base/llama-tiny/sound/metrics.json: found no such file; make it: snakemake"):
        copy.table()
    base = copy.table(allow_missing=True).sections[0].base
    assert base is not None and {cell.n_missing for cell in base.cells.values()} == {1}


def test_a_base_model_that_was_asked_something_else_has_no_row(copy: Made) -> None:
    asked = copy.experiment.model_dump(mode="json")
    for task in asked["base_evaluation"]["tasks"].values():
        task["batch_size"] = 3
    copy.file.with_name("other.yaml").write_text(Experiment.model_validate(asked).model_dump_json())
    other = opened(copy.experiment, copy.file.with_name("other.yaml"), copy.source.results)
    assert other.table().sections[0].base is None
    assert Dag(other.source.config).table_base_records("table1") == []


def test_the_workflow_makes_the_base_record_before_the_table(made: Made) -> None:
    dag = Dag(made.source.config)
    assert dag.table_base_records("table1") == ["results/fake/base/llama-tiny/sound/metrics.json"]
    assert dag.table_base_records("learning_rate") == dag.table_base_records("table4") == []


def test_rates_are_chosen_by_the_nll_of_a_domain_without_test_sets(made: Made) -> None:
    rows = pd.read_csv(made.folder / "tables/learning_rate.csv")
    for row in rows.itertuples():
        expected = made.mean(f"rates/llama-tiny/{row.run_key}/seed9", "gsm8k_validation")
        assert row.validation_gold_nll == pytest.approx(expected)
    # Nor is there a run at a shared rate, for none of the domain is planned beside the sweep's.
    assert rows[["validation_accuracy", "test_accuracy", "test_gold_nll", "shared_rate"]].isna().all(axis=None)
    for _, own in rows.groupby("method_key"):
        assert own.loc[own["best"], "validation_gold_nll"].tolist() == [own["validation_gold_nll"].min()]
    text = (made.folder / "tables/learning_rate.md").read_text()
    assert "Validation NLL by learning rate, nats per token" in text and "at the shared" not in text and "Shared:" not in text


# ------------------------------------------------------------------------------------------------------------- figures


def drawn(made: Made, figure: str) -> tuple[pd.DataFrame, str]:
    """The data behind a figure, and its words."""
    with style.theme():
        plot = catalogue.build(figure, fake_figures.inputs(made.experiment, made.source.results))
    return plot.data, fake_figures.words_in(plot.figure)


def test_every_figure_is_planned(made: Made) -> None:
    assert {figure.name for figure in catalogue.planned(made.experiment)} == set(catalogue.figures()) - {"time_memory"}


@pytest.mark.parametrize(
    ("figure", "run", "where"),
    [
        ("rank_sweep", "math/llama-tiny/lora.r=4/seed1", {"method": "lora", "r": 4, "seed": 1}),
        ("delta_t", "math/llama-tiny/beamlora.delta_t=8/seed0", {"delta_t": 8, "seed": 0}),
        ("p_init", "math/llama-tiny/lora/seed1", {"method": "lora", "seed": 1}),
        ("pareto", "math/llama-tiny/beamlora/seed3", {"method": "beamlora", "seed": 3}),
        ("learning_rate", "rates/llama-tiny/lora/seed9", {"method": "lora", "learning_rate": 0.003, "seed": 9}),
    ],
)
def test_figures_are_of_the_nll(made: Made, figure: str, run: str, where: dict) -> None:
    data, words = drawn(made, figure)
    assert "accuracy" not in data
    own = data[(data["row"] == "seed") & (data[list(where)] == list(where.values())).all(axis=1)]
    task = "gsm8k_validation" if figure == "learning_rate" else "gsm8k"
    assert own["gold_nll"].tolist() == pytest.approx([made.mean(run, task)])
    assert "NLL of the gold answer (nats per token)" in words and "ess is better" in words
    assert "ccuracy" not in words and "(%)" not in words
    if figure == "pareto":
        means = data[data["row"] == "mean"].sort_values("gold_nll")
        cheaper = means["seconds"].iloc[1] < means["seconds"].iloc[0]
        assert means["on_frontier_seconds"].tolist() == [True, cheaper]


def test_rates_of_a_domain_without_test_sets_have_no_shared_one(made: Made) -> None:
    data, words = drawn(made, "learning_rate")
    assert not data["is_shared"].any() and "Shared" not in words and "no test set is read" in words


def test_differences_are_of_the_nll(made: Made) -> None:
    data, words = drawn(made, "differences")
    own = data[(data["table"] == "table1") & (data["method"] == "beamlora") & (data["row"] == "seed")]
    expected = [
        made.mean(f"math/llama-tiny/beamlora/seed{seed}", "gsm8k") - made.mean(f"math/llama-tiny/lora/seed{seed}", "gsm8k")
        for seed in made.experiment.seeds
    ]
    assert own["difference"].tolist() == pytest.approx(expected) and set(data["metric"]) == {"gold_nll"}
    assert "left is better" in words and "ccuracy" not in words


@pytest.mark.parametrize("figure", ["pruning_curve", "rank_importance"])
def test_pruned_runs_are_shown_by_their_nll(made: Made, figure: str) -> None:
    data, words = drawn(made, figure)
    row = "mean" if figure == "pruning_curve" else "pruned"
    own = data[(data["row"] == row) & (data["method"] == "lora" if row == "mean" else data["row"] == row)]
    seeds = made.experiment.seeds if row == "mean" else made.experiment.seeds[:1]
    records = [json.loads((made.folder / f"math/llama-tiny/lora/seed{s}/pruning.json").read_text()) for s in seeds]
    expected = np.mean([record["tasks"]["gsm8k"]["gold_nll"] for record in records], axis=0)
    assert own["gold_nll"].tolist() == pytest.approx(expected.tolist())
    assert "ccuracy" not in words


# -------------------------------------------------------------------------------------------------------------- claims


def test_claims_are_about_the_nll(made: Made) -> None:
    by_key = {claim["key"]: claim for claim in json.loads((made.folder / "claims.json").read_text())["claims"]}
    better = by_key["better_than_lora/math/llama-tiny"]
    (part,) = better["parts"]
    assert part["quantity"]["unit"] == "nats" and part["expected"] == {"above": None, "below": 0}
    assert part["comparison"]["family"]["name"] == "primary" and "lower NLL" in better["statement"]
    means = {key: [made.mean(f"math/llama-tiny/{key}/seed{s}", "gsm8k") for s in range(5)] for key in ("lora", "beamlora")}
    assert part["quantity"]["mean"] == pytest.approx(np.mean(means["beamlora"]) - np.mean(means["lora"]))
    gain = by_key["gain_at_every_rank"]["parts"]
    assert {(one["quantity"]["unit"], one["expected"]["below"]) for one in gain} == {("nats", 0)}
    smallest = by_key["small_gain_at_the_smallest_rank"]["parts"][0]
    assert smallest["expected"]["above"] == 0 and smallest["comparison"]["family"]["metric"] == "gold_nll"


def test_what_is_left_after_pruning_is_the_share_of_the_gain(made: Made) -> None:
    by_key = {claim["key"]: claim for claim in json.loads((made.folder / "claims.json").read_text())["claims"]}
    for part, share in zip(by_key["ranks_differ"]["parts"][1:], (0.3, 0.9), strict=True):
        left = []
        for seed in made.experiment.seeds:
            record = json.loads((made.folder / f"math/llama-tiny/lora/seed{seed}/pruning.json").read_text())
            nll = dict(zip(record["fractions"], record["tasks"]["gsm8k"]["gold_nll"], strict=True))
            left.append((nll[1.0] - nll[share]) / (nll[1.0] - nll[0.0]))
        assert part["label"].startswith("gain in NLL left") and part["quantity"]["mean"] == pytest.approx(np.mean(left))


# -------------------------------------------------------------------------------------------------------------- report


def test_the_page_says_what_the_records_say(made: Made) -> None:
    checked = check(made.source, made.folder / "report.html")
    assert checked.mismatches == () and checked.words > 100
    html = (made.folder / "report.html").read_text()
    for key in ("table1|llama-tiny|base|gold_nll|math/math|mean", "table1|llama-tiny|base|accuracy|math/arc_easy|mean",
                "learning_rate|rates|llama-tiny|lora|validation", "base/llama-tiny/sound|gsm8k|gold_nll"):  # fmt: skip
        assert f'data-number="{key}"' in html
    assert "Test NLL at the shared" not in html and "|accuracy|math/gsm8k|mean" not in html


def test_another_answer_of_the_base_model_is_noticed(copy: Made) -> None:
    path = copy.folder / "base/llama-tiny/sound/predictions/math.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"gold_nll": row["gold_nll"] + 1}) + "\n" for row in rows))
    named = {line.partition(":")[0] for line in check(copy.source, copy.folder / "report.html").mismatches}
    assert "table1|llama-tiny|base|gold_nll|math/math|mean" in named


@pytest.mark.parametrize(("task", "name"), [("gsm8k", "gold NLL"), ("arc_easy", "accuracy")])
def test_a_number_is_traced_by_its_own_metric(made: Made, task: str, name: str) -> None:
    number = one_number.find(made.table(), model="llama-tiny", method="lora", task=task)
    lines, agree = one_number.trace(made.source, number)
    assert lines[1].startswith(name) and agree
    assert sum(f"predictions/{task}.jsonl" in line for line in lines) == 5
