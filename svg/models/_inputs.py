"""What the families' processors share: a call's projections, with the norms that finish them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from svg.plan import AttentionInputs

# (norm, projection rows, row indices or None for all) -> (batch, num_heads, rows, head_dim)
Finish = Callable[[Any, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def projected(
    attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, finish: Finish
) -> AttentionInputs:
    """Return a call's inputs; ``finish`` norms and rotates queries with ``attn.norm_q``, keys with ``attn.norm_k``."""
    return AttentionInputs(
        query,
        key,
        value,
        attn.heads,
        finish_query=lambda rows, indices: finish(attn.norm_q, rows, indices),
        finish_key=lambda rows, indices: finish(attn.norm_k, rows, indices),
    )
