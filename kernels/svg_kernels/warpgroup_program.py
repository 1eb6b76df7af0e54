"""What one program of block-sparse attention does on Hopper: two warpgroups share the tiles that a third one fetches.

A program of ``block_sparse_program`` fetches every tile for its own queries. Here 128 queries share them, which halves
what is read out of the second-level cache, and each warpgroup does its softmax while the products of the other are
computed. For rows of whole tiles, of which the end of the keys may cut the last.

The softmax has one base a query, the greatest score of its first tile: probabilities are as exact above 1 as below, and
neither a maximum nor what has been summed need be taken up again at every tile. A query whose sum outgrows MOST_WEIGHT
is marked, for a program with a running maximum to compute it anew.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from svg_kernels.block_sparse_program import _row_of_program
from svg_kernels.fp8_program import LEAST_FACTOR

# Queries of a warpgroup, as many as one of Hopper's matrix products takes, and of a program; keys of a tile.
ROWS = gl.constexpr(64)
QUERIES = gl.constexpr(128)
KEYS = gl.constexpr(128)

# Sums of probabilities up to here leave values of bfloat16 room up to 2^63. A score that is greater than those of the
# first tile by ln(2^64) = 44 exceeds it.
MOST_WEIGHT = gl.constexpr(2.0**64)


@gluon.jit
def _tile(tiles, step, count, HAS_RAGGED_KEYS: gl.constexpr):
    """Return the tile of a step: the last one, which may be cut and is masked, comes first."""
    place = step
    if HAS_RAGGED_KEYS:
        # Of a row without tiles, what is read belongs to none, as where lists end.
        place = gl.where(step == 0, gl.maximum(count - 1, 0), step - 1)
    return gl.load(tiles + place)


@gluon.jit
def _fetch(inputs, buffers, barriers, row, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, HAS_RAGGED_KEYS: gl.constexpr):
    """Bring the program's queries, and then tile after tile, as buffers fall free."""
    query, key, value = inputs
    tiles, count, item, head, query_start = row
    queries, keys, values = buffers
    has_queries, has_key, has_value, is_free = barriers
    num_bytes: gl.constexpr = HEAD_DIM * key.dtype.primitive_bitwidth // 8
    value_bytes: gl.constexpr = HEAD_DIM * value.dtype.primitive_bitwidth // 8
    if count > 0:
        mbarrier.expect(has_queries, QUERIES * num_bytes)
        for part in gl.static_range(2):
            place = [item, head, query_start + part * ROWS, 0]
            tma.async_copy_global_to_shared(query, place, has_queries, queries.index(part))
    tile = _tile(tiles, 0, count, HAS_RAGGED_KEYS)
    for step in range(count):
        slot = step % STAGES
        place = [item, head, tile * KEYS, 0]
        # Read a step ahead; the lists end with one number that belongs to none.
        tile = _tile(tiles, step + 1, count, HAS_RAGGED_KEYS)
        mbarrier.wait(is_free.index(slot), ((step // STAGES) & 1) ^ 1)
        mbarrier.expect(has_key.index(slot), KEYS * num_bytes)
        tma.async_copy_global_to_shared(key, place, has_key.index(slot), keys.index(slot))
        mbarrier.expect(has_value.index(slot), KEYS * value_bytes)
        tma.async_copy_global_to_shared(value, place, has_value.index(slot), values.index(slot))


@gluon.jit
def _start_scores(block, keys, has_key, step, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, LAYOUT: gl.constexpr):
    """Start a tile's products of queries and keys, and return what will hold them."""
    slot = step % STAGES
    mbarrier.wait(has_key.index(slot), (step // STAGES) & 1)
    tile = keys.index(slot).reshape([KEYS, HEAD_DIM]).permute((1, 0))
    empty = gl.zeros([ROWS, KEYS], gl.float32, LAYOUT)
    return warpgroup_mma(block, tile, empty, use_acc=False, is_async=True)


@gluon.jit
def _sum(x, SUMS_LAST: gl.constexpr):
    """Return each row's sum, or with SUMS_LAST the four sums of the lanes that hold a row."""
    return gl.sum(gl.sum(x.reshape([ROWS, KEYS // 8, 4, 2]), 3), 1) if SUMS_LAST else gl.sum(x, 1)


@gluon.jit
def _start_output(
    scores, total, weight, base, values, has_value, step, factor, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    SUMS_LAST: gl.constexpr, OUT: gl.constexpr,
):  # fmt: skip
    """Do a tile's softmax, and start its products with the values; return what will hold the output, and the sum."""
    probability = gl.exp2(scores * factor - base[:, None])
    weight += _sum(probability, SUMS_LAST)
    operand = gl.convert_layout(probability.to(values.dtype), gl.DotOperandLayout(0, OUT, 2))
    slot = step % STAGES
    mbarrier.wait(has_value.index(slot), (step // STAGES) & 1)
    tile = values.index(slot).reshape([KEYS, HEAD_DIM])
    return warpgroup_mma(operand, tile, total, is_async=True), weight


@gluon.jit
def _attend(
    part: gl.constexpr, output, outgrown, scales, buffers, barriers, row, seq_len, stride_token, scale_log2,
    HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, HAS_RAGGED_KEYS: gl.constexpr, SUMS_LAST: gl.constexpr,
):  # fmt: skip
    """Attend for one warpgroup's half of the queries."""
    queries, keys, values = buffers
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 256 // keys.dtype.primitive_bitwidth])
    out: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    tiles, count, _, _, query_start = row
    query_scale, key_scale = scales
    has_queries, has_key, has_value, is_free = barriers
    block = queries.index(part).reshape([ROWS, HEAD_DIM])
    total = gl.zeros([ROWS, HEAD_DIM], gl.float32, out)
    weight = _sum(gl.zeros([ROWS, KEYS], gl.float32, layout), SUMS_LAST)
    factor = scale_log2
    if query_scale is not None:
        token = query_start + part * ROWS + gl.arange(0, ROWS, rows)
        factor = (scale_log2 * gl.load(key_scale) * gl.load(query_scale + token))[:, None]
        # As in fp8_program.
        factor = gl.where(factor < LEAST_FACTOR, LEAST_FACTOR, factor)
    if count > 0:
        mbarrier.wait(has_queries, 0)
        scores = _start_scores(block, keys, has_key, 0, HEAD_DIM, STAGES, layout)
        scores = warpgroup_mma_wait(0, deps=[scores])
        if HAS_RAGGED_KEYS:
            columns = gl.load(tiles + count - 1) * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, layout))
            scores = gl.where((columns < seq_len)[None, :], scores, -float("inf"))
        base = gl.max(scores * factor, 1)
        for step in range(count - 1):
            # The next scores begin when these have become probabilities, in whose place they stand. Begun before, they
            # would have to be moved there; as it is, one warpgroup's products run beside the other's softmax.
            total, weight = _start_output(
                scores, total, weight, base, values, has_value, step, factor, HEAD_DIM, STAGES, SUMS_LAST, out
            )
            next_scores = _start_scores(block, keys, has_key, step + 1, HEAD_DIM, STAGES, layout)
            total = warpgroup_mma_wait(1, deps=[total])
            mbarrier.arrive(is_free.index(step % STAGES), count=1)
            scores = warpgroup_mma_wait(0, deps=[next_scores])
        total, weight = _start_output(
            scores, total, weight, base, values, has_value, count - 1, factor, HEAD_DIM, STAGES, SUMS_LAST, out
        )
        total = warpgroup_mma_wait(0, deps=[total])
    if SUMS_LAST:
        weight = gl.convert_layout(gl.sum(weight, 1), rows)
    gl.store(outgrown + part, (gl.max(weight, 0) > MOST_WEIGHT).to(gl.int32))
    # A query that keeps no key gets zeros.
    scale = 1.0 / gl.where(weight == 0.0, 1.0, weight)
    total = total * gl.convert_layout(scale, gl.SliceLayout(1, out))[:, None]
    token = query_start + part * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, out))
    channel = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, out))
    place = output + token.to(gl.int64)[:, None] * stride_token + channel[None, :]
    gl.store(place, total.to(output.dtype.element_ty), (token < seq_len)[:, None])


# Numbers that change from prompt to prompt, or from palette to palette, get no program of their own.
@gluon.jit(do_not_specialize=["num_items", "num_heads", "num_rows", "num_heavy", "seq_len", "padded_len"])
def attention(
    query, key, value, query_scale, key_scale, output, outgrown, starts, full_counts, tiles, row_order, assignment,
    stride_output_item, stride_output_head, stride_output_token, stride_assignment_item, stride_assignment_head,
    num_items, num_heads, num_rows, num_heavy, seq_len, padded_len, scale_log2,
    HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, HAS_RAGGED_KEYS: gl.constexpr, SUMS_LAST: gl.constexpr,
):  # fmt: skip
    """Attend for 128 queries.

    Layout: query, key and value are descriptors of ``(items, heads, padded_len, HEAD_DIM)``; query_scale
    ``(items, heads, padded_len)`` and key_scale ``(items, heads)``, None of what is not in 8 bits; output is a pointer
    to ``(items, heads, seq_len, HEAD_DIM)`` with strides; outgrown, int32 ``(items, heads, num_rows, 2)``, of which
    each warpgroup writes one.
    """
    item, head, pattern, row, _ = _row_of_program(
        row_order, assignment, stride_assignment_item, stride_assignment_head, num_items, num_heads, num_rows,
        num_heavy, 1,
    )  # fmt: skip
    tiles += gl.load(starts + pattern * num_rows + row)
    count = gl.load(full_counts + pattern * num_rows + row)
    query_start = row * QUERIES
    output += item.to(gl.int64) * stride_output_item + head.to(gl.int64) * stride_output_head
    lane = item * num_heads + head
    outgrown += (lane * num_rows + row) * 2
    if query_scale is not None:
        query_scale += lane.to(gl.int64) * padded_len
        key_scale += lane

    buffers = (
        gl.allocate_shared_memory(query.dtype, [2, 1, 1, ROWS, HEAD_DIM], query.layout),
        gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, KEYS, HEAD_DIM], key.layout),
        gl.allocate_shared_memory(value.dtype, [STAGES, 1, 1, KEYS, HEAD_DIM], value.layout),
    )
    has_queries = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    has_key = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    has_value = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    is_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(has_queries, 1)
    for slot in gl.static_range(STAGES):
        mbarrier.init(has_key.index(slot), 1)
        mbarrier.init(has_value.index(slot), 1)
        mbarrier.init(is_free.index(slot), 2)
    fence_async_shared()
    barriers = (has_queries, has_key, has_value, is_free)
    inputs, row = (query, key, value), (tiles, count, item, head, query_start)
    scales = (query_scale, key_scale)
    # Registers per thread: 240 for those that attend, the least there are for the one warp that fetches.
    gl.warp_specialize(
        [
            (_attend, (0, output, outgrown, scales, buffers, barriers, row, seq_len, stride_output_token,
                       scale_log2, HEAD_DIM, STAGES, HAS_RAGGED_KEYS, SUMS_LAST)),
            (_attend, (1, output, outgrown, scales, buffers, barriers, row, seq_len, stride_output_token,
                       scale_log2, HEAD_DIM, STAGES, HAS_RAGGED_KEYS, SUMS_LAST)),
            (_fetch, (inputs, buffers, barriers, row, HEAD_DIM, STAGES, HAS_RAGGED_KEYS)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
