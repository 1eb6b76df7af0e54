"""Numbers of the reference code, worked out or measured on it, at the sizes of the real models; and its relations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    CogVideoXDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from svg.block_mask import SKIPPED, BlockMask
from svg.layout import TokenLayout
from svg.methods.svg_upstream import SvgUpstream
from svg.palette import upstream_profiled_patterns
from svg.pattern import band
from svg.schedule import by_step_index, by_timestep_share, flow_match_euler_timesteps

WAN_720P, WAN_480P = TokenLayout(21, 3600), TokenLayout(21, 1560)
HUNYUAN_720P, HUNYUAN_480P = TokenLayout(33, 3600, 256), TokenLayout(33, 1350, 256)
COGVIDEOX = TokenLayout(11, 4080, 226, "first")
COSMOS = TokenLayout(16, 3520)


def quirks_of(model: str) -> dict[str, Any]:
    """Return what the reference code does differently for a model family, from the model's settings."""
    settings = yaml.safe_load((Path(__file__).parents[1] / "conf" / "model" / f"{model}.yaml").read_text())
    return settings["upstream"]


WAN_QUIRKS = quirks_of("wan_t2v_14b")
HUNYUAN_QUIRKS = quirks_of("hunyuan_video_t2v")
COGVIDEOX_QUIRKS = quirks_of("cogvideox1_5_i2v")

ATTENTION_MASKS = {
    "wan 720p": (WAN_720P, WAN_QUIRKS, 0.30, 12416, 0.3402, 0.3425),
    "wan 480p": (WAN_480P, WAN_QUIRKS, 0.30, 5376, 0.3400, 0.3455),
    "hunyuan 720p": (HUNYUAN_720P, HUNYUAN_QUIRKS, 0.25, 15616, 0.2489, 0.2514),
    "cogvideox 1.5": (COGVIDEOX, COGVIDEOX_QUIRKS, 0.25, 5760, 0.2478, 0.2510),
}


@pytest.mark.parametrize("case", ATTENTION_MASKS)
@pytest.mark.parametrize("kind", [0, 1], ids=["spatial", "temporal"])
def test_masks_of_the_reference_code_have_its_width_and_its_densities(case, kind):
    layout, quirks, sparsity, width, token_density, block_density = ATTENTION_MASKS[case]
    mask = SvgUpstream(sparsity=sparsity, **quirks).palette(layout)[kind].mask
    is_open = quirks.get("band_edge") == "open"
    assert mask.pattern.half_width == width - is_open
    assert mask.token_density == pytest.approx(token_density, abs=5e-5)
    assert (mask.tile_map != SKIPPED).double().mean().item() == pytest.approx(block_density, abs=5e-5)
    assert mask.token_density <= mask.tile_density < mask.token_density + 0.006


@pytest.mark.parametrize(
    ("prompt_length", "token", "block"), [(60, 0.2456, 0.2471), (100, 0.2462, 0.2471), (256, 0.2489, 0.2514)]
)
def test_hunyuan_densities_follow_the_length_of_the_prompt(prompt_length, token, block):
    pattern = SvgUpstream(sparsity=0.25, **HUNYUAN_QUIRKS).palette(HUNYUAN_720P)[0].mask.pattern
    stop = HUNYUAN_720P.num_video_tokens + prompt_length
    mask = BlockMask.from_pattern(replace(pattern, text_stop=stop, valid_stop=stop), 128, 128)
    assert mask.token_density == pytest.approx(token, abs=5e-5)
    assert (mask.tile_map != SKIPPED).double().mean().item() == pytest.approx(block, abs=5e-5)


def test_hunyuan_width_counts_the_padded_text_where_the_layout_holds_the_prompt_alone():
    method = SvgUpstream(sparsity=0.25, **HUNYUAN_QUIRKS)
    sliced = TokenLayout(33, 3600, 60)
    assert method.palette(sliced)[0].mask.pattern.half_width == 15616 - 1


