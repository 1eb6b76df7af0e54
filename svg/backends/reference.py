"""Masked attention in plain torch, a block of queries at a time: the judge of every other backend, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from svg.backends._fp8 import SCORES, WIDE_VALUES, Precision, check_precision, name_of
from svg.backends._per_head import check_fits, check_tensors
from svg.placement import resident, send
from svg.plan import AttentionPlan, HeadPattern

# Queries whose scores stand in memory at once, and how many scores: 128 MiB of float32.
MOST_QUERIES, MOST_SCORES = 256, 2**25


@dataclass(frozen=True)
class ReferenceBackend:
    """Computes every plan, slowly, in float64 for float64 inputs and in float32 for all others.

    Args:
        precision: ``"bf16"`` rounds nothing. ``"fp8"``, ``"fp8_int8"`` and ``"fp8_qk"`` are models of attention in 8
            bits that run anywhere: queries and keys, and but for ``"fp8_qk"`` values and probabilities, are rounded
            with the same scales as ``triton_block_sparse`` has, and computed with in float32. They tell what it does
            to a video, and nothing of time.
    """

    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        check_precision("reference", self.precision)

    @property
    def name(self) -> str:
        """``"reference"``, with the precision that it models."""
        return name_of("reference", self.precision)

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the plan is for other shapes."""
        check_fits(self.name, query, plan)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``, in the inputs' dtype."""
        self.check(query, plan)
        check_tensors(self.name, query, key, value)
        batch, num_heads, seq_len, _ = query.shape
        assignment = resident(plan.assignment, query.device).expand(batch, num_heads)
        lengths = None if plan.key_lengths is None else send(plan.key_lengths, query.device)
        output = torch.empty_like(query)
        softmax = _softmax
        if self.precision != "bf16":
            from svg_kernels import fp8_model

            is_wide = self.precision in WIDE_VALUES
            softmax = _softmax if is_wide else fp8_model.softmax
            score_type = SCORES[self.precision]
            query, key, value = fp8_model.dequantised(query, key, value, score_type, lengths, wide_values=is_wide)
        for index, pattern in enumerate(plan.patterns):
            items, heads = (assignment == index).nonzero(as_tuple=True)
            for few in torch.arange(items.numel(), device=query.device).split(_most_heads(seq_len)):
                chosen = items[few], heads[few]
                limits = None if lengths is None else lengths[chosen[0], None, None]
                attended = _attend(query[chosen], key[chosen], value[chosen], pattern, limits, softmax)
                output[chosen] = attended.to(output.dtype)
        return output


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1)


def _most_heads(seq_len: int) -> int:
    return max(1, MOST_SCORES // (min(MOST_QUERIES, seq_len) * seq_len))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pattern: HeadPattern,
    limits: torch.Tensor | None,
    softmax: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the attention of heads that share a pattern.

    Args:
        query: ``(heads, seq_len, head_dim)``.
        key: The same shape.
        value: The same shape.
        pattern: Which pairs they keep.
        limits: ``(heads, 1, 1)`` keys of each head, or None where all of them count.
        softmax: Over the last dimension, of scores that are -inf where a pair is not kept.
    """
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    positions = torch.arange(query.shape[1], device=query.device)
    columns, values, is_padding = key.to(dtype).transpose(-1, -2), value.to(dtype), None
    if limits is not None:
        is_padding = positions >= limits
        # Padding may hold anything, and nothing times NaN is NaN.
        values = values.masked_fill(is_padding.transpose(-1, -2), 0)
    output = torch.empty_like(query)
    for rows in positions.split(MOST_QUERIES):
        scores = query[:, rows].to(dtype) @ columns * query.shape[-1] ** -0.5
        if pattern.mask is not None:
            scores = scores.masked_fill(~pattern.mask.keep(rows[:, None], positions[None, :]), -torch.inf)
        if is_padding is not None:
            scores = scores.masked_fill(is_padding, -torch.inf)
        # A row without a key is all -inf, and its softmax NaN: it gets zeros.
        has_no_key = (scores == -torch.inf).all(-1, keepdim=True)
        output[:, rows] = (softmax(scores).masked_fill(has_no_key, 0) @ values).to(output.dtype)
    return output
