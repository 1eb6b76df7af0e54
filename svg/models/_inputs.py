"""What the families' processors share: a call's projections, with the norms that finish them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from svg.models._fused import Placing
from svg.plan import AttentionInputs

N = TypeVar("N")
N_contra = TypeVar("N_contra", contravariant=True)


class Whole(Protocol[N_contra]):
    """All rows of a projection normed and rotated by one kernel, each token put in its place; None if it cannot."""

    def __call__(
        self, norm: N_contra, rows: torch.Tensor, placing: Placing | None = None, /
    ) -> torch.Tensor | None: ...


def projected(
    num_heads: int,
    norms: tuple[N, N],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    whole: Whole[N],
    finish: Callable[[N, torch.Tensor, torch.Tensor | None], torch.Tensor],
    key_lengths: torch.Tensor | None = None,
) -> AttentionInputs:
    """Return a call's inputs.

    Args:
        num_heads: Heads.
        norms: Of queries, of keys; whatever ``whole`` and ``finish`` take for one.
        query, key, value: Projections, each ``(batch, seq_len, num_heads * head_dim)``.
        whole: Finishes all rows by one kernel, where it can.
        finish: (norm, projection rows, row indices or None for all) -> ``(batch, num_heads, rows, head_dim)``, normed
            and rotated by the model's own steps.
        key_lengths: As ``AttentionInputs`` takes them.
    """

    def finished(norm: N, rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
        at_once = whole(norm, rows) if indices is None else None
        return finish(norm, rows, indices) if at_once is None else at_once

    query_norm, key_norm = norms
    return AttentionInputs(
        query,
        key,
        value,
        num_heads,
        finish_query=lambda rows, indices: finished(query_norm, rows, indices),
        finish_key=lambda rows, indices: finished(key_norm, rows, indices),
        key_lengths=key_lengths,
        place_query=lambda rows, *placing: whole(query_norm, rows, placing),
    )
