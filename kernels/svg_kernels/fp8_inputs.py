"""Lay keys and values out in the order of their head's pattern and round them to 8 bits, in one pass over memory.

A few of a head's tokens say by what its numbers are divided, with room to spare. Where one is greater still, which the
pass finds out, the head is rounded once more.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from svg_kernels.fp8_model import (
    BLOCK,
    HEADROOM,
    LEAST,
    MOST,
    SAMPLE,
    SCORE_TYPES,
    Quantised,
    ScoreType,
    mixing,
    quantised,
)
from svg_kernels.fp8_program import bits, mixed, rounded, to_e4m3
from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.spec import Case, Inputs, Spec

# Programs for each head that look whether it must be rounded again.
LOOKING = 16

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
def _greatest(x, ROWS: tl.constexpr):
    """Return the greatest magnitude of all numbers as bits, at least that of LEAST."""
    return tl.max(tl.maximum(tl.max(bits(tl.abs(x)), 1), bits(tl.full([ROWS], _LEAST, tl.float32))), 0)


@triton.jit(do_not_specialize=["num_heads", "seq_len"])
def _sample(
    key, value, orders, assignment, mixing, mean, room, greatest, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len,
    HEAD_DIM: tl.constexpr, SAMPLE: tl.constexpr, STEP: tl.constexpr, INTERPRET: tl.constexpr,
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
        values = _rows(
            value, orders, assignment, lane, place, place < limit, stride_value_item, stride_value_head,
            stride_value_token, stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
        ).to(tl.float32)  # fmt: skip
        value_most = tl.maximum(value_most, _greatest(values, STEP))
    total /= tl.maximum((limit + apart - 1) // apart, 1)
    key_most = bits(tl.full([], 0.0, tl.float32))
    for start in range(0, SAMPLE, STEP):
        place = (start + tl.arange(0, STEP)) * apart
        keys = _rows(
            key, orders, assignment, lane, place, place < limit, stride_key_item, stride_key_head, stride_key_token,
            stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
        )  # fmt: skip
        keys = mixed(keys, mixing, STEP, HEAD_DIM // 2, INTERPRET) - total[None, :]
        key_most = tl.maximum(key_most, _greatest(tl.where((place < limit)[:, None], keys, 0.0), STEP))
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
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
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
    greatest_key = _greatest(rows, BLOCK)
    if IS_INT8:
        key_most = greatest_key.to(tl.float32, bitcast=True)
        tl.store(key_scale + lane * num_tiles + tile, key_most / MOST)
    target = (lane.to(tl.int64) * padded_len + token)[:, None] * HEAD_DIM + channel[None, :]
    tl.store(key_out + target, rounded(rows * (MOST / key_most), IS_INT8, INTERPRET))

    # LANE_ORDER of each 16.
    source = tile * BLOCK + (place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2)
    rows = _rows(
        value, orders, assignment, lane, source, source < limit, stride_value_item, stride_value_head,
        stride_value_token, stride_assignment_item, stride_assignment_head, num_heads, seq_len, HEAD_DIM,
    ).to(tl.float32)  # fmt: skip
    greatest_value = _greatest(rows, BLOCK)
    # A scale that is no number makes none of the zeros past the end.
    rows = tl.where((source < limit)[:, None], rows * (_MOST / value_most), 0.0)
    turned = (lane.to(tl.int64) * HEAD_DIM + channel)[:, None] * padded_len + token[None, :]
    tl.store(value_out + turned, tl.trans(to_e4m3(rows, INTERPRET)))
    return greatest_key, greatest_value


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_tiles"])
def _quantise(
    key, value, orders, assignment, mixing, mean, room, greatest, key_out, value_out, key_scale, value_scale, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Lay out and round one block of one head, and keep the greatest of its keys and values."""
    tile, lane = tl.program_id(0), tl.program_id(1)
    greatest_key, greatest_value = _block(
        tile, lane, tl.load(room + 2 * lane), tl.load(room + 2 * lane + 1),
        key, value, orders, assignment, mixing, mean, key_out, value_out, key_scale,
        _limit(lengths, lane, num_heads, seq_len),
        stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
        stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
        HEAD_DIM, BLOCK, IS_INT8, MOST, INTERPRET,
    )  # fmt: skip
    tl.atomic_max(greatest + 2 * lane, greatest_key)
    tl.atomic_max(greatest + 2 * lane + 1, greatest_value)


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_tiles"])
def _settle(
    key, value, orders, assignment, mixing, mean, room, greatest, key_out, value_out, key_scale, value_scale, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len, num_tiles,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr, INTERPRET: tl.constexpr,
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
            HEAD_DIM, BLOCK, IS_INT8, MOST, INTERPRET,
        )  # fmt: skip


