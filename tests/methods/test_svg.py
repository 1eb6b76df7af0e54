"""Sparse VideoGen's decisions on heads whose kind is known, and the ways in which its sampling may not matter."""

from __future__ import annotations

import pytest
import torch

from svg.bands import SPATIAL, TEMPORAL
from svg.layout import TokenLayout
from svg.methods.oracle_choice import OracleChoice
from svg.methods.svg import SparseVideoGen
from tests.methods.helpers import context_of, inputs_of, random_inputs, random_tensors

LAYOUT = TokenLayout(8, 30)
WITH_TEXT = TokenLayout(8, 30, 6)


def head_of_one_kind(layout: TokenLayout, kind: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value ``(seq_len, head_dim)`` of a head that attends to its own frame or its own place."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.arange(layout.num_video_tokens)
    group = video // layout.tokens_per_frame if kind == "spatial" else video % layout.tokens_per_frame
    code = torch.zeros(layout.seq_len, layout.seq_len)
    code[layout.video_start + video, group] = 1
    direction = 12 * code[:, : int(group.max()) + 1] + 0.1 * torch.randn(
        layout.seq_len, int(group.max()) + 1, generator=generator
    )
    direction = torch.nn.functional.pad(direction, (0, 32 - direction.shape[1]))
    return direction, direction, torch.randn(layout.seq_len, 32, generator=generator)


def heads(layout: TokenLayout, *kinds: str):
    per_head = [head_of_one_kind(layout, kind, seed) for seed, kind in enumerate(kinds)]
    return [torch.stack(tensors)[None] for tensors in zip(*per_head, strict=True)]


@pytest.mark.parametrize("layout", [LAYOUT, WITH_TEXT, TokenLayout(8, 30, 6, "first")], ids=str)
@pytest.mark.parametrize("rounding", ["tile", "token"])
@pytest.mark.parametrize("seed", range(3))
def test_each_head_gets_its_own_kind(layout, rounding, seed):
    kinds = ["spatial", "temporal", "temporal", "spatial"]
    method = SparseVideoGen(density=0.4, block_size=6, rounding=rounding, num_sampled_rows=16)
    plan = method.plan(inputs_of(*heads(layout, *kinds)), context_of(layout, seed=seed))
    assert [plan.patterns[index].name for index in plan.assignment[0]] == kinds


def test_items_of_a_batch_choose_for_themselves():
    first, second = heads(LAYOUT, "spatial", "temporal"), heads(LAYOUT, "temporal", "temporal")
    batch = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    method = SparseVideoGen(density=0.4, block_size=6)
    assert method.plan(inputs_of(*batch), context_of(LAYOUT)).assignment.tolist() == [[0, 1], [1, 1]]


def test_the_error_of_the_right_kind_is_smaller_and_stands_in_the_diagnostics():
    plan = SparseVideoGen(density=0.4, block_size=6).plan(
        inputs_of(*heads(LAYOUT, "spatial", "temporal")), context_of(LAYOUT)
    )
    errors = plan.diagnostics["error"]
    assert errors.shape == (2, 1, 2)
    assert errors[SPATIAL, 0, 0] < 0.1 * errors[TEMPORAL, 0, 0]
    assert errors[TEMPORAL, 0, 1] < 0.1 * errors[SPATIAL, 0, 1]


@pytest.mark.parametrize("layout", [TokenLayout(5, 7), TokenLayout(4, 6, 7, "first")], ids=str)
def test_all_rows_sampled_give_the_oracles_errors_and_choice(layout):
    settings = {"density": 0.8, "block_size": 1}
    inputs = random_inputs(layout, batch=2)
    sampled = SparseVideoGen(num_sampled_rows=layout.seq_len + 5, **settings).plan(inputs, context_of(layout))
    oracle = OracleChoice(**settings).plan(inputs, context_of(layout))
    assert torch.allclose(sampled.diagnostics["error"], oracle.diagnostics["error"], rtol=1e-5)
    assert torch.equal(sampled.assignment, oracle.assignment)


def test_masks_that_keep_everything_tie_and_a_tie_is_spatial():
    plan = SparseVideoGen(density=1.0, block_size=4).plan(random_inputs(LAYOUT), context_of(LAYOUT))
    assert not plan.diagnostics["error"].any()
    assert not plan.assignment.any()


def test_rows_are_drawn_without_replacement_from_the_whole_sequence_anew_for_each_step_and_layer():
    layout = TokenLayout(40, 300)
    method = SparseVideoGen(density=0.3, num_sampled_rows=64)
    rows = [method.sample_rows(context_of(layout, step=step, layer=layer)) for step in (0, 1) for layer in (0, 1)]
    for drawn in rows:
        assert drawn.unique().numel() == 64
    assert len({tuple(drawn.tolist()) for drawn in rows}) == 4
    everywhere = SparseVideoGen(density=0.3, num_sampled_rows=layout.seq_len).sample_rows(context_of(layout))
    assert torch.equal(everywhere.sort().values, torch.arange(layout.seq_len))


def test_rows_may_be_held_to_the_first_10000():
    layout = TokenLayout(40, 300)
    method = SparseVideoGen(density=0.3, num_sampled_rows=10**6, row_range="first_10000")
    assert torch.equal(method.sample_rows(context_of(layout)).sort().values, torch.arange(10000))
    short = TokenLayout(3, 5)
    assert method.sample_rows(context_of(short)).numel() == 15


def test_the_mask_that_is_profiled_is_the_mask_that_runs_unless_asked_otherwise():
    method = SparseVideoGen(density=0.4, block_size=6)
    assert method.profiled_patterns(LAYOUT) == method.palette(LAYOUT)
    upstream = SparseVideoGen(density=0.4, block_size=6, profiled_mask="upstream_fixed")
    assert upstream.profiled_patterns(LAYOUT) != upstream.palette(LAYOUT)


def test_both_branches_of_a_step_profile_the_same_rows():
    method = SparseVideoGen(density=0.4)
    rows = [method.sample_rows(context_of(LAYOUT, branch=branch)) for branch in ("cond", "uncond")]
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"num_sampled_rows": 0}, r"method\.num_sampled_rows is 0; it must be at least 1"),
        ({"row_range": "some"}, r"method\.row_range is 'some'; it must be one of all, first_10000"),
        ({"profiled_mask": "mine"}, r"method\.profiled_mask is 'mine'; it must be one of executed, upstream_fixed"),
        ({"sink": "layout"}, r"method\.sink=layout needs method\.key_order=plain"),
        ({"spatial_unit": "frame"}, r"method\.spatial_unit=frame needs method\.rounding=token, got tile"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        SparseVideoGen(density=0.5, **settings)


def test_sparsity_and_density_are_the_same_quantity():
    tensors = random_tensors(LAYOUT)
    plans = [
        SparseVideoGen(**{word: 0.4}, block_size=6).plan(inputs_of(*tensors), context_of(LAYOUT))
        for word in ("sparsity", "density")
    ]
    assert all(x is y for x, y in zip(plans[0].patterns, plans[1].patterns, strict=True))
