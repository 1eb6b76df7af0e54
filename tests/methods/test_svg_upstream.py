"""The reference code's behaviour, quirk by quirk."""

from __future__ import annotations

import pytest
import torch

from svg.layout import TokenLayout
from svg.methods.svg import SparseVideoGen
from svg.methods.svg_upstream import SvgUpstream
from svg.palette import upstream_profiled_patterns
from tests.methods.helpers import context_of, inputs_of, kept_by_head, random_inputs, random_tensors

COGVIDEOX = {
    "rounding": "floor128",
    "band_edge": "open",
    "sink": "none",
    "profiled_frames": 1.5,
    "profiled_text": "cogvideox",
    "row_range": "all",
}
TEXT_FIRST = TokenLayout(4, 150, 80, "first")


def test_its_defaults_are_what_svg_calls_the_reference_codes_ways():
    method, same = (
        SvgUpstream(sparsity=0.3),
        SparseVideoGen(
            sparsity=0.3,
            threshold_rule="timestep_value",
            sink="layout",
            rounding="ceil128",
            key_order="plain",
            row_range="first_10000",
            profiled_mask="upstream_fixed",
        ),
    )
    assert method.geometry == same.geometry
    assert method.row_range == same.row_range
    assert method.threshold_rule == same.threshold_rule


def test_rows_are_drawn_with_replacement():
    layout = TokenLayout(3, 5)
    rows = SvgUpstream(sparsity=0.3, num_sampled_rows=15).sample_rows(context_of(layout))
    assert rows.numel() == 15
    assert rows.unique().numel() < 15


def test_rows_come_from_the_first_10000_positions():
    layout = TokenLayout(40, 300)
    rows = SvgUpstream(sparsity=0.3, num_sampled_rows=5000).sample_rows(context_of(layout))
    assert int(rows.max()) < 10000
    everywhere = SvgUpstream(sparsity=0.3, num_sampled_rows=5000, row_range="all").sample_rows(context_of(layout))
    assert int(everywhere.max()) >= 10000


def test_the_sparsity_does_not_change_what_is_profiled():
    layout = TokenLayout(6, 200)
    profiled = [SvgUpstream(sparsity=sparsity).profiled_patterns(layout) for sparsity in (0.2, 0.6)]
    assert profiled[0] == profiled[1] == upstream_profiled_patterns(layout, 2.0, True, "kept")
    executed = SvgUpstream(sparsity=0.2, profiled_mask="executed")
    assert executed.profiled_patterns(layout) == executed.palette(layout)


def test_errors_are_computed_in_the_precision_of_the_inputs():
    layout = TokenLayout(6, 100)
    tensors = [x.bfloat16() for x in random_tensors(layout)]
    plan = SvgUpstream(sparsity=0.5).plan(inputs_of(*tensors), context_of(layout))
    assert plan.diagnostics["error"].dtype == torch.bfloat16


def test_density_is_exact_to_the_token_and_counts_the_sink_where_sparsity_does_not():
    layout = TokenLayout(8, 160)
    plans = {
        word: SvgUpstream(**{word: 0.4}).plan(random_inputs(layout), context_of(layout))
        for word in ("sparsity", "density")
    }
    token = {word: float(plan.density(layout.seq_len)[0]) for word, plan in plans.items()}
    assert token["sparsity"] > 0.45
    assert 0.4 - 2 / layout.num_frames / layout.tokens_per_frame <= token["density"] <= 0.4


def test_both_kinds_of_head_run_one_mask_in_two_orders():
    spatial, temporal = SvgUpstream(sparsity=0.3).palette(TokenLayout(6, 200))
    assert torch.equal(spatial.mask.dense(), temporal.mask.dense())
    assert torch.equal(temporal.query_order, temporal.key_order)


def seed_whose_rows(method: SvgUpstream, has_text: bool) -> int:
    for seed in range(100):
        rows = SvgUpstream.sample_rows(
            SvgUpstream(sparsity=0.5, **COGVIDEOX | {"text_row_turns_all_temporal": True}, num_sampled_rows=4),
            context_of(TEXT_FIRST, seed=seed),
        )
        if bool((rows < TEXT_FIRST.text_stop).any()) == has_text:
            return seed
    raise AssertionError("no such seed")


@pytest.mark.parametrize("has_text", [True, False])
def test_one_sampled_text_row_turns_all_heads_of_cogvideox_temporal_where_that_is_asked_for(has_text):
    settings = COGVIDEOX | {"num_sampled_rows": 4}
    inputs = random_inputs(TEXT_FIRST, num_heads=6)
    faulty = SvgUpstream(sparsity=0.5, text_row_turns_all_temporal=True, **settings)
    context = context_of(TEXT_FIRST, seed=seed_whose_rows(faulty, has_text))
    plan = faulty.plan(inputs, context)
    assert plan.diagnostics["error"][1].isnan().all() == has_text
    mended = SvgUpstream(sparsity=0.5, **settings).plan(inputs, context)
    assert not mended.diagnostics["error"].isnan().any()
    if has_text:
        assert plan.assignment.all()
    else:
        assert torch.equal(plan.assignment, mended.assignment)


def test_text_rows_left_out_do_not_leave_the_decision_to_chance():
    method = SvgUpstream(sparsity=0.5, **COGVIDEOX, num_sampled_rows=64)
    rows = method.sample_rows(context_of(TEXT_FIRST))
    assert rows.numel() > 30
    assert int(rows.min()) >= TEXT_FIRST.text_stop


def test_a_call_whose_every_sampled_row_is_text_is_spatial():
    layout = TokenLayout(1, 200, 100, "first")
    method = SvgUpstream(sparsity=1.0, **COGVIDEOX, num_sampled_rows=1)
    seed = next(s for s in range(50) if not method.sample_rows(context_of(layout, seed=s)).numel())
    assert not method.plan(random_inputs(layout), context_of(layout, seed=seed)).assignment.any()


def test_cogvideox_keeps_text_in_the_masks_that_run():
    plan = SvgUpstream(sparsity=0.7, **COGVIDEOX).plan(random_inputs(TEXT_FIRST), context_of(TEXT_FIRST))
    kept = kept_by_head(plan, 1, 3, TEXT_FIRST.seq_len)
    assert kept[..., : TEXT_FIRST.text_stop].all()
    assert kept[..., : TEXT_FIRST.text_stop, :].all()


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"band_edge": "soft"}, r"method\.band_edge is 'soft'; it must be one of closed, open"),
        ({"profiled_text": "lost"}, r"method\.profiled_text is 'lost'; it must be one of kept, cogvideox"),
        ({"profiled_frames": 0.0}, r"method\.profiled_frames is 0\.0; it must be above 0"),
        ({"num_padded_text_tokens": -1}, r"method\.num_padded_text_tokens is -1; it must be at least 0"),
        ({"threshold_margin": -1.0}, r"method\.threshold_margin is -1\.0; it must be at least 0"),
        ({"reference_flow_shift": 0.0}, r"method\.reference_flow_shift is 0\.0; it must be above 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        SvgUpstream(sparsity=0.5, **settings)
