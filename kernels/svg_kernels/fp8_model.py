"""What attention in 8 bits rounds, and how it scales that, in plain torch: the judge of the kernels, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

ScoreType = Literal["e4m3", "int8"]
SCORE_TYPES: dict[ScoreType, torch.dtype] = {"e4m3": torch.float8_e4m3fn, "int8": torch.int8}
MOST: dict[ScoreType, float] = {"e4m3": 448.0, "int8": 127.0}

# Keys in int8 that share a scale, and what the sequence is filled up to a multiple of.
BLOCK = 128

# Tokens at most that are looked at before all are rounded. Their keys' mean is taken off all keys: softmax sees nothing
# that all keys have in common, whatever it is, so this does what the mean of all would, without a pass over all.
SAMPLE = 256

# What a head's scale leaves room for: so many times the greatest magnitude in the sample. Where e4m3 has room for that,
# it rounds no less exactly; where a head has numbers that are greater still, it is rounded anew, by its greatest.
HEADROOM = 64.0

LOG2_E = math.log2(math.e)

# Probabilities are at most 2 ** 8: of e4m3's range, up to 448, the largest power of two.
TOP_EXPONENT = 8.0

# The least magnitude that is scaled to a type's greatest, so that a block of zeros is divided by something.
LEAST = 2.0**-80

# Where each of 16 keys stands among the stored values: lane by lane as a Hopper matrix unit hands out scores, which are
# then probabilities without a word exchanged between lanes.
LANE_ORDER = [8 * half + 2 * lane + place for lane in range(4) for half in range(2) for place in range(2)]
_PLACES = [LANE_ORDER.index(key) for key in range(16)]


@dataclass(frozen=True, eq=False)
class Quantised:
    """Keys in 8 bits, and values in 8 or as they are, contiguous; ``padded_len`` is seq_len up to a multiple of BLOCK.

    Args:
        key: e4m3 or int8 ``(batch, num_heads, padded_len, head_dim)``, mixed, less their sampled mean, zeros past
            seq_len.
        value: e4m3 ``(batch, num_heads, head_dim, padded_len)``, the keys of each 16 in LANE_ORDER; or wide, of the
            inputs' dtype, ``(batch, num_heads, padded_len, head_dim)``, zeros past seq_len.
        key_scale: float32 ``(batch, num_heads, 1)``, of int8 ``(batch, num_heads, padded_len / BLOCK)``: e4m3 rounds
            small numbers as well as great ones, and needs no scale that attention would have to look up at every step.
        value_scale: float32 ``(batch, num_heads)``; None of wide values.
    """

    key: torch.Tensor
    value: torch.Tensor
    key_scale: torch.Tensor
    value_scale: torch.Tensor | None

    @property
    def has_wide_values(self) -> bool:
        """Whether values, and with them probabilities, are not rounded to 8 bits."""
        return self.value_scale is None


@lru_cache(maxsize=8)
def mixing(head_dim: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return Sylvester's matrix of ones and minus ones ``(head_dim, head_dim)``, its own transpose.

    Queries and keys are both multiplied by it, which makes their products head_dim times as great and leaves them
    otherwise as they are. Rounding to e4m3 is relative, so a product is off by its largest terms: in trained models,
    those of the few channels in which queries and keys are both large. Mixed, all channels are about as large, and all
    terms. Where head_dim is no power of two, channels are mixed, and products grow, by the largest that divides it.

    Source: arXiv:2407.08608, incoherent processing; without its random signs, which change no error here.
    """
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    while matrix.shape[0] < _growth(head_dim):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.block_diag(*[matrix] * (head_dim // _growth(head_dim)))


def _growth(head_dim: int) -> int:
    return head_dim & -head_dim


def rounded_query(query: torch.Tensor, score_type: ScoreType = "e4m3") -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries mixed and rounded, and the scale of each.

    Args:
        query: ``(batch, num_heads, seq_len, head_dim)``.
        score_type: What they become.

    Returns:
        In 8 bits, the same shape; and ``(batch, num_heads, seq_len)``, by which products with keys, times the keys'
        scale, are attention's exponents of two.
    """
    head_dim, most = query.shape[3], MOST[score_type]
    query = _mixed(query)
    scale = most / query.abs().amax(3, keepdim=True).clamp(min=LEAST)
    if score_type == "e4m3":
        # Of two scales the one by which a query falls closer to numbers of e4m3.
        wider = scale * 0.5**0.5
        scale = torch.where(2 * _distance(query * wider) < _distance(query * scale), wider, scale)
    back = head_dim**-0.5 / _growth(head_dim) * LOG2_E / scale
    return _rounded(query * scale, score_type), back[..., 0]


def _distance(x: torch.Tensor) -> torch.Tensor:
    return (_rounded(x, "e4m3").to(x.dtype) - x).square().sum(3, keepdim=True)


def quantised(
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType = "e4m3",
    lengths: torch.Tensor | None = None,
    *,
    wide_values: bool = False,
    rounds: bool = True,
) -> Quantised:
    """Return keys in 8 bits, and values in 8 or, wide, as they are.

    Args:
        key: ``(batch, num_heads, seq_len, head_dim)``; computed in float64 if it is that, else in float32.
        value: Likewise.
        score_type: What keys become.
        lengths: int64 ``(batch,)``: keys at or past it are padding, which may hold anything; None where all count.
        wide_values: Whether values stay as they are.
        rounds: If false, numbers are scaled and not rounded, and stay in the precision that they are computed in.
    """
    batch, _, seq_len, _ = key.shape
    fill = 0, 0, 0, -seq_len % BLOCK
    position = torch.arange(seq_len, device=key.device)[:, None]
    limit = torch.full((batch,), seq_len, device=key.device) if lengths is None else lengths.clamp(max=seq_len)
    limit = limit[:, None, None, None]
    is_key = position < limit
    given = value.masked_fill(~is_key, 0)
    key, value = _mixed(key.masked_fill(~is_key, 0)), given.to(torch.promote_types(value.dtype, torch.float32))
    is_sampled = is_key & (position % (-(-limit // SAMPLE)).clamp(min=1) == 0)
    mean = key.masked_fill(~is_sampled, 0).sum(2, keepdim=True) / is_sampled.sum(2, keepdim=True).clamp(min=1)
    key = (key - mean).masked_fill(~is_key, 0)
    value_scale = _head_scale(value, is_sampled)
    key_scale = _head_scale(key, is_sampled)[..., None]
    key, value = (torch.nn.functional.pad(x, fill) for x in (key, value))
    if score_type == "int8":
        key_most = key.unflatten(2, (-1, BLOCK)).abs().amax((3, 4)).clamp(min=LEAST)
        # Less itself, infinity is NaN, which no rounding makes a number of.
        key_scale = key_most / MOST["int8"] + (key_most - key_most)
    key = key / key_scale.repeat_interleave(key.shape[2] // key_scale.shape[2], 2)[..., None]
    if wide_values:
        key = _rounded(key, score_type) if rounds else key
        return Quantised(key, torch.nn.functional.pad(given, fill), key_scale, None)
    # A scale that is no number makes none of the zeros past the end.
    value = (value / value_scale[..., None, None]).masked_fill(~torch.nn.functional.pad(is_key, fill), 0)
    value = value.unflatten(2, (-1, 16))[:, :, :, LANE_ORDER].flatten(2, 3).transpose(2, 3).contiguous()
    if rounds:
        key, value = _rounded(key, score_type), value.to(torch.float8_e4m3fn)
    return Quantised(key, value, key_scale, value_scale)


def _head_scale(x: torch.Tensor, is_sampled: torch.Tensor) -> torch.Tensor:
    """Return by what each head is divided before it becomes e4m3, ``(batch, num_heads)``."""
    room = HEADROOM * x.masked_fill(~is_sampled, 0).abs().amax((2, 3)).clamp(min=LEAST)
    greatest = x.abs().amax((2, 3))
    # Written so that NaN stays NaN.
    return torch.where(greatest <= room, room, greatest) / MOST["e4m3"]


def _mixed(x: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.to(wide) @ mixing(x.shape[3], wide, x.device)


def _rounded(x: torch.Tensor, score_type: ScoreType) -> torch.Tensor:
    return (x.round() if score_type == "int8" else x).to(SCORE_TYPES[score_type])


def dequantised(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_type: ScoreType,
    lengths: torch.Tensor | None,
    *,
    wide_values: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what attention in 8 bits sees of queries, keys and values, ``(batch, num_heads, seq_len, head_dim)``."""
    seq_len, head_dim = query.shape[2:]
    rows, row_scale = rounded_query(query, score_type)
    found = quantised(key, value, score_type, lengths, wide_values=wide_values)
    wide = row_scale.dtype
    mixer = mixing(head_dim, wide, query.device)
    key_scale = found.key_scale.repeat_interleave(found.key.shape[2] // found.key_scale.shape[2], 2)
    # Back to products of their own size, and to their own channels.
    row_scale = row_scale * (head_dim**0.5 / LOG2_E)
    seen_query = (rows.to(wide) * row_scale[..., None]) @ mixer
    seen_key = (found.key.to(wide) * key_scale[..., None]) @ mixer / _growth(head_dim)
    seen_value = found.value.to(wide)
    if found.value_scale is not None:
        seen_value = seen_value.transpose(2, 3).unflatten(2, (-1, 16))[:, :, :, _PLACES].flatten(2, 3)
        seen_value = seen_value * found.value_scale[..., None, None]
    return seen_query, seen_key[:, :, :seq_len], seen_value[:, :, :seq_len]


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return probabilities over the last dimension as attention in 8 bits weighs with them: rounded after their sum."""
    exponent = (scores - scores.amax(-1, keepdim=True)) * LOG2_E + TOP_EXPONENT
    probability = exponent.exp2()
    return probability.to(torch.float8_e4m3fn).to(scores.dtype) / probability.sum(-1, keepdim=True)
