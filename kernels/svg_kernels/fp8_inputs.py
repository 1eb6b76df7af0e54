"""Lay keys and values out in the order of their head's pattern and round them to 8 bits, in one pass over memory.

Values may stay as they are. And queries rounded in a pass of their own, for a program that does not round them itself.
"""

from __future__ import annotations

import math

import torch

from svg_kernels.fp8_inputs_program import quantise, round_queries, sample, settle
from svg_kernels.fp8_model import BLOCK, MOST, SAMPLE, SCORE_TYPES, Quantised, ScoreType, mixing, quantised
from svg_kernels.launch import Launch, is_interpreted
from svg_kernels.spec import Case, Inputs, Spec

# Programs for each head that look whether it must be rounded again.
LOOKING = 16

# Queries that one program rounds.
ROUNDED_QUERIES = 64


def prepare(
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType = "e4m3",
    lengths: torch.Tensor | None = None,
    orders: torch.Tensor | None = None,
    assignment: torch.Tensor | None = None,
    *,
    wide_values: bool = False,
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
        wide_values: Whether values are laid out as they are, and not rounded.
    """
    batch, num_heads, seq_len, head_dim = key.shape
    lanes, num_tiles = batch * num_heads, -(-seq_len // BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(batch, num_heads, *shape, dtype=dtype, device=key.device)

    is_int8 = score_type == "int8"
    result = Quantised(
        empty(num_tiles * BLOCK, head_dim, dtype=SCORE_TYPES[score_type]),
        empty(num_tiles * BLOCK, head_dim, dtype=value.dtype)
        if wide_values
        else empty(head_dim, num_tiles * BLOCK, dtype=torch.float8_e4m3fn),
        empty(num_tiles if is_int8 else 1),
        None if wide_values else empty(),
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
        "WIDE_VALUES": wide_values,
        "INTERPRET": is_interpreted(quantise),
    }
    written = {
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
        Launch(sample, (lanes,), {**shared, "SAMPLE": SAMPLE, "STEP": 64}, {"num_warps": 8}),
        Launch(quantise, (num_tiles, lanes), written, {"num_warps": 4 if head_dim <= 64 else 8}),
        Launch(settle, (min(LOOKING, num_tiles), lanes), written, {"num_warps": 8, "num_stages": 1}),
    ]


AXES = ("item", "head", "token")


def prepare_queries(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Launch]:
    """Return queries in e4m3, the scale of each, and the launch that fills both.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``, channels contiguous; head_dim a power of two from 32.

    Returns:
        ``(batch, num_heads, padded_len, head_dim)``, mixed; float32 ``(batch, num_heads, padded_len)``, by which they
        are multiplied to be what they were; and the launch.
    """
    batch, num_heads, seq_len, head_dim = query.shape
    padded_len = -(-seq_len // BLOCK) * BLOCK
    rows = torch.empty(batch, num_heads, padded_len, head_dim, dtype=SCORE_TYPES["e4m3"], device=query.device)
    scales = torch.empty(batch, num_heads, padded_len, dtype=torch.float32, device=query.device)
    arguments = {
        "query": query,
        "rows_out": rows,
        "scales": scales,
        "mixing": mixing(head_dim // 2, query.dtype, query.device),
        **{f"stride_{axis}": query.stride(i) for i, axis in enumerate(AXES)},
        "num_heads": num_heads,
        "seq_len": seq_len,
        "padded_len": padded_len,
        "HEAD_DIM": head_dim,
        "QUERIES": ROUNDED_QUERIES,
        "IS_INT8": False,
        "MOST": MOST["e4m3"],
        "INTERPRET": is_interpreted(round_queries),
    }
    grid = padded_len // ROUNDED_QUERIES, batch * num_heads
    return rows, scales, Launch(round_queries, grid, arguments, {"num_warps": 2 if head_dim <= 64 else 4})


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
        "wide_values": case.get("wide_values", False),
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
    tensors = found.key, found.value, found.key_scale, found.value_scale
    return tuple(x for x in tensors if x is not None)


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return all outputs; of inputs in float64 before they are rounded, for errors to be those of the rounding."""
    key, value, orders = inputs["key"], inputs["value"], inputs["orders"]
    if orders is not None:
        order = orders.long()[inputs["assignment"]].expand(*key.shape[:2], -1)[..., None].expand_as(key)
        key, value = key.gather(2, order), value.gather(2, order)
    rounds = key.dtype != torch.float64
    given = key, value, inputs["score_type"], inputs["lengths"]
    return _tensors(quantised(*given, wide_values=inputs["wide_values"], rounds=rounds))


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
        {"shape": (2, 2, 131, 64), "score_type": "e4m3", "lengths": [131, 90], "num_frames": 7, "wide_values": True},
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
