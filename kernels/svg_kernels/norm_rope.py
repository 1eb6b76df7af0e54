"""Finish queries or keys in one pass over memory: norm, rotary embedding, heads apart and, if asked for, reordered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl

from svg_kernels.launch import Launch
from svg_kernels.spec import Case, Inputs, Spec

Kind = Literal["none", "rms_head", "layer_head", "rms_all"]
KINDS: tuple[Kind, ...] = ("none", "rms_head", "layer_head", "rms_all")
# Tokens of one program; where the norm spans all heads of a token it is one, which registers hold whole.
BLOCK_TOKENS = 16


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over the channels of one head, or of all heads.

    Args:
        kind: ``"none"``, ``"rms_head"``, ``"layer_head"`` or ``"rms_all"`` (over all heads).
        weight: ``(head_dim,)``, for ``"rms_all"`` ``(num_heads * head_dim,)``; None: ones.
        bias: The same shape; None: zeros.
        eps: Added to the mean of squares, or the variance.
    """

    kind: Kind = "none"
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float = 1e-6


@triton.jit
def _halves(row, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr):
    """Return the two channels of every pair, each ``(BLOCK, HALF)``: neighbours, or half a head apart."""
    if INTERLEAVED:
        first, second = tl.split(row.reshape(BLOCK, HALF, 2))
    else:
        first, second = tl.split(tl.permute(row.reshape(BLOCK, 2, HALF), (0, 2, 1)))
    return first, second


@triton.jit
def _whole(first, second, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr):
    """Return the channels in order, ``(BLOCK, 2 * HALF)``, from the halves."""
    both = tl.join(first, second)
    if INTERLEAVED:
        return both.reshape(BLOCK, 2 * HALF)
    return tl.permute(both, (0, 2, 1)).reshape(BLOCK, 2 * HALF)


@triton.jit
def _turned(token, is_token, text_start, text_stop, ROTATES_TEXT: tl.constexpr):
    """Return where rotations stand for tokens, and which are turned.

    Rotations stand for every token, or for every token but the text; text is then turned by nothing.
    """
    at_table, turned = token, is_token
    if not ROTATES_TEXT:
        at_table = tl.where(token >= text_stop, token - (text_stop - text_start), token)
        turned = is_token & ((token < text_start) | (token >= text_stop))
    return at_table, turned


@triton.jit(do_not_specialize=["seq_len", "text_start", "text_stop", "stride_places"])
def _finish(
    x, output, weight, bias, text_weight, text_bias, cosine, sine, places, assignment,
    stride_item, stride_token, stride_assignment_item, stride_assignment_head, stride_places,
    seq_len, text_start, text_stop, eps, text_eps,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr,
    INTERLEAVED: tl.constexpr, ROTATES_TEXT: tl.constexpr,
):  # fmt: skip
    """Finish one block of tokens, head by head; ``output`` is contiguous ``(items, NUM_HEADS, seq_len, HEAD_DIM)``."""
    HALF: tl.constexpr = HEAD_DIM // 2
    item = tl.program_id(1)
    token, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, HEAD_DIM)
    is_token, is_text = token < seq_len, (token >= text_start) & (token < text_stop)
    wanted = is_token[:, None] & (channel >= 0)[None, :]
    x += item.to(tl.int64) * stride_item + (token.to(tl.int64) * stride_token)[:, None] + channel[None, :]

    if cosine is not None:
        at_table, turned = _turned(token, is_token, text_start, text_stop, ROTATES_TEXT)
        pair = tl.arange(0, HALF)
        step: tl.constexpr = 2 if INTERLEAVED else 1
        table = at_table[:, None] * HEAD_DIM + step * pair[None, :]
        cos = tl.load(cosine + table, turned[:, None], 1.0)
        sin = tl.load(sine + table, turned[:, None], 0.0)

    for head in range(NUM_HEADS):
        row = tl.load(x + head * HEAD_DIM, wanted, 0.0).to(tl.float32)
        if KIND == 1:
            row = row * tl.rsqrt(tl.sum(row * row, 1) / HEAD_DIM + tl.where(is_text, text_eps, eps))[:, None]
        elif KIND == 2:
            row = row - (tl.sum(row, 1) / HEAD_DIM)[:, None]
            row = row * tl.rsqrt(tl.sum(row * row, 1) / HEAD_DIM + tl.where(is_text, text_eps, eps))[:, None]
        if weight is not None:
            scale = tl.load(weight + channel).to(tl.float32)[None, :]
            if text_weight is not None:
                scale = tl.where(is_text[:, None], tl.load(text_weight + channel).to(tl.float32)[None, :], scale)
            row = row * scale
        if bias is not None:
            shift = tl.load(bias + channel).to(tl.float32)[None, :]
            if text_bias is not None:
                shift = tl.where(is_text[:, None], tl.load(text_bias + channel).to(tl.float32)[None, :], shift)
            row = row + shift
        if cosine is not None:
            first, second = _halves(row, INTERLEAVED, BLOCK, HALF)
            row = _whole(first * cos - second * sin, second * cos + first * sin, INTERLEAVED, BLOCK, HALF)
        target = token
        if places is not None:
            pattern = tl.load(assignment + item * stride_assignment_item + head * stride_assignment_head)
            target = tl.load(places + pattern * stride_places + token, is_token, 0)
        start = (item * NUM_HEADS + head).to(tl.int64) * seq_len
        tl.store(
            output + ((start + target)[:, None] * HEAD_DIM + channel[None, :]), row.to(output.dtype.element_ty), wanted
        )


