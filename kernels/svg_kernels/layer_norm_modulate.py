"""Layer norm, scale and shift in one pass over memory, with the scale and shift of a batch item or of every token."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from svg_kernels.launch import Launch
from svg_kernels.spec import Case, Inputs, Spec

# Tokens of one program, which loads the scale and shift of their batch item once.
BLOCK_TOKENS = 8


@triton.jit(do_not_specialize=["seq_len"])
def _modulate(
    x, output, weight, bias, scale, shift,
    stride_item, stride_token, stride_scale_item, stride_scale_token, stride_shift_item, stride_shift_token,
    seq_len, eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr, PER_TOKEN: tl.constexpr,
):  # fmt: skip
    """Norm and modulate ``TOKENS`` tokens one by one; ``output`` is contiguous ``(items, seq_len, CHANNELS)``."""
    item, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * TOKENS
    channel = tl.arange(0, BLOCK)
    is_channel = channel < CHANNELS
    factor = tl.full([BLOCK], 1.0, tl.float32)
    offset = tl.zeros([BLOCK], tl.float32)
    if weight is not None:
        factor = tl.load(weight + channel, is_channel, 0.0).to(tl.float32)
        offset = tl.load(bias + channel, is_channel, 0.0).to(tl.float32)
    if scale is not None:
        scale += item * stride_scale_item
        shift += item * stride_shift_item
        if not PER_TOKEN:
            more = 1.0 + tl.load(scale + channel, is_channel, 0.0).to(tl.float32)
            offset = offset * more + tl.load(shift + channel, is_channel, 0.0).to(tl.float32)
            factor = factor * more
    for index in range(TOKENS):
        token = first + index
        wanted = is_channel & (token < seq_len)
        row = tl.load(x + item * stride_item + token.to(tl.int64) * stride_token + channel, wanted, 0.0).to(tl.float32)
        row = tl.where(is_channel, row - tl.sum(row, 0) / CHANNELS, 0.0)
        row = row * tl.rsqrt(tl.sum(row * row, 0) / CHANNELS + eps) * factor + offset
        if PER_TOKEN:
            more = 1.0 + tl.load(scale + token.to(tl.int64) * stride_scale_token + channel, wanted, 0.0).to(tl.float32)
            moved = tl.load(shift + token.to(tl.int64) * stride_shift_token + channel, wanted, 0.0).to(tl.float32)
            row = row * more + moved
        tl.store(output + (item * seq_len + token) * CHANNELS + channel, row.to(output.dtype.element_ty), wanted)


def prepare(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, Launch]:
    """Return an output of ``x``'s shape, contiguous, and the launch that makes it ``norm(x) * (1 + scale) + shift``.

    Statistics and arithmetic are float32, and it rounds once.

    Args:
        x: ``(batch, seq_len, channels)``, channels contiguous.
        scale, shift: ``(batch, 1, channels)`` or ``(batch, seq_len, channels)``, channels contiguous, of any
            floating-point type; both None: nothing is modulated.
        weight, bias: ``(channels,)``, of the norm; both None: ones and zeros.
        eps: Added to the variance.
    """
    if (scale is None) != (shift is None) or (weight is None) != (bias is None):
        raise ValueError("scale and shift, and weight and bias, must be given together")
    batch, seq_len, channels = x.shape
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(channels)
    arguments = {
        "x": x,
        "output": output,
        "weight": weight,
        "bias": bias,
        "scale": scale,
        "shift": shift,
        "stride_item": x.stride(0),
        "stride_token": x.stride(1),
        "stride_scale_item": 0 if scale is None else scale.stride(0),
        "stride_scale_token": 0 if scale is None else scale.stride(1),
        "stride_shift_item": 0 if shift is None else shift.stride(0),
        "stride_shift_token": 0 if shift is None else shift.stride(1),
        "seq_len": seq_len,
        "eps": eps,
        "CHANNELS": channels,
        "BLOCK": block,
        "TOKENS": BLOCK_TOKENS,
        "PER_TOKEN": scale is not None and scale.shape[1] == seq_len > 1,
    }
    options = {"num_warps": max(1, min(8, block // 512))}
    return output, Launch(_modulate, (-(-seq_len // BLOCK_TOKENS), batch), arguments, options)


def layer_norm_modulate(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Return ``x`` normed and modulated; see ``prepare``."""
    output, launch = prepare(x, scale, shift, weight, bias, eps)
    launch.run()
    return output


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    batch, seq_len, channels = case["shape"]
    generator = torch.Generator(device).manual_seed(seq_len)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    modulated = (batch, seq_len if case["per_token"] else 1, channels)
    precision = torch.float32 if case["is_wide"] else dtype
    is_affine = case["is_affine"]
    return {
        # Behind tokens of something else, as video stands behind text.
        "x": (random(batch, seq_len + 2, channels) + 0.5).to(dtype)[:, 2:],
        "scale": (0.2 * random(*modulated)).to(precision) if case["is_modulated"] else None,
        "shift": (0.2 * random(*modulated)).to(precision) if case["is_modulated"] else None,
        "weight": (1 + 0.1 * random(channels)).to(dtype) if is_affine else None,
        "bias": (0.1 * random(channels)).to(dtype) if is_affine else None,
        "is_wide": case["is_wide"],
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    output, launch = prepare(*(inputs[name] for name in ("x", "scale", "shift", "weight", "bias")))
    output.fill_(torch.nan)
    return (output,), [launch]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return what models write: in float32 with one rounding where they are wide, else rounded after each operation."""
    x, scale, shift = inputs["x"], inputs["scale"], inputs["shift"]
    if rows is not None:
        x = x[:, rows]
        if scale is not None and scale.shape[1] > 1:
            scale, shift = scale[:, rows], shift[:, rows]
    wide = torch.promote_types(x.dtype, torch.float32) if inputs["is_wide"] else x.dtype
    weight, bias = (None if inputs[name] is None else inputs[name].to(wide) for name in ("weight", "bias"))
    output = torch.nn.functional.layer_norm(x.to(wide), x.shape[-1:], weight, bias, 1e-6)
    if scale is not None:
        output = output * (1 + scale) + shift
    return (output.to(x.dtype),)


def _case(
    *shape: int, per_token: bool = False, is_affine: bool = False, is_wide: bool = False, is_modulated: bool = True
) -> Case:
    return {
        "shape": shape,
        "per_token": per_token,
        "is_affine": is_affine,
        "is_wide": is_wide,
        "is_modulated": is_modulated,
    }


def _bytes(case: Case, element_size: int) -> float:
    batch, seq_len, channels = case["shape"]
    total = 2.0 * math.prod(case["shape"]) * element_size
    if case["is_modulated"]:
        tokens = seq_len if case["per_token"] else 1
        total += 2.0 * batch * tokens * channels * (4 if case["is_wide"] else element_size)
    return total + (2.0 * channels * element_size if case["is_affine"] else 0.0)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=1,
    has_baseline=True,
    cases=(
        _case(2, 19, 48),
        _case(2, 9, 96, per_token=True, is_wide=True),
        _case(2, 11, 40, is_affine=True),
        _case(1, 17, 320, is_affine=True, is_wide=True, is_modulated=False),
    ),
    paper_cases=(
        # HunyuanVideo; Wan 14B, its norm before cross-attention, and Wan 2.2 5B; CogVideoX 1.5; Cosmos 7B.
        _case(1, 118_800, 3072),
        _case(1, 75_600, 5120, is_wide=True),
        _case(1, 75_600, 5120, is_affine=True, is_wide=True, is_modulated=False),
        _case(1, 27_280, 3072, per_token=True, is_wide=True),
        _case(2, 44_880, 3072, is_affine=True),
        _case(1, 56_320, 4096),
    ),
    flops=lambda case: 0.0,
    bytes=_bytes,
    compiled_cases=(
        _case(1, 16, 3072),
        _case(1, 16, 5120, is_wide=True),
        _case(1, 16, 3072, per_token=True, is_wide=True),
    ),
)
