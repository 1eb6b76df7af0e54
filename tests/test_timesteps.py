"""The formulas of the grids against the schedulers of diffusers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from svg.timesteps import timesteps

STEPS = [1, 2, 3, 7, 8, 30, 35, 40, 50, 100]


@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_unipc_flow_is_the_grid_of_wans_scheduler(num_steps, shift):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(num_steps)
    assert timesteps("unipc_flow", num_steps, shift) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 7.0, 17.0])
def test_flow_match_is_the_grid_that_hunyuan_videos_pipeline_asks_for(num_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_steps + 1)[:-1])
    assert timesteps("flow_match", num_steps, shift) == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)


@pytest.mark.parametrize("num_steps", STEPS)
@pytest.mark.parametrize("scheduler_class", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_trailing_is_the_grid_of_cogvideox_s_schedulers(num_steps, scheduler_class):
    scheduler = scheduler_class(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    assert timesteps("trailing", num_steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("num_steps", STEPS)
def test_edm_is_the_grid_of_cosmos_s_scheduler(num_steps):
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(num_steps)
    assert timesteps("edm", num_steps) == pytest.approx(scheduler.timesteps.tolist(), abs=1e-5)


def test_an_unknown_grid_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="timesteps is 'euler'; it must be one of unipc_flow, flow_match, trailing, edm"
    ):
        timesteps("euler", 50)
