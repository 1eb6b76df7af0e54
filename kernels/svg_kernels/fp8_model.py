"""What attention in 8 bits rounds, and how it scales that, in plain torch: the judge of the kernels, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

ScoreType = Literal["e4m3", "int8"]
SCORE_TYPES: dict[ScoreType, torch.dtype] = {"e4m3": torch.float8_e4m3fn, "int8": torch.int8}
MOST: dict[ScoreType, float] = {"e4m3": 448.0, "int8": 127.0}

# Keys that share a scale, and what the sequence is filled up to a multiple of.
BLOCK = 128

LOG2_E = math.log2(math.e)

# Probabilities are at most 2 ** 8: of e4m3's range, up to 448, the largest power of two.
TOP_EXPONENT = 8.0

# The least magnitude that is scaled to a type's greatest, so that a block of zeros is divided by something.
LEAST = 2.0**-100

# Where each of 16 keys stands among the stored values: lane by lane as a Hopper matrix unit hands out scores, which are
# then probabilities without a word exchanged between lanes.
LANE_ORDER = [8 * half + 2 * lane + place for lane in range(4) for half in range(2) for place in range(2)]
_PLACES = [LANE_ORDER.index(key) for key in range(16)]


@dataclass(frozen=True, eq=False)
class Quantised:
    """Queries, keys and values in 8 bits, contiguous; ``padded_len`` is seq_len filled up to a multiple of BLOCK.

    Args:
        query: e4m3 or int8 ``(batch, num_heads, padded_len, head_dim)``, zeros past seq_len.
        key: Likewise, less the mean of the head's keys.
        value: e4m3 ``(batch, num_heads, head_dim, padded_len)``, the keys of each 16 in LANE_ORDER.
        query_scale: float32 ``(batch, num_heads, padded_len)``, with the scale of attention and log2(e) in it.
        key_scale: float32 ``(batch, num_heads, padded_len / BLOCK)``.
        value_scale: float32 ``(batch, num_heads, head_dim)``.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_scale: torch.Tensor
    key_scale: torch.Tensor
    value_scale: torch.Tensor


def quantised(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType = "e4m3",
    lengths: torch.Tensor | None = None,
    *,
    rounds: bool = True,
) -> Quantised:
    """Return queries, keys and values in 8 bits.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``; computed in float64 if it is that, else in float32.
        key: Likewise.
        value: Likewise.
        score_type: What queries and keys become.
        lengths: int64 ``(batch,)``: keys at or past it are padding, which may hold anything; None where all count.
        rounds: If false, numbers are scaled and not rounded, and stay in the precision that they are computed in.
    """
    seq_len, head_dim = query.shape[2:]
    wide = torch.promote_types(query.dtype, torch.float32)
    fill = (0, 0, 0, -seq_len % BLOCK)
    most = MOST[score_type]
    is_key = torch.ones(query.shape[0], 1, seq_len, 1, dtype=torch.bool, device=query.device)
    if lengths is not None:
        is_key = torch.arange(seq_len, device=query.device)[:, None] < lengths[:, None, None, None]
    query = query.to(wide)
    key, value = (x.to(wide).masked_fill(~is_key, 0) for x in (key, value))
    mean = key.sum(2, keepdim=True) / is_key.sum(2, keepdim=True).clamp(min=1)
    key = (key - mean).masked_fill(~is_key, 0)
    query, key, value = (torch.nn.functional.pad(x, fill) for x in (query, key, value))
    query_most = query.abs().amax(3).clamp(min=LEAST)
    key_most = key.unflatten(2, (-1, BLOCK)).abs().amax((3, 4)).clamp(min=LEAST)
    value_scale = value.abs().amax(2).clamp(min=LEAST) / MOST["e4m3"]
    query = query * (most / query_most)[..., None]
    key = key * (most / key_most).repeat_interleave(BLOCK, 2)[..., None]
    value = (value / value_scale[:, :, None]).masked_fill(~torch.nn.functional.pad(is_key, fill), 0)
    value = value.unflatten(2, (-1, 16))[:, :, :, LANE_ORDER].flatten(2, 3).transpose(2, 3)
    if rounds:
        kind = SCORE_TYPES[score_type]
        query, key = ((x.round() if score_type == "int8" else x).to(kind) for x in (query, key))
        value = value.to(torch.float8_e4m3fn)
    scale = head_dim**-0.5 * LOG2_E / most
    return Quantised(query, key, value.contiguous(), query_most * scale, key_most / most, value_scale)


def dequantised(found: Quantised, seq_len: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the queries, keys and values that attention in 8 bits sees, ``(batch, num_heads, seq_len, head_dim)``."""
    head_dim = found.query.shape[3]
    query_scale = found.query_scale / (head_dim**-0.5 * LOG2_E)
    key_scale = found.key_scale.repeat_interleave(BLOCK, 2)
    wide = query_scale.dtype
    value = found.value.to(wide).transpose(2, 3).unflatten(2, (-1, 16))[:, :, :, _PLACES].flatten(2, 3)
    value = value * found.value_scale[:, :, None]
    query, key = found.query.to(wide) * query_scale[..., None], found.key.to(wide) * key_scale[..., None]
    return query[:, :, :seq_len], key[:, :, :seq_len], value[:, :, :seq_len]


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return probabilities over the last dimension as attention in 8 bits weighs with them: rounded after their sum."""
    exponent = (scores - scores.amax(-1, keepdim=True)) * LOG2_E + TOP_EXPONENT
    probability = exponent.exp2()
    return probability.to(torch.float8_e4m3fn).to(scores.dtype) / probability.sum(-1, keepdim=True)
