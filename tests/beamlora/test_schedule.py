"""The schedule: Eq. 14, and the released code's timing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlora.schedule import Schedule, threshold
from beamlora.settings import BeamSettings


def schedule(total: int = 24, epoch: int | None = 8, **changes) -> Schedule:
    return Schedule.for_run(BeamSettings(**{"delta_t": 6, **changes}), total_steps=total, steps_per_epoch=epoch)


# ---- threshold


@given(step=st.integers(0, 400), p_init=st.floats(0.01, 1), horizon=st.integers(1, 300))
def test_threshold_is_equation_14(step: int, p_init: float, horizon: int) -> None:
    p = threshold(step, p_init=p_init, horizon=horizon)
    if step > horizon:
        assert p == 1.0
    else:
        assert p == pytest.approx(p_init + 0.5 * (1 - p_init) * (1 - math.cos(math.pi * step / horizon)))
        assert p_init - 1e-12 <= p <= 1
        assert p <= threshold(step + 1, p_init=p_init, horizon=horizon) + 1e-12


def test_threshold_without_dynamic_p_is_constant_until_the_horizon() -> None:
    values = [threshold(t, p_init=0.9, horizon=10, dynamic=False) for t in (0, 5, 9, 10, 11)]
    assert values == [0.9, 0.9, 0.9, 1.0, 1.0]


def test_threshold_step_offset_and_p_init_have_an_effect() -> None:
    assert schedule().threshold(6) == pytest.approx(0.961111, abs=1e-6)
    assert schedule(threshold_step_offset=0).threshold(6) == pytest.approx(threshold(6, p_init=0.95, horizon=16))
    assert schedule(p_init=0.9).threshold(6) < schedule().threshold(6)


# ---- timing


def test_timing_of_the_released_code() -> None:
    """Recorded with the released callback: interval 6, 24 steps, p = 1 from step 16 on. It takes snapshots after steps 16 and
    22, too, which no operation uses."""
    timing = schedule()
    assert timing.horizon == 16
    assert [t for t in range(1, 25) if timing.is_snapshot_step(t)] == [4, 10]
    assert timing.operation_steps() == [6, 12, 18]
    assert [round(timing.threshold(t), 6) for t in (6, 12, 18)] == [0.961111, 0.988889, 1.0]
    assert timing.pruning_steps() == [6, 12]
    assert [timing.snapshot_step(t) for t in (6, 12, 18)] == [4, 10, 16]


@pytest.mark.parametrize(
    ("steps_per_epoch", "delta_t", "pruning", "idle"),
    [
        (12344, 3000, 8, 3),
        (12344, 2500, 9, 4),
        (3277, 1200, 5, 2),
        (3277, 800, 8, 3),
        (10644, 3200, 6, 2),
        (10644, 2400, 8, 4),
    ],
)
def test_number_of_operations_in_the_papers_runs(steps_per_epoch: int, delta_t: int, pruning: int, idle: int) -> None:
    """Three epochs; five operations for code on LLaMA2-7B (B.1)."""
    timing = schedule(total=3 * steps_per_epoch, epoch=steps_per_epoch, delta_t=delta_t)
    assert (len(timing.pruning_steps()), len(timing.operation_steps()) - len(timing.pruning_steps())) == (
        pruning,
        idle,
    )


def test_snapshot_step_offset() -> None:
    timing = schedule(snapshot_step_offset=0)
    assert [t for t in range(1, 25) if timing.is_snapshot_step(t)] == [3, 9] and timing.snapshot_step(6) == 3


@pytest.mark.parametrize("changes", [{"operations": False}, {"expansion": False}, {"source": "current"}])
def test_no_snapshot_where_none_is_used(changes: dict) -> None:
    assert not any(schedule(**changes).is_snapshot_step(t) for t in range(1, 25))


def test_where_the_sum_has_to_reach_p_the_last_operations_prune_and_have_their_snapshots() -> None:
    timing = schedule(topp_comparison="reaches")
    assert timing.pruning_steps() == timing.operation_steps() == [6, 12, 18]
    assert [t for t in range(1, 25) if timing.is_snapshot_step(t)] == [4, 10, 16, 22], "the last for a longer run"


@given(
    total=st.integers(10, 80),
    half=st.integers(2, 8),
    horizon=st.integers(1, 80),
    offset=st.sampled_from([0, 1]),
    comparison=st.sampled_from(["exceeds", "reaches"]),
)
def test_each_operation_that_prunes_in_a_run_of_any_length_has_one_snapshot_and_no_other_is_taken(
    total: int, half: int, horizon: int, offset: int, comparison: str
) -> None:
    changes = {"delta_t": 2 * half, "horizon_steps": horizon, "snapshot_step_offset": offset, "topp_comparison": comparison}
    timing, longer = schedule(total=total, **changes), schedule(total=200, **changes)
    taken = [t for t in range(1, total + 1) if timing.is_snapshot_step(t)]
    assert taken == [t for t in map(longer.snapshot_step, longer.pruning_steps()) if t <= total]


def test_shortest_interval_has_its_snapshot_before_its_operation() -> None:
    for changes in ({"delta_t": 4}, {"delta_t": 2, "snapshot_step_offset": 0}):
        timing = schedule(**changes)
        first = timing.pruning_steps()[0]
        assert first == changes["delta_t"] and timing.snapshot_step(first) == first - 1 and timing.is_snapshot_step(first - 1)
    with pytest.raises(ValueError, match="in a run of 6 optimizer steps .* expected a longer run"):
        schedule(total=6).check()


def test_horizon_settings_have_an_effect() -> None:
    assert schedule(threshold_horizon="total").horizon == 24
    assert schedule(horizon_steps=11).horizon == 11
    assert schedule(threshold_horizon="total").pruning_steps() == [6, 12, 18]
    with pytest.raises(ValueError, match="threshold_horizon: .* horizon_steps"):
        schedule(epoch=None)
    assert schedule(epoch=None, horizon_steps=16).horizon == 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"delta_t": 14}, "delta_t <= 12"),
        ({"p_init": 1.0}, "delta_t <= 12"),
        ({"horizon_steps": 5}, "delta_t <= 5"),
        ({"total": 3}, "a longer run"),
    ],
)
def test_a_run_without_any_pruning_is_refused(changes: dict, expected: str) -> None:
    with pytest.raises(
        ValueError, match=f"delta_t: found .* nothing would ever be pruned; expected {expected}, and p_init < 1"
    ):
        schedule(**changes).check()
    schedule(**changes, operations=False).check()


def test_operations_off_means_none() -> None:
    assert schedule(operations=False).operation_steps() == []
