"""Block masks against the N x N mask of their pattern, on ragged tails and tiles of any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask, _smallest_that_fit, tile_offsets
from svg.layout import TokenLayout
from svg.pattern import TokenPattern, band

LAYOUTS = [
    TokenLayout(3, 5),
    TokenLayout(4, 7, num_text_tokens=6),
    TokenLayout(4, 7, num_text_tokens=6, text_position="first"),
    TokenLayout(1, 9),
    TokenLayout(9, 2),
    TokenLayout(1, 1),
]
BLOCK_SIZES = [1, 3, 16, 128]


def bands(layout: TokenLayout) -> list[TokenPattern]:
    kinds = [
        band(layout, "spatial"),
        band(layout, "spatial", sink="none"),
        band(layout, "spatial", sink="layout", spatial_unit="frame"),
        band(layout, "temporal"),
        band(layout, "temporal", sink="first_frame", keys="plain"),
        band(layout, "temporal", sink="layout", keys="plain"),
    ]
    stop = layout.seq_len - 2
    if stop > 0:
        kinds.append(replace(kinds[0], valid_stop=stop, text_stop=min(stop, kinds[0].text_stop)))
    return [replace(kind, half_width=width) for kind in kinds for width in (-1, 0, 2, 9, 40, 1000)]


def test_a_mask_knows_whether_any_tile_is_partial():
    offsets, pattern = tile_offsets(7, 3), TokenPattern(7, 7, 1, query_stop=7, key_stop=7)
    for state, expected in ((SKIPPED, False), (PARTIAL, True), (FULL, False)):
        tiles = torch.zeros(3, 3, dtype=torch.int8)
        tiles[1, 2] = state
        assert BlockMask(offsets, offsets, tiles, pattern).has_partial is expected


def whole(pattern: TokenPattern) -> torch.Tensor:
    positions = torch.arange(pattern.query_len)
    return pattern.keep(positions[:, None], positions[None, :])


def per_tile(pairs: torch.Tensor, mask: BlockMask) -> torch.Tensor:
    """Return how many of the pairs, bool ``(queries, keys)``, lie in each tile."""
    rows = [part.sum(0) for part in pairs.long().split(mask.query_offsets.diff().tolist())]
    return torch.stack([part.sum(1) for part in torch.stack(rows).split(mask.key_offsets.diff().tolist(), 1)], 1)


def areas(mask: BlockMask) -> torch.Tensor:
    return per_tile(torch.ones(mask.query_len, mask.key_len, dtype=torch.bool), mask)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_tiles_cover_the_sequence_and_only_the_last_is_shorter(length, block_size):
    sizes = tile_offsets(length, block_size).diff()
    assert int(sizes.sum()) == length
    assert (sizes[:-1] == block_size).all()
    assert 1 <= int(sizes[-1]) <= block_size


def test_a_block_size_below_one_is_refused():
    with pytest.raises(ValueError, match=r"method\.block_size is 0; it must be at least 1"):
        tile_offsets(5, 0)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("query_block", BLOCK_SIZES)
@pytest.mark.parametrize("key_block", [1, 3, 16])
def test_a_mask_keeps_exactly_its_pattern(layout, query_block, key_block):
    for pattern in bands(layout):
        expected = whole(pattern)
        mask = BlockMask.from_pattern(pattern, query_block, key_block)
        assert torch.equal(mask.dense(), expected)
        counts = per_tile(expected, mask)
        assert torch.equal(counts[mask.tile_map == FULL], areas(mask)[mask.tile_map == FULL])
        assert not counts[mask.tile_map == SKIPPED].any()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_a_band_alone_leaves_no_tile_partial_that_is_whole_or_empty(layout, block_size):
    for half_width in (-1, 0, 2, 9, 40, 1000):
        pattern = band(TokenLayout(layout.num_frames, layout.tokens_per_frame), "spatial", sink="none")
        pattern = replace(pattern, half_width=half_width)
        mask = BlockMask.from_pattern(pattern, block_size, block_size)
        counts = per_tile(whole(pattern), mask)
        assert torch.equal(mask.tile_map == SKIPPED, counts == 0)
        assert torch.equal(mask.tile_map == FULL, counts == areas(mask))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_pairs_are_counted_as_they_are_kept_and_as_they_are_computed(layout, block_size):
    for pattern in bands(layout)[:: 1 if layout.seq_len < 20 else 5]:
        mask, expected = BlockMask.from_pattern(pattern, block_size, 3), whole(pattern)
        for key_length in (None, layout.seq_len, layout.seq_len // 2, 1, 0):
            assert mask.kept_pairs(key_length) == int(expected[:, :key_length].sum())
            real = torch.zeros_like(expected)
            real[:, :key_length] = True
            assert mask.computed_pairs(key_length) == int(per_tile(real, mask)[mask.tile_map != SKIPPED].sum())
        assert mask.token_density == pytest.approx(expected.double().mean().item())


@pytest.mark.parametrize("shape", ["column by row", "grid", "pairs", "scalars"])
def test_pairs_may_be_asked_in_any_shape_that_broadcasts(shape):
    pattern = replace(band(TokenLayout(4, 5), "spatial"), half_width=3)
    mask, expected = BlockMask.from_pattern(pattern, 3, 4), whole(pattern)
    query, key = torch.tensor([7, 0, 19]), torch.tensor([4, 19, 2])
    if shape == "column by row":
        assert torch.equal(mask.keep(query[:, None], key[None]), expected[query][:, key])
    elif shape == "grid":
        grid = query[:, None].repeat(1, 3), key[None].repeat(3, 1)
        assert torch.equal(mask.keep(*grid), expected[query][:, key])
    elif shape == "pairs":
        assert torch.equal(mask.keep(query, key), expected[query, key])
    else:
        assert mask.keep(query[0], key[0]) == expected[7, 4]


def test_tiles_of_unequal_size_are_kept_whole():
    keep = torch.tensor([[True, False, True], [False, True, False]])
    mask = BlockMask.from_tiles(keep, torch.tensor([0, 2, 7]), torch.tensor([0, 1, 4, 6]))
    expected = torch.zeros(7, 6, dtype=torch.bool)
    expected[:2, :1], expected[:2, 4:], expected[2:, 1:4] = True, True, True
    assert torch.equal(mask.dense(), expected)
    assert (mask.query_len, mask.key_len) == (7, 6)
    assert mask.token_density == mask.tile_density == pytest.approx(21 / 42)


def test_lists_hold_the_tiles_of_each_row_in_ascending_order():
    states = [[FULL, SKIPPED, PARTIAL, FULL], [SKIPPED] * 4, [PARTIAL, PARTIAL, FULL, SKIPPED]]
    pattern = TokenPattern(3, 4, 0, query_stop=3, key_stop=4)
    mask = BlockMask(torch.arange(4), torch.arange(5), torch.tensor(states, dtype=torch.int8), pattern)
    for (count, index), state in ((mask.full, FULL), (mask.partial, PARTIAL)):
        assert count.dtype == index.dtype == torch.int32
        for row, row_states in enumerate(states):
            assert index[row, : count[row]].tolist() == [column for column, x in enumerate(row_states) if x == state]


def test_a_map_that_does_not_fit_its_offsets_is_refused():
    with pytest.raises(ValueError, match=r"tile_map has shape \(2, 2\), the offsets say \(1, 2\)"):
        BlockMask.from_tiles(torch.ones(2, 2, dtype=torch.bool), tile_offsets(4, 4), tile_offsets(4, 2))


def test_partial_tiles_without_a_pattern_are_refused():
    with pytest.raises(ValueError, match="needs the pattern that they keep"):
        BlockMask(tile_offsets(4, 4), tile_offsets(4, 4), torch.full((1, 1), PARTIAL, dtype=torch.int8))


# Whole tiles within a budget.


def always_kept(pattern: TokenPattern, mask: BlockMask) -> torch.Tensor:
    """Return the tiles that hold a sink or text pair."""
    return per_tile(whole(replace(pattern, half_width=-1)), mask) > 0


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("density", [0.4, 0.6, 0.8, 0.95, 1.0])
def test_a_budget_is_filled_to_one_tile_with_sink_text_and_diagonal_inside(kind, layout, block_size, density):
    pattern = band(layout, kind)
    try:
        mask = BlockMask.from_tile_budget(pattern, density, block_size, block_size)
    except ValueError as error:
        floor = float(str(error).split("alone keep ")[1].split(";")[0])
        assert floor > density - 1e-4
        return
    largest = min(block_size, layout.seq_len) ** 2 / layout.seq_len**2
    assert not (mask.tile_map == PARTIAL).any()
    assert mask.tile_density <= density + 1e-12
    assert mask.tile_density > density - largest - 1e-12 or (mask.tile_map == FULL).all()
    assert (mask.tile_map[always_kept(pattern, mask)] == FULL).all()
    assert (mask.tile_map == FULL).any(1).all()


def test_a_budget_takes_the_tiles_nearest_to_the_diagonal():
    layout = TokenLayout(6, 8)
    for kind in ("spatial", "temporal"):
        pattern = band(layout, kind)
        mask = BlockMask.from_tile_budget(pattern, 0.5, 4, 4)
        exact = BlockMask.from_pattern(replace(pattern, half_width=10**6), 4, 4)
        assert (exact.tile_map == FULL).all()
        centre_of_query = torch.arange(12)[:, None] * 4 + 1.5
        centre_of_key = torch.arange(12)[None, :] * 4 + 1.5 - pattern.key_start
        distance = (pattern.query_scale * centre_of_query - pattern.key_scale * centre_of_key).abs()
        band_tiles = torch.arange(12)[None, :].expand(12, 12) * 4 >= pattern.sink_stop
        taken = (mask.tile_map == FULL) & band_tiles
        left = (mask.tile_map == SKIPPED) & band_tiles
        step = 4 * max(pattern.query_scale, pattern.key_scale)
        assert distance[taken].max() <= distance[left].min() + step / 2


@pytest.mark.parametrize("density", [0.25, 0.27, 0.29, 0.31])
def test_ties_in_a_budget_fall_over_all_rows_alike(density):
    mask = BlockMask.from_tile_budget(band(TokenLayout(32, 8), "spatial", sink="none"), density, 4, 4)
    counts = (mask.tile_map == FULL).sum(1)[12:-12].double()
    assert counts.max() - counts.min() <= 2
    assert abs(counts[:20].mean() - counts[20:].mean()) <= 0.2


def test_a_budget_below_sink_text_and_diagonal_is_refused():
    with pytest.raises(ValueError, match=r"method\.sparsity .* is 0\.3, but text, first frame .* alone keep 0\.3778"):
        BlockMask.from_tile_budget(band(TokenLayout(3, 5), "spatial"), 0.3, 1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_what_fits_a_budget_is_what_sorting_everything_would_take(seed):
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that many are equal; some of a million, so that most bins are empty.
    rank = torch.randint(0, 6, (13, 17), generator=generator).double() * (1e6 if seed % 2 else 0.25)
    candidates = torch.rand(13, 17, generator=generator) < 0.7
    area = torch.randint(1, 9, (13, 17), generator=generator).double()
    for share in (0.0, 0.01, 0.3, 0.77, 1.0):
        budget = share * float(area.sum())
        order = rank.masked_fill(~candidates, torch.inf).flatten().argsort(stable=True)[: int(candidates.sum())]
        expected = torch.zeros(13 * 17, dtype=torch.bool)
        expected[order[area.flatten()[order].cumsum(0) <= budget]] = True
        assert torch.equal(_smallest_that_fit(rank, candidates, area, budget).flatten(), expected)
