"""Token layouts: where video and text stand, and what is refused."""

from __future__ import annotations

import pytest

from svg.layout import TokenLayout


@pytest.mark.parametrize("num_text_tokens", [0, 1, 7])
@pytest.mark.parametrize("text_position", ["first", "last"])
def test_video_and_text_fill_the_sequence_without_overlap(num_text_tokens, text_position):
    layout = TokenLayout(3, 5, num_text_tokens, text_position)
    video = list(range(layout.video_start, layout.video_stop))
    text = list(range(layout.text_start, layout.text_stop))
    assert sorted(video + text) == list(range(layout.seq_len))
    assert len(video) == layout.num_video_tokens == 15
    assert len(text) == num_text_tokens
    if text:
        assert (text[0] < video[0]) == (text_position == "first")


@pytest.mark.parametrize("counts", [(0, 5), (3, 0), (-1, 5), (3, 5, -1)])
def test_a_count_out_of_range_is_refused(counts):
    with pytest.raises(ValueError, match=r"num_frames >= 1, tokens_per_frame >= 1 and num_text_tokens >= 0, got"):
        TokenLayout(*counts)


def test_an_unknown_text_position_is_refused():
    with pytest.raises(ValueError, match="text_position is 'middle'; it must be 'first' or 'last'"):
        TokenLayout(3, 5, 2, "middle")


def test_a_sequence_of_another_length_is_refused_with_the_settings_to_check():
    layout = TokenLayout(21, 3600)
    layout.check(75600)
    with pytest.raises(ValueError, match=r"seq_len 75599 .* 21 frames x 3600 tokens .* = 75600; check model\.height"):
        layout.check(75599)
