"""What the families' attention processors share: attention that is handed in, and that compiled blocks can call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from svg import sites
from svg.plan import AttentionInputs


class SelfAttention(ABC):
    """A processor whose family projects, calls ``attended`` and projects back; ``inputs`` says what attention gets.

    torch.compile traces the projections. Attention itself is one operator in its graph, behind which ``inputs`` and
    all that it leads to run as plain Python.

    Args:
        attend: Computes one call, ``(batch, num_heads, seq_len, head_dim)`` out.
    """

    def __init__(self, attend: Callable[[AttentionInputs], torch.Tensor]) -> None:
        self._attend = attend
        self._handle = sites.new_handle()

    @abstractmethod
    def inputs(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        num_apart: int,
    ) -> AttentionInputs:
        """Return a call's inputs, of as many of the sequence's first tokens as take part in attention.

        Args:
            attn: The attention module.
            query, key, value: Projections, each ``(batch, seq_len, num_heads * head_dim)``.
            rotation: Cosines and sines, as the family's transformer makes them.
            num_apart: As ``attended`` takes it.
        """

    def attended(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        num_apart: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attention of projections, in their dtype: of all tokens but the last ones, and of those.

        Args:
            attn, query, key, value, rotation: As ``inputs`` takes them.
            num_apart: How many are the last ones; zeros stand where one takes no part in attention.
        """
        tables = [] if rotation is None else list(rotation)
        if torch.compiler.is_compiling():
            return sites.attend(query, key, value, tables, num_apart, self._handle)
        return self._compute(attn, query, key, value, tables, num_apart)

    def open(self, attn: Any) -> Callable[[], None]:
        """Let compiled code reach this processor's attention in the module ``attn``; return what ends that."""
        return sites.open_site(self._handle, partial(self._compute, attn))

    def _compute(
        self,
        attn: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        tables: list[torch.Tensor],
        num_apart: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rotation = (tables[0], tables[1]) if tables else None
        inputs = self.inputs(attn, query, key, value, rotation, num_apart)
        output = self._attend(inputs).transpose(1, 2).flatten(2, 3).type_as(query)
        split = query.shape[1] - num_apart
        most, apart = output[:, :split], output[:, split:]
        return most, torch.nn.functional.pad(apart, (0, 0, 0, num_apart - apart.shape[1]))