@pytest.mark.parametrize(
    ("layout", "frames", "density"),
    [(WAN_720P, 2.0, 0.221), (WAN_480P, 2.0, 0.217), (COSMOS, 2.0, 0.285)],
    ids=["wan 720p", "wan 480p", "cosmos"],
)
def test_profiled_masks_with_a_sink_have_their_fixed_density(layout, frames, density):
    for pattern in upstream_profiled_patterns(layout, frames):
        assert pattern.mask.token_density == pytest.approx(density, abs=5e-4)


@pytest.mark.parametrize(
    ("layout", "density"),
    [(HUNYUAN_720P, 0.087), (HUNYUAN_480P, 0.082), (COGVIDEOX, 0.248)],
    ids=["hunyuan 720p", "hunyuan 480p", "cogvideox"],
)
def test_profiled_bands_without_a_sink_have_their_fixed_density(layout, density):
    pattern = upstream_profiled_patterns(layout, 1.5, has_sink=False)[0].mask.pattern
    bare = replace(pattern, text_start=0, text_stop=0)
    assert int(bare.count().sum()) / layout.num_video_tokens**2 == pytest.approx(density, abs=8e-4)


@pytest.mark.parametrize(
    ("layout", "quirks", "least"),
    [
        (HUNYUAN_720P, HUNYUAN_QUIRKS, 0.0043),
        (HUNYUAN_480P, HUNYUAN_QUIRKS, 0.0114),
        (COGVIDEOX, COGVIDEOX_QUIRKS, 0.0100),
    ],
    ids=["hunyuan 720p", "hunyuan 480p", "cogvideox"],
)
def test_a_sparsity_below_what_text_keeps_is_refused_where_the_reference_runs_with_an_empty_band(layout, quirks, least):
    SvgUpstream(sparsity=least + 1e-4, **quirks).palette(layout)
    with pytest.raises(ValueError, match=r"method\.sparsity.*alone keep 0\.0"):
        SvgUpstream(sparsity=least - 1e-4, **quirks).palette(layout)


@pytest.mark.parametrize(("length", "width"), [(1, 0), (7, 0), (7, 3), (50, 12), (50, 49)])
def test_a_band_keeps_as_many_pairs_as_its_closed_form_says(length, width):
    pattern = band(TokenLayout(1, length), "spatial", sink="none", half_width=width)
    assert int(pattern.count().sum()) == length * (2 * width + 1) - width * (width + 1)


# Dense steps, with the schedulers of the pipelines themselves.


def wan_timesteps(num_steps: int) -> list[float]:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(num_steps)
    return scheduler.timesteps.tolist()


def hunyuan_timesteps(num_steps: int) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_steps + 1)[:-1])
    return scheduler.timesteps.bfloat16().tolist()


def cosmos_timesteps(num_steps: int) -> list[float]:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(num_steps)
    return scheduler.timesteps.tolist()


def cogvideox_timesteps(num_steps: int) -> list[float]:
    scheduler = CogVideoXDPMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    return scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    ("num_steps", "share", "dense_steps"), [(50, 0.2, 10), (40, 0.35, 14), (40, 0.2, 8), (8, 0.2, 1), (4, 0.2, 0)]
)
def test_wan_keeps_the_reference_codes_dense_steps(num_steps, share, dense_steps):
    method = SvgUpstream(sparsity=0.3, first_times_fp=share, first_layers_fp=0.03)
    timesteps = wan_timesteps(num_steps)
    assert method.dense_schedule(num_steps, 40, timesteps).dense_steps == dense_steps
    assert by_step_index(share, 0.03, num_steps, 40).dense_steps == dense_steps


def test_the_threshold_of_wan_at_50_steps_is_956():
    tenth_step = wan_timesteps(50)[9]
    assert tenth_step - 1 == 956


def test_cosmos_keeps_the_reference_codes_dense_steps_under_its_small_margin():
    method = SvgUpstream(sparsity=0.25, first_times_fp=0.3, first_layers_fp=0.03, threshold_margin=0.01)
    assert method.dense_schedule(35, 36, cosmos_timesteps(35)).dense_steps == 10


