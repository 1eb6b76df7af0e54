"""Block-sparse attention, forward only: an online softmax over the tiles that a plan lists, in plain Triton."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.pattern_mask import place_keep
from svg_kernels.spec import Case, Inputs, Spec
from svg_kernels.tile_lists import FULL, PARTIAL, PatternIntegers, TileLists

LOG2_E = math.log2(math.e)
TMA_ALIGNMENT = 16


@dataclass(frozen=True)
class Settings:
    """How the kernel divides its work.

    Args:
        block_queries: Queries per program; what the plan's tiles do not divide by is lowered to what they do.
        block_keys: Keys per step, likewise.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
        uses_descriptors: Whether tiles are moved by Hopper's tensor memory engine (compute capability 9.0 and up).
    """

    block_queries: int
    block_keys: int
    num_warps: int
    num_stages: int
    uses_descriptors: bool = False


def settings_for(head_dim: int, element_size: int, capability: int) -> Settings:
    """Return the settings for a GPU: ``capability`` is 80 for Ampere, 89 for Ada, 90 for Hopper."""
    if element_size == 4:
        return Settings(64, 32, 4, 2)
    if capability >= 90:
        if head_dim <= 64:
            return Settings(64, 128, 4, 3, True)
        return Settings(128, 64, 4, 3, True) if head_dim <= 128 else Settings(64, 64, 4, 2, True)
    if head_dim <= 64:
        return Settings(128, 64, 4, 3)
    return Settings(128, 32, 4, 3) if head_dim <= 128 else Settings(64, 32, 4, 2)


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
def _load(
    tensor, item, head, start, stride_item, stride_head, stride_token, seq_len,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_DIM: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr, IS_CUT: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Return ``(BLOCK, BLOCK_DIM)`` from token ``start`` on; zeros outside of the tensor where the tile is cut."""
    if USES_DESCRIPTORS:
        x = tensor.load([item, head, start, 0]).reshape(BLOCK, BLOCK_DIM)
    else:
        token, place = tl.arange(0, BLOCK), tl.arange(0, BLOCK_DIM)
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
def _attention(
    query, key, value, output,
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
    descriptors. ROW_SPLIT blocks of queries share a row of tiles; KEY_SPLIT steps walk through one tile.
    """
    item, head, pattern, row, part = _row_of_program(
        row_order, assignment, stride_assignment_item, stride_assignment_head, num_items, num_heads, num_rows,
        num_heavy, ROW_SPLIT,
    )  # fmt: skip
    query_start = (row * ROW_SPLIT + part) * BLOCK_QUERIES
    if query_start >= seq_len:
        return
    row_index = pattern * num_rows + row
    tiles += tl.load(starts + row_index)
    full_count = tl.load(full_counts + row_index)
    tile_keys: tl.constexpr = BLOCK_KEYS * KEY_SPLIT

    # Tiles that the end of the keys cuts are masked; those past it are left out.
    limit = seq_len
    whole_count = full_count
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + item).to(tl.int32), seq_len)
        whole_count = _count_below(tiles, full_count, limit // tile_keys)
    elif HAS_RAGGED_KEYS:
        is_last_cut = tl.load(tiles + tl.maximum(full_count - 1, 0)) >= limit // tile_keys
        whole_count -= ((full_count > 0) & is_last_cut).to(tl.int32)

    block = _load(
        query, item, head, query_start, stride_query_item, stride_query_head, stride_query_token, seq_len,
        HEAD_DIM, BLOCK_QUERIES, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
    )  # fmt: skip
    total = tl.zeros([BLOCK_QUERIES, BLOCK_DIM], tl.float32)
    peak = tl.full([BLOCK_QUERIES], -float("inf"), tl.float32)
    weight = tl.zeros([BLOCK_QUERIES], tl.float32)

    # Each tile's number is read a step ahead; the lists end with one number that belongs to none.
    tile = tl.load(tiles)
    for step in range(0, whole_count * KEY_SPLIT):
        key_start = tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
        tile = tl.load(tiles + (step + 1) // KEY_SPLIT)
        keys = _load(
            key, item, head, key_start, stride_key_item, stride_key_head, stride_key_token, seq_len,
            HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, False, INTERPRET,
        )  # fmt: skip
        values = _load(
            value, item, head, key_start, stride_value_item, stride_value_head, stride_value_token, seq_len,
            HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, False, INTERPRET,
        )  # fmt: skip
        scores = tl.dot(block, keys.T, input_precision="ieee")
        total, peak, weight = _accumulate(scores, values, total, peak, weight, scale_log2, False)

    if HAS_PARTIAL or HAS_RAGGED_KEYS:
        stop = full_count
        if HAS_PARTIAL:
            stop += tl.load(partial_counts + row_index)
        queries = query_start + tl.arange(0, BLOCK_QUERIES)
        for step in range(whole_count * KEY_SPLIT, stop * KEY_SPLIT):
            tile = tl.load(tiles + step // KEY_SPLIT)
            key_start = tile * tile_keys + (step % KEY_SPLIT) * BLOCK_KEYS
            if key_start < limit:
                keys = _load(
                    key, item, head, key_start, stride_key_item, stride_key_head, stride_key_token, seq_len,
                    HEAD_DIM, BLOCK_KEYS, BLOCK_DIM, USES_DESCRIPTORS, True, INTERPRET,
                )  # fmt: skip
                values = _load(
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
                    keep = keep & (kept | (step < full_count * KEY_SPLIT))
                scores = tl.where(keep, tl.dot(block, keys.T, input_precision="ieee"), -float("inf"))
                total, peak, weight = _accumulate(scores, values, total, peak, weight, scale_log2, True)

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


def prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lists: TileLists,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    settings: Settings,
) -> Launch:
    """Return the kernel's launch.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``; the last dimension contiguous, the others strided as they may.
        key: The same shape, dtype and device.
        value: The same.
        output: The same; it is written.
        lists: Which tiles each pattern computes.
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head.
        lengths: int64 ``(batch,)``: keys at or past it get no attention; None where all count.
        settings: How the kernel divides its work.
    """
    batch, num_heads, seq_len, head_dim = query.shape
    block_queries = math.gcd(settings.block_queries, lists.query_size)
    block_keys = math.gcd(settings.block_keys, lists.key_size)
    block_dim = max(16, triton.next_power_of_2(head_dim))
    tensors = {"query": query, "key": key, "value": value, "output": output}
    uses_descriptors = settings.uses_descriptors and all(_fits_descriptor(x) for x in tensors.values())
    strides = {f"stride_{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate(AXES)}
    if uses_descriptors:
        rows = {"query": block_queries, "key": block_keys, "value": block_keys, "output": block_queries}
        tensors = {name: TensorDescriptor.from_tensor(x, [1, 1, rows[name], block_dim]) for name, x in tensors.items()}
    lookup = lists.lookup
    num_rows, row_split = lists.starts.shape[1], lists.query_size // block_queries
    arguments = {
        **tensors,
        **strides,
        "starts": lists.starts,
        "full_counts": lists.full_counts,
        "partial_counts": lists.partial_counts,
        "tiles": lists.tiles,
        "row_order": lists.row_order,
        "integers": lists.integers,
        "assignment": assignment,
        "lengths": lengths,
        "lookup_query_tile": None if lookup is None else lookup.query_tile,
        "lookup_key_tile": None if lookup is None else lookup.key_tile,
        "lookup_states": None if lookup is None else lookup.states,
        "lookup_places": None if lookup is None else lookup.places,
        "stride_assignment_item": 0 if assignment.shape[0] == 1 else assignment.stride(0),
        "stride_assignment_head": 0 if assignment.shape[1] == 1 else assignment.stride(1),
        "num_items": batch,
        "num_heads": num_heads,
        "num_rows": num_rows,
        "num_heavy": lists.num_heavy,
        "seq_len": seq_len,
        "scale_log2": head_dim**-0.5 * LOG2_E,
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": block_dim,
        "BLOCK_QUERIES": block_queries,
        "BLOCK_KEYS": block_keys,
        "ROW_SPLIT": row_split,
        "KEY_SPLIT": lists.key_size // block_keys,
        "USES_DESCRIPTORS": uses_descriptors,
        "HAS_PARTIAL": lists.has_partial,
        "HAS_RAGGED_KEYS": lengths is not None or seq_len % lists.key_size > 0,
        "INTERPRET": is_interpreted(_attention),
    }
    options = {"num_warps": settings.num_warps, "num_stages": settings.num_stages}
    return Launch(_attention, (batch * num_heads * num_rows * row_split,), arguments, options)


AXES = ("item", "head", "token")


def _fits_descriptor(x: torch.Tensor) -> bool:
    """Whether the tensor memory engine takes a tensor: all but the last stride, and the address, in 16 bytes."""
    return x.data_ptr() % TMA_ALIGNMENT == 0 and all(
        stride * x.element_size() % TMA_ALIGNMENT == 0 and stride > 0 for stride in x.stride()[:-1]
    )


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return a case's inputs: a band exact to the token or in whole tiles, a sink, text last; the last head dense."""
    _, num_heads, seq_len, head_dim = case["shape"]
    size, density, text = case["tile"], case["density"], case.get("num_text_tokens", 0)
    generator = torch.Generator(device).manual_seed(seq_len + head_dim)
    query, key, value = (torch.randn(case["shape"], generator=generator, device=device, dtype=dtype) for _ in range(3))
    width = int(seq_len * (1 - (1 - density) ** 0.5))
    band = PatternIntegers(
        width, query_stop=seq_len, key_stop=seq_len, sink_stop=size, text_start=seq_len - text, text_stop=seq_len
    )
    tiles = torch.arange(-(-seq_len // size))
    is_text = size * tiles + size > seq_len - text
    kept = ((tiles[:, None] - tiles).abs() * size <= width) | (tiles == 0) | is_text | is_text[:, None]
    kind = PARTIAL if case["exact"] else FULL
    states = torch.stack([kept * kind, torch.full_like(kept, FULL, dtype=torch.long)]).to(torch.int8)
    lengths = case.get("lengths")
    return {
        "query": query,
        "key": key,
        "value": value,
        "lists": TileLists.from_states(states, [band, PatternIntegers()], size, size, device=device),
        "assignment": torch.tensor([[0] * (num_heads - 1) + [case.get("last_head", 1)]], device=device),
        "lengths": None if lengths is None else torch.tensor(lengths, device=device),
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    query = inputs["query"]
    output = torch.full_like(query, torch.nan)
    settings = settings_for(query.shape[-1], query.element_size(), capability)
    return (output,), [prepare(**inputs, output=output, settings=settings)]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return masked attention at the given query positions (all of them if None), a head at a time."""
    query, key, value, lists = (inputs[name] for name in ("query", "key", "value", "lists"))
    batch, num_heads, seq_len, head_dim = query.shape
    rows = torch.arange(seq_len, device=query.device) if rows is None else rows
    keeps = [lists.keep(pattern, seq_len, rows) for pattern in range(lists.starts.shape[0])]
    output = torch.empty_like(query[:, :, rows])
    for item in range(batch):
        limit = seq_len if inputs["lengths"] is None else int(inputs["lengths"][item])
        for head, pattern in enumerate(inputs["assignment"].expand(batch, num_heads)[item].tolist()):
            keep = keeps[pattern][:, :limit]
            scores = query[item, head, rows] @ key[item, head, :limit].T * head_dim**-0.5
            probability = scores.masked_fill(~keep, -torch.inf).softmax(-1).masked_fill(~keep.any(1, keepdim=True), 0)
            output[item, head] = probability @ value[item, head, :limit]
    return (output,)


def _flops(case: Case) -> float:
    inputs = _inputs({**case, "shape": (1, case["shape"][1], case["shape"][2], 1)}, torch.float32, torch.device("cpu"))
    lists, (batch, _, _, head_dim) = inputs["lists"], case["shape"]
    tiles = (lists.full_counts + lists.partial_counts).sum(1)[inputs["assignment"][0]].sum()
    return 4.0 * float(tiles) * lists.query_size * lists.key_size * head_dim * batch


def _bytes(case: Case, element_size: int) -> float:
    return 4.0 * math.prod(case["shape"]) * element_size


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=2,
    has_baseline=False,
    cases=(
        {"shape": (1, 2, 131, 64), "tile": 32, "density": 0.5, "exact": True, "num_text_tokens": 5},
        {"shape": (2, 2, 150, 128), "tile": 128, "density": 0.3, "exact": False, "lengths": [150, 41]},
        {"shape": (1, 1, 70, 48), "tile": 16, "density": 0.4, "exact": True, "last_head": 0},
        {"shape": (1, 2, 64, 256), "tile": 32, "density": 0.6, "exact": False},
    ),
    paper_cases=(
        {
            "shape": (1, 24, 119_056, 128),
            "tile": 128,
            "density": 0.25,
            "exact": False,
            "num_text_tokens": 256,
            "last_head": 0,
        },
        {"shape": (1, 40, 75_600, 128), "tile": 128, "density": 0.3, "exact": False, "last_head": 0},
        {
            "shape": (1, 48, 45_106, 64),
            "tile": 128,
            "density": 0.25,
            "exact": False,
            "num_text_tokens": 226,
            "last_head": 0,
        },
    ),
    flops=_flops,
    bytes=_bytes,
)
