"""Dense attention by PyTorch's scaled_dot_product_attention, as diffusers' own processors call it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from svg.backends._per_head import check_fits, key_limits
from svg.plan import AttentionPlan


@dataclass(frozen=True)
class SdpaBackend:
    """Computes dense plans, on any device. Padding keys are sliced off rather than masked."""

    name: str = "sdpa"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the plan skips anything or is for other shapes."""
        check_fits(self.name, query, plan)
        if not plan.is_dense:
            able = "flex" if query.is_cuda else "cpu_gather"
            names = ", ".join(pattern.name for pattern in plan.patterns)
            raise ValueError(f"sdpa computes dense plans only, got patterns {names}; use backend={able} or reference")

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return full attention, ``(batch, num_heads, seq_len, head_dim)``.

        Without padding this is one call with diffusers' arguments, so its output equals the stock pipeline's bit for
        bit. With ``plan.key_lengths`` it is one call where they are equal, else one a batch item.
        """
        self.check(query, plan)
        batch, _, seq_len, _ = query.shape
        limits = key_limits(plan, batch, seq_len)
        if min(limits) == max(limits):
            return _attend(query, key, value, limits[0])
        items = [_attend(query[i : i + 1], key[i : i + 1], value[i : i + 1], limit) for i, limit in enumerate(limits)]
        return torch.cat(items)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, limit: int) -> torch.Tensor:
    if limit == 0:
        return torch.zeros_like(query)
    if limit < key.shape[2]:
        key, value = key[:, :, :limit], value[:, :, :limit]
    return scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False)
