"""Attention-pattern statistics, against the same definitions on whole attention maps in float64."""

from __future__ import annotations

import math

import pytest
import torch

from svg import pattern_statistics
from svg.layout import TokenLayout
from svg.methods.oracle_choice import OracleChoice
from svg.methods.random_blocks import RandomBlocks
from svg.methods.random_choice import RandomChoice
from svg.methods.svg import SparseVideoGen
from svg.pattern_statistics import head_statistics
from svg.plan import AttentionPlan
from tests.methods.helpers import context_of, inputs_of, kept_by_head, masked_attention, random_tensors

LAYOUTS = [
    TokenLayout(3, 5),
    TokenLayout(5, 3, num_text_tokens=4, text_position="first"),
    TokenLayout(4, 7, num_text_tokens=3),
]
IDS = ["no text", "text first", "text last"]
SETTINGS = {"density": 0.8, "block_size": 2}


def sampled(layout: TokenLayout, count: int = 11) -> torch.Tensor:
    return torch.randperm(layout.seq_len, generator=torch.Generator().manual_seed(1))[:count]


def expected_masses(
    tensors: tuple[torch.Tensor, ...], rows: torch.Tensor, layout: TokenLayout, length: int | None = None
) -> dict[str, torch.Tensor]:
    """Return the masses and the entropy by their definitions, a pair of tokens at a time."""
    query, key, _ = (x.double() for x in tensors)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores[..., length or layout.seq_len :] = -math.inf
    probability = scores.softmax(-1)[:, :, rows]
    frame, place = torch.full((layout.seq_len,), -1), torch.full((layout.seq_len,), -1)
    for f in range(layout.num_frames):
        for p in range(layout.tokens_per_frame):
            token = layout.video_start + f * layout.tokens_per_frame + p
            frame[token], place[token] = f, p
    of_video = rows[frame[rows] >= 0]
    video = scores.softmax(-1)[:, :, of_video]
    is_text = torch.arange(layout.seq_len)
    is_text = (is_text >= layout.text_start) & (is_text < layout.text_stop)
    logs = probability.clamp(min=1e-300).log()
    return {
        "same_frame_mass": (video * (frame[of_video][:, None] == frame)).sum(-1).mean(-1),
        "same_position_mass": (video * (place[of_video][:, None] == place)).sum(-1).mean(-1),
        "first_frame_mass": (probability * (frame == 0)).sum(-1).mean(-1),
        "text_mass": (probability * is_text).sum(-1).mean(-1),
        "entropy": -(probability * logs).sum(-1).mean(-1) / math.log(length or layout.seq_len),
    }


def statistics_of(tensors, rows, layout, plan):
    query, key, value = tensors
    return head_statistics(query[:, :, rows], key, value, rows, layout, plan)


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@pytest.mark.parametrize("most", [1, 130, 10**9], ids=["a row and head at a time", "in chunks", "at once"])
def test_a_dense_call_has_the_masses_and_the_entropy_of_the_whole_map(monkeypatch, layout, most):
    monkeypatch.setattr(pattern_statistics, "MOST_SCORES_CPU", most)
    tensors, rows = random_tensors(layout, batch=2), sampled(layout)
    found = statistics_of(tensors, rows, layout, AttentionPlan.dense())
    expected = expected_masses(tensors, rows, layout)
    assert found.values.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found.values[name].double(), value, rtol=1e-5, atol=1e-6), name
    assert found.num_rows == 11
    assert found.num_video_rows == sum(layout.video_start <= row < layout.video_stop for row in rows.tolist())


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@pytest.mark.parametrize("sink", ["first_frame", "none"])
@pytest.mark.parametrize("most", [1, 10**9], ids=["a row and head at a time", "at once"])
def test_a_sparse_call_loses_what_whole_outputs_lose(monkeypatch, layout, sink, most):
    monkeypatch.setattr(pattern_statistics, "MOST_SCORES_CPU", most)
    tensors, rows = random_tensors(layout, num_heads=8), sampled(layout)
    plan = RandomChoice(**SETTINGS, sink=sink).plan(inputs_of(*tensors), context_of(layout))
    assert set(plan.assignment.flatten().tolist()) == {0, 1}
    found = statistics_of(tensors, rows, layout, plan).values
    query, key, value = (x.double() for x in tensors)
    full = masked_attention(query, key, value, torch.ones(1, dtype=torch.bool))
    probability = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    errors = []
    for pattern in plan.patterns:
        alone = AttentionPlan((pattern,), torch.zeros(1, 1, dtype=torch.long))
        output = masked_attention(query, key, value, kept_by_head(alone, 1, 8, layout.seq_len))
        errors.append((output - full)[:, :, rows].square().mean((-1, -2)))
    errors = torch.stack(errors)
    taken = errors.gather(0, plan.assignment.expand(1, 8)[None])[0]
    kept = (probability * kept_by_head(plan, 1, 8, layout.seq_len)).sum(-1)[:, :, rows].mean(-1)
    assert torch.allclose(found["kept_mass"].double(), kept, rtol=1e-5)
    assert torch.allclose(found["output_error"].double(), taken, rtol=1e-4)
    relative = (taken / full[:, :, rows].square().mean((-1, -2))).sqrt()
    assert torch.allclose(found["relative_l2_error"].double(), relative, rtol=1e-4)
    assert torch.allclose(found["regret"].double(), taken - errors.amin(0), rtol=1e-4, atol=1e-7)
    assert torch.equal(found["agreement"].bool(), errors.argmin(0) == plan.assignment)


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
def test_the_oracle_agrees_with_itself_and_has_no_regret(layout):
    tensors, rows = random_tensors(layout, num_heads=8), torch.arange(layout.seq_len)
    plan = OracleChoice(**SETTINGS).plan(inputs_of(*tensors), context_of(layout))
    found = statistics_of(tensors, rows, layout, plan).values
    assert torch.equal(found["agreement"], torch.ones(1, 8))
    assert torch.equal(found["regret"], torch.zeros(1, 8))


