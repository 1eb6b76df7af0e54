"""Quantise queries, keys and values to 8 bits for attention: keys less their mean, values transposed, with scales."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from svg_kernels.fp8_model import BLOCK, LEAST, LOG2_E, MOST, SCORE_TYPES, Quantised, ScoreType, quantised
from svg_kernels.fp8_program import FLOAT_OFFSET, to_e4m3
from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.spec import Case, Inputs, Spec

# Tokens of one partial sum.
CHUNK = 1024

_LEAST = tl.constexpr(LEAST)


@triton.jit
def _bits(x):
    """Return numbers that are not negative as integers of the same order, in which infinity and then NaN come last."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def _at(x, lane, num_heads, stride_item, stride_head):
    return x + (lane // num_heads).to(tl.int64) * stride_item + (lane % num_heads).to(tl.int64) * stride_head


@triton.jit(do_not_specialize=["num_heads", "seq_len"])
def _partial_sums(
    key, value, sums, greatest, lengths,
    stride_key_item, stride_key_head, stride_key_token, stride_value_item, stride_value_head, stride_value_token,
    num_heads, seq_len, HEAD_DIM: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Sum the keys and find the greatest magnitude of the values of one chunk, channel by channel."""
    chunk, lane = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, HEAD_DIM)
    limit = seq_len
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + lane // num_heads).to(tl.int32), seq_len)
    key = _at(key, lane, num_heads, stride_key_item, stride_key_head)
    value = _at(value, lane, num_heads, stride_value_item, stride_value_head)
    total = tl.zeros([HEAD_DIM], tl.float32)
    most = tl.zeros([HEAD_DIM], tl.int32)
    for start in range(chunk * CHUNK, chunk * CHUNK + CHUNK, STEP):
        token = start + tl.arange(0, STEP)
        is_real = (token < limit)[:, None] & (channel >= 0)[None, :]
        at = token.to(tl.int64)[:, None]
        keys = tl.load(key + (at * stride_key_token + channel[None, :]), is_real, 0.0).to(tl.float32)
        values = tl.load(value + (at * stride_value_token + channel[None, :]), is_real, 0.0).to(tl.float32)
        total += tl.sum(keys, 0)
        most = tl.maximum(most, tl.max(_bits(tl.abs(values)), 0))
    at = (lane * tl.num_programs(0) + chunk).to(tl.int64) * HEAD_DIM + channel
    tl.store(sums + at, total)
    tl.store(greatest + at, most)


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_chunks"])
def _statistics(
    sums, greatest, mean, value_scale, lengths, num_heads, seq_len, num_chunks,
    HEAD_DIM: tl.constexpr, STEP: tl.constexpr, MOST_VALUE: tl.constexpr,
):  # fmt: skip
    """Put the chunks of one head together: the mean of its keys and the scale of each channel of its values."""
    lane, channel = tl.program_id(0), tl.arange(0, HEAD_DIM)
    limit = seq_len
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + lane // num_heads).to(tl.int32), seq_len)
    total = tl.zeros([HEAD_DIM], tl.float32)
    most = tl.zeros([HEAD_DIM], tl.int32)
    for start in range(0, num_chunks, STEP):
        chunk = start + tl.arange(0, STEP)
        is_chunk = (chunk < num_chunks)[:, None] & (channel >= 0)[None, :]
        at = (lane * num_chunks + chunk)[:, None] * HEAD_DIM + channel[None, :]
        total += tl.sum(tl.load(sums + at, is_chunk, 0.0), 0)
        most = tl.maximum(most, tl.max(tl.load(greatest + at, is_chunk, 0), 0))
    tl.store(mean + lane * HEAD_DIM + channel, total / tl.maximum(limit, 1))
    least = _bits(tl.full([HEAD_DIM], _LEAST, tl.float32))
    scale = tl.maximum(most, least).to(tl.float32, bitcast=True) / MOST_VALUE
    tl.store(value_scale + lane * HEAD_DIM + channel, scale)


@triton.jit
def _rounded(x, IS_INT8: tl.constexpr, INTERPRET: tl.constexpr):
    """Return numbers of at most the type's greatest magnitude, rounded to it: int8 or e4m3."""
    # A sum with 1.5 * 2 ** 23 has no place for fractions: the nearest integer, ties to even.
    return (x + FLOAT_OFFSET - FLOAT_OFFSET).to(tl.int8) if IS_INT8 else to_e4m3(x, INTERPRET)


@triton.jit(do_not_specialize=["num_heads", "seq_len", "num_tiles"])
def _quantise(
    query, key, value, mean, value_scale, query_out, key_out, value_out, query_scale, key_scale, lengths,
    stride_query_item, stride_query_head, stride_query_token,
    stride_key_item, stride_key_head, stride_key_token,
    stride_value_item, stride_value_head, stride_value_token,
    num_heads, seq_len, num_tiles, scale_log2,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, IS_INT8: tl.constexpr, MOST: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Quantise one block of tokens of one head."""
    tile, lane = tl.program_id(0), tl.program_id(1)
    channel, place = tl.arange(0, HEAD_DIM), tl.arange(0, BLOCK)
    token = tile * BLOCK + place
    limit = seq_len
    if lengths is not None:
        limit = tl.minimum(tl.load(lengths + lane // num_heads).to(tl.int32), seq_len)
    # Known to divide by 16, so that stores are wide.
    padded_len = num_tiles * BLOCK
    first = lane.to(tl.int64) * padded_len
    within = token.to(tl.int64)[:, None]
    target = (first + token)[:, None] * HEAD_DIM + channel[None, :]
    all_channels = (channel >= 0)[None, :]
    least = _bits(tl.full([BLOCK], _LEAST, tl.float32))

    query = _at(query, lane, num_heads, stride_query_item, stride_query_head)
    rows = tl.load(
        query + (within * stride_query_token + channel[None, :]), (token < seq_len)[:, None] & all_channels, 0.0
    ).to(tl.float32)
    most = tl.maximum(tl.max(_bits(tl.abs(rows)), 1), least).to(tl.float32, bitcast=True)
    tl.store(query_out + target, _rounded(rows * (MOST / most)[:, None], IS_INT8, INTERPRET))
    tl.store(query_scale + first + token, most * (scale_log2 / MOST))

    key = _at(key, lane, num_heads, stride_key_item, stride_key_head)
    is_key = (token < limit)[:, None] & all_channels
    rows = tl.load(key + (within * stride_key_token + channel[None, :]), is_key, 0.0).to(tl.float32)
    rows = tl.where(is_key, rows - tl.load(mean + lane * HEAD_DIM + channel)[None, :], 0.0)
    row_bits = tl.maximum(tl.max(_bits(tl.abs(rows)), 1), least)
    greatest = tl.max(row_bits, 0).to(tl.float32, bitcast=True)
    tl.store(key_out + target, _rounded(rows * (MOST / greatest), IS_INT8, INTERPRET))
    tl.store(key_scale + lane * num_tiles + tile, greatest / MOST)

    value = _at(value, lane, num_heads, stride_value_item, stride_value_head)
    # LANE_ORDER of each 16.
    source = tile * BLOCK + (place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2)
    is_value = (source < limit)[:, None] & all_channels
    rows = tl.load(value + (source.to(tl.int64)[:, None] * stride_value_token + channel[None, :]), is_value, 0.0)
    rows = rows.to(tl.float32) / tl.load(value_scale + lane * HEAD_DIM + channel)[None, :]
    # A channel of zeros and NaN has none of either past the end.
    rows = tl.where(is_value, rows, 0.0)
    turned = (lane.to(tl.int64) * HEAD_DIM + channel)[:, None] * padded_len + token[None, :]
    tl.store(value_out + turned, tl.trans(to_e4m3(rows, INTERPRET)))


def prepare(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType = "e4m3",
    lengths: torch.Tensor | None = None,
) -> tuple[Quantised, list[Launch]]:
    """Return what attention in 8 bits reads, and the launches that fill it, in order.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``, channels contiguous; head_dim a power of two from 32.
        key: The same shape, dtype and device.
        value: The same.
        score_type: What queries and keys become.
        lengths: int64 ``(batch,)``: keys at or past it are padding, which may hold anything; None where all count.
    """
    batch, num_heads, seq_len, head_dim = query.shape
    lanes, padded_len, num_chunks = batch * num_heads, -(-seq_len // BLOCK) * BLOCK, -(-seq_len // CHUNK)
    kind, device = SCORE_TYPES[score_type], query.device

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(batch, num_heads, *shape, dtype=dtype, device=device)

    result = Quantised(
        empty(padded_len, head_dim, dtype=kind),
        empty(padded_len, head_dim, dtype=kind),
        empty(head_dim, padded_len, dtype=torch.float8_e4m3fn),
        empty(padded_len),
        empty(padded_len // BLOCK),
        empty(head_dim),
    )
    sums, greatest = empty(num_chunks, head_dim), empty(num_chunks, head_dim, dtype=torch.int32)
    mean = empty(head_dim)
    tensors = {"query": query, "key": key, "value": value}
    strides = {f"stride_{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate(AXES)}
    sizes = {"num_heads": num_heads, "seq_len": seq_len, "lengths": lengths, "HEAD_DIM": head_dim}
    sum_up = {
        "key": key,
        "value": value,
        "sums": sums,
        "greatest": greatest,
        **{name: stride for name, stride in strides.items() if "query" not in name},
        **sizes,
        "CHUNK": CHUNK,
        "STEP": 64,
    }
    put_together = {
        "sums": sums,
        "greatest": greatest,
        "mean": mean,
        "value_scale": result.value_scale,
        "num_chunks": num_chunks,
        **sizes,
        "STEP": 16,
        "MOST_VALUE": MOST["e4m3"],
    }
    quantise = {
        **tensors,
        **strides,
        "mean": mean,
        "value_scale": result.value_scale,
        "query_out": result.query,
        "key_out": result.key,
        "value_out": result.value,
        "query_scale": result.query_scale,
        "key_scale": result.key_scale,
        "num_tiles": padded_len // BLOCK,
        "scale_log2": head_dim**-0.5 * LOG2_E,
        **sizes,
        "BLOCK": BLOCK,
        "IS_INT8": score_type == "int8",
        "MOST": MOST[score_type],
        "INTERPRET": is_interpreted(_quantise),
    }
    return result, [
        Launch(_partial_sums, (num_chunks, lanes), sum_up, {"num_warps": 4}),
        Launch(_statistics, (lanes,), put_together, {"num_warps": 4}),
        Launch(_quantise, (padded_len // BLOCK, lanes), quantise, {"num_warps": 8}),
    ]


AXES = ("item", "head", "token")


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    generator = torch.Generator(device).manual_seed(case["shape"][2])
    query, key, value = (
        torch.randn(case["shape"], generator=generator, device=device).to(dtype) + offset for offset in (0, 3, 0)
    )
    lengths = case.get("lengths")
    return {
        "query": query,
        "key": key,
        "value": value,
        "score_type": case["score_type"],
        "lengths": None if lengths is None else torch.tensor(lengths, device=device),
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    found, launches = prepare(**inputs)
    outputs = _tensors(found)
    for output in outputs:
        output.fill_(-1 if output.dtype == torch.int8 else torch.nan)
    return outputs, launches


def _tensors(found: Quantised) -> tuple[torch.Tensor, ...]:
    return found.query, found.key, found.value, found.query_scale, found.key_scale, found.value_scale


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return all outputs; of inputs in float64 before they are rounded, for errors to be those of the rounding."""
    return _tensors(quantised(**inputs, rounds=inputs["query"].dtype != torch.float64))


def _bytes(case: Case, element_size: int) -> float:
    # Keys and values are read twice.
    return math.prod(case["shape"]) * (5.0 * element_size + 3)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=None,
    has_baseline=False,
    least_capability=90,
    cases=(
        {"shape": (1, 2, 131, 64), "score_type": "e4m3"},
        {"shape": (2, 1, 150, 128), "score_type": "int8", "lengths": [150, 41]},
        {"shape": (2, 1, 140, 32), "score_type": "e4m3", "lengths": [3, 0]},
    ),
    # Of HunyuanVideo a third of the heads: the judge holds every number in float64.
    paper_cases=(
        {"shape": (1, 8, 119_056, 128), "score_type": "e4m3"},
        {"shape": (1, 48, 45_106, 64), "score_type": "e4m3"},
    ),
    flops=lambda case: 0.0,
    bytes=_bytes,
)
