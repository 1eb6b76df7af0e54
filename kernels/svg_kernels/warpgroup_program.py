"""What one program of block-sparse attention does on Hopper: two warpgroups share the tiles that a third one fetches.

A program of ``block_sparse_program`` fetches every tile for its own queries. Here 128 queries share them, which halves
what is read out of the second-level cache, and each warpgroup does its softmax while the products of the other are
computed. For rows of whole tiles, of which the end of the keys may cut the last.

The softmax has one base a query, the greatest score of its first tile: probabilities are as exact above 1 as below, and
neither a maximum nor what has been summed need be taken up again at every tile. A query whose sum outgrows MOST_WEIGHT
is marked, for a program with a running maximum to compute it anew.

Probabilities in 8 bits, for values in 8 bits, have no such room: their base is the running maximum. What it costs to
scale what has been summed is paid already: a matrix unit sums 8-bit products to 14 bits, so tiles are added up here.
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
from svg_kernels.fp8_program import _TOP_EXPONENT, LEAST_FACTOR

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
    ROUNDS_VALUES: gl.constexpr = value.dtype.primitive_bitwidth == 8
    if count > 0:
        mbarrier.expect(has_queries, QUERIES * num_bytes)
        for part in gl.static_range(2):
            place = [item, head, query_start + part * ROWS, 0]
            tma.async_copy_global_to_shared(query, place, has_queries, queries.index(part))
    tile = _tile(tiles, 0, count, HAS_RAGGED_KEYS)
    for step in range(count):
        slot = step % STAGES
        place = [item, head, tile * KEYS, 0]
        value_place = [item, head, 0, tile * KEYS] if ROUNDS_VALUES else place
        # Read a step ahead; the lists end with one number that belongs to none.
        tile = _tile(tiles, step + 1, count, HAS_RAGGED_KEYS)
        mbarrier.wait(is_free.index(slot), ((step // STAGES) & 1) ^ 1)
        mbarrier.expect(has_key.index(slot), KEYS * num_bytes)
        tma.async_copy_global_to_shared(key, place, has_key.index(slot), keys.index(slot))
        mbarrier.expect(has_value.index(slot), KEYS * value_bytes)
        tma.async_copy_global_to_shared(value, value_place, has_value.index(slot), values.index(slot))


@gluon.jit
def _start_scores(block, keys, has_key, step, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, LAYOUT: gl.constexpr):
    """Start a tile's products of queries and keys, and return what will hold them."""
    slot = step % STAGES
    mbarrier.wait(has_key.index(slot), (step // STAGES) & 1)
    tile = keys.index(slot).reshape([KEYS, HEAD_DIM]).permute((1, 0))
    empty = gl.zeros([ROWS, KEYS], gl.float32, LAYOUT)
    return warpgroup_mma(block, tile, empty, use_acc=False, is_async=True)


@gluon.jit
def _by_lane(x):
    """Return a tile with the numbers of each row grouped by the lane, of four, that holds them."""
    return x.reshape([ROWS, KEYS // 8, 4, 2])


@gluon.jit
def _sum(x, SUMS_LAST: gl.constexpr):
    """Return each row's sum, or with SUMS_LAST the four sums of the lanes that hold a row."""
    return gl.sum(gl.sum(_by_lane(x), 3), 1) if SUMS_LAST else gl.sum(x, 1)


@gluon.jit
def _greatest(x):
    """Return each row's greatest number, of pairs first: in one chain every comparison would wait for the last one."""
    return gl.max(gl.max(gl.max(_by_lane(x), 3), 1), 1)


@gluon.jit
def _start_output(
    scores, total, weight, base, values, has_value, step, factor, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    SUMS_LAST: gl.constexpr, OUT: gl.constexpr,
):  # fmt: skip
    """Do a tile's softmax, and start its products with the values.

    Returns:
        What will hold the output, or of values in 8 bits what will be added to it; what the output until now is first
        multiplied by; the base, and the sum of probabilities.
    """
    ROUNDS_VALUES: gl.constexpr = values.dtype.primitive_bitwidth == 8
    decay = base
    if ROUNDS_VALUES:
        peak = gl.maximum(base, gl.convert_layout(_greatest(scores), base.type.layout) * factor - _TOP_EXPONENT)
        decay = gl.exp2(base - peak)
        base = peak
        weight *= gl.convert_layout(decay, gl.SliceLayout(1, weight.type.layout))[:, None]
    probability = gl.exp2(scores * factor[:, None] - base[:, None])
    weight += _sum(probability, SUMS_LAST)
    operand = probability.to(values.dtype)
    if ROUNDS_VALUES:
        # As values stand: see fp8_model.LANE_ORDER.
        operand = operand.reshape([ROWS, KEYS // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([ROWS, KEYS])
    operand = gl.convert_layout(operand, gl.DotOperandLayout(0, OUT, 4 if ROUNDS_VALUES else 2))
    slot = step % STAGES
    mbarrier.wait(has_value.index(slot), (step // STAGES) & 1)
    if ROUNDS_VALUES:
        tile = values.index(slot).reshape([HEAD_DIM, KEYS]).permute((1, 0))
        total = gl.zeros([ROWS, HEAD_DIM], gl.float32, OUT)
    else:
        tile = values.index(slot).reshape([KEYS, HEAD_DIM])
    output = warpgroup_mma(operand, tile, total, use_acc=not ROUNDS_VALUES, is_async=True)
    return output, decay, base, weight


@gluon.jit
def _added(total, output, decay, ROUNDS_VALUES: gl.constexpr, OUT: gl.constexpr):
    """Return the output after a tile whose products are done."""
    return total * gl.convert_layout(decay, gl.SliceLayout(1, OUT))[:, None] + output if ROUNDS_VALUES else output


@gluon.jit
def _attend(
    part: gl.constexpr, output, marks, scales, buffers, barriers, row, seq_len, stride_token, scale_log2,
    HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, HAS_RAGGED_KEYS: gl.constexpr, SUMS_LAST: gl.constexpr,
):  # fmt: skip
    """Attend for one warpgroup's half of the queries."""
    queries, keys, values = buffers
    ROUNDS_VALUES: gl.constexpr = values.dtype.primitive_bitwidth == 8
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 256 // keys.dtype.primitive_bitwidth])
    out: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [4, 1], [16, HEAD_DIM, 256 // values.dtype.primitive_bitwidth]
    )
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    tiles, count, _, _, query_start = row
    query_scale, key_scale, value_scale = scales
    has_queries, has_key, has_value, is_free = barriers
    block = queries.index(part).reshape([ROWS, HEAD_DIM])
    total = gl.zeros([ROWS, HEAD_DIM], gl.float32, out)
    weight = _sum(gl.zeros([ROWS, KEYS], gl.float32, layout), SUMS_LAST)
    factor = gl.full([ROWS], scale_log2, gl.float32, rows)
    if query_scale is not None:
        token = query_start + part * ROWS + gl.arange(0, ROWS, rows)
        factor *= gl.load(key_scale) * gl.load(query_scale + token)
        # As in fp8_program.
        factor = gl.where(factor < LEAST_FACTOR, LEAST_FACTOR, factor)
    if count > 0:
        mbarrier.wait(has_queries, 0)
        scores = _start_scores(block, keys, has_key, 0, HEAD_DIM, STAGES, layout)
        scores = warpgroup_mma_wait(0, deps=[scores])
        if HAS_RAGGED_KEYS:
            columns = gl.load(tiles + count - 1) * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, layout))
            scores = gl.where((columns < seq_len)[None, :], scores, -float("inf"))
        base = gl.max(scores * factor[:, None], 1)
        if ROUNDS_VALUES:
            base -= _TOP_EXPONENT
        for step in range(count - 1):
            # The next scores begin when these have become probabilities, in whose place they stand. Begun before, they
            # would have to be moved there; as it is, one warpgroup's products run beside the other's softmax.
            sums, decay, base, weight = _start_output(
                scores, total, weight, base, values, has_value, step, factor, HEAD_DIM, STAGES, SUMS_LAST, out
            )
            next_scores = _start_scores(block, keys, has_key, step + 1, HEAD_DIM, STAGES, layout)
            sums = warpgroup_mma_wait(1, deps=[sums])
            mbarrier.arrive(is_free.index(step % STAGES), count=1)
            total = _added(total, sums, decay, ROUNDS_VALUES, out)
            scores = warpgroup_mma_wait(0, deps=[next_scores])
        sums, decay, base, weight = _start_output(
            scores, total, weight, base, values, has_value, count - 1, factor, HEAD_DIM, STAGES, SUMS_LAST, out
        )
        sums = warpgroup_mma_wait(0, deps=[sums])
        total = _added(total, sums, decay, ROUNDS_VALUES, out)
    if SUMS_LAST:
        weight = gl.convert_layout(gl.sum(weight, 1), rows)
    outgrown, place_of_mark = marks
    if outgrown is not None:
        is_outgrown = gl.max(weight, 0) > MOST_WEIGHT
        gl.store(outgrown, 1, is_outgrown)
        gl.store(outgrown + place_of_mark + part, 1, is_outgrown)
    # A query that keeps no key gets zeros.
    scale = 1.0 / gl.where(weight == 0.0, 1.0, weight)
    if ROUNDS_VALUES:
        scale *= gl.load(value_scale)
    total = total * gl.convert_layout(scale, gl.SliceLayout(1, out))[:, None]
    token = query_start + part * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, out))
    channel = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, out))
    place = output + token.to(gl.int64)[:, None] * stride_token + channel[None, :]
    gl.store(place, total.to(output.dtype.element_ty), (token < seq_len)[:, None])


# Numbers that change from prompt to prompt, or from palette to palette, get no program of their own.
@gluon.jit(do_not_specialize=["num_items", "num_heads", "num_rows", "num_heavy", "seq_len", "padded_len"])
def attention(
    query, key, value, query_scale, key_scale, value_scale, output, outgrown, starts, full_counts, tiles, row_order,
    assignment, stride_output_item, stride_output_head, stride_output_token, stride_assignment_item,
    stride_assignment_head,
    num_items, num_heads, num_rows, num_heavy, seq_len, padded_len, scale_log2,
    HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, HAS_RAGGED_KEYS: gl.constexpr, SUMS_LAST: gl.constexpr,
):  # fmt: skip
    """Attend for 128 queries.

    Layout: query, key and value are descriptors of ``(items, heads, padded_len, HEAD_DIM)``, of values in 8 bits of
    ``(items, heads, HEAD_DIM, padded_len)``; query_scale ``(items, heads, padded_len)``, key_scale and value_scale
    ``(items, heads)``, None of what is not in 8 bits; output is a pointer to ``(items, heads, seq_len, HEAD_DIM)`` with
    strides; outgrown, zeros of int32 ``(1 + items * heads * num_rows * 2,)``, None with values in 8 bits: each
    warpgroup writes one, and the first says whether any did.
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
    marks = (outgrown, 1 + (lane * num_rows + row) * 2)
    if query_scale is not None:
        query_scale += lane.to(gl.int64) * padded_len
        key_scale += lane
    if value_scale is not None:
        value_scale += lane

    ROUNDS_VALUES: gl.constexpr = value.dtype.primitive_bitwidth == 8
    VALUE_ROWS: gl.constexpr = HEAD_DIM if ROUNDS_VALUES else KEYS
    VALUE_COLUMNS: gl.constexpr = KEYS if ROUNDS_VALUES else HEAD_DIM
    buffers = (
        gl.allocate_shared_memory(query.dtype, [2, 1, 1, ROWS, HEAD_DIM], query.layout),
        gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, KEYS, HEAD_DIM], key.layout),
        gl.allocate_shared_memory(value.dtype, [STAGES, 1, 1, VALUE_ROWS, VALUE_COLUMNS], value.layout),
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
    scales = (query_scale, key_scale, value_scale)
    # Registers per thread: 240 for those that attend, the least there are for the one warp that fetches.
    gl.warp_specialize(
        [
            (_attend, (0, output, marks, scales, buffers, barriers, row, seq_len, stride_output_token,
                       scale_log2, HEAD_DIM, STAGES, HAS_RAGGED_KEYS, SUMS_LAST)),
            (_attend, (1, output, marks, scales, buffers, barriers, row, seq_len, stride_output_token,
                       scale_log2, HEAD_DIM, STAGES, HAS_RAGGED_KEYS, SUMS_LAST)),
            (_fetch, (inputs, buffers, barriers, row, HEAD_DIM, STAGES, HAS_RAGGED_KEYS)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
