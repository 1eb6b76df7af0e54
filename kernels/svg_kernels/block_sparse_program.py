"""What one program of block-sparse attention does: an online softmax over the tiles that its row of a plan lists."""

from __future__ import annotations

import triton
import triton.language as tl

from svg_kernels.pattern_mask import place_keep
from svg_kernels.tiles import load_tile


@triton.jit
def _row_of_program(
    row_order, assignment, stride_assignment_item, stride_assignment_head, num_items, num_heads, num_rows, num_heavy,
    ROW_SPLIT: tl.constexpr,
):  # fmt: skip
    """Return (item, head, pattern, row of tiles, part of that row): heavy rows first, then head by head."""
    program = tl.program_id(0)
    lanes = num_items * num_heads
    heavy, light = num_heavy * ROW_SPLIT, (num_rows - num_heavy) * ROW_SPLIT
    lane = program % lanes
    place = program // lanes
    if program >= heavy * lanes:
        lane = (program - heavy * lanes) // light
        place = heavy + (program - heavy * lanes) % light
    item, head = lane // num_heads, lane % num_heads
    pattern = tl.load(assignment + item * stride_assignment_item + head * stride_assignment_head).to(tl.int32)
    row = tl.load(row_order + pattern * num_rows + place // ROW_SPLIT)
    return item, head, pattern, row, place % ROW_SPLIT


@triton.jit
def _count_below(tiles, count, bound):
    """Return how many of ``count`` ascending numbers are below ``bound``."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if tl.load(tiles + middle) < bound:
            low = middle + 1
        else:
            high = middle
    return low


@triton.jit
def _has_outgrown(outgrown, lane, num_rows, row):
    """Return whether a row of tiles is marked: see ``warpgroup_attention.prepare``."""
    marks = outgrown + 1 + (lane * num_rows + row) * 2
    return tl.load(marks) + tl.load(marks + 1) > 0


@triton.jit
def _accumulate(scores, value, total, peak, weight, scale_log2, MAY_BE_EMPTY: tl.constexpr):
    """Return the running output, maximum and sum of an online softmax after one more tile."""
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    base = new_peak * scale_log2
    if MAY_BE_EMPTY:
        # A row that has met no key yet: -inf less -inf is no number.
        base = tl.where(new_peak == -float("inf"), 0.0, base)
    probability = tl.exp2(scores * scale_log2 - base[:, None])
    decay = tl.exp2(peak * scale_log2 - base)
    weight = weight * decay + tl.sum(probability, 1)
    total = tl.dot(probability.to(value.dtype), value, total * decay[:, None], input_precision="ieee")
    return total, new_peak, weight


# Numbers that change from prompt to prompt, or from palette to palette, get no program of their own.
@triton.jit(do_not_specialize=["num_items", "num_heads", "num_rows", "num_heavy", "seq_len"])
def attention(
    query, key, value, output, outgrown,
    starts, full_counts, partial_counts, tiles, row_order, integers, assignment, lengths,
    lookup_query_tile, lookup_key_tile, lookup_states, lookup_places,
    stride_query_item, stride_query_head, stride_query_token,
    stride_key_item, stride_key_head, stride_key_token,
    stride_value_item, stride_value_head, stride_value_token,
    stride_output_item, stride_output_head, stride_output_token,
    stride_assignment_item, stride_assignment_head,
    num_items, num_heads, num_rows, num_heavy, seq_len, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    ROW_SPLIT: tl.constexpr, KEY_SPLIT: tl.constexpr, USES_DESCRIPTORS: tl.constexpr, HAS_PARTIAL: tl.constexpr,
    HAS_RAGGED_KEYS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attend for one block of queries.

    Layout: query, key, value and output ``(items, heads, seq_len, HEAD_DIM)``, as pointers with strides or as
    descriptors. ROW_SPLIT blocks of queries share a row of tiles; KEY_SPLIT steps walk through one tile. outgrown,
    where given, ``(1 + items * heads * num_rows * 2,)``, marks the rows to compute, first of all whether there are any.
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

    # Tiles that the end of the keys cuts are masked; those past it are left out.
    limit = seq_len
    whole_count = full_count
    cut_count = 0
    partial_count = 0
    if HAS_PARTIAL:
        partial_count = tl.load(partial_counts + row_index)
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + item).to(tl.int32), seq_len)
        past = (limit + tile_keys - 1) // tile_keys
        whole_count = _count_below(tiles, full_count, limit // tile_keys)
        cut_count = _count_below(tiles, full_count, past) - whole_count
        if HAS_PARTIAL:
            partial_count = _count_below(tiles + full_count, partial_count, past)
    elif HAS_RAGGED_KEYS:
        is_last_cut = tl.load(tiles + tl.maximum(full_count - 1, 0)) >= limit // tile_keys
        cut_count = ((full_count > 0) & is_last_cut).to(tl.int32)
        whole_count -= cut_count

    block = load_tile(
        query, item, head, query_start, stride_query_item, stride_query_head, stride_query_token, seq_len,
        HEAD_DIM, BLOCK_QUERIES, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
    )  # fmt: skip
    total = tl.zeros([BLOCK_QUERIES, BLOCK_DIM], tl.float32)
    peak = tl.full([BLOCK_QUERIES], -float("inf"), tl.float32)
    weight = tl.zeros([BLOCK_QUERIES], tl.float32)

    # Masked tiles come first, and a step past the end of the keys is no branch but a masked one: where a branch, or
    # another loop, follows the one over whole tiles, ptxas lets none of its matrix products run beside another.
    if HAS_PARTIAL or HAS_RAGGED_KEYS:
        queries = query_start + tl.arange(0, BLOCK_QUERIES)
        for step in tl.range(0, (cut_count + partial_count) * KEY_SPLIT, num_stages=1):
            place = step // KEY_SPLIT
            is_cut = place < cut_count
            masked_tile = tl.load(tiles + tl.where(is_cut, whole_count, full_count - cut_count) + place)
            key_start = masked_tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
            keys = load_tile(
                key, item, head, key_start, stride_key_item, stride_key_head, stride_key_token, seq_len,
                HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
            )  # fmt: skip
            values = load_tile(
                value, item, head, key_start, stride_value_item, stride_value_head, stride_value_token, seq_len,
                HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
            )  # fmt: skip
            columns = key_start + tl.arange(0, BLOCK_KEYS)
            if lengths is not None:
                # Padding may hold anything, and a probability of nothing times NaN is NaN.
                values = tl.where((columns < limit)[:, None], values, 0.0)
            keep = (columns < limit)[None, :]
            if HAS_PARTIAL:
                kept = place_keep(integers, pattern, queries, columns)
                if lookup_states is not None:
                    kept = _looked_up(
                        lookup_query_tile, lookup_key_tile, lookup_states, lookup_places, pattern, queries,
                        columns, seq_len, kept,
                    )  # fmt: skip
                keep = keep & (kept | is_cut)
            scores = tl.where(keep, tl.dot(block, keys.T, input_precision="ieee"), -float("inf"))
            total, peak, weight = _accumulate(scores, values, total, peak, weight, scale_log2, True)

    # Each tile's number is read a step ahead; the lists end with one number that belongs to none.
    tile = tl.load(tiles)
    for step in range(0, whole_count * KEY_SPLIT):
        key_start = tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
        tile = tl.load(tiles + (step + 1) // KEY_SPLIT)
        keys = load_tile(
            key, item, head, key_start, stride_key_item, stride_key_head, stride_key_token, seq_len,
            HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, False, INTERPRET,
        )  # fmt: skip
        values = load_tile(
            value, item, head, key_start, stride_value_item, stride_value_head, stride_value_token, seq_len,
            HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, False, INTERPRET,
        )  # fmt: skip
        scores = tl.dot(block, keys.T, input_precision="ieee")
        total, peak, weight = _accumulate(scores, values, total, peak, weight, scale_log2, False)

    # A query that keeps no key gets zeros.
    total = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
    if USES_DESCRIPTORS:
        output.store([item, head, query_start, 0], total.to(output.dtype).reshape(1, 1, BLOCK_QUERIES, BLOCK_DIM))
    else:
        token, place = tl.arange(0, BLOCK_QUERIES), tl.arange(0, BLOCK_DIM)
        first = output + item.to(tl.int64) * stride_output_item + head.to(tl.int64) * stride_output_head
        first += query_start.to(tl.int64) * stride_output_token
        pointers = first + (token[:, None] * stride_output_token + place[None, :])
        is_inside = ((query_start + token) < seq_len)[:, None] & (place < HEAD_DIM)[None, :]
        tl.store(pointers, total.to(output.dtype.element_ty), is_inside)


@triton.jit
def _looked_up(query_tile, key_tile, states, places, pattern, queries, columns, seq_len, kept):
    """Return which pairs are kept by the plan's own tiles; ``kept`` is what their partial ones keep."""
    first = tl.load(places + 2 * pattern)
    width = tl.load(places + 2 * pattern + 1)
    rows = tl.load(query_tile + pattern * seq_len + queries, queries < seq_len, 0)
    places_in_row = tl.load(key_tile + pattern * seq_len + columns, columns < seq_len, 0)
    state = tl.load(states + (first + rows[:, None] * width + places_in_row[None, :]))
    return (state == 2) | ((state == 1) & kept)
