"""What the programs do that lay keys and values out and round them to 8 bits.

A few of a head's tokens say by what its numbers are divided, with room to spare. Where one is greater still, which the
pass over all of them finds out, the head is rounded once more.
"""

from __future__ import annotations

import triton
import triton.language as tl

from svg_kernels.fp8_model import HEADROOM, LEAST, MOST
from svg_kernels.fp8_rounding import bits, mixed, rounded, rounded_queries, to_e4m3

_LEAST, _HEADROOM, _MOST = tl.constexpr(LEAST), tl.constexpr(HEADROOM), tl.constexpr(MOST["e4m3"])


@triton.jit
def _rows(
    x, orders, assignment, lane, place, is_wanted, stride_item, stride_head, stride_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Return the rows of one head that belong at the given places, zeros where none is wanted."""
    item, head = lane // num_heads, lane % num_heads
    source = place
    if orders is not None:
        pattern = tl.load(assignment + item * stride_assignment_item + head * stride_assignment_head)
        source = tl.load(orders + pattern * seq_len + place, is_wanted, 0)
    channel = tl.arange(0, HEAD_DIM)
    x += item.to(tl.int64) * stride_item + head.to(tl.int64) * stride_head
    at = source.to(tl.int64)[:, None] * stride_token + channel[None, :]
    return tl.load(x + at, is_wanted[:, None] & (channel >= 0)[None, :], 0.0)


@triton.jit
def _limit(lengths, lane, num_heads, seq_len):
    """Return how many keys of a head count."""
    limit = seq_len
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + lane // num_heads).to(tl.int32), seq_len)
    return limit


@triton.jit
def _greatest(x):
    """Return the greatest magnitude of all numbers as bits, at least that of LEAST."""
    # Of all at once: one axis after the other is what Triton 3.7 cannot compile for Blackwell.
    return tl.maximum(tl.max(bits(tl.abs(x))), bits(tl.full([], _LEAST, tl.float32)))


@triton.jit(do_not_specialize=["num_heads", "seq_len"])
def sample(
    key, value, orders, assignment, mixing, mean, room, greatest, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len,
    HEAD_DIM: tl.constexpr, SAMPLE: tl.constexpr, STEP: tl.constexpr, WIDE_VALUES: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Find the mean of evenly spaced keys of one head, mixed, and how great its keys and values may become."""
    lane, channel = tl.program_id(0), tl.arange(0, HEAD_DIM)
    limit = _limit(lengths, lane, num_heads, seq_len)
    apart = tl.maximum((limit + SAMPLE - 1) // SAMPLE, 1)
    total = tl.zeros([HEAD_DIM], tl.float32)
    value_most = bits(tl.full([], 0.0, tl.float32))
    for start in range(0, SAMPLE, STEP):
        place = (start + tl.arange(0, STEP)) * apart
        keys = _rows(
            key, orders, assignment, lane, place, place < limit, stride_key_item, stride_key_head, stride_key_token,
            stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
        )  # fmt: skip
        total += tl.sum(mixed(keys, mixing, STEP, HEAD_DIM // 2, INTERPRET), 0)
        if not WIDE_VALUES:
            values = _rows(
                value, orders, assignment, lane, place, place < limit, stride_value_item, stride_value_head,
                stride_value_token, stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
            ).to(tl.float32)  # fmt: skip
            value_most = tl.maximum(value_most, _greatest(values))
    total /= tl.maximum((limit + apart - 1) // apart, 1)
    key_most = bits(tl.full([], 0.0, tl.float32))
    for start in range(0, SAMPLE, STEP):
        place = (start + tl.arange(0, STEP)) * apart
        keys = _rows(
            key, orders, assignment, lane, place, place < limit, stride_key_item, stride_key_head, stride_key_token,
            stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
        )  # fmt: skip
        keys = mixed(keys, mixing, STEP, HEAD_DIM // 2, INTERPRET) - total[None, :]
        key_most = tl.maximum(key_most, _greatest(tl.where((place < limit)[:, None], keys, 0.0)))
    tl.store(mean + lane * HEAD_DIM + channel, total)
    tl.store(room + 2 * lane, key_most.to(tl.float32, bitcast=True) * _HEADROOM)
    tl.store(room + 2 * lane + 1, value_most.to(tl.float32, bitcast=True) * _HEADROOM)
    tl.store(greatest + 2 * lane, 0)
    tl.store(greatest + 2 * lane + 1, 0)


@triton.jit
def _block(
    tile, lane, key_most, value_most,
    key, value, orders, assignment, mixing, mean, key_out, value_out, key_scale, limit,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, WIDE_VALUES: tl.constexpr, MOST: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Lay out and round one block of keys and values, and return the greatest of both as bits."""
    channel, place = tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK)
    token = tile * BLOCK + place
    # Known to divide by 16, so that stores are wide.
    padded_len = num_tiles * BLOCK
    rows = _rows(
        key, orders, assignment, lane, token, token < limit, stride_key_item, stride_key_head, stride_key_token,
        stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
    )  # fmt: skip
    rows = mixed(rows, mixing, BLOCK, HEAD_DIM // 2, INTERPRET) - tl.load(mean + lane * HEAD_DIM + channel)[None, :]
    rows = tl.where((token < limit)[:, None], rows, 0.0)
    greatest_key = _greatest(rows)
    if IS_INT8:
        key_most = greatest_key.to(tl.float32, bitcast=True)
        # Less itself, infinity is NaN, which no rounding makes a number of.
        tl.store(key_scale + lane * num_tiles + tile, key_most / MOST + (key_most - key_most))
    target = (lane.to(tl.int64) * padded_len + token)[:, None] * HEAD_DIM + channel[None, :]
    tl.store(key_out + target, rounded(rows * (MOST / key_most), IS_INT8, INTERPRET))

    source = token
    if not WIDE_VALUES:
        # LANE_ORDER of each 16.
        source = tile * BLOCK + (place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2)
    rows = _rows(
        value, orders, assignment, lane, source, source < limit, stride_value_item, stride_value_head,
        stride_value_token, stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
    )  # fmt: skip
    greatest_value = bits(tl.full([], 0.0, tl.float32))
    if WIDE_VALUES:
        tl.store(value_out + target, rows)
    else:
        rows = rows.to(tl.float32)
        greatest_value = _greatest(rows)
        # A scale that is no number makes none of the zeros past the end.
        rows = tl.where((source < limit)[:, None], rows * (_MOST / value_most), 0.0)
        turned = (lane.to(tl.int64) * HEAD_DIM + channel)[:, None] * padded_len + token[None, :]
        tl.store(value_out + turned, tl.trans(to_e4m3(rows, INTERPRET)))
    return greatest_key, greatest_value


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_tiles"])
def quantise(
    key, value, orders, assignment, mixing, mean, room, greatest, key_out, value_out, key_scale, value_scale, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, WIDE_VALUES: tl.constexpr, MOST: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Lay out and round one block of one head, and keep the greatest of its keys and values."""
    tile, lane = tl.program_id(0), tl.program_id(1)
    greatest_key, greatest_value = _block(
        tile, lane, tl.load(room + 2 * lane), tl.load(room + 2 * lane + 1),
        key, value, orders, assignment, mixing, mean, key_out, value_out, key_scale,
        _limit(lengths, lane, num_heads, seq_len),
        stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
        stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
        HEAD_DIM, BLOCK, IS_INT8, WIDE_VALUES, MOST, INTERPRET,
    )  # fmt: skip
    tl.atomic_max(greatest + 2 * lane, greatest_key)
    tl.atomic_max(greatest + 2 * lane + 1, greatest_value)


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_tiles"])
def settle(
    key, value, orders, assignment, mixing, mean, room, greatest, key_out, value_out, key_scale, value_scale, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, WIDE_VALUES: tl.constexpr, MOST: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Write the scales of one head, and round its blocks again where what was found is greater than the room for it."""
    lane = tl.program_id(1)
    key_room, value_room = tl.load(room + 2 * lane), tl.load(room + 2 * lane + 1)
    key_most = tl.load(greatest + 2 * lane).to(tl.float32, bitcast=True)
    value_most = tl.load(greatest + 2 * lane + 1).to(tl.float32, bitcast=True)
    fits = value_most <= value_room
    if not IS_INT8:
        fits = fits & (key_most <= key_room)
    # Written so that NaN stays NaN.
    key_most = tl.where(key_most <= key_room, key_room, key_most)
    value_most = tl.where(value_most <= value_room, value_room, value_most)
    if tl.program_id(0) == 0:
        if not IS_INT8:
            tl.store(key_scale + lane, key_most / MOST)
        if not WIDE_VALUES:
            tl.store(value_scale + lane, value_most / _MOST)
    if fits:
        return
    limit = _limit(lengths, lane, num_heads, seq_len)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        _block(
            tile, lane, key_most, value_most,
            key, value, orders, assignment, mixing, mean, key_out, value_out, key_scale, limit,
            stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head,
            stride_value_token, stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
            HEAD_DIM, BLOCK, IS_INT8, WIDE_VALUES, MOST, INTERPRET,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_heads", "seq_len"])
def round_queries(
    query, rows_out, scales, mixing, stride_item, stride_head, stride_token, num_heads, seq_len, padded_len,
    HEAD_DIM: tl.constexpr, QUERIES: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Round one block of one head's queries, and write by what each is multiplied to be what it was."""
    lane = tl.program_id(1)
    queries = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    first = lane.to(tl.int64) * padded_len
    query += (lane // num_heads).to(tl.int64) * stride_item + (lane % num_heads).to(tl.int64) * stride_head
    _, scale = rounded_queries(
        query, rows_out + first * HEAD_DIM, mixing, queries, stride_token, seq_len,
        HEAD_DIM, QUERIES, IS_INT8, MOST, INTERPRET,
    )  # fmt: skip
    tl.store(scales + first + queries, 1 / scale)
