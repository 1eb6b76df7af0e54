"""Tiles of tokens as kernels load them: by Hopper's tensor memory engine, or by pointers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TMA_ALIGNMENT = 16


def fits_descriptor(x: torch.Tensor) -> bool:
    """Whether the tensor memory engine takes a tensor: all but the last stride, and the address, in 16 bytes."""
    return x.data_ptr() % TMA_ALIGNMENT == 0 and all(
        stride * x.element_size() % TMA_ALIGNMENT == 0 and stride > 0 for stride in x.stride()[:-1]
    )


@triton.jit
def load_tile(
    tensor, item, head, start, stride_item, stride_head, stride_token, seq_len,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr, IS_CUT: tl.constexpr, INTERPRET: tl.constexpr, first_place=0,
):  # fmt: skip
    """Return ``(BLOCK, BLOCK_DIM)`` from token ``start`` on; zeros outside of the tensor where the tile is cut.

    Channels are those from ``first_place`` on.

    ``tensor`` is ``(items, heads, seq_len, HEAD_DIM)``, a pointer with strides or a descriptor of such tiles.
    """
    if USES_DESCRIPTORS:
        x = tensor.load([item, head, start, first_place]).reshape(BLOCK, BLOCK_DIM)
    else:
        token, place = tl.arange(0, BLOCK), first_place + tl.arange(0, BLOCK_DIM)
        first = tensor + item.to(tl.int64) * stride_item + head.to(tl.int64) * stride_head
        pointers = first + start.to(tl.int64) * stride_token + (token[:, None] * stride_token + place[None, :])
        if IS_CUT:
            x = tl.load(pointers, ((start + token) < seq_len)[:, None] & (place < HEAD_DIM)[None, :], 0.0)
        elif HEAD_DIM < BLOCK_DIM:
            x = tl.load(pointers, (place < HEAD_DIM)[None, :], 0.0)
        else:
            x = tl.load(pointers)
    # The interpreter has no bfloat16 products.
    return x.to(tl.float32) if INTERPRET else x
