"""Permutations of the tokens of a sequence: frame-major to token-major and back.

An order is a LongTensor of shape ``(seq_len,)``: position ``i`` of the ordered sequence holds token ``order[i]`` of the
frame-major one. Text tokens stay where they stand.
"""

from __future__ import annotations

import torch

from svg.layout import TokenLayout


def token_major_order(layout: TokenLayout) -> torch.Tensor:
    """Return the plain token-major order: the video token (frame f, place p) moves to p * num_frames + f.

    Returns:
        LongTensor ``(seq_len,)``.

    Source: arXiv:2502.01776, the layout transformation of temporal heads.
    """
    order = torch.arange(layout.seq_len)
    video = torch.arange(layout.video_start, layout.video_stop)
    order[layout.video_start : layout.video_stop] = video.view(layout.num_frames, layout.tokens_per_frame).T.flatten()
    return order


def sink_first_order(layout: TokenLayout) -> torch.Tensor:
    """Return the token-major order of keys with frame 0 in front: frame 0, then frames 1 to F-1 place by place.

    The tokens of the first frame, which every query keeps, then fill a few whole tile columns. The reference code has
    one order for queries and keys, in which frame 0 is spread over every tile.

    Returns:
        LongTensor ``(seq_len,)``.
    """
    order = torch.arange(layout.seq_len)
    after_first = torch.arange(layout.video_start + layout.tokens_per_frame, layout.video_stop)
    order[layout.video_start + layout.tokens_per_frame : layout.video_stop] = after_first.view(
        layout.num_frames - 1, layout.tokens_per_frame
    ).T.flatten()
    return order


def inverse(order: torch.Tensor) -> torch.Tensor:
    """Return the order that undoes ``order``; shape ``(seq_len,)`` in and out."""
    undone = torch.empty_like(order)
    undone[order] = torch.arange(order.numel(), dtype=order.dtype, device=order.device)
    return undone


def to_token_major(x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Reorder ``(..., seq_len, head_dim)`` from frame-major to plain token-major."""
    layout.check(x.shape[-2])
    return x.index_select(-2, token_major_order(layout).to(x.device))


def to_frame_major(x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Reorder ``(..., seq_len, head_dim)`` from plain token-major to frame-major."""
    layout.check(x.shape[-2])
    return x.index_select(-2, inverse(token_major_order(layout)).to(x.device))
