"""The table of time and memory: what a row says, when the check fails, and what the record keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmarks.__main__ as bench
from benchmarks import training, workflow
from benchmarks.choices import _require_agreement
from benchmarks.gpu7b.bench import Bench
from benchmarks.rounds import Size, in_turn
from harness.errors import ConfigError
from harness.records.bench import BenchRecord, Cost, Round, Row, read


def row(*ratios: float, goal: float, of: str = "time") -> Row:
    rounds = [
        Round(ours=Cost(cpu_s=2 * ratio, wall_s=4, bytes=1000), peer=Cost(cpu_s=2, wall_s=2, bytes=500)) for ratio in ratios
    ]
    return Row(name="x", ours="ours", peer="theirs", of=of, goal=goal, rounds=tuple(rounds))


def test_a_row_is_the_median_of_the_rounds_ratios_of_cpu_time() -> None:
    one = row(0.5, 0.9, 0.6, goal=0.6)
    assert one.value == pytest.approx(0.6) and one.spread == pytest.approx((0.55, 0.75))
    assert one.values(wall=True) == [2, 2, 2]
    assert row(0.5, goal=1, of="memory").value == 2


def test_a_goal_is_missed_beyond_a_tenth_of_it() -> None:
    assert not row(0.65, goal=0.6).missed and row(0.67, goal=0.6).missed


def test_the_side_that_begins_rotates() -> None:
    seen: list[str] = []

    def side(name: str) -> Cost:
        seen.append(name)
        return Cost(cpu_s=1, wall_s=1)

    costs = in_turn({name: lambda name=name: side(name) for name in "abc"}, 2)
    assert seen == ["a", "b", "c", "b", "c", "a"] and [len(own) for own in costs.values()] == [2, 2, 2]


@pytest.mark.parametrize(("goal", "arguments", "status"), [(1.0, ["--check"], 0), (0.5, ["--check"], 1), (0.5, [], 0)])
def test_check_fails_where_a_goal_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: float, arguments: list[str], status: int
) -> None:
    monkeypatch.setattr(bench, "MEASURES", {"one": lambda size: iter([row(0.9, goal=goal)])})
    path = tmp_path / "bench.json"
    assert bench.main([*arguments, "--output", str(path)]) == status
    record: BenchRecord = read(path)
    assert [one.value for one in record.rows] == [0.9] and "torch" in record.versions and not record.smoke


def test_the_help_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        bench.main(["--help"])
    assert "more than 10 % of it" in capsys.readouterr().out


def test_an_unknown_measure_and_no_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        bench.main(["trainning"])
    with pytest.raises(ConfigError, match="make bench"):
        read(tmp_path / "none.json")


def test_other_scores_are_no_comparison() -> None:
    _require_agreement("label", [-1.0, -2.0], [-1.00001, -2.0], [2])
    with pytest.raises(RuntimeError, match="1 other picks"):
        _require_agreement("label", [-1.0, -2.0], [-2.0, -1.0], [2])


def test_training_runs_through_and_has_a_row_for_each_goal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: Iterator[Row] = training.measure_smollm2(Size(smoke=True, rounds=1, scratch=tmp_path))
    assert [(one.name, one.of, one.goal) for one in rows] == [
        ("LoRA, SmolLM2-135M", "time", 0.5),
        ("LoRA, SmolLM2-135M, memory", "memory", 0.6),
        ("LoRA over its products, SmolLM2-135M", "time", 1.6),
        ("BeamLoRA over LoRA, SmolLM2-135M", "time", 1.01),
        ("BeamLoRA over LoRA, SmolLM2-135M, memory", "memory", 1.01),
        ("DoRA over LoRA, SmolLM2-135M", "time", 1.06),
        ("DoRA over LoRA, SmolLM2-135M, memory", "memory", 1.02),
        ("AdaLoRA over LoRA, SmolLM2-135M", "time", 1.05),
        ("IncreLoRA over LoRA, SmolLM2-135M", "time", 1.05),
    ]
    assert " left" not in capsys.readouterr().out, "the time until a last step that is never reached"


@pytest.mark.slow
def test_the_workflow_is_measured_over_its_work(tmp_path: Path) -> None:
    (row,) = workflow.measure_table1(Size(smoke=True, rounds=3, scratch=tmp_path))
    (once,) = row.rounds
    assert once.peer is not None and 0 < once.peer.cpu_s < once.ours.cpu_s and row.goal == pytest.approx(1.087, abs=1e-3)
    assert not list(tmp_path.iterdir())


def test_a_row_that_shows_how_a_cost_grows_has_no_goal_to_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "RANKS", (4,))
    monkeypatch.setattr(training, "LENGTHS", {8: 2})
    measured: list[float] = []
    over_peft = training._over_peft

    def spied(made: Bench, size: Size) -> tuple[Round, ...]:
        measured.append(made.runs["lora"].method.settings["lora_dropout"])
        return over_peft(made, size)

    monkeypatch.setattr(training, "_over_peft", spied)
    rows = list(training.measure_scaling(Size(smoke=True, rounds=1, scratch=tmp_path)))
    assert [one.name for one in rows] == [
        "LoRA, small Llama, rank 4",
        "LoRA, small Llama, 2 x 8 tokens",
        "LoRA, small Llama, dropout 0.05",
    ]
    assert measured == [0, 0, 0.05]
    assert not any(one.missed for one in rows) and "goal" not in bench.as_line(rows[0])
