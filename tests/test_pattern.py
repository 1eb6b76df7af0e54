"""Token patterns against predicates written from the definition, pair by pair, and windows against a search."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from svg.layout import TokenLayout
from svg.order import sink_first_order, token_major_order
from svg.pattern import TokenPattern, band, check_density, upstream_half_width, window_for_density

LAYOUTS = [
    TokenLayout(3, 5),
    TokenLayout(4, 3, num_text_tokens=4),
    TokenLayout(4, 3, num_text_tokens=4, text_position="first"),
    TokenLayout(1, 6),
    TokenLayout(6, 1),
    TokenLayout(2, 2, num_text_tokens=1),
    TokenLayout(1, 1),
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def pairs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.arange(length)
    return positions[:, None], positions[None, :]


def kept(pattern: TokenPattern) -> torch.Tensor:
    return pattern.keep(*pairs(pattern.query_len))


def frame_and_place(layout: TokenLayout, token: int) -> tuple[int, int] | None:
    """Return where a frame-major token stands in the video; None for text."""
    if not layout.video_start <= token < layout.video_stop:
        return None
    return divmod(token - layout.video_start, layout.tokens_per_frame)


def from_definition(layout: TokenLayout, keeps) -> torch.Tensor:
    """Return the mask over frame-major tokens: text whole, video pairs by ``keeps(query, key)`` of (frame, place)."""
    mask = torch.ones(layout.seq_len, layout.seq_len, dtype=torch.bool)
    for query, key in product(range(layout.seq_len), repeat=2):
        here, there = frame_and_place(layout, query), frame_and_place(layout, key)
        if here is not None and there is not None:
            mask[query, key] = keeps(here, there)
    return mask


def in_original_order(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    original = torch.empty_like(mask)
    original[queries[:, None], keys[None, :]] = mask
    return original


@every_layout
@pytest.mark.parametrize("half_width", [-1, 0, 1, 4, 100])
@pytest.mark.parametrize("sink", ["first_frame", "none"])
def test_a_spatial_band_keeps_near_tokens_first_frame_and_text(layout, half_width, sink):
    def keeps(query, key):
        distance = (query[0] - key[0]) * layout.tokens_per_frame + query[1] - key[1]
        return abs(distance) <= half_width or (sink == "first_frame" and key[0] == 0)

    pattern = band(layout, "spatial", sink=sink, half_width=half_width)
    assert torch.equal(kept(pattern), from_definition(layout, keeps))


@every_layout
@pytest.mark.parametrize("frames", [-1, 0, 1, 5])
def test_a_spatial_band_of_frames_keeps_whole_frames(layout, frames):
    def keeps(query, key):
        return abs(query[0] - key[0]) <= frames or key[0] == 0

    pattern = band(layout, "spatial", half_width=frames, spatial_unit="frame")
    assert torch.equal(kept(pattern), from_definition(layout, keeps))


@every_layout
@pytest.mark.parametrize("half_width", [-1, 0, 1, 4, 100])
@pytest.mark.parametrize("sink", ["first_frame", "none"])
def test_a_temporal_band_in_plain_order_keeps_near_places_first_frame_and_text(layout, half_width, sink):
    def keeps(query, key):
        distance = (query[1] - key[1]) * layout.num_frames + query[0] - key[0]
        return abs(distance) <= half_width or (sink == "first_frame" and key[0] == 0)

    order = token_major_order(layout)
    pattern = band(layout, "temporal", sink=sink, keys="plain", half_width=half_width)
    assert torch.equal(in_original_order(kept(pattern), order, order), from_definition(layout, keeps))


@every_layout
@pytest.mark.parametrize("half_width", [-1, 0, 2, 9, 30, 1000])
def test_a_temporal_band_with_the_sink_first_keeps_near_places_along_its_slope(layout, half_width):
    frames, later = layout.num_frames, layout.num_frames - 1

    def keeps(query, key):
        if key[0] == 0:
            return True
        query_slot, key_slot = query[1] * frames + query[0], key[1] * later + key[0] - 1
        return abs(later * query_slot - frames * key_slot) <= half_width

    pattern = band(layout, "temporal", half_width=half_width)
    mask = in_original_order(kept(pattern), token_major_order(layout), sink_first_order(layout))
    assert torch.equal(mask, from_definition(layout, keeps))


@every_layout
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_the_sink_of_the_reference_code_is_the_first_keys_of_the_heads_own_order(layout, kind):
    pattern = band(layout, kind, sink="layout", keys="plain", half_width=-1)
    mask = torch.zeros(layout.seq_len, layout.seq_len, dtype=torch.bool)
    mask[:, layout.video_start : layout.video_start + layout.tokens_per_frame] = True
    text = torch.arange(layout.text_start, layout.text_stop)
    mask[text], mask[:, text] = True, True
    assert torch.equal(kept(pattern), mask)


def test_the_sink_of_the_reference_code_needs_its_order():
    with pytest.raises(ValueError, match=r"method\.sink=layout needs method\.key_order=plain"):
        band(TokenLayout(3, 5), "temporal", sink="layout")


@every_layout
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_the_density_that_a_refusal_names_is_enough(layout, kind):
    pattern = band(layout, kind)
    try:
        window_for_density(pattern, 1e-6)
    except ValueError as error:
        named = float(str(error).split("alone keep ")[1].split(";")[0])
    window_for_density(pattern, named)
    with pytest.raises(ValueError, match="alone keep"):
        window_for_density(pattern, named - 2e-4)


def test_keys_with_the_first_frame_in_front_need_a_sink():
    with pytest.raises(ValueError, match=r"method\.sink=none needs method\.key_order=plain"):
        band(TokenLayout(3, 5), "temporal", sink="none")


def odd_patterns() -> list[TokenPattern]:
    """Patterns that no layout makes: ranges, scales and units that do not fit each other, padding, strided sinks."""
    base = TokenPattern(19, 19, 0, query_stop=19, key_stop=19)
    ranges = {"query_start": 3, "query_stop": 16, "key_start": 2, "key_stop": 17}
    changes = [
        {},
        ranges,
        ranges | {"query_scale": 3, "key_scale": 4},
        ranges | {"unit": 4, "sink_start": 2, "sink_stop": 5},
        {"sink_stride": 3},
        ranges | {"sink_stride": 4, "text_start": 17, "text_stop": 19},
        ranges | {"text_start": 0, "text_stop": 2, "sink_start": 1, "sink_stop": 6},
        {"valid_stop": 13, "sink_start": 0, "sink_stop": 4},
        {"valid_stop": 13, "text_start": 11, "text_stop": 13, "sink_stride": 3},
        {"query_stop": 0, "key_stop": 0},
    ]
    return [replace(base, half_width=width, **change) for change in changes for width in (-1, 0, 1, 5, 17, 90)]


every_odd_pattern = pytest.mark.parametrize("pattern", odd_patterns())


@every_odd_pattern
def test_the_closed_form_counts_what_the_predicate_keeps(pattern):
    rows = torch.tensor([18, 0, 12, 5])
    for key_length in (None, 19, 14, 12, 3, 0):
        expected = kept(pattern)[:, :key_length].sum(1)
        assert torch.equal(pattern.count(key_length=key_length), expected)
        assert torch.equal(pattern.count(rows, key_length), expected[rows])


@every_odd_pattern
def test_segments_are_disjoint_and_hold_what_is_kept_beside_the_strided_sink(pattern):
    starts, stops = pattern.segments(torch.arange(19))
    held = torch.zeros(19, 19, dtype=torch.long)
    for row, (row_starts, row_stops) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        for start, stop in zip(row_starts, row_stops, strict=True):
            held[row, start:stop] += 1
    assert held.max() <= 1
    assert torch.equal(held.bool(), kept(replace(pattern, sink_stride=0)))


@every_layout
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
@pytest.mark.parametrize("keys", ["sink_first", "plain"])
@pytest.mark.parametrize("density", [0.55, 0.7, 0.85, 0.97, 1.0])
def test_the_window_is_the_widest_within_the_density(layout, kind, keys, density):
    bare = band(layout, kind, keys=keys)
    budget = density * layout.seq_len**2
    if int(kept(replace(bare, half_width=0)).sum()) > budget:
        with pytest.raises(ValueError, match=rf"method\.sparsity .* is {density}, but text, first frame and diagonal"):
            window_for_density(bare, density)
        return
    window = window_for_density(bare, density)
    assert int(kept(window).sum()) <= budget
    wider = kept(replace(window, half_width=window.half_width + 1))
    assert wider.all() or int(wider.sum()) > budget


@pytest.mark.parametrize("density", [0, -1, 1.0001, float("nan"), float("inf")])
def test_a_density_outside_its_range_is_refused(density):
    with pytest.raises(ValueError, match=rf"method\.sparsity .* is {density}; it must be in \(0, 1\]"):
        check_density(density)


@pytest.mark.parametrize(("rounding", "width"), [("ceil128", 256), ("floor128", 128)])
def test_the_reference_codes_width_is_rounded_to_128_tokens(rounding, width):
    # 1000 * (1 - sqrt(1 - 0.3)) = 163.3
    assert upstream_half_width(TokenLayout(10, 100), 0.3, rounding) == width


def test_the_reference_codes_width_leaves_room_for_text_once_as_rows_and_once_as_columns():
    # s' = 0.5 - 2 * 100 / 1000 = 0.3, so the width is that of 0.3 without text.
    with_text = TokenLayout(9, 100, num_text_tokens=100)
    assert upstream_half_width(with_text, 0.5, "ceil128") == upstream_half_width(TokenLayout(10, 100), 0.3, "ceil128")
