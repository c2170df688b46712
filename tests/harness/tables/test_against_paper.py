"""Verdicts against the paper: each of them is reached exactly when its definition says so."""

from __future__ import annotations

import csv
import math

import pytest

from harness import reported
from harness.statistics import stats
from harness.statistics.comparison import Comparison, Family
from harness.tables import against_paper, words
from harness.tables.against_paper import MARGIN, Reported, check

PAPER = Reported(value=0.66, stderr=0.004)


FAMILY = Family(name="primary", metric="accuracy", size=1, margin=0.01, min_seeds=5)


def estimate(mean: float, *, seed_stderr: float | None = 0.001, seeds: int = 5) -> stats.Estimate:
    return stats.Estimate(mean=mean, stderr=0.01, seed_stderr=seed_stderr, example_stderr=0.01, low=mean - 0.03,
                          high=mean + 0.03, n_seeds=seeds, n_examples=1000)  # fmt: skip


def comparison(mean: float, outcome: str | None, *, seed_stderr: float | None = 0.001, seeds: int = 5) -> Comparison:
    d = stats.Difference(mean=mean, stderr=0.01, seed_stderr=seed_stderr, example_stderr=0.001, low=mean - 0.01,
                         high=mean + 0.01, n_seeds=seeds, n_planned=seeds, n_examples=1000, p_value=0.01)  # fmt: skip
    return Comparison(difference=d, family=FAMILY, p_adjusted=0.01, outcome=outcome)


def score(mean: float, **kwargs: float) -> str:
    return check(estimate(mean, **kwargs), PAPER, incomparable=None, other=None, comparison=None, min_seeds=5).score


def test_score_is_judged_by_the_interval_of_the_gap() -> None:
    assert score(0.66) == score(0.665) == "reproduced"
    assert score(0.70) == score(0.62) == "not reproduced"
    assert score(0.66, seed_stderr=0.01) == "within noise"


def test_score_gap_combines_both_noises() -> None:
    gap = check(estimate(0.67, seed_stderr=0.003), PAPER, incomparable=None, other=None, comparison=None, min_seeds=5).score_gap
    half = math.hypot(2.7764451051977987 * 0.003, 1.959963984540054 * 0.004)  # t with four degrees of freedom; normal
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.01, 0.01 - half, 0.01 + half))


def test_one_seed_is_as_noisy_as_its_examples() -> None:
    checked = check(
        estimate(0.66, seed_stderr=None, seeds=1), PAPER, incomparable=None, other=None, comparison=None, min_seeds=5
    )
    assert checked.score_gap.high == pytest.approx(1.959963984540054 * math.hypot(0.01, 0.004))
    assert checked.score == "not decided" and words.paper_word(checked.score, checked) == "not decided (1 seed)"


def test_reproduced_needs_more_than_containing_the_papers_number() -> None:
    """An interval that contains everything reproduces nothing: its width is limited by the margin."""
    for stderr in (0.0005, 0.002, 0.005, 0.05):
        checked = check(estimate(0.66, seed_stderr=stderr), PAPER, incomparable=None, other=None, comparison=None, min_seeds=5)
        assert (checked.score == "reproduced") == (checked.score_gap.high <= MARGIN)


@pytest.mark.parametrize("seeds", [1, 4, 5])
def test_no_word_below_five_seeds(seeds: int) -> None:
    other = ("LoRA", Reported(value=0.64, stderr=0.004))
    few = comparison(0.02, "better" if seeds >= 5 else None, seeds=seeds)
    checked = check(estimate(0.66, seeds=seeds), PAPER, incomparable=None, other=other, comparison=few, min_seeds=5)
    assert (checked.score, checked.difference) == (("reproduced",) if seeds == 5 else ("not decided",)) * 2


def difference(
    mean: float, verdict: str | None, paper: float, *, incomparable: str | None = None, **kwargs: float
) -> str | None:
    other = ("LoRA", Reported(value=PAPER.value - paper, stderr=0.004))
    mine = comparison(mean, verdict, **kwargs)
    return check(estimate(0.66), PAPER, incomparable=incomparable, other=other, comparison=mine, min_seeds=5).difference


def test_difference_is_reproduced_if_told_apart_in_the_papers_direction() -> None:
    assert difference(0.02, "better", 0.015) == "reproduced"
    assert difference(-0.02, "worse", -0.015) == "reproduced"
    assert difference(0.02, "undecided", 0.015) == difference(0.01, "equivalent", 0.015) == "within noise"
    assert difference(-0.005, "worse", 0.001) == "within noise"  # agrees with the paper's number and not with its direction
    assert difference(0.06, "better", 0.015) == difference(-0.03, "worse", 0.015) == "not reproduced"
    assert difference(0.02, "better", 0.0) == "not reproduced"


