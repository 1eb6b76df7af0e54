"""Online profiling: how far masked attention is from full attention on sampled rows, in one pass over keys and values.

Full attention and two masks share the scores, the maximum and the exponentials; each has a sum of its own. All heads
have the same masks: a first kernel packs them, a bit for each sampled row. The keys are split among programs, whose
sums a last kernel joins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.pattern_mask import place_keep
from svg_kernels.spec import Case, Inputs, Spec
from svg_kernels.tile_lists import FULL, PARTIAL, PatternIntegers
from svg_kernels.tiles import fits_descriptor, load_tile

LOG2_E = math.log2(math.e)
# Rows of one program at most, and keys of one step.
MOST_ROWS, BLOCK_KEYS = 64, 64
# Keys whose bits make a word.
WORD = tl.constexpr(64)
# Keys of one program: few enough to fill a GPU, many enough that joining them costs little.
KEYS_PER_PROGRAM = 4608
# Programs that share out the channels of values: what one holds of three outputs fits its registers.
VALUE_SPLIT = 2
OUTPUTS = tl.constexpr(3)
# From which compute capability on tiles are moved by the tensor memory engine.
HOPPER = 90
# Whose program the interpreter takes.
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, eq=False)
class RowMasks:
    """What patterns keep on sampled rows, without a mask of every pair.

    Args:
        row_states: int8 ``(patterns, rows, key_tiles)``: skipped, partial or full for each sampled row.
        key_tile: int32 ``(patterns, seq_len)``: the tile of the pattern's own order that holds each key.
        row_place: int32 ``(patterns, rows)``: where each sampled row stands in the pattern's order of queries.
        key_place: int32 ``(patterns, seq_len)``: the same for keys.
        integers: int32 ``(patterns, 14)``, what partial tiles keep: each a ``PatternIntegers``.
        has_partial: Whether any tile may be partial.
    """

    row_states: torch.Tensor
    key_tile: torch.Tensor
    row_place: torch.Tensor
    key_place: torch.Tensor
    integers: torch.Tensor
    has_partial: bool

    def keep(self, pattern: int) -> torch.Tensor:
        """Return a pattern's mask, bool ``(rows, seq_len)``: for judges."""
        state = self.row_states[pattern][:, self.key_tile[pattern].long()]
        kept = PatternIntegers(*self.integers[pattern].tolist()).keep(
            self.row_place[pattern, :, None].long(), self.key_place[pattern].long()
        )
        return (state == FULL) | ((state == PARTIAL) & kept)


@triton.jit(do_not_specialize=["num_rows", "num_tiles", "seq_len", "first", "second"])
def _pack(
    words, row_states, key_tile, row_place, key_place, integers, num_rows, num_tiles, seq_len, first, second,
    BLOCK_ROWS: tl.constexpr, HAS_PARTIAL: tl.constexpr,
):  # fmt: skip
    """Store which keys of a word each row keeps, as its bits: ``(patterns, row blocks, words of keys, BLOCK_ROWS)``."""
    pattern = first
    if tl.program_id(0) == 1:
        pattern = second
    row, place = tl.arange(0, BLOCK_ROWS), tl.arange(0, WORD)
    rows, columns = tl.program_id(1) * BLOCK_ROWS + row, tl.program_id(2) * WORD + place
    is_key = columns < seq_len
    tile = tl.load(key_tile + pattern * seq_len + columns, is_key, 0)
    of_row = (pattern * num_rows + tl.minimum(rows, num_rows - 1)) * num_tiles
    state = tl.load(row_states + (of_row[:, None] + tile[None, :]))
    kept = state == 2
    if HAS_PARTIAL:
        row_at = tl.load(row_place + pattern * num_rows + rows, rows < num_rows, 0)
        key_at = tl.load(key_place + pattern * seq_len + columns, is_key, 0)
        kept = kept | ((state == 1) & place_keep(integers, pattern, row_at, key_at))
    word = tl.sum(kept.to(tl.int64) << place.to(tl.int64)[None, :], 1)
    at = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * tl.num_programs(2)
    tl.store(words + (at + tl.program_id(2)) * BLOCK_ROWS + row, word)


