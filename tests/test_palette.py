"""The palette: roundings, what calls share, and the reference code's profiled masks built block by block."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from svg.layout import TokenLayout
from svg.order import sink_first_order, token_major_order
from svg.palette import Geometry, head_pattern, head_patterns, upstream_profiled_patterns
from svg.pattern import upstream_half_width


def original_mask(pattern, seq_len: int) -> torch.Tensor:
    positions = torch.arange(seq_len)
    return pattern.keep(positions[:, None], positions[None, :])


def blocks_of_128(length: int, seq_len: int, frames: float, tokens_per_frame: int) -> torch.Tensor:
    """Return the band of blocks over the first ``length`` positions, rounded up to whole blocks."""
    mask = torch.zeros(seq_len, seq_len, dtype=torch.bool)
    for row in range(math.ceil(length / 128)):
        for column in range(math.ceil(length / 128)):
            if abs(row - column) < frames * tokens_per_frame // 128:
                mask[row * 128 : (row + 1) * 128, column * 128 : (column + 1) * 128] = True
    return mask


def read_as_token_major(mask: torch.Tensor, frames: int, places: int) -> torch.Tensor:
    """Return, over frame-major pairs, a mask that was built over token-major ones."""
    return mask.view(places, frames, places, frames).permute(1, 0, 3, 2).reshape(frames * places, frames * places)


@pytest.mark.parametrize("layout", [TokenLayout(5, 150), TokenLayout(3, 200), TokenLayout(4, 40)], ids=str)
def test_profiled_masks_of_wan_are_blocks_with_the_first_keys_as_sink(layout):
    frames, places = layout.num_frames, layout.tokens_per_frame
    mask = blocks_of_128(layout.seq_len, layout.seq_len, 2.0, places)
    mask[:, :places] = True
    spatial, temporal = upstream_profiled_patterns(layout)
    assert torch.equal(original_mask(spatial, layout.seq_len), mask)
    assert torch.equal(original_mask(temporal, layout.seq_len), read_as_token_major(mask, frames, places))


@pytest.mark.parametrize("layout", [TokenLayout(4, 150, 37), TokenLayout(3, 200, 9)], ids=str)
def test_profiled_masks_of_hunyuan_keep_text_whole_beside_the_video(layout):
    video = layout.num_video_tokens
    blocks = blocks_of_128(video, video, 1.5, layout.tokens_per_frame)
    expected = torch.ones(2, layout.seq_len, layout.seq_len, dtype=torch.bool)
    expected[0, :video, :video] = blocks
    expected[1, :video, :video] = read_as_token_major(blocks, layout.num_frames, layout.tokens_per_frame)
    patterns = upstream_profiled_patterns(layout, 1.5, has_sink=False)
    for pattern, mask in zip(patterns, expected, strict=True):
        assert torch.equal(original_mask(pattern, layout.seq_len), mask)


@pytest.mark.parametrize("layout", [TokenLayout(4, 150, 226, "first"), TokenLayout(3, 200, 9, "first")], ids=str)
def test_profiled_masks_of_cogvideox_count_blocks_from_the_text_and_forget_it_in_the_temporal_one(layout):
    video, text = layout.num_video_tokens, layout.num_text_tokens
    spatial = blocks_of_128(video, layout.seq_len, 1.5, layout.tokens_per_frame)
    spatial[:text], spatial[:, :text] = True, True
    temporal = torch.zeros_like(spatial)
    blocks = blocks_of_128(video, video, 1.5, layout.tokens_per_frame)
    temporal[text:, text:] = read_as_token_major(blocks, layout.num_frames, layout.tokens_per_frame)
    patterns = upstream_profiled_patterns(layout, 1.5, has_sink=False, text="cogvideox")
    for pattern, mask in zip(patterns, (spatial, temporal), strict=True):
        assert torch.equal(original_mask(pattern, layout.seq_len), mask)


@pytest.mark.parametrize("rounding", ["ceil128", "floor128"])
@pytest.mark.parametrize("edge", ["closed", "open"])
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_the_reference_codes_masks_follow_its_predicate_in_the_order_of_the_head(rounding, edge, kind):
    layout = TokenLayout(5, 90)
    geometry = Geometry(0.5, 128, rounding, sink="layout", key_order="plain", band_edge=edge)
    width = upstream_half_width(layout, 0.5, rounding)
    positions = torch.arange(layout.seq_len)
    distance = (positions[:, None] - positions[None, :]).abs()
    expected = (distance <= width if edge == "closed" else distance < width) | (positions[None, :] < 90)
    pattern = head_pattern(layout, geometry, kind)
    assert torch.equal(pattern.mask.dense(), expected)
    if kind == "temporal":
        assert torch.equal(pattern.query_order, token_major_order(layout))
        assert torch.equal(pattern.key_order, token_major_order(layout))


def test_a_temporal_head_of_ours_has_plain_queries_and_keys_with_the_first_frame_in_front():
    layout = TokenLayout(4, 6, num_text_tokens=3)
    spatial, temporal = head_patterns(layout, Geometry(0.7, 3))
    assert (spatial.name, temporal.name) == ("spatial", "temporal")
    assert spatial.query_order is None
    assert spatial.key_order is None
    assert torch.equal(temporal.query_order, token_major_order(layout))
    assert torch.equal(temporal.key_order, sink_first_order(layout))


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
@pytest.mark.parametrize("rounding", ["tile", "token"])
def test_every_query_keeps_text_the_first_frame_and_its_own_neighbourhood(kind, rounding):
    layout = TokenLayout(6, 8, num_text_tokens=5)
    mask = original_mask(head_pattern(layout, Geometry(0.6, 2, rounding), kind), layout.seq_len)
    assert mask[:, : layout.tokens_per_frame].all()
    text = torch.arange(layout.text_start, layout.text_stop)
    assert mask[text].all()
    assert mask[:, text].all()
    if kind == "temporal":
        for query in range(layout.num_video_tokens):
            frame, place = divmod(query, layout.tokens_per_frame)
            same_place = [f * layout.tokens_per_frame + place for f in range(6) if abs(f - frame) <= 1]
            assert mask[query, same_place].all()
    else:
        video = torch.arange(layout.num_video_tokens)
        assert mask[video, video].all()


@pytest.mark.parametrize("rounding", ["tile", "token", "floor128"])
def test_without_a_sink_the_first_frame_is_in_the_band_like_any_other(rounding):
    layout = TokenLayout(6, 80)
    pattern = head_pattern(layout, Geometry(0.6, 8, rounding, sink="none"), "temporal")
    mask = original_mask(pattern, layout.seq_len)
    assert mask.diagonal().all()
    assert mask[:, :80].any(0).all()
    assert pattern.mask.tile_density == pytest.approx(mask.float().mean().item(), abs=0.1)


@pytest.mark.parametrize("density", [0.3, 0.5])
@pytest.mark.parametrize("rounding", ["ceil128", "floor128"])
def test_the_reference_codes_width_is_as_many_tokens_where_the_first_frame_stands_in_front(rounding, density):
    layout = TokenLayout(9, 150)
    ours, plain = (
        original_mask(head_pattern(layout, Geometry(density, 64, rounding, key_order=order), "temporal"), 1350)
        for order in ("sink_first", "plain")
    )
    # The slope of the former rounds at the edge of the band: one key a query, to either side.
    assert (ours != plain).sum(1).max() <= 2


def test_patterns_are_built_once_for_equal_layouts_and_geometries():
    first = head_patterns(TokenLayout(4, 6), Geometry(0.7, 3))
    again = head_patterns(TokenLayout(4, 6), Geometry(0.7, 3))
    assert all(x is y for x, y in zip(first, again, strict=True))
    assert head_patterns(TokenLayout(4, 6), replace(Geometry(0.7, 3), sink="none"))[0] is not first[0]


@pytest.mark.parametrize("layout", [TokenLayout(5, 33), TokenLayout(4, 25, 7), TokenLayout(4, 25, 7, "first")], ids=str)
@pytest.mark.parametrize("rounding", ["tile", "token"])
def test_tiles_may_have_other_queries_than_keys_and_keep_no_more_than_asked_for(layout, rounding):
    for pattern in head_patterns(layout, Geometry(0.7, 8, rounding, query_block_size=12)):
        mask = pattern.mask
        assert mask.tile_map.shape == (-(-layout.seq_len // 12), -(-layout.seq_len // 8))
        computed = (
            mask.tile_map.repeat_interleave(12, 0).repeat_interleave(8, 1)[: layout.seq_len, : layout.seq_len] > 0
        )
        kept = mask.dense()
        assert torch.equal(kept, computed) if rounding == "tile" else not (kept & ~computed).any()
        assert 0.55 < kept.double().mean() <= 0.7
        text = slice(layout.text_start, layout.text_start + layout.num_text_tokens)
        assert kept[text].all() and kept[:, text].all()