@pytest.mark.parametrize("why", ["stand-in", "other test set"])
def test_stand_in_is_never_reproduced(why: str) -> None:
    other = ("LoRA", Reported(value=0.65, stderr=0.004))
    checked = check(estimate(0.66), PAPER, incomparable=why, other=other, comparison=comparison(0.01, "better"), min_seeds=5)
    assert (checked.score, checked.score_gap, checked.difference_gap, checked.comparable) == (why, None, None, False)
    assert checked.difference == "same direction"
    assert difference(-0.01, "worse", 0.01, incomparable=why) == "opposite direction"
    assert difference(0.01, "undecided", 0.01, incomparable=why) == "undecided"
    assert difference(0.01, "equivalent", 0.01, incomparable=why) == "equivalent"
    assert difference(0.01, "better", 0.0, incomparable=why) is None


def test_what_is_only_described_has_no_word_for_its_difference() -> None:
    other = ("LoRA", Reported(value=0.64, stderr=0.004))
    described = Comparison(difference=comparison(0.02, None).difference)
    checked = check(estimate(0.66), PAPER, incomparable=None, other=other, comparison=described, min_seeds=5)
    assert checked.difference is None and checked.difference_gap is not None


def test_what_has_not_run_says_so() -> None:
    other = ("LoRA", Reported(value=0.65, stderr=0.004))
    for why in (None, "stand-in"):
        checked = check(None, PAPER, incomparable=why, other=other, comparison=None, min_seeds=5)
        assert (checked.score, checked.difference, checked.seeds_to_settle) == ("not run", "not run", None)


# ----------------------------------------------------------------------------------------------------- seeds to settle


def test_seeds_to_settle_are_the_fewest_that_find_the_papers_difference() -> None:
    d = comparison(0.0, "undecided", seed_stderr=0.01).difference
    needed = stats.seeds_to_detect(d, 0.02)
    assert isinstance(needed, int)

    def detectable(seeds: int) -> float:
        scaled = stats.Estimate(mean=0, stderr=0, seed_stderr=0.01 * math.sqrt(5 / seeds), example_stderr=0.001, low=0, high=0,
                                n_seeds=seeds, n_examples=1000)  # fmt: skip
        return stats.minimum_detectable_difference(scaled)

    assert detectable(needed) <= 0.02 < detectable(needed - 1)
    assert stats.seeds_to_detect(d, -0.02) == needed
    assert stats.seeds_to_detect(d, 0.01) > needed
    assert stats.seeds_to_detect(d, 0.5) == 2 and stats.seeds_to_detect(d, 0.5, fewest=5) == 5


def test_seeds_cannot_replace_examples_nor_be_guessed_from_one() -> None:
    d = comparison(0.0, "undecided", seed_stderr=0.01).difference
    assert stats.seeds_to_detect(d, 0.0025) == "too few examples"  # examples alone: 2.8 standard errors of 0.001
    assert stats.seeds_to_detect(d, 0.0045) == "more"
    assert stats.seeds_to_detect(comparison(0.0, "undecided", seed_stderr=None, seeds=1).difference, 0.5) == "unknown"


# ----------------------------------------------------------------------------------------------- the paper's own noise


def test_papers_error_is_binomial_in_its_runs_and_examples() -> None:
    def stderr(table: str, method: str, task: str, domain: str = "math") -> float:
        error = reported.stderr(table=table, model="llama2-7b", method_names=[method], parts=[(domain, task)])
        assert error is not None
        return error

    assert stderr("table1", "LoRA", "gsm8k") == pytest.approx(math.sqrt(0.6631 * 0.3369 / (3 * 1319)))
    assert stderr("table1", "Full-FT", "gsm8k") == pytest.approx(math.sqrt(0.665 * 0.335 / 1319))
    assert stderr("table3", "beamlora-no-expansion", "math") == pytest.approx(math.sqrt(0.1894 * 0.8106 / 5000))
    assert stderr("table2", "LoRA", "siqa", "commonsense") == pytest.approx(math.sqrt(0.795 * 0.205 / 1954))
    both = reported.stderr(
        table="table3", model="llama2-7b", method_names=["LoRA"], parts=[("math", "gsm8k"), ("math", "math")]
    )
    assert both == pytest.approx(math.hypot(stderr("table3", "LoRA", "gsm8k"), stderr("table3", "LoRA", "math")) / 2)


def test_every_number_of_the_paper_has_a_sample() -> None:
    with reported.PAPER_FILE.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["table"] != "table4" and row["metric"] != "avg"]
    assert len(rows) == 174
    for row in rows:
        task = {"social_iqa": "siqa"}.get(row["metric"], row["metric"])
        examples, runs = reported.sample(table=row["table"], method_names=[row["method"]], task=task)
        assert examples >= 164 and runs in (1, 3)


def test_samples_fit_the_numbers_that_identify_them() -> None:
    """HumanEval: every value is a multiple of 1/492; OBQA: of 1/500."""
    with reported.PAPER_FILE.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] in ("humaneval", "openbookqa")]
    assert len(rows) == 15 + 13
    for row in rows:
        examples, runs = reported.sample(table=row["table"], method_names=[row["method"]], task=row["metric"])
        digits = len(row["value"].split(".")[1])
        hits = round(float(row["value"]) / 100 * examples * runs)
        assert f"{100 * hits / (examples * runs):.{digits}f}" == row["value"], row


def test_definitions_are_in_the_module() -> None:
    for word in ("not reproduced", "reproduced", "within noise"):
        assert word in (against_paper.__doc__ or "")