@triton.jit(do_not_specialize=["seq_len", "text_start", "text_stop", "stride_places"])
def _finish_across(
    x, output, weight, cosine, sine, places, assignment,
    stride_item, stride_token, stride_assignment_item, stride_assignment_head, stride_places,
    seq_len, text_start, text_stop, eps,
    NUM_HEADS: tl.constexpr, BLOCK_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr,
    ROTATES_TEXT: tl.constexpr,
):  # fmt: skip
    """Finish one token, normed over all its heads at once; ``output`` as of ``_finish``."""
    HALF: tl.constexpr = HEAD_DIM // 2
    token, item = tl.program_id(0), tl.program_id(1)
    head, channel = tl.arange(0, BLOCK_HEADS), tl.arange(0, HEAD_DIM)
    is_head = head < NUM_HEADS
    wanted = is_head[:, None] & (channel >= 0)[None, :]
    at = head[:, None] * HEAD_DIM + channel[None, :]
    x += item.to(tl.int64) * stride_item + token.to(tl.int64) * stride_token
    row = tl.load(x + at, wanted, 0.0).to(tl.float32)
    row = row * tl.rsqrt(tl.sum(tl.sum(row * row, 1), 0) / (NUM_HEADS * HEAD_DIM) + eps)
    if weight is not None:
        row = row * tl.load(weight + at, wanted, 0.0).to(tl.float32)
    if cosine is not None:
        at_table, turned = _turned(token, token < seq_len, text_start, text_stop, ROTATES_TEXT)
        step: tl.constexpr = 2 if INTERLEAVED else 1
        table = at_table * HEAD_DIM + step * tl.arange(0, HALF)
        cos, sin = tl.load(cosine + table, turned, 1.0)[None, :], tl.load(sine + table, turned, 0.0)[None, :]
        first, second = _halves(row, INTERLEAVED, BLOCK_HEADS, HALF)
        row = _whole(first * cos - second * sin, second * cos + first * sin, INTERLEAVED, BLOCK_HEADS, HALF)
    target = tl.zeros([BLOCK_HEADS], tl.int32) + token
    if places is not None:
        pattern = tl.load(assignment + item * stride_assignment_item + head * stride_assignment_head, is_head, 0)
        target = tl.load(places + pattern * stride_places + token, is_head, 0)
    start = (item * NUM_HEADS + head).to(tl.int64) * seq_len
    tl.store(
        output + ((start + target)[:, None] * HEAD_DIM + channel[None, :]), row.to(output.dtype.element_ty), wanted
    )


