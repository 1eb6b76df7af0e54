"""Permutations of tokens, against loops over frames and places."""

from __future__ import annotations

import pytest
import torch

from svg.layout import TokenLayout
from svg.order import inverse, sink_first_order, to_frame_major, to_token_major, token_major_order

LAYOUTS = [
    TokenLayout(3, 5),
    TokenLayout(4, 6, num_text_tokens=7),
    TokenLayout(4, 6, num_text_tokens=7, text_position="first"),
    TokenLayout(1, 4),
    TokenLayout(5, 1),
    TokenLayout(1, 1),
    TokenLayout(1, 1, num_text_tokens=1, text_position="first"),
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def positions(layout: TokenLayout) -> list[tuple[int, int, int]]:
    """Return (frame, place, frame-major position) of each video token."""
    return [
        (frame, place, layout.video_start + frame * layout.tokens_per_frame + place)
        for frame in range(layout.num_frames)
        for place in range(layout.tokens_per_frame)
    ]


@every_layout
def test_token_major_puts_frame_f_of_place_p_at_p_times_frames_plus_f(layout):
    order = token_major_order(layout)
    for frame, place, position in positions(layout):
        assert order[layout.video_start + place * layout.num_frames + frame] == position


@every_layout
def test_sink_first_puts_frame_0_in_front_and_the_rest_place_by_place(layout):
    order = sink_first_order(layout)
    start, places, later = layout.video_start, layout.tokens_per_frame, layout.num_frames - 1
    for frame, place, position in positions(layout):
        slot = place if frame == 0 else places + place * later + frame - 1
        assert order[start + slot] == position


@every_layout
@pytest.mark.parametrize("make", [token_major_order, sink_first_order])
def test_an_order_is_a_permutation_that_leaves_text_where_it_stands(layout, make):
    order = make(layout)
    assert torch.equal(order.sort().values, torch.arange(layout.seq_len))
    text = torch.arange(layout.text_start, layout.text_stop)
    assert torch.equal(order[text], text)


@every_layout
def test_the_inverse_undoes_an_order(layout):
    order = sink_first_order(layout)
    assert torch.equal(order[inverse(order)], torch.arange(layout.seq_len))
    assert torch.equal(inverse(order)[order], torch.arange(layout.seq_len))


@every_layout
def test_frame_major_undoes_token_major(layout):
    x = torch.randn(2, 3, layout.seq_len, 4)
    assert torch.equal(to_frame_major(to_token_major(x, layout), layout), x)


def test_a_tensor_of_another_length_is_refused():
    with pytest.raises(ValueError, match="seq_len 14 does not fit the layout"):
        to_token_major(torch.randn(14, 2), TokenLayout(3, 5))
