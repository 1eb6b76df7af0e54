"""The yardsticks: the choice made on all queries, and the tiles with the most attention."""

from __future__ import annotations

import pytest
import torch

from svg import operations
from svg.block_mask import FULL, tile_offsets
from svg.layout import TokenLayout
from svg.methods.oracle_blocks import OracleBlocks
from svg.methods.oracle_choice import OracleChoice
from svg.methods.random_blocks import RandomBlocks
from svg.methods.svg import SparseVideoGen
from tests.methods.helpers import context_of, inputs_of, kept_by_head, masked_attention, random_inputs, random_tensors

LAYOUT = TokenLayout(7, 23)


@pytest.mark.parametrize("scores_at_a_time", [1, 3 * 7 * 23 * 50, 10**9], ids=["row by row", "in chunks", "at once"])
def test_the_oracles_errors_are_those_of_the_whole_outputs(monkeypatch, scores_at_a_time):
    monkeypatch.setattr(operations, "MOST_SCORES_CPU", scores_at_a_time)
    tensors = random_tensors(LAYOUT)
    method = OracleChoice(density=0.5, block_size=4)
    plan = method.plan(inputs_of(*tensors), context_of(LAYOUT))
    positions = torch.arange(LAYOUT.seq_len)
    query, key, value = (x.double() for x in tensors)
    full = masked_attention(query, key, value, torch.ones(1, dtype=torch.bool))
    expected = []
    for pattern in method.palette(LAYOUT):
        output = masked_attention(query, key, value, pattern.keep(positions[:, None], positions[None, :]))
        expected.append((output - full).square().mean((-1, -2)))
    assert torch.allclose(plan.diagnostics["error"].double(), torch.stack(expected), rtol=1e-4)
    assert torch.equal(plan.assignment, torch.stack(expected).argmin(0))


def test_no_sampled_choice_has_a_smaller_error_than_the_oracles():
    inputs = random_inputs(LAYOUT, num_heads=16)
    settings = {"density": 0.5, "block_size": 4}
    oracle = OracleChoice(**settings).plan(inputs, context_of(LAYOUT))
    by_kind = oracle.diagnostics["error"]
    best = by_kind.gather(0, oracle.assignment[None])
    for seed in range(3):
        sampled = SparseVideoGen(num_sampled_rows=4, **settings).plan(inputs, context_of(LAYOUT, seed=seed))
        assert (by_kind.gather(0, sampled.assignment[None]) >= best).all()


def attention_kept(method, tensors, layout: TokenLayout) -> torch.Tensor:
    """Return the share of each head's attention that the plan keeps, ``(batch, num_heads)``."""
    plan = method.plan(inputs_of(*tensors), context_of(layout))
    batch, num_heads = tensors[0].shape[:2]
    query, key, _ = (x.double() for x in tensors)
    probability = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    kept = kept_by_head(plan, batch, num_heads, layout.seq_len)
    return (probability * kept).sum((-1, -2)) / layout.seq_len


@pytest.mark.parametrize("layout", [LAYOUT, TokenLayout(7, 23, 9)], ids=str)
def test_the_best_tiles_keep_more_attention_than_any_other_method_in_every_head(layout):
    query, key, value = random_tensors(layout, batch=2, num_heads=4)
    tensors = 3 * query, key, value
    settings = {"density": 0.5, "block_size": 4}
    best = attention_kept(OracleBlocks(**settings), tensors, layout)
    for other in (OracleChoice(**settings), RandomBlocks(**settings), RandomBlocks(pure=True, **settings)):
        assert (attention_kept(other, tensors, layout) < best).all()


def test_the_best_tiles_are_the_first_by_attention_per_pair_with_one_in_every_row():
    tensors = random_tensors(LAYOUT, batch=2)
    query, key, _ = (x.double() for x in tensors)
    probability = (6 * query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    plan = OracleBlocks(density=0.4, block_size=4).plan(
        inputs_of(6 * tensors[0], tensors[1], tensors[2]), context_of(LAYOUT)
    )
    for item in range(2):
        for head in range(3):
            mask = plan.patterns[plan.assignment[item, head]].mask
            rows = torch.stack([part.sum(0) for part in probability[item, head].split(4)])
            mass = torch.stack([part.sum(1) for part in rows.split(4, 1)], 1)
            sizes = mask.query_offsets.diff()
            per_pair = mass / (sizes[:, None] * sizes[None, :])
            kept = mask.tile_map == FULL
            assert kept[torch.arange(kept.shape[0]), per_pair.argmax(1)].all()
            chosen_beside = kept.clone()
            chosen_beside[torch.arange(kept.shape[0]), per_pair.argmax(1)] = False
            assert per_pair[chosen_beside].min() >= per_pair[~kept].max() - 1e-7


@pytest.mark.parametrize(("seq_len", "block_size"), [(5, 3), (7, 4), (29, 4), (33, 16), (50, 7), (12, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_every_query_keeps_a_key_at_the_least_density_on_a_ragged_sequence(seq_len, block_size, seed):
    layout = TokenLayout(1, seq_len)
    sizes = tile_offsets(seq_len, block_size).diff()
    settings = {"density": (sizes.square().sum() / seq_len**2).item() + 1e-6, "sink": "none", "block_size": block_size}
    plan = OracleBlocks(**settings).plan(random_inputs(layout, seed=seed), context_of(layout))
    assert kept_by_head(plan, 1, 3, seq_len).any(-1).all()
    for pattern in plan.patterns:
        assert pattern.mask.computed_pairs() <= sizes.square().sum()


@pytest.mark.parametrize("density", [0.3, 0.5, 0.8])
def test_the_best_tiles_are_as_many_as_svg_computes_to_half_a_percent(density):
    settings = {"density": density, "block_size": 4}
    inputs, context = random_inputs(LAYOUT), context_of(LAYOUT)
    theirs = OracleBlocks(**settings).plan(inputs, context).density(LAYOUT.seq_len)
    ours = SparseVideoGen(**settings).plan(inputs, context).density(LAYOUT.seq_len)
    assert float(theirs[1]) == pytest.approx(float(ours[1]), abs=0.005)
