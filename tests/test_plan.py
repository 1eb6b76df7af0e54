"""Plans: laying out and bringing back, densities, lazy inputs, and patterns asked in original positions."""

from __future__ import annotations

import pytest
import torch

from svg.block_mask import BlockMask, tile_offsets
from svg.layout import TokenLayout
from svg.palette import Geometry, head_patterns
from svg.plan import AttentionPlan, HeadPattern
from tests.methods.helpers import inputs_of, kept_by_head, random_tensors

LAYOUT = TokenLayout(4, 6, num_text_tokens=3)
SPATIAL, TEMPORAL = head_patterns(LAYOUT, Geometry(0.7, 3))
ASSIGNMENTS = {
    "shared": torch.tensor([[1]]),
    "by head": torch.tensor([[0, 1, 2]]),
    "by item": torch.tensor([[2], [1]]),
    "by item and head": torch.tensor([[0, 1, 1], [2, 0, 1]]),
}
every_assignment = pytest.mark.parametrize("assignment", ASSIGNMENTS.values(), ids=ASSIGNMENTS)


def plan_of(assignment: torch.Tensor, key_lengths: torch.Tensor | None = None) -> AttentionPlan:
    return AttentionPlan((SPATIAL, TEMPORAL, HeadPattern("dense")), assignment, key_lengths)


@every_assignment
@pytest.mark.parametrize("is_head_last", [False, True], ids=["heads first", "heads inside tokens"])
def test_tensors_are_laid_out_by_each_heads_orders_and_brought_back(assignment, is_head_last):
    tensors = random_tensors(LAYOUT, batch=2)
    if is_head_last:
        tensors = tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors)
    plan = plan_of(assignment)
    query, key, value = plan.arrange(*tensors)
    chosen = assignment.expand(2, 3)
    for item in range(2):
        for head in range(3):
            pattern = plan.patterns[chosen[item, head]]
            everything = torch.arange(LAYOUT.seq_len)
            queries = everything if pattern.query_order is None else pattern.query_order
            keys = everything if pattern.key_order is None else pattern.key_order
            assert torch.equal(query[item, head], tensors[0][item, head, queries])
            assert torch.equal(key[item, head], tensors[1][item, head, keys])
            assert torch.equal(value[item, head], tensors[2][item, head, keys])
    assert torch.equal(plan.restore(query), tensors[0])


def test_a_plan_without_orders_hands_tensors_on_as_they_are():
    tensors = random_tensors(LAYOUT)
    plan = AttentionPlan((SPATIAL, HeadPattern("dense")), torch.tensor([[0, 1, 0]]))
    assert not plan.is_reordered
    assert all(x is y for x, y in zip(plan.arrange(*tensors), tensors, strict=True))
    assert plan.restore(tensors[0]) is tensors[0]


@every_assignment
@pytest.mark.parametrize("lengths", [None, (27, 24), (27, 25)], ids=str)
def test_densities_are_shares_of_the_pairs_without_padding(assignment, lengths):
    key_lengths = None if lengths is None else torch.tensor(lengths)
    plan = plan_of(assignment, key_lengths)
    token, tile = (float(share) for share in plan.density(LAYOUT.seq_len))
    kept = kept_by_head(plan, 2, 3, LAYOUT.seq_len).double()
    widths = torch.full((2,), 27.0) if lengths is None else key_lengths
    shares = kept.sum((-1, -2)) / (LAYOUT.seq_len * widths[:, None])
    assert token == pytest.approx(shares.mean().item())
    # Tiles of the two masks are kept whole, so what is computed is what is kept.
    assert tile == pytest.approx(token)


def test_partial_tiles_are_computed_whole():
    spatial, _ = head_patterns(LAYOUT, Geometry(0.6, 8, rounding="token"))
    token, tile = AttentionPlan((spatial,), torch.zeros(1, 1, dtype=torch.long)).density(LAYOUT.seq_len)
    assert float(token) <= 0.6 < float(tile)


def test_the_dense_plan_keeps_everything():
    plan = AttentionPlan.dense()
    assert plan.is_dense
    assert [float(share) for share in plan.density(9)] == [1.0, 1.0]
    assert not plan_of(torch.tensor([[2]])).is_dense


def test_a_pattern_answers_for_original_positions():
    queries, keys = torch.randperm(8), torch.randperm(8)
    offsets = tile_offsets(8, 2)
    mask = BlockMask.from_tiles(torch.rand(4, 4) < 0.5, offsets, offsets)
    pattern = HeadPattern("any", mask, queries, keys)
    original = torch.zeros(8, 8, dtype=torch.bool)
    original[queries[:, None], keys[None, :]] = mask.dense()
    positions = torch.arange(8)
    assert torch.equal(pattern.keep(positions[:, None], positions[None, :]), original)
    assert HeadPattern("dense").keep(positions[:, None], positions[None, :]).all()


def test_inputs_finish_all_queries_and_keys_once_and_rows_when_asked():
    query, key, value = random_tensors(LAYOUT, batch=2)
    inputs = inputs_of(query, key, value)
    calls = []
    finish = inputs.finish_query
    inputs.finish_query = lambda projection, rows: calls.append(rows) or finish(projection, rows)
    assert torch.equal(inputs.query(), query)
    assert inputs.query() is inputs.query()
    assert torch.equal(inputs.key(), key)
    assert torch.equal(inputs.value(), value)
    rows = torch.tensor([5, 5, 0])
    assert torch.equal(inputs.query_rows(rows), query[:, :, rows])
    assert [call if call is None else call.tolist() for call in calls] == [None, [5, 5, 0]]
    assert inputs.seq_len == LAYOUT.seq_len
