"""Inputs and contexts from which methods plan without a model, and the judge of what a plan computes."""

from __future__ import annotations

import torch

from svg.context import AttentionContext
from svg.layout import TokenLayout
from svg.plan import AttentionInputs, AttentionPlan


def inputs_of(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_lengths: torch.Tensor | None = None
) -> AttentionInputs:
    """Return inputs whose finished queries, keys and values are the given ``(batch, num_heads, seq_len, head_dim)``."""
    num_heads = query.shape[1]

    def finish(projection: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        return projection.unflatten(2, (num_heads, -1)).transpose(1, 2)

    projections = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    return AttentionInputs(*projections, num_heads, finish, finish, key_lengths=key_lengths)


def random_tensors(layout: TokenLayout, batch: int = 1, num_heads: int = 3, head_dim: int = 8, seed: int = 0):
    """Return query, key, value, ``(batch, num_heads, seq_len, head_dim)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, batch, num_heads, layout.seq_len, head_dim, generator=generator).unbind()


def random_inputs(layout: TokenLayout, batch: int = 1, num_heads: int = 3, seed: int = 0) -> AttentionInputs:
    return inputs_of(*random_tensors(layout, batch, num_heads, seed=seed))


def context_of(layout: TokenLayout, **settings: int) -> AttentionContext:
    return AttentionContext(**{"layout": layout, "layer": 1, "num_layers": 4, "step": 2, "num_steps": 5} | settings)


def kept_by_head(plan: AttentionPlan, batch: int, num_heads: int, seq_len: int) -> torch.Tensor:
    """Return which pairs of ORIGINAL positions each head keeps, bool ``(batch, num_heads, seq_len, seq_len)``."""
    positions = torch.arange(seq_len)
    keep = torch.stack([p.keep(positions[:, None], positions[None, :]) for p in plan.patterns])
    kept = keep[plan.assignment.expand(batch, num_heads)]
    if plan.key_lengths is not None:
        kept = kept & (positions < plan.key_lengths[:, None])[:, None, None, :]
    return kept


def masked_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return attention over the kept pairs, by the definition."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.masked_fill(~keep, -torch.inf).softmax(-1) @ value
