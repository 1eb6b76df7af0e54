"""The two head patterns of Sparse VideoGen on a layout: the same band, over frame-major and over token-major tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from svg.block_mask import BlockMask
from svg.layout import TokenLayout
from svg.order import sink_first_order, token_major_order
from svg.pattern import HeadKind, Sink, TokenPattern, band, upstream_half_width, window_for_density
from svg.plan import HeadPattern

Rounding = Literal["tile", "token", "ceil128", "floor128"]


@dataclass(frozen=True)
class Geometry:
    """How a kept fraction becomes a mask.

    Args:
        density: Fraction of pairs kept, in (0, 1].
        block_size: Queries and keys per tile.
        rounding: ``"tile"``: whole tiles, so that every pair computed is kept and the density executed is the density
            asked for. ``"token"``: the widest band within the density, exact to the token. ``"ceil128"`` and
            ``"floor128"``: the reference code's width, which does not count the sink.
        sink: What every query keeps beside the band; see ``svg.pattern.band``.
        key_order: Key order of a temporal head: ``"sink_first"`` (plain where there is no sink) or ``"plain"``, the
            reference code's.
        spatial_unit: ``"token"`` or ``"frame"``; see ``svg.pattern.band``.
        band_edge: ``"closed"`` keeps \\|q - k\\| <= W, ``"open"`` keeps < W; matters for the reference's rounding only.
        num_padded_text_tokens: Text tokens that the reference's width counts, padding included, where the layout holds
            the prompt alone; None counts the layout's. Matters for the reference's rounding only.
        query_block_size: Queries per tile where they are not as many as keys.
    """

    density: float
    block_size: int = 128
    rounding: Rounding = "tile"
    sink: Sink = "first_frame"
    key_order: Literal["sink_first", "plain"] = "sink_first"
    spatial_unit: Literal["token", "frame"] = "token"
    band_edge: Literal["closed", "open"] = "closed"
    num_padded_text_tokens: int | None = None
    query_block_size: int | None = None

    @property
    def tile(self) -> tuple[int, int]:
        """Queries and keys per tile."""
        return self.query_block_size or self.block_size, self.block_size


@lru_cache(maxsize=64)
def head_pattern(layout: TokenLayout, geometry: Geometry, kind: HeadKind) -> HeadPattern:
    """Return the pattern of one kind of head; computed once per layout and geometry.

    Raises:
        ValueError: If the density is out of range or below what text, sink and diagonal keep.
    """
    # Frame 0 stands apart from the band's keys only where the sink keeps it.
    keys = "plain" if geometry.sink == "none" else geometry.key_order
    pattern = band(layout, kind, sink=geometry.sink, keys=keys, spatial_unit=geometry.spatial_unit)
    mask = _mask(layout, geometry, pattern)
    if kind == "spatial":
        return HeadPattern("spatial", mask)
    key_order = sink_first_order(layout) if keys == "sink_first" else token_major_order(layout)
    return HeadPattern("temporal", mask, token_major_order(layout), key_order)


def head_patterns(layout: TokenLayout, geometry: Geometry) -> tuple[HeadPattern, HeadPattern]:
    """Return the palette (spatial, temporal)."""
    return head_pattern(layout, geometry, "spatial"), head_pattern(layout, geometry, "temporal")


def window_tokens(layout: TokenLayout, geometry: Geometry) -> int:
    """Return how far a spatial head sees to either side, in tokens: the W of the paper and of the reference code.

    Whole tiles have no such width of their own; theirs is that of the band, exact to the token, that keeps as much.

    Raises:
        ValueError: If the density is out of range or below what text, sink and diagonal keep.
    """
    if geometry.rounding in ("ceil128", "floor128"):
        return _upstream_window(layout, geometry)
    pattern = band(layout, "spatial", sink=geometry.sink, spatial_unit=geometry.spatial_unit)
    return window_for_density(pattern, geometry.density).half_width * pattern.unit


@lru_cache(maxsize=16)
def upstream_profiled_patterns(
    layout: TokenLayout, frames: float = 2.0, has_sink: bool = True, text: Literal["kept", "cogvideox"] = "kept"
) -> tuple[HeadPattern, HeadPattern]:
    """Return the fixed patterns that the reference code profiles with, whatever the density that runs.

    A band of whole 128-token blocks, floor(frames * tokens_per_frame / 128) to each side, the outermost left out, over
    frame-major and over plain token-major tokens; the sink is the first ``tokens_per_frame`` keys of either order.

    Args:
        layout: Token counts of the sequence.
        frames: Half-width in frames: 2 for Wan and Cosmos, 1.5 for HunyuanVideo and CogVideoX.
        has_sink: Whether there is a sink: Wan and Cosmos.
        text: ``"kept"``: text rows and columns are kept whole (HunyuanVideo). ``"cogvideox"``: kept by the spatial
            pattern, whose blocks are counted from the first text token, so that the last tokens have no band; dropped
            by the temporal pattern, under which a text query keeps nothing.
    """
    width = math.floor(frames * layout.tokens_per_frame / 128) - 1
    spatial = temporal = replace(
        band(layout, "spatial", sink="layout" if has_sink else "none", half_width=width), unit=128
    )
    if text == "cogvideox":
        stop = min(math.ceil(layout.num_video_tokens / 128) * 128, layout.seq_len)
        spatial = replace(spatial, query_start=0, key_start=0, query_stop=stop, key_stop=stop)
        temporal = replace(temporal, text_start=0, text_stop=0)
    order = token_major_order(layout)
    return (
        HeadPattern("spatial", BlockMask.from_pattern(spatial, 128, 128)),
        HeadPattern("temporal", BlockMask.from_pattern(temporal, 128, 128), order, order),
    )


def _mask(layout: TokenLayout, geometry: Geometry, pattern: TokenPattern) -> BlockMask:
    if geometry.rounding == "tile":
        return BlockMask.from_tile_budget(pattern, geometry.density, *geometry.tile)
    if geometry.rounding == "token":
        pattern = window_for_density(pattern, geometry.density)
    else:
        width = _upstream_window(layout, geometry)
        # The width is in tokens, the pattern's half-width in units of its scaled difference.
        pattern = replace(pattern, half_width=(width - (geometry.band_edge == "open")) * pattern.query_scale)
    return BlockMask.from_pattern(pattern, *geometry.tile)


def _upstream_window(layout: TokenLayout, geometry: Geometry) -> int:
    """Return the reference code's half-width in tokens."""
    assert geometry.rounding in ("ceil128", "floor128")
    if geometry.num_padded_text_tokens is not None:
        layout = replace(layout, num_text_tokens=geometry.num_padded_text_tokens)
    return upstream_half_width(layout, geometry.density, geometry.rounding)
