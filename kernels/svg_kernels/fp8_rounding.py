"""How kernels round to 8 bits: numbers of e4m3 and int8, mixed channels, and queries as attention reads them."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from svg_kernels.fp8_model import LEAST

_LEAST, _SQRT_HALF = tl.constexpr(LEAST), tl.constexpr(math.sqrt(0.5))

# 1.5 * 2 ** 23, as bits and as a number: to add an integer up to 2 ** 22 to the bits is to add it to the number.
FLOAT_BITS = tl.constexpr(0x4B400000)
FLOAT_OFFSET = tl.constexpr(12582912.0)


@triton.jit
def to_e4m3(x, INTERPRET: tl.constexpr):
    """Return float32 numbers of at most 448 rounded to e4m3."""
    if INTERPRET:
        # The interpreter carries a mantissa's overflow into no exponent: what it is given is rounded already.
        magnitude = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        # Its distance to the next number, times 1.5 * 2 ** 23: sums with it have no place for less.
        step = tl.maximum(magnitude, 0.015625) * 1572864.0
        x = (x + step) - step
    return x.to(tl.float8e4nv)


@triton.jit
def rounded(x, IS_INT8: tl.constexpr, INTERPRET: tl.constexpr):
    """Return float32 numbers of at most the type's greatest magnitude rounded to it: int8 or e4m3."""
    # A sum with 1.5 * 2 ** 23 has no place for fractions: the nearest integer, ties to even.
    return (x + FLOAT_OFFSET - FLOAT_OFFSET).to(tl.int8) if IS_INT8 else to_e4m3(x, INTERPRET)


@triton.jit
def bits(x):
    """Return float32 numbers that are not negative as integers of the same order; infinity and then NaN come last."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def mixed(rows, mixing, ROWS: tl.constexpr, HALF: tl.constexpr, INTERPRET: tl.constexpr):
    """Return ``(ROWS, 2 * HALF)`` queries or keys times ``fp8_model.mixing``, in float32.

    ``mixing`` points at that of HALF channels, of which twice as many take two products, and a sum and a difference.
    """
    channel = tl.arange(0, HALF)
    mixer = tl.load(mixing + channel[:, None] * HALF + channel[None, :])
    even, odd = tl.split(rows.reshape(ROWS, HALF, 2))
    if INTERPRET:
        # It has no bfloat16 products.
        mixer, even, odd = mixer.to(tl.float32), even.to(tl.float32), odd.to(tl.float32)
    even, odd = tl.dot(even, mixer, input_precision="ieee"), tl.dot(odd, mixer, input_precision="ieee")
    return tl.join(even + odd, even - odd).reshape(ROWS, 2 * HALF)


@triton.jit
def _distance(rows, scale, INTERPRET: tl.constexpr):
    """Return the squared distance of each row, scaled, from what e4m3 makes of it."""
    rows *= scale[:, None]
    distance = to_e4m3(rows, INTERPRET).to(tl.float32) - rows
    return tl.sum(distance * distance, 1)


@triton.jit
def rounded_queries(
    query, scratch, mixing, queries, stride_token, seq_len,
    HEAD_DIM: tl.constexpr, QUERIES: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Return queries of one head mixed and in 8 bits, and by what each was multiplied before it was rounded."""
    channel = tl.arange(0, HEAD_DIM)
    at = queries.to(tl.int64)[:, None] * stride_token + channel[None, :]
    rows = tl.load(query + at, (queries < seq_len)[:, None], 0.0)
    rows = mixed(rows, mixing, QUERIES, HEAD_DIM // 2, INTERPRET)
    most = tl.maximum(tl.max(bits(tl.abs(rows)), 1), bits(tl.full([QUERIES], _LEAST, tl.float32)))
    scale = MOST / most.to(tl.float32, bitcast=True)
    if not IS_INT8:
        # As often as not a query falls closer to numbers of e4m3 when they are this much wider apart.
        wider = scale * _SQRT_HALF
        is_closer = 2 * _distance(rows, wider, INTERPRET) < _distance(rows, scale, INTERPRET)
        scale = tl.where(is_closer, wider, scale)
    # What is computed stays in registers, too many of them. What is read is multiplied out of shared memory.
    scratch += queries.to(tl.int64)[:, None] * HEAD_DIM + channel[None, :]
    tl.store(scratch, rounded(rows * scale[:, None], IS_INT8, INTERPRET))
    tl.debug_barrier()
    return tl.load(scratch), scale
