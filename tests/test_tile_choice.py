"""Tiles by rank within a budget, against taking them one by one."""

from __future__ import annotations

import pytest
import torch

from svg.layout import TokenLayout
from svg.pattern import band
from svg.tile_choice import choose_tiles, evenly_over_rows, pattern_tiles, tile_areas


def ranks(heads: int, tiles: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(heads, tiles, tiles, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("length", "block_size"), [(1, 1), (10, 3), (12, 4), (7, 16)])
def test_areas_sum_to_all_pairs(length, block_size):
    areas = tile_areas(length, block_size)
    assert int(areas.sum()) == length**2
    assert int(areas[0, 0]) == min(length, block_size) ** 2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("length", [20, 22])
def test_tiles_are_taken_one_by_one_until_the_budget_is_full(share, length):
    areas, rank = tile_areas(length, 4), ranks(3, -(-length // 4))
    first = torch.eye(areas.shape[0], dtype=torch.bool)[None]
    budget = share * length**2
    kept = choose_tiles(first, rank, areas, budget)
    for head in range(3):
        expected, left = first[0].clone(), budget - float(areas[first[0]].sum())
        for tile in rank[head].masked_fill(first[0], 9).flatten().argsort().tolist():
            row, column = divmod(tile, areas.shape[1])
            if expected[row, column] or areas[row, column] > left:
                break
            expected[row, column] = True
            left -= float(areas[row, column])
        assert torch.equal(kept[head], expected)


def test_equal_ranks_are_taken_in_the_order_of_the_map():
    kept = choose_tiles(torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2), tile_areas(8, 4), 48.0)
    assert kept[0].tolist() == [[True, True], [True, False]]


def test_rows_grow_together_whatever_the_scores():
    first = torch.zeros(1, 9, 9, dtype=torch.bool)
    first[0, 2, :4] = True
    scores, tie = ranks(2, 9), ranks(2, 9, seed=1)[:, :, :1]
    scores[:, 3] *= 1e-3
    for tiles in range(12, 81):
        kept = choose_tiles(first, evenly_over_rows(scores, tie, first), tile_areas(9, 1), float(tiles))
        counts = kept.sum(2)
        assert (counts.sum(1) == tiles).all()
        others = counts[:, [0, 1, 3, 4, 5, 6, 7, 8]]
        assert int(others.max() - others.min()) <= 1
        assert (counts[:, 2] == torch.maximum(torch.tensor(4), counts[:, 2])).all()


def test_the_lowest_scores_of_a_row_come_first():
    scores, none = ranks(2, 6), torch.zeros(1, 6, 6, dtype=torch.bool)
    kept = choose_tiles(none, evenly_over_rows(scores, torch.zeros(2, 6, 1), none), tile_areas(6, 1), 18.0)
    assert torch.equal(kept, scores <= scores.sort(2).values[:, :, 2:3])


def test_tiles_of_a_pattern_are_those_it_touches():
    layout = TokenLayout(3, 4, num_text_tokens=2)
    diagonal = pattern_tiles(band(layout, "spatial", sink="none", half_width=0), 2)
    expected = torch.eye(7, dtype=torch.bool)
    expected[6], expected[:, 6] = True, True
    assert torch.equal(diagonal, expected)
    text_alone = pattern_tiles(band(layout, "spatial", sink="none", half_width=-1), 2)
    expected[range(6), range(6)] = False
    assert torch.equal(text_alone, expected)
