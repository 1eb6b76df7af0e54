"""What one program of block-sparse attention in 8 bits does: scores of e4m3 or int8, values of e4m3 or as they are."""

from __future__ import annotations

import triton
import triton.language as tl

from svg_kernels.block_sparse_program import _count_below, _has_outgrown, _looked_up, _row_of_program
from svg_kernels.fp8_model import TOP_EXPONENT
from svg_kernels.fp8_rounding import FLOAT_BITS, FLOAT_OFFSET, rounded_queries, to_e4m3
from svg_kernels.pattern_mask import place_keep

_TOP_EXPONENT = tl.constexpr(TOP_EXPONENT)

# What scores are multiplied by at least, where some are -inf, which times 0 is no number: of queries and keys that are
# all zeros it would come to that. It makes nothing of the greatest score.
LEAST_FACTOR = tl.constexpr(2.0**-100)


@triton.jit
def _scores(block, keys, IS_INT8: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Return the products of quantised queries and keys in float32, of int8 with FLOAT_OFFSET added."""
    if IS_INT8:
        # Without a conversion, which costs as much as an exponential.
        start = tl.full([QUERIES, KEYS], FLOAT_BITS, tl.int32)
        scores = tl.dot(block, keys.T, acc=start, out_dtype=tl.int32).to(tl.float32, bitcast=True)
    else:
        scores = tl.dot(block, keys.T)
    return scores


@triton.jit
def _as_operand(x, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Return probabilities with the keys of each 16 in the order of the values: see ``fp8_model.LANE_ORDER``."""
    return tl.permute(x.reshape(QUERIES, KEYS // 16, 2, 4, 2), (0, 1, 3, 2, 4)).reshape(QUERIES, KEYS)


@triton.jit
def _accumulate(
    scores, factor, values, total, peak, weight,
    IS_INT8: tl.constexpr, WIDE_VALUES: tl.constexpr, MAY_BE_EMPTY: tl.constexpr, INTERPRET: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Return the running output, maximum and sum of an online softmax after one more tile.

    ``factor`` of each query turns its scores into exponents of two; ``values`` are ``(channels, keys)``, wide ones
    ``(keys, channels)``.
    """
    greatest = tl.max(scores, 1)
    if IS_INT8:
        greatest -= FLOAT_OFFSET
    new_peak = tl.maximum(peak, greatest * factor)
    base = new_peak
    if MAY_BE_EMPTY:
        # A row that has met no key yet: -inf less -inf is no number.
        base = tl.where(new_peak == -float("inf"), 0.0, base)
    shift = _TOP_EXPONENT - base
    if IS_INT8:
        shift -= FLOAT_OFFSET * factor
    probability = tl.exp2(scores * factor[:, None] + shift[:, None])
    decay = tl.exp2(peak - base)
    weight = weight * decay + tl.sum(probability, 1)
    if WIDE_VALUES:
        total = tl.dot(probability.to(values.dtype), values, total * decay[:, None], input_precision="ieee")
    else:
        operand = _as_operand(to_e4m3(probability, INTERPRET), QUERIES, KEYS)
        # Matrix units sum 8-bit products to 14 bits only: a tile's sum is short, the sum of tiles is kept in float32.
        total = total * decay[:, None] + tl.dot(operand, values.T)
    return total, new_peak, weight


# Numbers that change from prompt to prompt, or from palette to palette, get no program of their own.
@triton.jit(do_not_specialize=["num_items", "num_heads", "num_rows", "num_heavy", "seq_len"])
def attention(
    query, key, value, key_scale, value_scale, mixing, scratch, output, outgrown,
    starts, full_counts, partial_counts, tiles, row_order, integers, assignment, lengths,
    lookup_query_tile, lookup_key_tile, lookup_states, lookup_places,
    stride_query_item, stride_query_head, stride_query_token,
    stride_output_item, stride_output_head, stride_output_token,
    stride_assignment_item, stride_assignment_head,
    num_items, num_heads, num_rows, num_heavy, seq_len, padded_len, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr, SCALED_KEYS: tl.constexpr,
    ROW_SPLIT: tl.constexpr, KEY_SPLIT: tl.constexpr, HAS_PARTIAL: tl.constexpr, HAS_RAGGED_KEYS: tl.constexpr,
    IS_INT8: tl.constexpr, WIDE_VALUES: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Round one block of queries to 8 bits, and attend for it.

    Layout, contiguous, with ``padded_len`` a multiple of 128: key, and scratch, where queries in 8 bits are put,
    ``(items, heads, padded_len, HEAD_DIM)``, value ``(items, heads, HEAD_DIM, padded_len)``, or wide as key; key and
    value are descriptors of matrices. value_scale is ``(items, heads)``, and so is key_scale, or of int8 one of every
    SCALED_KEYS keys. query and output are ``(items, heads, seq_len, HEAD_DIM)``. ROW_SPLIT blocks of queries share a
    row of tiles; KEY_SPLIT steps walk through one tile. outgrown, where given,
    ``(1 + items * heads * num_rows * 2,)``, marks the rows to compute, first of all whether there are any.
    """
    if outgrown is not None and tl.load(outgrown) == 0:
        return
    item, head, pattern, row, part = _row_of_program(
        row_order, assignment, stride_assignment_item, stride_assignment_head, num_items, num_heads, num_rows,
        num_heavy, ROW_SPLIT,
    )  # fmt: skip
    query_start = (row * ROW_SPLIT + part) * BLOCK_QUERIES
    if query_start >= seq_len:
        return
    if outgrown is not None and not _has_outgrown(outgrown, item * num_heads + head, num_rows, row):
        return
    row_index = pattern * num_rows + row
    tiles += tl.load(starts + row_index)
    full_count = tl.load(full_counts + row_index)
    tile_keys: tl.constexpr = BLOCK_KEYS * KEY_SPLIT
    lane = item * num_heads + head
    key_scale += lane * (padded_len // SCALED_KEYS) if IS_INT8 else lane

    # Tiles that the end of the keys cuts are masked; those past it are left out.
    limit = seq_len
    whole_count = full_count
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + item).to(tl.int32), seq_len)
        whole_count = _count_below(tiles, full_count, limit // tile_keys)
    elif HAS_RAGGED_KEYS:
        is_last_cut = tl.load(tiles + tl.maximum(full_count - 1, 0)) >= limit // tile_keys
        whole_count -= ((full_count > 0) & is_last_cut).to(tl.int32)

    first_token, first_channel = lane * padded_len, lane * HEAD_DIM
    queries = query_start + tl.arange(0, BLOCK_QUERIES)
    query += item.to(tl.int64) * stride_query_item + head.to(tl.int64) * stride_query_head
    block, scale = rounded_queries(
        query, scratch + first_token.to(tl.int64) * HEAD_DIM, mixing, queries, stride_query_token, seq_len,
        HEAD_DIM, BLOCK_QUERIES, IS_INT8, MOST, INTERPRET,
    )  # fmt: skip
    row_scale = scale_log2 / scale
    if not IS_INT8:
        row_scale *= tl.load(key_scale)
    total = tl.zeros([BLOCK_QUERIES, HEAD_DIM], tl.float32)
    peak = tl.full([BLOCK_QUERIES], -float("inf"), tl.float32)
    weight = tl.zeros([BLOCK_QUERIES], tl.float32)

    # Each tile's number is read a step ahead; the lists end with one number that belongs to none.
    tile = tl.load(tiles)
    for step in range(0, whole_count * KEY_SPLIT):
        key_start = tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
        tile = tl.load(tiles + (step + 1) // KEY_SPLIT)
        keys = key.load([first_token + key_start, 0])
        value_place = [first_token + key_start, 0] if WIDE_VALUES else [first_channel, key_start]
        values = value.load(value_place)
        factor = row_scale
        if IS_INT8:
            factor *= tl.load(key_scale + key_start // SCALED_KEYS)
        scores = _scores(block, keys, IS_INT8, BLOCK_QUERIES, BLOCK_KEYS)
        total, peak, weight = _accumulate(
            scores, factor, values, total, peak, weight, IS_INT8, WIDE_VALUES, False, INTERPRET, BLOCK_QUERIES,
            BLOCK_KEYS,
        )  # fmt: skip

    if HAS_PARTIAL or HAS_RAGGED_KEYS:
        stop = full_count
        if HAS_PARTIAL:
            stop += tl.load(partial_counts + row_index)
        for step in tl.range(whole_count * KEY_SPLIT, stop * KEY_SPLIT, num_stages=1):
            tile = tl.load(tiles + step // KEY_SPLIT)
            key_start = tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
            if key_start < limit:
                keys = key.load([first_token + key_start, 0])
                value_place = [first_token + key_start, 0] if WIDE_VALUES else [first_channel, key_start]
                values = value.load(value_place)
                factor = row_scale
                if IS_INT8:
                    factor *= tl.load(key_scale + key_start // SCALED_KEYS)
                # Written so that NaN stays NaN.
                factor = tl.where(factor < LEAST_FACTOR, LEAST_FACTOR, factor)
                columns = key_start + tl.arange(0, BLOCK_KEYS)
                keep = (columns < limit)[None, :]
                if HAS_PARTIAL:
                    kept = place_keep(integers, pattern, queries, columns)
                    if lookup_states is not None:
                        kept = _looked_up(
                            lookup_query_tile, lookup_key_tile, lookup_states, lookup_places, pattern, queries,
                            columns, seq_len, kept,
                        )  # fmt: skip
                    keep = keep & (kept | (step < full_count * KEY_SPLIT))
                scores = _scores(block, keys, IS_INT8, BLOCK_QUERIES, BLOCK_KEYS)
                scores = tl.where(keep, scores, -float("inf"))
                total, peak, weight = _accumulate(
                    scores, factor, values, total, peak, weight, IS_INT8, WIDE_VALUES, True, INTERPRET, BLOCK_QUERIES,
                    BLOCK_KEYS,
                )  # fmt: skip

    # A query that keeps no key gets zeros.
    scale = 1.0 / tl.where(weight == 0.0, 1.0, weight)
    if not WIDE_VALUES:
        scale *= tl.load(value_scale + lane)
    channel = tl.arange(0, HEAD_DIM)
    output += item.to(tl.int64) * stride_output_item + head.to(tl.int64) * stride_output_head
    output += queries.to(tl.int64)[:, None] * stride_output_token + channel[None, :]
    tl.store(output, (total * scale[:, None]).to(output.dtype.element_ty), (queries < seq_len)[:, None])
