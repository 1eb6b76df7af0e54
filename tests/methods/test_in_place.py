"""Temporal heads without the reordering: the same pairs, in more tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from svg import backends
from svg.backends._flex_tiles import MOST_RUNS, mask_mod, palette
from svg.backends.cpu_gather import CpuGatherBackend
from svg.backends.flex import FlexBackend
from svg.backends.reference import ReferenceBackend
from svg.block_mask import FULL, PARTIAL, SKIPPED
from svg.in_place import in_place
from svg.layout import TokenLayout
from svg.methods.svg import SparseVideoGen
from svg.plan import AttentionPlan, HeadPattern
from tests.methods.helpers import context_of, inputs_of, kept_by_head, masked_attention, random_tensors

LAYOUTS = [TokenLayout(7, 24), TokenLayout(7, 23, 5), TokenLayout(6, 25, 4, "first")]


def methods(**settings):
    return [
        SparseVideoGen(density=0.45, block_size=8, num_sampled_rows=9, layout_transform=transforms, **settings)
        for transforms in (True, False)
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("rounding", ["tile", "token"])
def test_the_same_pairs_are_kept_by_the_same_heads_and_more_tiles_are_computed(layout, rounding):
    tensors = random_tensors(layout, num_heads=6)
    plans = [m.plan(inputs_of(*tensors), context_of(layout)) for m in methods(rounding=rounding)]
    assert torch.equal(plans[0].assignment, plans[1].assignment) and plans[0].assignment.unique().numel() == 2
    kept = [kept_by_head(plan, 1, 6, layout.seq_len) for plan in plans]
    assert torch.equal(*kept)
    assert not plans[1].is_reordered
    (token, tile), (token_in_place, tile_in_place) = (map(float, plan.density(layout.seq_len)) for plan in plans)
    assert token_in_place == pytest.approx(token)
    assert tile_in_place > tile
    temporal, stays = (method.palette(layout)[1].mask for method in methods(rounding=rounding))
    assert stays.tile_density > temporal.tile_density + 0.1


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_tile_is_full_where_all_of_its_pairs_are_kept_and_partial_where_some_are(layout):
    pattern = in_place(methods()[0].palette(layout)[1], 12, 8)
    dense = pattern.mask.dense()
    for row, queries in enumerate(dense.split(12)):
        for column, tile in enumerate(queries.split(8, dim=1)):
            expected = FULL if tile.all() else PARTIAL if tile.any() else SKIPPED
            assert pattern.mask.tile_map[row, column] == expected
    assert pattern.mask.kept_pairs() == int(dense.sum())
    assert pattern.mask.kept_pairs(key_length=61) == int(dense[:, :61].sum())


@pytest.mark.parametrize(
    "backend", [ReferenceBackend(), CpuGatherBackend(), FlexBackend(compiled=False)], ids=lambda backend: backend.name
)
@pytest.mark.parametrize("rounding", ["tile", "token"])
def test_backends_compute_it(backend, rounding):
    layout = LAYOUTS[1]
    tensors = [x.double() for x in random_tensors(layout, batch=2)]
    plan = methods(rounding=rounding)[1].plan(inputs_of(*tensors), context_of(layout))
    expected = masked_attention(*tensors, kept_by_head(plan, 2, 3, layout.seq_len))
    assert torch.allclose(backend(*tensors, plan), expected, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("has_dense_head", [False, True])
def test_flex_reads_whole_tiles_as_runs_of_keys(layout, has_dense_head):
    patterns = methods()[1].patterns(layout) + (HeadPattern("dense"),) * has_dense_head
    plan = AttentionPlan(patterns, torch.tensor([[1, 0, 1, len(patterns) - 1]]))
    tiles = palette(plan, layout.seq_len, (8, 8), torch.device("cpu"))
    assert tiles.runs is not None and tiles.runs.shape[:3] == (len(patterns), MOST_RUNS, 2)
    query, key = torch.arange(layout.seq_len)[:, None], torch.arange(layout.seq_len)[None, :]
    by_run, by_state = (
        mask_mod(each, plan.assignment, None, (8, 8), layout.seq_len) for each in (tiles, replace(tiles, runs=None))
    )
    for head, kept in enumerate(kept_by_head(plan, 1, 4, layout.seq_len)[0]):
        at = torch.tensor(0), torch.tensor(head), query, key
        assert torch.equal(by_run(*at), kept) and torch.equal(by_state(*at), kept)


def test_flex_has_no_runs_of_tiles_that_are_kept_in_part_or_moved():
    for method in (*methods(rounding="token"), methods()[0]):
        plan = AttentionPlan(method.patterns(LAYOUTS[0]), torch.tensor([[0, 1]]))
        assert palette(plan, LAYOUTS[0].seq_len, (8, 8), torch.device("cpu")).runs is None


@pytest.mark.gpu
def test_flex_compiles_it_on_a_gpu():
    layout = TokenLayout(6, 200, 9)
    tensors = random_tensors(layout, num_heads=6, head_dim=64)
    method = SparseVideoGen(density=0.6, block_size=128, num_sampled_rows=9, layout_transform=False)
    plan = AttentionPlan(method.patterns(layout), torch.tensor([[0, 1, 0, 1, 1, 0]]))
    expected = masked_attention(*tensors, kept_by_head(plan, 1, 6, layout.seq_len))
    assert not plan.is_reordered and plan.patterns[1].mask.has_partial
    assert torch.allclose(FlexBackend()(*(x.cuda() for x in tensors), plan).cpu(), expected, atol=5e-3)


def test_triton_refuses_it_by_the_setting():
    layout = LAYOUTS[0]
    tensors = random_tensors(layout)
    plan = methods()[1].plan(inputs_of(*tensors), context_of(layout))
    with pytest.raises(ValueError, match=r"method\.layout_transform=false.*use backend=cpu_gather"):
        backends.get("triton_block_sparse").check(tensors[0], plan)


def test_it_is_profiled_as_the_reordered_pattern_whose_band_a_kernel_knows():
    reordered, stays = (method.profiled_patterns(LAYOUTS[0]) for method in methods())
    assert all(one is other for one, other in zip(reordered, stays, strict=True))


def test_what_is_not_reordered_stays_as_it_is():
    spatial = methods()[1].palette(LAYOUTS[0])[0]
    assert in_place(spatial, 8, 8) is spatial
    everything = HeadPattern("dense")
    assert in_place(everything, 8, 8) is everything and AttentionPlan((everything,), torch.zeros(1, 1)).is_dense