@triton.jit
def _kept(words, start, row, place, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return which pairs of a block's rows and of the keys from ``start`` on are kept, ``(BLOCK_ROWS, BLOCK)``."""
    word = tl.load(words + (start // WORD) * BLOCK_ROWS + row)
    # Halves of the word, as shifts of 64 bits take several instructions.
    if BLOCK == WORD:
        low, high = word.to(tl.int32), (word >> 32).to(tl.int32)
        half = tl.where((place < 32)[None, :], low[:, None], high[:, None])
    else:
        half = (word >> (start % WORD)).to(tl.int32)[:, None]
    return ((half >> (place % 32)[None, :]) & 1) != 0


@triton.jit(do_not_specialize=["num_rows", "seq_len", "num_words", "part_keys"])
def _sums(
    query, key, value, lengths, words, peaks, weights, totals,
    stride_query_item, stride_query_head, stride_query_token,
    stride_key_item, stride_key_head, stride_key_token,
    stride_value_item, stride_value_head, stride_value_token,
    num_heads, num_rows, seq_len, num_words, part_keys, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr,
    VALUE_SPLIT: tl.constexpr, USES_DESCRIPTORS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Sum one block of rows over one part of the keys: without a mask, and under both packed ones."""
    value_dim: tl.constexpr = BLOCK_DIM // VALUE_SPLIT
    lane, block, part = tl.program_id(0) // VALUE_SPLIT, tl.program_id(1), tl.program_id(2)
    first_place = (tl.program_id(0) % VALUE_SPLIT) * value_dim
    item, head = lane // num_heads, lane % num_heads
    place = first_place + tl.arange(0, value_dim)
    queries = load_tile(
        query, item, head, block * BLOCK_ROWS, stride_query_item, stride_query_head, stride_query_token, num_rows,
        HEAD_DIM, BLOCK_ROWS, BLOCK_DIM, False, True, INTERPRET,
    )  # fmt: skip
    limit = seq_len
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + item).to(tl.int32), seq_len)
    row, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK)
    words_first = words + (block * num_words).to(tl.int64) * BLOCK_ROWS
    words_second = words_first + (tl.num_programs(1) * num_words).to(tl.int64) * BLOCK_ROWS

    peak = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    weight = tl.zeros([BLOCK_ROWS], tl.float32)
    weight_first = tl.zeros([BLOCK_ROWS], tl.float32)
    weight_second = tl.zeros([BLOCK_ROWS], tl.float32)
    total = tl.zeros([BLOCK_ROWS, value_dim], tl.float32)
    total_first = tl.zeros([BLOCK_ROWS, value_dim], tl.float32)
    total_second = tl.zeros([BLOCK_ROWS, value_dim], tl.float32)
    begin = part * part_keys
    for step in range(0, tl.cdiv(tl.minimum(begin + part_keys, limit) - begin, BLOCK)):
        start = begin + step * BLOCK
        columns = start + column
        is_key = columns < limit
        keys = load_tile(
            key, item, head, start, stride_key_item, stride_key_head, stride_key_token, seq_len,
            HEAD_DIM, BLOCK, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
        )  # fmt: skip
        values = load_tile(
            value, item, head, start, stride_value_item, stride_value_head, stride_value_token, seq_len,
            HEAD_DIM, BLOCK, value_dim, USES_DESCRIPTORS, True, INTERPRET, first_place,
        )  # fmt: skip
        if lengths is not None:
            # Padding may hold anything, and a probability of nothing times NaN is NaN.
            values = tl.where(is_key[:, None], values, 0.0)
        scores = tl.where(is_key[None, :], tl.dot(queries, keys.T, input_precision="ieee"), -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1) * scale_log2)
        decay = tl.exp2(peak - new_peak)
        probability = tl.exp2(scores * scale_log2 - new_peak[:, None])
        peak = new_peak
        under_first = tl.where(_kept(words_first, start, row, column, BLOCK_ROWS, BLOCK), probability, 0.0)
        under_second = tl.where(_kept(words_second, start, row, column, BLOCK_ROWS, BLOCK), probability, 0.0)
        weight = weight * decay + tl.sum(probability, 1)
        weight_first = weight_first * decay + tl.sum(under_first, 1)
        weight_second = weight_second * decay + tl.sum(under_second, 1)
        total = tl.dot(probability.to(values.dtype), values, total * decay[:, None], input_precision="ieee")
        total_first = tl.dot(under_first.to(values.dtype), values, total_first * decay[:, None], input_precision="ieee")
        total_second = tl.dot(
            under_second.to(values.dtype), values, total_second * decay[:, None], input_precision="ieee"
        )

    at = ((lane * tl.num_programs(1) + block) * tl.num_programs(2) + part).to(tl.int64)
    tl.store(peaks + at * BLOCK_ROWS + row, peak)
    weights += at * OUTPUTS * BLOCK_ROWS + row
    tl.store(weights, weight)
    tl.store(weights + BLOCK_ROWS, weight_first)
    tl.store(weights + 2 * BLOCK_ROWS, weight_second)
    totals += at * OUTPUTS * BLOCK_ROWS * BLOCK_DIM + (row[:, None] * BLOCK_DIM + place[None, :])
    tl.store(totals, total)
    tl.store(totals + BLOCK_ROWS * BLOCK_DIM, total_first)
    tl.store(totals + 2 * BLOCK_ROWS * BLOCK_DIM, total_second)


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def _join(
    peaks, weights, totals, errors, num_rows, num_parts,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Join the parts of one block of rows, and store the squared errors of both patterns, summed over the block."""
    lane, block, pattern = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = ((lane * tl.num_programs(1) + block) * num_parts).to(tl.int64)
    row, place = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_DIM)
    peak = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    for part in range(num_parts):
        peak = tl.maximum(peak, tl.load(peaks + (at + part) * BLOCK_ROWS + row))
    # An item without keys has none anywhere.
    base = tl.where(peak == -float("inf"), 0.0, peak)
    weight = tl.zeros([BLOCK_ROWS], tl.float32)
    weight_masked = tl.zeros([BLOCK_ROWS], tl.float32)
    total = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    total_masked = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    for part in range(num_parts):
        decay = tl.exp2(tl.load(peaks + (at + part) * BLOCK_ROWS + row) - base)
        weight_at = weights + (at + part) * OUTPUTS * BLOCK_ROWS + row
        weight += decay * tl.load(weight_at)
        weight_masked += decay * tl.load(weight_at + (1 + pattern) * BLOCK_ROWS)
        total_at = totals + (at + part) * OUTPUTS * BLOCK_ROWS * BLOCK_DIM + (row[:, None] * BLOCK_DIM + place[None, :])
        total += decay[:, None] * tl.load(total_at)
        total_masked += decay[:, None] * tl.load(total_at + (1 + pattern) * BLOCK_ROWS * BLOCK_DIM)
    full = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
    masked = total_masked / tl.where(weight_masked == 0.0, 1.0, weight_masked)[:, None]
    is_inside = ((block * BLOCK_ROWS + row) < num_rows)[:, None] & (place < HEAD_DIM)[None, :]
    difference = tl.where(is_inside, masked - full, 0.0)
    squares = tl.sum(tl.sum(difference * difference, 1), 0)
    tl.store(errors + (lane * tl.num_programs(1) + block) * 2 + pattern, squares)


def prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: RowMasks,
    lengths: torch.Tensor | None,
    first: int,
    second: int,
    capability: int,
) -> tuple[torch.Tensor, list[Launch]]:
    """Return the squared errors of two patterns, float32 ``(batch, num_heads, row blocks, 2)``, and what fills them."""
    batch, num_heads, num_rows, head_dim = query.shape
    seq_len = key.shape[2]
    block_dim = max(16, triton.next_power_of_2(head_dim))
    block_rows = min(MOST_ROWS, max(16, triton.next_power_of_2(num_rows)))
    grid = batch * num_heads, -(-num_rows // block_rows), -(-seq_len // KEYS_PER_PROGRAM)
    peaks = query.new_empty((*grid, block_rows), dtype=torch.float32)
    weights = query.new_empty((*grid, 3, block_rows), dtype=torch.float32)
    totals = query.new_empty((*grid, 3, block_rows, block_dim), dtype=torch.float32)
    errors = query.new_full((batch, num_heads, grid[1], 2), torch.nan, dtype=torch.float32)
    words = query.new_empty((2, grid[1], -(-seq_len // WORD.value), block_rows), dtype=torch.int64)
    block_keys = BLOCK_KEYS if query.element_size() == 2 and head_dim <= 128 else BLOCK_KEYS // 4
    tensors: dict[str, Any] = {"query": query, "key": key, "value": value}
    strides = {
        f"stride_{name}_{axis}": x.stride(i)
        for name, x in tensors.items()
        for i, axis in enumerate(("item", "head", "token"))
    }
    value_split = VALUE_SPLIT if block_dim == 128 else 1
    uses_descriptors = capability >= HOPPER and fits_descriptor(key) and fits_descriptor(value)
    if uses_descriptors:
        dims = {"key": block_dim, "value": block_dim // value_split}
        for name, dim in dims.items():
            tensors[name] = TensorDescriptor.from_tensor(tensors[name], [1, 1, block_keys, dim])
    shared = {"peaks": peaks, "weights": weights, "totals": totals, "num_rows": num_rows}
    constants = {"HEAD_DIM": head_dim, "BLOCK_DIM": block_dim, "BLOCK_ROWS": block_rows}
    packed = {
        "words": words,
        "row_states": masks.row_states,
        "key_tile": masks.key_tile,
        "row_place": masks.row_place,
        "key_place": masks.key_place,
        "integers": masks.integers,
        "num_rows": num_rows,
        "num_tiles": masks.row_states.shape[2],
        "seq_len": seq_len,
        "first": first,
        "second": second,
        "BLOCK_ROWS": block_rows,
        "HAS_PARTIAL": masks.has_partial,
    }
    sums = {
        **tensors,
        **strides,
        **shared,
        **constants,
        "lengths": lengths,
        "words": words,
        "num_heads": num_heads,
        "seq_len": seq_len,
        "num_words": words.shape[2],
        "part_keys": KEYS_PER_PROGRAM,
        "scale_log2": head_dim**-0.5 * LOG2_E,
        "BLOCK": block_keys,
        "VALUE_SPLIT": value_split,
        "USES_DESCRIPTORS": uses_descriptors,
        "INTERPRET": is_interpreted(_sums),
    }
    options = {"num_warps": 4, "num_stages": 3}
    if uses_descriptors and block_dim <= 64:
        # Room for three programs on a multiprocessor.
        options["maxnreg"] = 168
    joined = {**shared, **constants, "errors": errors, "num_parts": grid[2]}
    return errors, [
        Launch(_pack, (2, grid[1], words.shape[2]), packed, {"num_warps": 4}),
        Launch(_sums, (grid[0] * value_split, *grid[1:]), sums, options),
        Launch(_join, (grid[0], grid[1], 2), joined, {"num_warps": 4}),
    ]


def pattern_errors(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, masks: RowMasks, lengths: torch.Tensor | None
) -> torch.Tensor:
    """Return each pattern's mean squared error, float32 ``(patterns, batch, num_heads)``.

    Args:
        query: ``(batch, num_heads, rows, head_dim)``, the sampled rows.
        key: ``(batch, num_heads, seq_len, head_dim)``.
        value: The same shape.
        masks: What the patterns keep on the rows.
        lengths: ``(batch,)``; keys at or past it get no attention.
    """
    count = masks.row_states.shape[0]
    major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else LEAST_CAPABILITY
    capability = 10 * major + minor
    found = []
    for first in range(0, count, 2):
        second = min(first + 1, count - 1)
        errors, launches = prepare(query, key, value, masks, lengths, first, second, capability)
        for launch in launches:
            launch.run()
        found.append(errors.sum(2).permute(2, 0, 1)[: count - first])
    return torch.cat(found) / (query.shape[2] * query.shape[3])


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return a case's inputs: a band exact to the token in plain order, and whole tiles in a shuffled order."""
    batch, num_heads, seq_len, head_dim = case["shape"]
    generator = torch.Generator(device).manual_seed(seq_len)
    query, key, value = (
        torch.randn(batch, num_heads, count, head_dim, generator=generator, device=device).to(dtype)
        for count in (case["rows"], seq_len, seq_len)
    )
    rows = torch.randperm(seq_len, generator=generator, device=device)[: case["rows"]]
    order = torch.randperm(seq_len, generator=generator, device=device)
    plain, size = torch.arange(seq_len, device=device), case["tile"]
    place = torch.stack([plain, order])
    tile = place // size
    distance = (tile[:, rows, None] - torch.arange(-(-seq_len // size), device=device)).abs()
    width = seq_len // 5
    states = (distance * size <= width + size) * torch.tensor([PARTIAL, FULL], device=device)[:, None, None]
    band = PatternIntegers(width, query_stop=seq_len, key_stop=seq_len, sink_stop=min(size, seq_len))
    lengths = case.get("lengths")
    return {
        "query": query,
        "key": key,
        "value": value,
        "masks": RowMasks(
            states.to(torch.int8),
            tile.to(torch.int32),
            place[:, rows].to(torch.int32),
            place.to(torch.int32),
            torch.tensor([band, PatternIntegers()], dtype=torch.int32, device=device),
            True,
        ),
        "lengths": None if lengths is None else torch.tensor(lengths, device=device),
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    errors, launches = prepare(**inputs, first=0, second=1, capability=capability)
    return (errors,), launches


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return the squared errors summed over rows in blocks, ``(batch, num_heads, row blocks, 2)``."""
    query, key, value, masks = (inputs[name] for name in ("query", "key", "value", "masks"))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if inputs["lengths"] is not None:
        is_padding = torch.arange(key.shape[2], device=key.device) >= inputs["lengths"][:, None]
        scores = scores.masked_fill(is_padding[:, None, None, :], -torch.inf)
    probability = scores.softmax(-1)
    errors = []
    for pattern in range(2):
        kept = probability * masks.keep(pattern)
        masked = (kept @ value) / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
        errors.append((masked - probability @ value).square().sum(-1))
    blocks = [block.sum(2) for block in torch.stack(errors, -1).split(MOST_ROWS, dim=2)]
    return (torch.stack(blocks, 2),)


def _flops(case: Case) -> float:
    batch, num_heads, seq_len, head_dim = case["shape"]
    return 8.0 * batch * num_heads * case["rows"] * seq_len * head_dim


def _bytes(case: Case, element_size: int) -> float:
    return 2.0 * math.prod(case["shape"]) * element_size


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=None,
    has_baseline=True,
    cases=(
        {"shape": (1, 2, 131, 64), "rows": 13, "tile": 32},
        {"shape": (2, 1, 150, 48), "rows": 70, "tile": 20, "lengths": [150, 90]},
        {"shape": (1, 1, 40, 128), "rows": 32, "tile": 16},
    ),
    compiled_cases=({"shape": (1, 1, 80, 128), "rows": MOST_ROWS, "tile": 16},),
    paper_cases=(
        {"shape": (1, 24, 119_056, 128), "rows": 64, "tile": 128},
        {"shape": (1, 40, 75_600, 128), "rows": 64, "tile": 128},
        {"shape": (2, 48, 45_106, 64), "rows": 32, "tile": 128},
    ),
    flops=_flops,
    bytes=_bytes,
)