@pytest.mark.parametrize(("share", "in_fact", "by_index"), [(0.04, 1, 2), (0.1, 5, 5), (0.18, 8, 9), (0.2, 9, 10)])
def test_hunyuan_loses_dense_steps_to_a_threshold_read_from_another_grid(share, in_fact, by_index):
    method = SvgUpstream(sparsity=0.25, first_times_fp=share, **HUNYUAN_QUIRKS)
    assert method.dense_schedule(50, 60, hunyuan_timesteps(50)).dense_steps == in_fact
    assert by_step_index(share, 0.0, 50, 60).dense_steps == by_index


@pytest.mark.parametrize("num_steps", [1, 2, 8, 50])
def test_the_grid_of_flow_match_euler_is_that_of_diffusers(num_steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(num_steps)
    assert flow_match_euler_timesteps(num_steps, 7.0) == pytest.approx(scheduler.timesteps.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("num_steps", "share", "dense_steps"),
    [
        (50, 0.02, 5),
        (50, 0.025, 6),
        (50, 0.03, 7),
        (50, 0.045, 10),
        (50, 0.055, 12),
        (50, 0.075, 15),
        (50, 0.09, 17),
        (40, 0.025, 5),
        (40, 0.075, 12),
    ],
)
def test_the_older_rule_on_wan_keeps_the_dense_steps_measured_on_its_scheduler(num_steps, share, dense_steps):
    assert by_timestep_share(share, 0.0, wan_timesteps(num_steps)).dense_steps == dense_steps


@pytest.mark.parametrize(("share", "dense_steps"), [(0.025, 8), (0.055, 15)])
def test_the_older_rule_on_hunyuan_keeps_the_dense_steps_measured_on_its_scheduler(share, dense_steps):
    assert by_timestep_share(share, 0.0, hunyuan_timesteps(50)).dense_steps == dense_steps


def test_the_older_rule_on_cogvideox_keeps_ten_steps_and_two_layers():
    dense = by_timestep_share(0.2, 0.025, cogvideox_timesteps(50))
    assert (dense.dense_steps, dense.dense_layers) == (10, 2)


@pytest.mark.parametrize(
    ("num_layers", "dense_layers"),
    [(40, 1), (30, 0), (60, 1), (36, 1), (28, 0)],
    ids=["14B", "1.3B", "hy", "cosmos14", "cosmos7"],
)
def test_a_share_of_the_layers_is_rounded_down(num_layers, dense_layers):
    assert by_step_index(0.0, 0.03, 50, num_layers).dense_layers == dense_layers


# The layout transformation.


def test_a_band_over_token_major_tokens_is_masked_attention_in_the_original_order():
    layout, width = TokenLayout(5, 12), 7
    pattern = SvgUpstream(sparsity=0.3, sink="none").palette(layout)[1]
    pattern = replace(
        pattern,
        mask=BlockMask.from_pattern(band(layout, "temporal", sink="none", keys="plain", half_width=width), 8, 8),
    )
    query, key, value = torch.randn(3, layout.seq_len, 4, dtype=torch.float64)
    frame, place = torch.arange(layout.seq_len) // 12, torch.arange(layout.seq_len) % 12
    position = place * 5 + frame
    keep = (position[:, None] - position[None, :]).abs() <= width
    original = (query @ key.T).masked_fill(~keep, -torch.inf).softmax(-1) @ value

    order = pattern.query_order
    scores = (query[order] @ key[order].T).masked_fill(~pattern.mask.dense(), -torch.inf)
    restored = torch.empty_like(original)
    restored[order] = scores.softmax(-1) @ value[order]
    assert torch.allclose(restored, original, atol=1e-12)


def test_the_reference_codes_sink_is_a_strip_of_the_picture_in_a_temporal_head():
    layout = TokenLayout(5, 12)
    temporal = upstream_profiled_patterns(layout)[1]
    positions = torch.arange(layout.seq_len)
    sink = replace(temporal.mask.pattern, half_width=-1)
    plan_order_kept = sink.keep(torch.tensor(0), torch.arange(layout.seq_len))
    kept = positions[temporal.key_order[plan_order_kept]] % 12
    assert sorted(set(kept.tolist())) == [0, 1, 2]
    assert plan_order_kept.sum() == 12