def test_all_the_mass_is_kept_without_error_where_the_pattern_keeps_all():
    layout = TokenLayout(3, 5, num_text_tokens=2)
    tensors, rows = random_tensors(layout), sampled(layout)
    plan = SparseVideoGen(density=1.0, block_size=2).plan(inputs_of(*tensors), context_of(layout))
    assert not plan.is_dense
    found = statistics_of(tensors, rows, layout, plan).values
    assert torch.allclose(found["kept_mass"], torch.ones(1, 3))
    assert torch.equal(found["output_error"], torch.zeros(1, 3))
    # Ties are the first pattern's, as the oracle's.
    assert torch.equal(found["agreement"], torch.ones(1, 3))


def test_patterns_made_for_one_head_each_leave_no_choice_to_judge():
    layout = TokenLayout(4, 7)
    tensors, rows = random_tensors(layout), sampled(layout)
    plan = RandomBlocks(**SETTINGS).plan(inputs_of(*tensors), context_of(layout))
    found = statistics_of(tensors, rows, layout, plan).values
    query, key, _ = (x.double() for x in tensors)
    probability = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    kept = (probability * kept_by_head(plan, 1, 3, layout.seq_len)).sum(-1)[:, :, rows].mean(-1)
    assert torch.allclose(found["kept_mass"].double(), kept, rtol=1e-5)
    assert "regret" not in found
    assert "agreement" not in found


def test_padding_gets_no_mass_and_no_share_of_the_entropy():
    layout = TokenLayout(4, 7, num_text_tokens=5)
    tensors, rows = random_tensors(layout, batch=2), torch.tensor([0, 9, 29, 17])
    found = statistics_of(tensors, rows, layout, AttentionPlan.dense(torch.tensor([33, 30]))).values
    for item, length in enumerate((33, 30)):
        alone = tuple(x[item : item + 1] for x in tensors)
        for name, value in expected_masses(alone, rows, layout, length).items():
            assert torch.allclose(found[name][item : item + 1].double(), value, rtol=1e-5), name


def test_equal_attention_has_the_entropy_one_and_the_shares_of_its_tokens():
    layout = TokenLayout(3, 5, num_text_tokens=1)
    zeros = torch.zeros(1, 2, 16, 8)
    found = statistics_of((zeros, zeros, zeros), torch.arange(16), layout, AttentionPlan.dense()).values
    shares = {"entropy": 1.0, "same_frame_mass": 5 / 16, "same_position_mass": 3 / 16}
    shares |= {"first_frame_mass": 5 / 16, "text_mass": 1 / 16}
    for name, share in shares.items():
        assert torch.allclose(found[name], torch.full((1, 2), share)), name


def test_a_single_token_attends_to_itself_without_entropy():
    layout = TokenLayout(1, 1)
    found = statistics_of(random_tensors(layout), torch.tensor([0]), layout, AttentionPlan.dense()).values
    assert torch.equal(found["same_frame_mass"], torch.ones(1, 3))
    assert torch.equal(found["entropy"], torch.zeros(1, 3))


def test_text_rows_alone_have_no_mass_of_their_own_frame():
    layout = TokenLayout(3, 5, num_text_tokens=2)
    found = statistics_of(random_tensors(layout), torch.tensor([15, 16]), layout, AttentionPlan.dense())
    assert found.num_video_rows == 0
    assert found.values["same_frame_mass"].isnan().all()
    assert found.values["first_frame_mass"].isfinite().all()


@pytest.mark.parametrize(
    ("rows", "lengths", "message"),
    [
        ([0, 15], None, r"rows holds positions from 0 to 15; they must be in 0 to 14"),
        ([-1, 3], None, r"rows holds positions from -1 to 3"),
        ([2, 13], [13], r"rows holds positions from 2 to 13; they must be in 0 to 12"),
    ],
)
def test_rows_that_are_no_queries_are_refused(rows, lengths, message):
    layout = TokenLayout(3, 5)
    query, key, value = random_tensors(layout)
    plan = AttentionPlan.dense(None if lengths is None else torch.tensor(lengths))
    with pytest.raises(ValueError, match=message):
        head_statistics(query[:, :, :2], key, value, torch.tensor(rows), layout, plan)


def test_rows_and_queries_of_different_number_are_refused():
    layout = TokenLayout(3, 5)
    query, key, value = random_tensors(layout)
    for rows in ([1, 2, 3], []):
        with pytest.raises(ValueError, match=r"one position on the CPU for each query, and at least one"):
            head_statistics(
                query[:, :, : min(2, len(rows))], key, value, torch.tensor(rows), layout, AttentionPlan.dense()
            )
    with pytest.raises(ValueError, match=r"seq_len 15 does not fit the layout"):
        head_statistics(query[:, :, :1], key, value, torch.tensor([0]), TokenLayout(4, 5), AttentionPlan.dense())
