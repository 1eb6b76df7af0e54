"""Add a block's gated output to its residual in one pass over memory, by the gate of a batch item or of every token."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from svg_kernels.launch import Launch
from svg_kernels.spec import Case, Inputs, Spec

BLOCK_TOKENS, BLOCK_CHANNELS = 8, 512


@triton.jit(do_not_specialize=["seq_len"])
def _add(
    residual, x, gate, output,
    stride_residual_item, stride_residual_token, stride_item, stride_token, stride_gate_item, stride_gate_token,
    seq_len,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr, PER_TOKEN: tl.constexpr,
):  # fmt: skip
    """Add one block of tokens and channels; ``output`` is contiguous ``(items, seq_len, CHANNELS)``."""
    item = tl.program_id(2).to(tl.int64)
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    is_channel = channel < CHANNELS
    wanted = (token < seq_len) & is_channel
    gate += item * stride_gate_item
    if PER_TOKEN:
        factor = tl.load(gate + token * stride_gate_token + channel, wanted, 0.0).to(tl.float32)
    else:
        factor = tl.load(gate + channel, is_channel, 0.0).to(tl.float32)
    added = tl.load(x + item * stride_item + token * stride_token + channel, wanted, 0.0).to(tl.float32)
    start = residual + item * stride_residual_item
    total = tl.load(start + token * stride_residual_token + channel, wanted, 0.0).to(tl.float32) + added * factor
    tl.store(output + ((item * seq_len + token) * CHANNELS + channel), total.to(output.dtype.element_ty), wanted)


def prepare(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> tuple[torch.Tensor, Launch]:
    """Return an output of ``x``'s shape, contiguous, and the launch that makes it ``residual + x * gate``.

    Arithmetic is float32, and it rounds once, to the residual's type.

    Args:
        residual, x: ``(batch, seq_len, channels)``, channels contiguous.
        gate: ``(batch, 1, channels)`` or ``(batch, seq_len, channels)``, channels contiguous, of any floating-point
            type.
    """
    batch, seq_len, channels = x.shape
    output = torch.empty(x.shape, dtype=residual.dtype, device=x.device)
    block = min(BLOCK_CHANNELS, triton.next_power_of_2(channels))
    arguments = {
        "residual": residual,
        "x": x,
        "gate": gate,
        "output": output,
        "stride_residual_item": residual.stride(0),
        "stride_residual_token": residual.stride(1),
        "stride_item": x.stride(0),
        "stride_token": x.stride(1),
        "stride_gate_item": gate.stride(0),
        "stride_gate_token": gate.stride(1),
        "seq_len": seq_len,
        "CHANNELS": channels,
        "BLOCK": block,
        "TOKENS": BLOCK_TOKENS,
        "PER_TOKEN": gate.shape[1] == seq_len > 1,
    }
    grid = -(-seq_len // BLOCK_TOKENS), -(-channels // block), batch
    return output, Launch(_add, grid, arguments, {"num_warps": 4})


def gate_residual(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return the gated sum; see ``prepare``."""
    output, launch = prepare(residual, x, gate)
    launch.run()
    return output


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    batch, seq_len, channels = case["shape"]
    generator = torch.Generator(device).manual_seed(seq_len)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    tokens = seq_len if case["per_token"] else 1
    return {
        "residual": random(batch, seq_len, channels).to(dtype),
        # Behind tokens of something else, as video stands behind text.
        "x": random(batch, seq_len + 2, channels).to(dtype)[:, 2:],
        "gate": random(batch, tokens, channels).to(torch.float32 if case["is_wide"] else dtype),
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    output, launch = prepare(**inputs)
    output.fill_(torch.nan)
    return (output,), [launch]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return what models write, in the gate's precision where it is wider than the residual's."""
    residual, x, gate = inputs["residual"], inputs["x"], inputs["gate"]
    if rows is not None:
        residual, x = residual[:, rows], x[:, rows]
        gate = gate[:, rows] if gate.shape[1] > 1 else gate
    return ((residual.to(gate.dtype) + x * gate).to(residual.dtype),)


def _bytes(case: Case, element_size: int) -> float:
    batch, seq_len, channels = case["shape"]
    gates = batch * channels * (seq_len if case["per_token"] else 1)
    return 3.0 * math.prod(case["shape"]) * element_size + gates * (4.0 if case["is_wide"] else element_size)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=1,
    has_baseline=True,
    cases=(
        {"shape": (2, 19, 48), "per_token": False, "is_wide": False},
        {"shape": (2, 9, 600), "per_token": True, "is_wide": True},
    ),
    paper_cases=(
        # HunyuanVideo, Wan 14B, Wan 2.2 5B, CogVideoX 1.5 and Cosmos 7B.
        {"shape": (1, 118_800, 3072), "per_token": False, "is_wide": False},
        {"shape": (1, 75_600, 5120), "per_token": False, "is_wide": True},
        {"shape": (1, 27_280, 3072), "per_token": True, "is_wide": True},
        {"shape": (2, 44_880, 3072), "per_token": False, "is_wide": False},
        {"shape": (1, 56_320, 4096), "per_token": False, "is_wide": False},
    ),
    flops=lambda case: 0.0,
    bytes=_bytes,
)
