"""Plans that no method of ours makes, small and odd: what every backend must compute or refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from svg.block_mask import FULL, BlockMask, tile_offsets
from svg.layout import TokenLayout
from svg.palette import Geometry, head_patterns
from svg.pattern import TokenPattern, band
from svg.plan import AttentionPlan, HeadPattern

BATCH, NUM_HEADS, SEQ_LEN, HEAD_DIM = 2, 3, 83, 16

CASES: dict[str, Callable[[], AttentionPlan]] = {}


def case(function: Callable[[], AttentionPlan]) -> Callable[[], AttentionPlan]:
    CASES[function.__name__] = function
    return function


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tiles(share: float, query_size: int, key_size: int, seed: int) -> BlockMask:
    queries, keys = tile_offsets(SEQ_LEN, query_size), tile_offsets(SEQ_LEN, key_size)
    keep = torch.rand(queries.numel() - 1, keys.numel() - 1, generator=_random(seed)) < share
    return BlockMask.from_tiles(keep, queries, keys)


def _band(half_width: int, **settings: int) -> TokenPattern:
    return TokenPattern(SEQ_LEN, SEQ_LEN, half_width, query_stop=SEQ_LEN, key_stop=SEQ_LEN, **settings)


def _band_mask(half_width: int, query_size: int = 32, key_size: int = 16, **settings: int) -> BlockMask:
    return BlockMask.from_pattern(_band(half_width, **settings), query_size, key_size)


def _one_tile(query_size: int = 32, key_size: int = 16) -> BlockMask:
    queries, keys = tile_offsets(SEQ_LEN, query_size), tile_offsets(SEQ_LEN, key_size)
    keep = torch.zeros(queries.numel() - 1, keys.numel() - 1, dtype=torch.bool)
    keep[1, -2] = True
    return BlockMask.from_tiles(keep, queries, keys)


def _heads(*indices: int) -> torch.Tensor:
    return torch.tensor([indices])


@case
def everything():
    return AttentionPlan.dense()


@case
def everything_with_unequal_lengths():
    return AttentionPlan.dense(torch.tensor([SEQ_LEN, 61]))


@case
def everything_with_equal_lengths():
    return AttentionPlan.dense(torch.tensor([40, 40]))


@case
def an_item_without_keys():
    return AttentionPlan.dense(torch.tensor([0, 17]))


@case
def one_band_for_all():
    return AttentionPlan((HeadPattern("band", _band_mask(11)),), torch.zeros(1, 1, dtype=torch.long))


@case
def a_band_of_square_tiles():
    return AttentionPlan((HeadPattern("band", _band_mask(20, 16, 16)),), _heads(0, 0, 0))


@case
def a_mask_per_head_with_orders_that_differ_for_queries_and_keys():
    patterns = tuple(
        HeadPattern(
            f"head{index}",
            _tiles(0.5, 32, 16, seed=index),
            torch.randperm(SEQ_LEN, generator=_random(10 + index)),
            None if index == 1 else torch.randperm(SEQ_LEN, generator=_random(20 + index)),
        )
        for index in range(NUM_HEADS)
    )
    return AttentionPlan(patterns, _heads(2, 0, 1))


@case
def everything_beside_a_single_tile():
    queries, keys = tile_offsets(SEQ_LEN, 32), tile_offsets(SEQ_LEN, 16)
    all_tiles = BlockMask.from_tiles(torch.ones(3, 6, dtype=torch.bool), queries, keys)
    patterns = HeadPattern("dense"), HeadPattern("one_tile", _one_tile()), HeadPattern("all_tiles", all_tiles)
    return AttentionPlan(patterns, _heads(0, 1, 2))


@case
def a_choice_per_item_and_head():
    patterns = HeadPattern("dense"), HeadPattern("tiles", _tiles(0.3, 32, 16, 3)), HeadPattern("band", _band_mask(7))
    return AttentionPlan(patterns, torch.tensor([[0, 1, 2], [2, 2, 1]]))


@case
def a_choice_per_item():
    patterns = HeadPattern("tiles", _tiles(0.3, 32, 16, 4)), HeadPattern("band", _band_mask(7))
    return AttentionPlan(patterns, torch.tensor([[1], [0]]))


@case
def a_band_with_lengths_cut_inside_tiles():
    return AttentionPlan((HeadPattern("band", _band_mask(15)),), _heads(0, 0, 0), torch.tensor([SEQ_LEN, 37]))


@case
def lengths_that_leave_some_queries_without_keys():
    patterns = HeadPattern("one_tile", _one_tile()), HeadPattern("tiles", _tiles(0.4, 32, 16, 5))
    return AttentionPlan(patterns, _heads(0, 1, 1), torch.tensor([20, 70]))


@case
def partial_tiles_whose_queries_keep_nothing():
    pattern = TokenPattern(SEQ_LEN, SEQ_LEN, 4, query_start=9, query_stop=50, key_start=30, key_stop=61)
    mask = BlockMask.from_pattern(pattern, 32, 16)
    return AttentionPlan((HeadPattern("short_band", mask),), _heads(0, 0, 0))


@case
def padding_that_sees_only_itself():
    mask = _band_mask(13, valid_stop=55, sink_start=2, sink_stop=7)
    return AttentionPlan((HeadPattern("padded", mask),), _heads(0, 0, 0))


@case
def a_stride_of_sinks_and_text():
    mask = _band_mask(3, sink_stride=5, text_start=70, text_stop=78)
    return AttentionPlan((HeadPattern("strided", mask),), _heads(0, 0, 0))


@case
def a_slope_in_units():
    mask = _band_mask(30, query_scale=3, key_scale=4, unit=2)
    return AttentionPlan((HeadPattern("slope", mask),), _heads(0, 0, 0))


@case
def partial_tiles_narrower_than_their_pattern():
    # A mask may drop tiles that its pattern keeps: the tiles decide.
    mask = _band_mask(25)
    tile_map = mask.tile_map.clone()
    tile_map[:, 1::2] = 0
    return AttentionPlan((HeadPattern("thinned", replace(mask, tile_map=tile_map)),), _heads(0, 0, 0))


@case
def svg_with_text_first():
    layout = TokenLayout(7, 11, num_text_tokens=6, text_position="first")
    return AttentionPlan(head_patterns(layout, Geometry(0.7, 16)), _heads(0, 1, 1))


@case
def svg_exact_to_the_token():
    layout = TokenLayout(7, 11, num_text_tokens=6)
    return AttentionPlan(head_patterns(layout, Geometry(0.7, 32, "token")), torch.tensor([[0, 1, 1], [1, 0, 0]]))


@case
def svg_with_the_reference_codes_order():
    layout = TokenLayout(1, SEQ_LEN)
    pattern = replace(band(layout, "temporal", keys="plain"), half_width=12)
    mask = BlockMask.from_pattern(pattern, 32, 32)
    return AttentionPlan((HeadPattern("temporal", mask),), _heads(0, 0, 0))


@case
def sparse_videogen_in_tiles_with_more_queries_than_keys():
    palette = head_patterns(TokenLayout(4, 19, 7), Geometry(0.7, 8, query_block_size=12))
    return AttentionPlan(palette, _heads(0, 1, 1))


@case
def clusters_of_unequal_size():
    queries = torch.tensor([0, 1, 30, 31, 64, SEQ_LEN])
    keys = torch.tensor([0, 17, 18, 59, SEQ_LEN])
    keep = torch.rand(5, 4, generator=_random(6)) < 0.5
    return AttentionPlan((HeadPattern("clusters", BlockMask.from_tiles(keep, queries, keys)),), _heads(0, 0, 0))


@case
def an_empty_cluster():
    queries, keys = torch.tensor([0, 40, 40, SEQ_LEN]), torch.tensor([0, 0, 33, SEQ_LEN])
    keep = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    return AttentionPlan((HeadPattern("clusters", BlockMask.from_tiles(keep, queries, keys)),), _heads(0, 0, 0))


@case
def tiles_of_another_size_in_each_mask():
    patterns = HeadPattern("coarse", _tiles(0.5, 32, 32, 7)), HeadPattern("fine", _tiles(0.5, 8, 4, 8))
    return AttentionPlan(patterns, _heads(0, 1, 0))


@case
def tiles_of_one_token():
    return AttentionPlan((HeadPattern("tokens", _tiles(0.5, 1, 1, 9)),), _heads(0, 0, 0))


@case
def one_tile_that_holds_everything():
    offsets = tile_offsets(SEQ_LEN, 128)
    mask = BlockMask(offsets, offsets, torch.tensor([[FULL]], dtype=torch.int8))
    return AttentionPlan((HeadPattern("whole", mask),), _heads(0, 0, 0))


def tensors(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value ``(BATCH, NUM_HEADS, SEQ_LEN, HEAD_DIM)`` in the original order."""
    shape = BATCH, NUM_HEADS, SEQ_LEN, HEAD_DIM
    query, key, value = (torch.randn(shape, generator=_random(seed + i), dtype=torch.float64) for i in range(3))
    return query.to(dtype), key.to(dtype), value.to(dtype)
