"""The reference project's README, command line by command line: its knobs, and how many steps and layers stay dense."""

from __future__ import annotations

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from experiments.building import build_method
from experiments.loading import with_flow_shift
from tests.experiments.conftest import composed


def schedule_of(experiment, timesteps, num_layers, *overrides):
    config = composed(f"experiment={experiment}", *overrides)
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    schedule = method.dense_schedule(len(timesteps), num_layers, timesteps)
    return method, (schedule.dense_steps, schedule.dense_layers)


def wan_timesteps(steps):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler = with_flow_shift(scheduler, 5.0)
    scheduler.set_timesteps(steps)
    return [float(value) for value in scheduler.timesteps]


@pytest.mark.parametrize(("experiment", "steps", "dense_steps"), [("seed_wan_t2v", 50, 6), ("seed_wan_i2v", 40, 5)])
def test_wan_keeps_six_of_fifty_steps_and_four_layers_dense(experiment, steps, dense_steps):
    config = composed(f"experiment={experiment}")
    assert (config.model.num_inference_steps, config.model.flow_shift) == (steps, 5.0)
    method, counts = schedule_of(experiment, wan_timesteps(steps), 40)
    assert counts == (dense_steps, 4)
    assert (method.sparsity, method.num_sampled_rows) == (0.25, 64)
    assert (method.first_times_fp, method.first_layers_fp) == (0.025, 0.075)
    assert (method.rounding, method.sink, method.band_edge) == ("ceil128", "layout", "closed")


def test_wan_with_the_readmes_two_shares_exchanged_keeps_fifteen_of_fifty_steps_dense():
    overrides = ("method.first_times_fp=0.075", "method.first_layers_fp=0.025")
    assert schedule_of("seed_wan_t2v", wan_timesteps(50), 40, *overrides)[1] == (15, 2)


def test_hunyuan_video_keeps_fifteen_of_fifty_steps_and_two_layers_dense():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(50)
    method, counts = schedule_of("seed_hunyuan_t2v", [float(value) for value in scheduler.timesteps], 60)
    assert counts == (15, 2)
    assert (method.sparsity, method.first_times_fp, method.first_layers_fp) == (0.2, 0.055, 0.025)
    assert (method.rounding, method.sink, method.band_edge) == ("floor128", "none", "open")


def test_cogvideox_keeps_ten_of_fifty_steps_and_two_layers_dense():
    timesteps = [999 - 20 * step for step in range(50)]
    method, counts = schedule_of("seed_cogvideox_i2v", timesteps, 42)
    assert counts == (10, 2)
    assert (method.sparsity, method.num_sampled_rows, method.profiled_text) == (0.25, 32, "cogvideox")


def test_a_family_that_we_do_not_know_is_refused_in_one_line(call, tmp_path):
    status, out, err = call("experiment=seed_wan_t2v", "model.pipeline=LTXPipeline", f"runs_dir={tmp_path / 'runs'}")
    assert (status, out) == (2, "")
    assert "model.pipeline=LTXPipeline is not implemented; implemented are: " in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
