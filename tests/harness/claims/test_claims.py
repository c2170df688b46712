"""Claims: the verdict follows from the interval or the corrected test, and the numbers from the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.claims import __main__ as command
from harness.claims import catalogue
from harness.claims.evidence import Evidence
from harness.claims.ledger import load_claims
from harness.claims.text import ours
from harness.claims.verdicts import Claim, Part, Quantity, Range, combine, judged, of_difference
from harness.cli import Config
from harness.errors import ConfigError
from harness.experiment.runs import all_runs, load_experiment, pruning_runs, table_runs
from harness.records import importance
from harness.schema.comparisons import MarginSpec
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec
from harness.statistics import stats
from harness.statistics.comparison import Comparison
from harness.tables.build import load_table
from tests.experiments import miniature, write
from tests.harness.fake_runs import run_folder, write_json, write_run
from tests.harness.figures import fake_figures

ROWS = 60


def quantity(mean: float, low: float | None, high: float | None, *, seeds: int | None = 5) -> Quantity:
    return Quantity(mean=mean, low=low, high=high, n_seeds=seeds, unit="points")


def compared(mean: float, *, p: float, seeds: int = 5) -> Comparison:
    """A difference of accuracies that is in no family of a table."""
    difference = stats.Difference(mean=mean, stderr=0.1, seed_stderr=0.1, example_stderr=0.0, low=mean - 0.1, high=mean + 0.1,
                                  n_seeds=seeds, n_planned=seeds, n_examples=60, p_value=p)  # fmt: skip
    return Comparison(difference=difference)


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "supported"), (-0.3, -0.1, "contradicted"), (-0.1, 0.3, "undecided"), (None, None, "undecided")],
)
def test_interval_inside_outside_or_across(low: float | None, high: float | None, expected: str) -> None:
    assert Range(above=0).verdict(quantity(0.1, low, high), min_seeds=5) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 1.1, "supported"), (1.3, 1.5, "contradicted"), (0.5, 0.7, "contradicted"), (1.1, 1.5, "undecided")],
)
def test_two_sided_range(low: float, high: float, expected: str) -> None:
    assert Range(above=0.8, below=1.25).verdict(quantity(1.0, low, high), min_seeds=5) == expected


@pytest.mark.parametrize(("seeds", "expected"), [(1, "not decided"), (4, "not decided"), (5, "supported"), (None, "supported")])
def test_no_word_below_five_seeds_but_of_what_is_measured_without_training(seeds: int | None, expected: str) -> None:
    assert Range(above=0).verdict(quantity(0.2, 0.1, 0.3, seeds=seeds), min_seeds=5) == expected


@pytest.mark.parametrize(
    ("outcome", "mean", "expected"),
    [("better", 0.2, "supported"), ("worse", -0.2, "contradicted"), ("equivalent", 0.0, "equivalent"),
     ("undecided", 0.2, "undecided"), (None, 0.2, "not decided")],
)  # fmt: skip
def test_a_difference_is_judged_by_the_word_of_the_tables(outcome: str | None, mean: float, expected: str) -> None:
    assert Range(above=0).verdict_of(replace(compared(mean, p=0.5), outcome=outcome)) == expected


def test_a_difference_that_is_smaller_than_any_of_interest_says_so_in_the_claim_too() -> None:
    decided = replace(compared(0.2, p=0.5), outcome="better", p_equivalent=0.01)
    part = Part(
        label="difference", expected=Range(above=0), quantity=quantity(0.2, 0.1, 0.3), comparison=decided, verdict="supported"
    )
    assert part.word == "supported (by less than the margin)"
    assert replace(part, comparison=replace(decided, p_equivalent=0.2)).word == "supported"


def test_parts_must_all_hold() -> None:
    assert combine(["supported", "supported"]) == "supported"
    assert combine(["supported", "equivalent"]) == "equivalent"
    assert combine(["equivalent", "undecided"]) == "undecided"
    assert combine(["undecided", "not decided"]) == "not decided"
    assert combine(["supported", "untested"]) == "untested"
    assert combine(["untested", "contradicted"]) == "contradicted"
    assert combine([]) == "untested"


def test_holm_runs_over_a_family_and_not_beyond() -> None:
    def claim(key: str, family: str, p: float) -> Claim:
        made = compared(0.1, p=p)
        part = Part(label=key, expected=Range(above=0), quantity=of_difference(made.difference, "accuracy"), comparison=made)
        return Claim(key=key, statement="", source="", paper="", test="", model=None, parts=(part,), family=family)

    claims = judged(
        [claim("a", "one", 0.03), claim("b", "one", 0.04), claim("c", "two", 0.04)], margin=MarginSpec(), min_seeds=5
    )
    assert [one.parts[0].comparison.p_adjusted for one in claims] == [0.06, 0.06, 0.04]
    assert [one.verdict for one in claims] == ["undecided", "undecided", "supported"]


# ------------------------------------------------------------------------------------------------------------- records


def content(**changes: Any) -> dict[str, Any]:
    """Everything that claims are tested on, in miniature: three tables, three sweeps, pruning."""
    beam = {"p_init": 0.95, "delta_t": 6}
    config = miniature(
        seeds=[0, 1, 2, 3, 4],
        methods={
            "lora": {}, "full-ft": {}, "adalora": {}, "beamlora": {"settings": beam},
            "beamlora-no-expansion": {"settings": beam},
        },
        tables={
            "table1": {"domains": ["math"], "methods": {"llama-mini": ["full-ft", "lora", "beamlora"]}},
            "table2": {"domains": ["commonsense"], "methods": {"llama-mini": ["lora", "adalora", "beamlora"]}},
            "table3": {"domains": ["math"], "methods": {"llama-mini": ["beamlora", "beamlora-no-expansion"]}},
        },
        sweeps={
            "rank_sweep": sweep("r", [4, 8, 16], ["lora", "beamlora"]),
            "delta_t": sweep("delta_t", [4, 6, 8], ["beamlora"]),
        },
        pruning={"domain": "math", "model": "llama-mini", "methods": ["lora", "beamlora"]},
        **{"training.importance_every": 4},
    )  # fmt: skip
    task = config["domains"]["math"]["evaluation"]["tasks"]["gsm8k"]
    task["source"]["rows"] = ROWS
    config["domains"]["commonsense"] = {
        "train": {"source": {"kind": "generated", "generator": "metamath", "rows": 9, "seed": 1}, "format": "metamath"},
        "evaluation": {"tasks": {"gsm8k": task}},
    }
    return config | changes


def sweep(setting: str, values: list[int], methods: list[str]) -> dict[str, Any]:
    return {
        "setting": setting, "points": [{setting: value} for value in values], "domains": ["math"], "models": ["llama-mini"],
        "methods": methods,
    }  # fmt: skip


def fill(experiment: Experiment, results: Path, accuracy: Callable[[RunSpec], float]) -> None:
    """Records of all runs in which a run solves its first examples, with a little noise that runs of a seed share."""
    for run in all_runs(experiment):
        noise = np.random.default_rng(run.seed).random(ROWS) * 0.05
        solved = (np.arange(ROWS) + 0.5) / ROWS + noise < accuracy(run)
        write_run(run, results, correct={"gsm8k": solved.tolist()})
    for run in pruning_runs(experiment):
        folder = run_folder(run, results)
        steps = np.array([0, 4, 8, 12])
        spread = 1.0 if run.method.key == "lora" else 0.2
        grown = np.array([0.0, 0.2, 0.9, 1.0])[:, None] * spread
        ranks = np.exp(grown * np.linspace(-2, 2, 8)[None] * (1 + 0.01 * run.seed))
        modules = {"model.layers.0.mlp.up_proj": (ranks * (steps[:, None] > 0)).astype(np.float32)}
        importance.write(folder / "adapter" / importance.FILE, importance.ImportanceHistory(steps=steps, modules=modules))
        falls = 4 if run.method.key == "lora" else 1
        write_json(folder / "pruning.json", pruned(run, lambda share, falls=falls: 1 - share**falls))


def pruned(run: RunSpec, left: Callable[[float], float]) -> Mapping[str, Any]:
    fractions = [i / 10 for i in range(11)]
    solved = [round(50 * left(share)) for share in fractions]
    task = {
        "ids": [f"gsm8k/{i}" for i in range(50)], "n": 50, "accuracy": [n / 50 for n in solved],
        "correct": ["1" * n + "0" * (50 - n) for n in solved], "gold_nll": [1.0] * 11,
    }  # fmt: skip
    made = {"schema_version": 1, "run_id": run.run_id, "training_hash": run.training_hash()}
    return made | {"fractions": fractions, "tasks": {"gsm8k": task}}


def verdicts(tmp_path: Path, accuracy: Callable[[RunSpec], float], **changes: Any) -> dict[str, str]:
    file = write(tmp_path, content(**changes))
    experiment = load_experiment([file])
    fill(experiment, tmp_path / "results", accuracy)
    _, claims = load_claims(Config(files=(file,)), results=tmp_path / "results")
    return {claim.key: claim.verdict for claim in claims}


def as_in_the_paper(run: RunSpec) -> float:
    """BeamLoRA best, ablations and ends of sweeps worse, a small gain at the smallest rank."""
    settings = run.method.settings
    if run.method.name == "beamlora":
        return {4: 0.6, 16: 0.8}.get(settings["r"], {4: 0.5, 8: 0.5}.get(settings["delta_t"], 0.75))
    return {"lora": 0.4, "full-ft": 0.5, "adalora": 0.1}.get(run.method.name, 0.3)


def test_records_that_say_what_the_paper_says_support_it(tmp_path: Path) -> None:
    by_claim = verdicts(tmp_path, as_in_the_paper)
    not_planned = {f"needed/beamlora-no-{name}/math/llama-mini" for name in ("assessment", "dynamic-p")}
    assert set(by_claim) == not_planned | {
        "better_than_lora/math/llama-mini", "better_than_lora/commonsense/llama-mini", "better_than_full-ft/math/llama-mini",
        "ranks_differ", "differences_grow_and_settle", "more_even", "needed/beamlora-no-expansion/math/llama-mini",
        "gain_at_every_rank", "small_gain_at_the_smallest_rank", "interior_optimum/delta_t",
        "weak_on_commonsense/adalora/llama-mini",
    }  # fmt: skip
    assert {by_claim.pop(key) for key in not_planned} == {"untested"}
    assert set(by_claim.values()) == {"supported"}


def test_records_that_say_the_opposite_contradict_it(tmp_path: Path) -> None:
    by_claim = verdicts(tmp_path, lambda run: 1 - as_in_the_paper(run))
    contradicted = {key for key, verdict in by_claim.items() if verdict == "contradicted"}
    assert {
        "better_than_lora/math/llama-mini", "better_than_full-ft/math/llama-mini", "gain_at_every_rank",
        "interior_optimum/delta_t", "weak_on_commonsense/adalora/llama-mini", "small_gain_at_the_smallest_rank",
    } <= contradicted  # fmt: skip


@pytest.mark.parametrize(("margin", "expected"), [(None, "undecided"), (0.005, "undecided"), (0.2, "equivalent")])
def test_equal_methods_are_equivalent_within_the_experiments_margin(
    tmp_path: Path, margin: float | None, expected: str
) -> None:
    by_claim = verdicts(tmp_path, lambda run: 0.5, comparisons={"margin": {"accuracy": margin}})
    assert by_claim["better_than_lora/math/llama-mini"] == by_claim["gain_at_every_rank"] == expected


def test_three_seeds_decide_nothing(tmp_path: Path) -> None:
    by_claim = verdicts(tmp_path, as_in_the_paper, seeds=[0, 1, 2])
    assert set(by_claim.values()) == {"not decided", "untested"}


FAMILIES = {
    "primary": {"tables": ["table1", "table2"], "methods": ["beamlora"]}, "secondary": {"tables": ["table1", "table2"]},
    "ablations": {"tables": ["table3"], "against": "beamlora"},
}  # fmt: skip


def test_what_a_table_decides_is_said_by_the_ledger_in_the_same_words(tmp_path: Path) -> None:
    """A small gain, so that the correction matters; an ablation is seen from the other side."""
    file = write(tmp_path, content(comparisons={"margin": {"accuracy": 0.05}, "families": FAMILIES}))
    experiment, results = load_experiment([file]), tmp_path / "results"
    gain = {"lora": 0.5, "beamlora": 0.54, "full-ft": 0.52, "adalora": 0.45, "beamlora-no-expansion": 0.5}
    fill(experiment, results, lambda run: gain[run.method.name])
    _, claims = load_claims(Config(files=(file,)), results=results)
    parts = {claim.key: claim.parts[0] for claim in claims}
    pairs = {
        ("table1", "beamlora", False): "better_than_lora/math/llama-mini",
        ("table2", "beamlora", False): "better_than_lora/commonsense/llama-mini",
        ("table2", "adalora", False): "weak_on_commonsense/adalora/llama-mini",
        ("table3", "beamlora-no-expansion", True): "needed/beamlora-no-expansion/math/llama-mini",
    }
    for (name, method, parent), key in pairs.items():
        table = load_table(name, Config(files=(file,)), results=results, allow_missing=False)
        (one,) = [one for one in table.decisions() if (one.row.method_key, one.parent) == (method, parent)]
        part = parts[key]
        assert part.comparison == (one.comparison.mirrored() if parent else one.comparison)
        assert part.comparison.family.name in FAMILIES and part.quantity.mean == part.comparison.difference.mean
    text = {claim.key: claim.test for claim in claims}
    assert "decided as in table1, family primary" in text["better_than_lora/math/llama-mini"]
    assert "Holm's correction over models and domains" in text["better_than_full-ft/math/llama-mini"]


def test_pruning_of_another_training_is_no_evidence(tmp_path: Path) -> None:
    """A record with curves of its own that is of another training, of other shares or on other examples, or of other tasks."""
    file = write(tmp_path, content())
    experiment, results = load_experiment([file]), tmp_path / "results"
    fill(experiment, results, as_in_the_paper)
    path = run_folder(pruning_runs(experiment)[0], results) / "pruning.json"
    made = json.loads(path.read_text())
    fewer = {key: value[:-1] for key, value in made["tasks"]["gsm8k"].items() if key in ("accuracy", "correct", "gold_nll")}
    spoiled: dict[str, dict[str, Any]] = {
        "training_hash: found 0+, expected .*; the record is stale": {"training_hash": "0" * 64},
        "fractions: .* the record is stale": {
            "fractions": made["fractions"][:-1], "tasks": {"gsm8k": made["tasks"]["gsm8k"] | fewer},
        },
        r"tasks: found \['math'\], expected \['gsm8k'\]; the record is stale": {"tasks": {"math": made["tasks"]["gsm8k"]}},
        "gsm8k: found other examples than": {
            "tasks": {"gsm8k": made["tasks"]["gsm8k"] | {"ids": [f"other/{i}" for i in range(50)]}},
        },
    }  # fmt: skip
    for message, changes in spoiled.items():
        write_json(path, made | changes)
        with pytest.raises(ConfigError, match=f"pruning.json.*{message}"):
            load_claims(Config(files=(file,)), results=results, allow_missing=True)
    write_json(path, made)
    load_claims(Config(files=(file,)), results=results)


def test_pruning_of_a_run_that_is_not_there_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    experiment, results = load_experiment([file]), tmp_path / "results"
    fill(experiment, results, as_in_the_paper)
    run = pruning_runs(experiment)[0]
    (run_folder(run, results) / "train.json").unlink()
    _, claims = load_claims(Config(files=(file,)), results=results, allow_missing=True)
    parts = next(claim.parts for claim in claims if claim.key == "ranks_differ")
    assert [part.quantity.n_seeds for part in parts] == [4, 4, 4]


def test_times_of_other_settings_are_no_evidence(tmp_path: Path) -> None:
    made, results = fake_figures.experiment(sweeps={}), tmp_path / "results"
    path = fake_figures.write_timing(made, results, np.random.default_rng(0))
    evidence = Evidence(made, results=results, command="snakemake")
    costs = evidence.costs()
    assert costs["lora"].time.median == 1 and set(costs) == {"lora", "beamlora"}
    write_json(path, json.loads(path.read_text()) | {"settings": {"lora": "0", "beamlora": "0"}})
    with pytest.raises(ConfigError, match="timing.json: settings: .* stale"):
        evidence.costs()


def with_snapshots(tmp_path: Path, kept: Sequence[int]) -> dict[str, tuple[Part, ...]]:
    """The parts of the claims of records whose histories have these of their four snapshots, at 0, 4, 8 and 12, in the place of
    the first ones."""
    file = write(tmp_path, content())
    experiment, results = load_experiment([file]), tmp_path / "results"
    fill(experiment, results, as_in_the_paper)
    for run in pruning_runs(experiment):
        path = run_folder(run, results) / "adapter" / importance.FILE
        made = importance.read(path)
        modules = {name: values[list(kept)] for name, values in made.modules.items()}
        importance.write(path, importance.ImportanceHistory(steps=made.steps[: len(kept)], modules=modules))
    _, claims = load_claims(Config(files=(file,)), results=results)
    return {claim.key: claim.parts for claim in claims}


def test_growth_and_its_last_third_are_those_of_the_snapshots(tmp_path: Path) -> None:
    parts = with_snapshots(tmp_path, [0, 1, 2, 3])
    ratios, growths, shares = [], [], []
    for seed in range(5):
        scale = np.linspace(-2, 2, 8) * (1 + 0.01 * seed)
        first, second, last = (np.std(ranks) / np.mean(ranks) for ranks in (np.exp(grown * scale) for grown in (0.2, 0.9, 1.0)))
        ratios.append(np.exp(scale[-1] - scale[0]))
        growths.append(last - first)
        shares.append((last - second) / (last - first))
    assert parts["ranks_differ"][0].quantity.mean == pytest.approx(np.mean(ratios), rel=1e-5)
    measured = [part.quantity.mean for part in parts["differences_grow_and_settle"]]
    assert measured == pytest.approx([np.mean(growths), np.mean(shares)], rel=1e-5)


@pytest.mark.parametrize("kept", [[0], [0, 3], [0, 2, 3]])
def test_too_few_snapshots_cannot_be_tested(tmp_path: Path, kept: list[int]) -> None:
    parts = with_snapshots(tmp_path, kept)
    said = f"untested: too few snapshots: {len(kept) - 1} after step 0, expected 3 (training.importance_every)"
    assert [ours(part) for part in parts["differences_grow_and_settle"]] == [said, said]
    ratio, pruned_few, _ = parts["ranks_differ"]
    assert pruned_few.quantity.mean == 1
    # At step 0 every rank of LoRA is 0: there is no ratio of such.
    assert (ratio.quantity is None, parts["more_even"][0].quantity is None) == (kept == [0], kept == [0])


def test_differences_that_do_not_grow_have_no_last_third_of_the_growth(tmp_path: Path) -> None:
    growth, share = with_snapshots(tmp_path, [0, 3, 3, 3])["differences_grow_and_settle"]
    assert growth.quantity is not None and growth.quantity.mean == 0
    assert ours(share).startswith("untested: no such number of seed 0, 1, 2, 3, 4: ")


def test_an_optimum_at_the_edge_of_the_sweep_cannot_be_tested(tmp_path: Path) -> None:
    sweeps = {"delta_t": sweep("delta_t", [6, 8], ["beamlora"])}
    assert verdicts(tmp_path, as_in_the_paper, sweeps=sweeps)["interior_optimum/delta_t"] == "untested"


def test_missing_runs_are_an_error_that_names_the_command(tmp_path: Path) -> None:
    file = write(tmp_path, content())
    experiment = load_experiment([file])
    fill(experiment, tmp_path / "results", as_in_the_paper)
    lost = run_folder(pruning_runs(experiment)[0], tmp_path / "results") / "pruning.json"
    lost.unlink()
    with pytest.raises(ConfigError, match=r"pruning.json: found no such file; make it: snakemake"):
        load_claims(Config(files=(file,)), results=tmp_path / "results")
    _, claims = load_claims(Config(files=(file,)), results=tmp_path / "results", allow_missing=True)
    assert {claim.key: claim.verdict for claim in claims}["gain_at_every_rank"] == "supported"
    with pytest.raises(ConfigError, match="make the first: snakemake"):
        load_claims(Config(files=(file,)), results=tmp_path / "nothing")


def test_a_difference_in_a_claim_is_that_of_the_answers(tmp_path: Path) -> None:
    """Recomputed by hand from the records: mean over seeds of the difference of accuracies."""
    file = write(tmp_path, content())
    experiment = load_experiment([file])
    fill(experiment, tmp_path / "results", as_in_the_paper)
    means = {"beamlora": [], "full-ft": []}
    for run in table_runs(experiment, "table1"):
        if run.method.key in means:
            rows = (run_folder(run, tmp_path / "results") / "predictions/gsm8k.jsonl").read_text().splitlines()
            means[run.method.key].append(np.mean([json.loads(row)["correct"] for row in rows]))
    claims = catalogue.all_claims(Evidence(experiment, results=tmp_path / "results", command="snakemake"))
    part = next(claim for claim in claims if claim.key.startswith("better_than_full-ft")).parts[0]
    assert part.quantity is not None and part.quantity.n_seeds == 5
    assert part.quantity.mean == pytest.approx(np.mean(means["beamlora"]) - np.mean(means["full-ft"]))


def test_methods_that_answered_other_examples_are_not_compared(tmp_path: Path) -> None:
    """Each method by itself is consistent: only a look at both shows that their answers do not belong together."""
    file = write(tmp_path, content())
    experiment = load_experiment([file])
    fill(experiment, tmp_path / "results", as_in_the_paper)
    for run in all_runs(experiment):
        path = run_folder(run, tmp_path / "results") / "predictions/gsm8k.jsonl"
        if run.method.name == "lora" and path.exists():
            path.write_text(path.read_text().replace('"gsm8k/0"', '"gsm8k/other"'))
    with pytest.raises(ConfigError, match="gsm8k.jsonl: found other examples than .*/predictions/gsm8k.jsonl"):
        load_claims(Config(files=(file,)), results=tmp_path / "results")


def test_files_name_stand_ins_and_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, content())
    fill(load_experiment([file]), tmp_path / "results", as_in_the_paper)
    arguments = ["--configfile", str(file), "--results-dir", str(tmp_path / "results")]
    texts = []
    for _ in range(2):
        assert command.main(arguments) == 0
        texts.append([(tmp_path / "results/mini" / name).read_bytes() for name in ("claims.md", "claims.json")])
    assert texts[0] == texts[1]
    page, record = texts[0][0].decode(), json.loads(texts[0][1])
    assert "[stand-in]" in page and "11 supported, 0 contradicted, 0 equivalent, 0 undecided, 0 not decided, 2 untested" in page
    assert all(claim["stand_in"] for claim in record["claims"])


def test_a_model_that_takes_the_place_of_none_of_the_papers_is_no_stand_in(tmp_path: Path) -> None:
    own = content()
    own["models"]["llama-mini"]["stands_for"] = None
    file = write(tmp_path, own)
    fill(load_experiment([file]), tmp_path / "results", as_in_the_paper)
    command.main(["--configfile", str(file), "--results-dir", str(tmp_path / "results")])
    assert "[stand-in]" not in (tmp_path / "results/mini/claims.md").read_text()
    record = json.loads((tmp_path / "results/mini/claims.json").read_text())
    assert record["claims"] and not any(claim["stand_in"] for claim in record["claims"])