def prepare(
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType = "e4m3",
    lengths: torch.Tensor | None = None,
    orders: torch.Tensor | None = None,
    assignment: torch.Tensor | None = None,
) -> tuple[Quantised, list[Launch]]:
    """Return what attention in 8 bits reads of keys and values, and the launches that fill it, in order.

    Args:
        key: ``(batch, num_heads, seq_len, head_dim)``, channels contiguous; head_dim a power of two from 32.
        value: The same shape, dtype and device.
        score_type: What keys become.
        lengths: int64 ``(batch,)``: keys at or past it, as ordered, are padding, which may hold anything; None where
            all count.
        orders: int32 ``(patterns, seq_len)``: ordered[i] = key[order[i]]; None where they stand in order.
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head; needed with ``orders``.
    """
    batch, num_heads, seq_len, head_dim = key.shape
    lanes, num_tiles = batch * num_heads, -(-seq_len // BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(batch, num_heads, *shape, dtype=dtype, device=key.device)

    is_int8 = score_type == "int8"
    result = Quantised(
        empty(num_tiles * BLOCK, head_dim, dtype=SCORE_TYPES[score_type]),
        empty(head_dim, num_tiles * BLOCK, dtype=torch.float8_e4m3fn),
        empty(num_tiles if is_int8 else 1),
        empty(),
    )
    tensors = {"key": key, "value": value}
    shared = {
        **tensors,
        **{f"stride_{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate(AXES)},
        "orders": orders,
        "assignment": assignment,
        "stride_assignment_item": 0 if assignment is None or assignment.shape[0] == 1 else assignment.stride(0),
        "stride_assignment_head": 0 if assignment is None or assignment.shape[1] == 1 else assignment.stride(1),
        "mixing": mixing(head_dim // 2, key.dtype, key.device),
        "mean": empty(head_dim),
        "room": empty(2),
        "greatest": empty(2, dtype=torch.int32),
        "lengths": lengths,
        "num_heads": num_heads,
        "seq_len": seq_len,
        "HEAD_DIM": head_dim,
        "INTERPRET": is_interpreted(_quantise),
    }
    quantise = {
        **shared,
        "key_out": result.key,
        "value_out": result.value,
        "key_scale": result.key_scale,
        "value_scale": result.value_scale,
        "num_tiles": num_tiles,
        "BLOCK": BLOCK,
        "IS_INT8": is_int8,
        "MOST": MOST[score_type],
    }
    return result, [
        Launch(_sample, (lanes,), {**shared, "SAMPLE": SAMPLE, "STEP": 64}, {"num_warps": 8}),
        Launch(_quantise, (num_tiles, lanes), quantise, {"num_warps": 8}),
        Launch(_settle, (min(LOOKING, num_tiles), lanes), quantise, {"num_warps": 8, "num_stages": 1}),
    ]


AXES = ("item", "head", "token")


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return a case's inputs: heads in plain order beside heads that walk through the frames, tokens before heads."""
    batch, num_heads, seq_len, head_dim = case["shape"]
    generator = torch.Generator(device).manual_seed(seq_len)
    shape = batch, seq_len, num_heads, head_dim
    key, value = (
        (torch.randn(shape, generator=generator, device=device).to(dtype) + offset).transpose(1, 2) for offset in (3, 0)
    )
    if "outlier" in case:
        key[:, :, case["outlier"]] *= 900
        value[:, :, case["outlier"]] *= 900
    lengths, frames = case.get("lengths"), case.get("num_frames")
    orders = assignment = None
    if frames is not None:
        order = torch.arange(seq_len, device=device)
        video = seq_len // frames * frames
        order[:video] = order[:video].view(frames, -1).T.flatten()
        orders = torch.stack([torch.arange(seq_len, device=device), order]).to(torch.int32)
        assignment = (torch.arange(num_heads, device=device)[None] % 3 > 0).long()
    return {
        "key": key,
        "value": value,
        "score_type": case["score_type"],
        "lengths": None if lengths is None else torch.tensor(lengths, device=device),
        "orders": orders,
        "assignment": assignment,
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    found, launches = prepare(**inputs)
    outputs = _tensors(found)
    for output in outputs:
        output.fill_(-1 if output.dtype == torch.int8 else torch.nan)
    return outputs, launches


def _tensors(found: Quantised) -> tuple[torch.Tensor, ...]:
    return found.key, found.value, found.key_scale, found.value_scale


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return all outputs; of inputs in float64 before they are rounded, for errors to be those of the rounding."""
    key, value, orders = inputs["key"], inputs["value"], inputs["orders"]
    if orders is not None:
        order = orders.long()[inputs["assignment"]].expand(*key.shape[:2], -1)[..., None].expand_as(key)
        key, value = key.gather(2, order), value.gather(2, order)
    rounds = key.dtype != torch.float64
    return _tensors(quantised(key, value, inputs["score_type"], inputs["lengths"], rounds=rounds))


def _bytes(case: Case, element_size: int) -> float:
    return 2.0 * math.prod(case["shape"]) * (element_size + 1)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=None,
    has_baseline=False,
    least_capability=90,
    cases=(
        {"shape": (1, 2, 131, 64), "score_type": "e4m3", "num_frames": 7},
        # Between two tokens of the sample stands one with far greater numbers, of one item among its padding.
        {"shape": (2, 1, 300, 128), "score_type": "int8", "lengths": [300, 41], "outlier": 137},
        {"shape": (2, 2, 270, 32), "score_type": "e4m3", "lengths": [261, 0], "num_frames": 5, "outlier": 259},
    ),
    # Of HunyuanVideo a third of the heads: the judge holds every number in float64.
    paper_cases=(
        {"shape": (1, 8, 119_056, 128), "score_type": "e4m3", "num_frames": 33},
        {"shape": (1, 8, 119_056, 128), "score_type": "e4m3"},
        {"shape": (1, 48, 45_106, 64), "score_type": "e4m3", "num_frames": 11},
    ),
    flops=lambda case: 0.0,
    bytes=_bytes,
)
