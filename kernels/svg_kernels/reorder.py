"""Lay the tokens of every head out in the order of its pattern: rows gathered, one read and one write per number."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from svg_kernels.launch import Launch
from svg_kernels.spec import Case, Inputs, Spec

BLOCK_TOKENS = 64


@triton.jit(do_not_specialize=["num_heads", "seq_len"])
def _gather(
    x, output, orders, assignment,
    stride_item, stride_head, stride_token, stride_output_item, stride_output_head, stride_output_token,
    stride_assignment_item, stride_assignment_head, num_heads, seq_len,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Move one block of tokens of one head."""
    lane = tl.program_id(1)
    item, head = lane // num_heads, lane % num_heads
    pattern = tl.load(assignment + item * stride_assignment_item + head * stride_assignment_head)
    token, place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_DIM)
    is_token = token < seq_len
    source = tl.load(orders + pattern * seq_len + token, is_token, 0).to(tl.int64)
    wanted = is_token[:, None] & (place < HEAD_DIM)[None, :]
    x += item.to(tl.int64) * stride_item + head.to(tl.int64) * stride_head
    rows = tl.load(x + (source[:, None] * stride_token + place[None, :]), wanted)
    output += item.to(tl.int64) * stride_output_item + head.to(tl.int64) * stride_output_head
    tl.store(output + (token.to(tl.int64)[:, None] * stride_output_token + place[None, :]), rows, wanted)


def prepare(
    x: torch.Tensor, orders: torch.Tensor, assignment: torch.Tensor, puts_tokens_first: bool = False
) -> tuple[torch.Tensor, Launch]:
    """Return an output ``(batch, num_heads, seq_len, head_dim)`` and the launch that fills it.

    Args:
        x: The same shape; the last dimension contiguous, the others strided as they may.
        orders: int32 ``(patterns, seq_len)``: output[i] = x[order[i]].
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head.
        puts_tokens_first: Whether tokens stand before heads in the output's memory, as a projection wants them; else
            it is contiguous.
    """
    batch, num_heads, seq_len, head_dim = x.shape
    if puts_tokens_first:
        output = torch.empty(batch, seq_len, num_heads, head_dim, dtype=x.dtype, device=x.device).transpose(1, 2)
    else:
        output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    arguments = {
        "x": x,
        "output": output,
        "orders": orders,
        "assignment": assignment,
        "stride_item": x.stride(0),
        "stride_head": x.stride(1),
        "stride_token": x.stride(2),
        "stride_output_item": output.stride(0),
        "stride_output_head": output.stride(1),
        "stride_output_token": output.stride(2),
        "stride_assignment_item": 0 if assignment.shape[0] == 1 else assignment.stride(0),
        "stride_assignment_head": 0 if assignment.shape[1] == 1 else assignment.stride(1),
        "num_heads": num_heads,
        "seq_len": seq_len,
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": triton.next_power_of_2(head_dim),
        "BLOCK": BLOCK_TOKENS,
    }
    return output, Launch(_gather, (-(-seq_len // BLOCK_TOKENS), batch * num_heads), arguments, {"num_warps": 4})


def reorder(
    x: torch.Tensor, orders: torch.Tensor, assignment: torch.Tensor, puts_tokens_first: bool = False
) -> torch.Tensor:
    """Return ``x`` laid out anew; see ``prepare``."""
    output, launch = prepare(x, orders, assignment, puts_tokens_first)
    launch.run()
    return output


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return a case's inputs: heads in plain order beside heads that walk through the frames place by place."""
    batch, num_heads, seq_len, head_dim = case["shape"]
    frames = case["num_frames"]
    generator = torch.Generator(device).manual_seed(seq_len)
    # Tokens before heads, as projections are.
    x = torch.randn(batch, seq_len, num_heads, head_dim, generator=generator, device=device).to(dtype).transpose(1, 2)
    video = seq_len // frames * frames
    order = torch.arange(seq_len, device=device)
    order[:video] = order[:video].view(frames, -1).T.flatten()
    orders = torch.stack([torch.arange(seq_len, device=device), order]).to(torch.int32)
    assignment = torch.arange(num_heads, device=device)[None] % 3 > 0
    more = {"puts_tokens_first": case.get("puts_tokens_first", False)}
    return {"x": x, "orders": orders, "assignment": assignment.long(), **more}


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    output, launch = prepare(**inputs)
    output.fill_(torch.nan)
    return (output,), [launch]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return the outputs at the given positions, or all of them."""
    x, orders = inputs["x"], inputs["orders"].long()
    order = orders[inputs["assignment"]].expand(*x.shape[:2], -1)
    order = order if rows is None else order[..., rows]
    return (x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[3])),)


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=2,
    has_baseline=True,
    cases=(
        {"shape": (2, 3, 131, 48), "num_frames": 7},
        {"shape": (1, 4, 40, 128), "num_frames": 5},
        {"shape": (2, 3, 35, 32), "num_frames": 5, "puts_tokens_first": True},
        {"shape": (1, 1, 1, 16), "num_frames": 1},
    ),
    paper_cases=(
        {"shape": (1, 24, 119_056, 128), "num_frames": 33},
        {"shape": (1, 24, 119_056, 128), "num_frames": 33, "puts_tokens_first": True},
        {"shape": (1, 40, 75_600, 128), "num_frames": 21},
        {"shape": (2, 48, 45_106, 64), "num_frames": 11},
    ),
    flops=lambda case: 0.0,
    bytes=lambda case, element_size: 2.0 * math.prod(case["shape"]) * element_size,
)
