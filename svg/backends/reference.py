"""Masked attention in plain torch, row block by row block: the judge of every other backend, on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._per_head import check_fits, heads_by_pattern
from svg.plan import AttentionPlan

# Queries per block: bounds the memory at (heads of a pattern) x 512 x seq_len scores.
ROWS = 512


@dataclass(frozen=True)
class ReferenceBackend:
    """Computes every plan, slowly, in float64 for float64 inputs and in float32 for all others."""

    name: str = "reference"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the plan is for other shapes."""
        check_fits(self.name, query, plan)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``, in the inputs' dtype."""
        self.check(query, plan)
        batch, num_heads, seq_len, head_dim = query.shape
        dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        output = torch.empty_like(query)
        positions = torch.arange(seq_len, device=query.device)
        for item, pattern, heads, limit in heads_by_pattern(plan, batch, num_heads, seq_len):
            keys, values = key[item, heads, :limit].to(dtype), value[item, heads, :limit].to(dtype)
            for rows in positions.split(ROWS):
                scores = query[item, heads][:, rows].to(dtype) @ keys.transpose(-1, -2) * head_dim**-0.5
                if pattern.mask is not None:
                    keep = pattern.mask.keep(rows[:, None], positions[None, :limit])
                    scores = scores.masked_fill(~keep, -torch.inf)
                # A row without a key is all -inf (or empty), and its softmax NaN: it gets zeros.
                keeps_some = (scores > -torch.inf).any(-1, keepdim=True)
                attended = scores.softmax(-1).masked_fill(~keeps_some, 0) @ values
                output[item, heads, rows[0] : rows[-1] + 1] = attended.to(output.dtype)
        return output
