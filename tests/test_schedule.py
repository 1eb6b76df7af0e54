"""Dense steps and layers: exact counts, and what a threshold on timesteps means."""

from __future__ import annotations

from fractions import Fraction

import pytest

from svg.schedule import DenseSchedule, by_step_index, by_timestep_share, by_timestep_value, count_of_fraction


def test_the_first_steps_and_the_first_layers_are_dense():
    schedule = DenseSchedule(dense_steps=2, dense_layers=1)
    dense = {(step, layer) for step in range(4) for layer in range(3) if schedule.is_dense(step, layer)}
    assert dense == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0)}


def test_a_decimal_share_of_a_count_is_rounded_down_exactly():
    for percent in range(101):
        for total in range(1, 101):
            exact = int(Fraction(percent, 100) * total)
            assert count_of_fraction("first_times_fp", percent / 100, total) == exact


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("knob", ["first_times_fp", "first_layers_fp"])
def test_a_share_outside_its_range_is_refused_by_every_rule(knob, value):
    shares = {"first_times_fp": 0.1, "first_layers_fp": 0.1} | {knob: value}
    rules = (
        lambda: by_step_index(**shares, num_steps=4, num_layers=4),
        lambda: by_timestep_value(**shares, timesteps=[9.0, 5.0, 2.0, 1.0], num_layers=4),
        lambda: by_timestep_share(**shares, timesteps=[9.0, 5.0, 2.0, 1.0]),
    )
    for rule in rules:
        with pytest.raises(ValueError, match=rf"method\.{knob} is {value}; it must be in \[0, 1\]"):
            rule()


def test_a_threshold_is_read_below_the_last_dense_step():
    timesteps = [1000.0, 900.0, 800.0, 799.5, 400.0]
    assert by_timestep_value(0.2, 0.0, timesteps, 4) == DenseSchedule(1, 0)
    # 800 - 1 = 799 is below the next step's 799.5, which the margin therefore swallows.
    assert by_timestep_value(0.6, 0.5, timesteps, 4) == DenseSchedule(4, 2)
    assert by_timestep_value(0.6, 0.5, timesteps, 4, margin=0.01) == DenseSchedule(3, 2)


def test_a_share_of_no_step_keeps_no_step_dense():
    assert by_timestep_value(0.1, 0.0, [1000.0, 500.0], 4).dense_steps == 0


def test_a_share_of_all_steps_keeps_all_steps_dense():
    assert by_timestep_value(1.0, 1.0, [1000.0, 500.0], 4) == DenseSchedule(2, 4)
    assert by_step_index(1.0, 1.0, 2, 4) == DenseSchedule(2, 4)


def test_the_older_rule_compares_with_a_share_of_a_thousand_and_of_42_layers():
    timesteps = [999.0, 976.0, 975.0, 900.0]
    assert by_timestep_share(0.025, 0.0, timesteps) == DenseSchedule(2, 0)
    assert by_timestep_share(0.0, 0.5, timesteps) == DenseSchedule(0, 21)
    assert by_timestep_share(0.0, 0.025, timesteps) == DenseSchedule(0, 2)


def test_timesteps_that_rise_are_refused_where_dense_steps_would_not_be_the_first():
    with pytest.raises(ValueError, match="timesteps must fall from step to step"):
        by_timestep_share(0.5, 0.0, [100.0, 900.0])