def prepare(
    x: torch.Tensor,
    num_heads: int,
    norm: Norm,
    rotation: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    is_interleaved: bool = True,
    text: tuple[int, int] = (0, 0),
    text_norm: Norm | None = None,
    places: torch.Tensor | None = None,
    assignment: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Launch]:
    """Return an output ``(batch, num_heads, seq_len, head_dim)``, contiguous, and the launch that fills it.

    Args:
        x: Projection ``(batch, seq_len, num_heads * head_dim)``; head_dim a power of two from 16, channels contiguous.
        num_heads: Heads.
        norm: Of all tokens, or of those that are no text where ``text_norm`` is given.
        rotation: Cosines and sines, float32 ``(rotated tokens, head_dim)`` contiguous, both channels of a pair alike;
            for all tokens, or for those that are no text, which is then not turned. None: nothing is.
        is_interleaved: Whether channels are paired with their neighbours, else with those half a head further on.
        text: First text token, and the position after the last.
        text_norm: Of text, of the same kind; None: that of all tokens. A norm over all heads takes none, nor a bias.
        places: int32 ``(patterns, seq_len)``, where each token goes; None: where it stands.
        assignment: int64 ``(batch|1, num_heads|1)``, the pattern of each head; needed with ``places``.
    """
    batch, seq_len, channels = x.shape
    text_norm = norm if text_norm is None else text_norm
    if text_norm.kind != norm.kind:
        raise ValueError(f"the norms of text and video must be of one kind, got {text_norm.kind} and {norm.kind}")
    is_across, has_own = norm.kind == "rms_all", text_norm is not norm
    if is_across and (has_own or norm.bias is not None):
        raise ValueError("a norm over all heads has no bias, and is the same for text")
    cosine, sine = (None, None) if rotation is None else rotation
    output = torch.empty(batch, num_heads, seq_len, channels // num_heads, dtype=x.dtype, device=x.device)
    arguments = {
        "x": x,
        "output": output,
        "weight": norm.weight,
        "cosine": cosine,
        "sine": sine,
        "places": places,
        "assignment": assignment,
        "stride_item": x.stride(0),
        "stride_token": x.stride(1),
        "stride_assignment_item": 0 if assignment is None or assignment.shape[0] == 1 else assignment.stride(0),
        "stride_assignment_head": 0 if assignment is None or assignment.shape[1] == 1 else assignment.stride(1),
        "stride_places": 0 if places is None else places.shape[1],
        "seq_len": seq_len,
        "text_start": text[0],
        "text_stop": text[1],
        "eps": float(norm.eps),
        "NUM_HEADS": num_heads,
        "HEAD_DIM": channels // num_heads,
        "INTERLEAVED": is_interleaved,
        "ROTATES_TEXT": rotation is None or rotation[0].shape[0] == seq_len,
    }
    options = {"num_warps": 4}
    if is_across:
        block_heads = triton.next_power_of_2(num_heads)
        return output, Launch(_finish_across, (seq_len, batch), {**arguments, "BLOCK_HEADS": block_heads}, options)
    arguments |= {
        "bias": norm.bias,
        "text_weight": text_norm.weight if has_own else None,
        "text_bias": text_norm.bias if has_own else None,
        "text_eps": float(text_norm.eps),
        "BLOCK": BLOCK_TOKENS,
        "KIND": KINDS.index(norm.kind),
    }
    return output, Launch(_finish, (-(-seq_len // BLOCK_TOKENS), batch), arguments, options)


def _inputs(case: Case, dtype: torch.dtype, device: torch.device) -> Inputs:
    batch, num_heads, seq_len, head_dim = case["shape"]
    generator = torch.Generator(device).manual_seed(seq_len)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    width = num_heads * head_dim if case["kind"] == "rms_all" else head_dim
    start, stop = case.get("text", (0, 0))
    angles = random(seq_len - (stop - start), head_dim // 2)
    angles = angles.repeat_interleave(2, 1) if case["interleaved"] else angles.repeat(1, 2)
    frames = case.get("num_frames")
    places = None
    if frames is not None:
        order = torch.arange(seq_len, device=device)
        video = seq_len // frames * frames
        order[:video] = order[:video].view(frames, -1).T.flatten()
        places = torch.stack([torch.arange(seq_len, device=device), order.argsort()]).to(torch.int32)
    own = case.get("own_text_norm", False)
    return {
        "x": random(batch, seq_len, num_heads * head_dim).to(dtype),
        "weight": (1 + 0.1 * random(width)).to(dtype),
        "bias": (0.1 * random(width)).to(dtype) if case["kind"] == "layer_head" else None,
        "text_weight": (1 + 0.1 * random(width)).to(dtype) if own else None,
        "cosine": angles.cos(),
        "sine": angles.sin(),
        "places": places,
        "assignment": (torch.arange(num_heads, device=device)[None] % 3 > 0).long(),
        "case": case,
    }


def _prepare(inputs: Inputs, capability: int) -> tuple[tuple[torch.Tensor, ...], list[Launch]]:
    case, text_weight = inputs["case"], inputs["text_weight"]
    output, launch = prepare(
        inputs["x"],
        case["shape"][1],
        Norm(case["kind"], inputs["weight"], inputs["bias"]),
        (inputs["cosine"], inputs["sine"]),
        is_interleaved=case["interleaved"],
        text=case.get("text", (0, 0)),
        text_norm=None if text_weight is None else Norm(case["kind"], text_weight, inputs["bias"]),
        places=inputs["places"],
        assignment=inputs["assignment"],
    )
    output.fill_(torch.nan)
    return (output,), [launch]


def reference(inputs: Inputs, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return norm, rotation and reordering as models write them, one after the other."""
    case, x = inputs["case"], inputs["x"]
    batch, num_heads, seq_len, head_dim = case["shape"]
    start, stop = case.get("text", (0, 0))
    shape = (num_heads * head_dim,) if case["kind"] == "rms_all" else (head_dim,)
    heads = x if case["kind"] == "rms_all" else x.unflatten(2, (num_heads, head_dim))
    text = heads[:, start:stop]
    normed = _normed(heads, shape, inputs["weight"], inputs["bias"])
    if inputs["text_weight"] is not None:
        own = _normed(text, shape, inputs["text_weight"], inputs["bias"])
        normed = torch.cat([normed[:, :start], own, normed[:, stop:]], 1)
    heads = normed.view(batch, seq_len, num_heads, head_dim).transpose(1, 2)
    video = torch.cat([heads[:, :, :start], heads[:, :, stop:]], 2)
    if case["interleaved"]:
        turned = torch.stack((-video[..., 1::2], video[..., 0::2]), -1).flatten(-2)
    else:
        first, second = video.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    # Never less precise than float32, as models do it.
    wide = torch.promote_types(x.dtype, torch.float32)
    video = (video.to(wide) * inputs["cosine"] + turned.to(wide) * inputs["sine"]).to(x.dtype)
    output = torch.cat([video[:, :, :start], heads[:, :, start:stop], video[:, :, start:]], 2)
    if inputs["places"] is not None:
        order = inputs["places"].long().argsort(1)[inputs["assignment"]].expand(batch, num_heads, seq_len)
        output = output.gather(2, order[..., None].expand_as(output))
    return (output if rows is None else output[:, :, rows],)


def _normed(x: torch.Tensor, shape: tuple[int, ...], weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if bias is None:
        return torch.nn.functional.rms_norm(x, shape, weight, 1e-6)
    return torch.nn.functional.layer_norm(x, shape, weight, bias, 1e-6)


def _bytes(case: Case, element_size: int) -> float:
    _, _, seq_len, head_dim = case["shape"]
    # Projection read, heads written; of the tables one of each two equal channels.
    return 2.0 * math.prod(case["shape"]) * element_size + 4.0 * seq_len * head_dim


SPEC = Spec(
    inputs=_inputs,
    prepare=_prepare,
    reference=reference,
    rows_axis=2,
    has_baseline=True,
    cases=(
        {"shape": (2, 3, 37, 32), "kind": "rms_head", "interleaved": True, "text": (30, 37), "own_text_norm": True},
        {"shape": (1, 2, 41, 64), "kind": "layer_head", "interleaved": True, "text": (0, 6)},
        {"shape": (2, 3, 35, 16), "kind": "rms_all", "interleaved": True, "num_frames": 5},
        {"shape": (1, 4, 33, 32), "kind": "rms_head", "interleaved": False, "num_frames": 4},
        {"shape": (1, 5, 21, 32), "kind": "rms_all", "interleaved": False, "text": (3, 8)},
    ),
    paper_cases=(
        {"shape": (1, 24, 119_056, 128), "kind": "rms_head", "interleaved": True, "text": (118_800, 119_056)},
        {"shape": (1, 40, 75_600, 128), "kind": "rms_all", "interleaved": True},
        {"shape": (2, 48, 45_106, 64), "kind": "layer_head", "interleaved": True, "text": (0, 226)},
        {"shape": (1, 40, 56_320, 128), "kind": "rms_head", "interleaved": False},
    ),
    flops=lambda case: 0.0,
    bytes=_bytes,
)
