"""What is drawn: coins and tiles, fair, fresh at each step and layer, and shared where the design says so."""

from __future__ import annotations

import pytest
import torch

from svg.block_mask import FULL
from svg.layout import TokenLayout
from svg.methods.oracle_blocks import OracleBlocks
from svg.methods.random_blocks import RandomBlocks
from svg.methods.random_choice import RandomChoice
from svg.methods.svg import SparseVideoGen
from svg.plan import AttentionPlan
from tests.methods.helpers import context_of, kept_by_head, random_inputs

LAYOUT = TokenLayout(8, 40)
METHODS = {
    "coins": RandomChoice(density=0.4, block_size=8),
    "tiles": RandomBlocks(density=0.4, block_size=8),
    "pure tiles": RandomBlocks(density=0.4, block_size=8, pure=True),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def kept(plan: AttentionPlan, num_heads: int = 12) -> torch.Tensor:
    return kept_by_head(plan, 1, num_heads, LAYOUT.seq_len)


@every_method
@pytest.mark.parametrize("change", [{"step": 3}, {"layer": 2}, {"seed": 1}], ids=str)
def test_another_step_layer_or_seed_draws_anew(method, change):
    inputs = random_inputs(LAYOUT, num_heads=12)
    plans = method.plan(inputs, context_of(LAYOUT)), method.plan(inputs, context_of(LAYOUT, **change))
    assert not torch.equal(*map(kept, plans))


@every_method
def test_branches_and_items_share_what_was_drawn(method):
    inputs = random_inputs(LAYOUT, batch=2, num_heads=12)
    cond, uncond = (method.plan(inputs, context_of(LAYOUT, branch=branch)) for branch in ("cond", "uncond"))
    assert torch.equal(kept(cond), kept(uncond))
    assert cond.assignment.shape == (1, 12)


@every_method
def test_devices_that_split_the_heads_draw_what_one_device_draws(method):
    whole = kept(method.plan(random_inputs(LAYOUT, num_heads=12), context_of(LAYOUT)))
    part = method.plan(random_inputs(LAYOUT, num_heads=5), context_of(LAYOUT, head_offset=4, num_heads=12))
    assert torch.equal(kept(part, 5), whole[:, 4:9])


@every_method
def test_what_is_drawn_does_not_depend_on_what_a_head_attends_to(method):
    plans = [method.plan(random_inputs(LAYOUT, num_heads=12, seed=seed), context_of(LAYOUT)) for seed in (0, 1)]
    assert torch.equal(*map(kept, plans))


def test_coins_are_fair():
    inputs = random_inputs(TokenLayout(3, 5), num_heads=100)
    method = RandomChoice(density=0.7, block_size=1)
    draws = [method.plan(inputs, context_of(TokenLayout(3, 5), step=step)).assignment for step in range(20)]
    assert 0.45 < torch.cat(draws).double().mean() < 0.55


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "layout", [TokenLayout(8, 40), TokenLayout(9, 37, 11), TokenLayout(9, 37, 11, "first")], ids=str
)
def test_random_tiles_are_as_many_as_svg_computes_to_half_a_percent(pure, density, layout):
    settings = {"density": density, "block_size": 8}
    inputs, context = random_inputs(layout), context_of(layout)
    theirs = RandomBlocks(pure=pure, **settings).plan(inputs, context).density(layout.seq_len)
    ours = SparseVideoGen(**settings).plan(inputs, context).density(layout.seq_len)
    assert float(theirs[1]) == pytest.approx(float(ours[1]), abs=0.005)


def test_random_tiles_match_what_svg_computes_where_its_tiles_are_partial():
    settings = {"density": 0.4, "block_size": 16, "rounding": "token"}
    inputs, context = random_inputs(LAYOUT), context_of(LAYOUT)
    tile = float(SparseVideoGen(**settings).plan(inputs, context).density(LAYOUT.seq_len)[1])
    assert tile > 0.45
    assert float(RandomBlocks(**settings).plan(inputs, context).density(LAYOUT.seq_len)[1]) == pytest.approx(
        tile, abs=0.01
    )


def tile_maps(method: RandomBlocks, layout: TokenLayout = LAYOUT) -> torch.Tensor:
    plan = method.plan(random_inputs(layout, num_heads=12), context_of(layout))
    return torch.stack([plan.patterns[index].mask.tile_map == FULL for index in plan.assignment[0]])


def test_first_frame_and_diagonal_are_kept_unless_pure():
    maps = tile_maps(METHODS["tiles"])
    assert maps[:, :, :5].all()
    assert maps.diagonal(dim1=1, dim2=2).all()
    pure = tile_maps(METHODS["pure tiles"])
    assert 0.3 < pure[:, :, :5].double().mean() < 0.5
    assert 0.3 < pure.diagonal(dim1=1, dim2=2).double().mean() < 0.5


@pytest.mark.parametrize("pure", [False, True])
def test_text_is_kept_in_both_variants(pure):
    layout = TokenLayout(8, 40, 16)
    maps = tile_maps(RandomBlocks(density=0.4, block_size=8, pure=pure), layout)
    assert maps[:, 40:].all()
    assert maps[:, :, 40:].all()


@pytest.mark.parametrize("name", ["tiles", "pure tiles"])
def test_every_row_keeps_as_many_tiles_as_the_next_give_or_take_one(name):
    counts = tile_maps(METHODS[name]).sum(2)
    assert int(counts.max() - counts.min()) <= 1


def test_each_head_has_tiles_of_its_own_drawn_evenly_over_the_map():
    maps = torch.cat([tile_maps(RandomBlocks(density=0.4, block_size=8, pure=True))])
    assert len({tuple(head.flatten().tolist()) for head in maps}) == 12
    by_column = maps.double().mean((0, 1))
    assert by_column.min() > 0.3
    assert by_column.max() < 0.5


def test_fewer_tiles_than_rows_are_refused():
    layout = TokenLayout(2, 2)
    with pytest.raises(ValueError, match=r"method\.sparsity .* is 0\.2, but .* raise it"):
        RandomBlocks(density=0.2, block_size=1, pure=True, sink="none").plan(random_inputs(layout), context_of(layout))


@pytest.mark.parametrize("method", [RandomBlocks, OracleBlocks])
def test_methods_whose_heads_have_masks_of_their_own_refuse_tiles_that_are_not_square(method):
    with pytest.raises(ValueError, match=r"method\.query_block_size is 12, but .* change method\.block_size"):
        method(density=0.5, query_block_size=12)
