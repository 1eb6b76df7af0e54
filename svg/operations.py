"""The few computations that methods need to decide, in plain torch: errors of patterns on rows, mass of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from svg.placement import send

# Attention scores held at a time: what a CPU core's cache nearly holds, what keeps a GPU busy.
MOST_SCORES_CPU, MOST_SCORES_GPU = 2**19, 2**26


def rows_at_a_time(query: torch.Tensor) -> int:
    """Return how many rows of scores against all keys to hold at a time, for queries of all rows."""
    batch, num_heads, seq_len, _ = query.shape
    most = MOST_SCORES_CPU if query.device.type == "cpu" else MOST_SCORES_GPU
    return max(1, most // (batch * num_heads * seq_len))


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class TorchOperations:
    """Reference implementations; a faster set with the same methods may be handed to ``svg.attach`` in its place."""

    def arrange(self, plan: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Tensors:
        """Return ``(batch, num_heads, seq_len, head_dim)`` tensors in the plan's orders."""
        return plan.arrange(query, key, value)

    def arrange_inputs(self, plan: Any, inputs: Any) -> Tensors:
        """Return a call's queries, keys and values finished and in the plan's orders."""
        return self.arrange(plan, inputs.query(), inputs.key(), inputs.value())

    def arrange_query(self, plan: Any, inputs: Any) -> torch.Tensor:
        """Return a call's queries alone, finished and in the plan's order."""
        return plan.arrange_query(inputs.query())

    def restore(self, plan: Any, output: torch.Tensor) -> torch.Tensor:
        """Return an output in the original order."""
        return plan.restore(output)

    def profile(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        patterns: Sequence[Any],
        rows: torch.Tensor,
        dtype: torch.dtype | None = torch.float32,
        key_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return ``pattern_errors`` of head patterns; ``rows`` ``(rows,)`` are the original positions of the queries.

        The masks of all pairs of sampled queries and keys are written out, a byte a pair.
        """
        keys = torch.arange(key.shape[2], device=rows.device)
        keeps = [pattern.keep(rows[:, None], keys[None, :]) for pattern in patterns]
        return self.pattern_errors(query, key, value, keeps, dtype, key_lengths)

    def pattern_errors(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keeps: list[torch.Tensor],
        dtype: torch.dtype | None = torch.float32,
        key_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the mean squared error of each pattern's output against full attention, on sampled rows.

        Args:
            query: ``(batch, num_heads, rows, head_dim)``, the sampled queries.
            key: ``(batch, num_heads, seq_len, head_dim)``, all keys.
            value: The same shape.
            keeps: One bool mask ``(rows, seq_len)`` per pattern.
            dtype: Precision of scores, probabilities and errors. None is the inputs' own with a softmax per pattern, to
                the rounding what the reference code does; otherwise patterns share one softmax and renormalise it.
            key_lengths: ``(batch,)``; keys at or past it get no attention under any pattern.

        Returns:
            ``(patterns, batch, num_heads)``, the mean over rows and head_dim. A row of which a pattern keeps less
            probability than the dtype can hold counts as zero output; if dtype is None, as NaN where it keeps no key.

        Source: arXiv:2502.01776, online profiling.
        """
        shares_softmax = dtype is not None
        dtype = dtype or query.dtype
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        scores = (query @ key.transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)
        padding = _padding(key_lengths, key.shape[2], key.device)
        if padding is not None:
            scores.masked_fill_(padding, -torch.inf)
        probability = scores.softmax(-1)
        full = renormalised(probability, value) if shares_softmax else probability @ value
        errors = []
        for keep in keeps:
            if shares_softmax:
                output = renormalised(probability * keep.to(scores.device), value)
            else:
                output = scores.masked_fill(~keep.to(scores.device), -torch.inf).softmax(-1) @ value
            errors.append((output - full).square().mean((-1, -2)))
        return torch.stack(errors)

    def tile_mass(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        query_offsets: torch.Tensor,
        key_offsets: torch.Tensor,
        key_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the attention probability that falls into each tile, summed over its pairs.

        Args:
            query: ``(batch, num_heads, seq_len, head_dim)``.
            key: The same shape.
            query_offsets: LongTensor ``(query_tiles + 1,)`` on the CPU.
            key_offsets: LongTensor ``(key_tiles + 1,)`` on the CPU.
            key_lengths: ``(batch,)``; keys at or past it get no attention.

        Returns:
            float32 ``(batch, num_heads, query_tiles, key_tiles)``; a row of tiles sums to its number of queries.
        """
        seq_len, head_dim = query.shape[2:]
        key_columns = key.float().transpose(-1, -2) * head_dim**-0.5
        in_key_tile = _membership(key_offsets, query.device)
        padding = _padding(key_lengths, seq_len, query.device)
        # Whole tiles of queries, a chunk of them at a time.
        tiles_per_chunk = max(1, rows_at_a_time(query) // int(query_offsets.diff().max()))
        chunks = []
        for edges in _overlapping_chunks(query_offsets, tiles_per_chunk):
            scores = query[:, :, int(edges[0]) : int(edges[-1])].float() @ key_columns
            if padding is not None:
                scores.masked_fill_(padding, -torch.inf)
            in_query_tile = _membership(edges - edges[0], query.device)
            chunks.append((in_query_tile.T @ scores.softmax(-1)) @ in_key_tile)
        return torch.cat(chunks, 2)


def renormalised(probability: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of the values. Full attention goes through it too, so what keeps all has no error."""
    return (probability @ value) / probability.sum(-1, keepdim=True).clamp(min=torch.finfo(probability.dtype).tiny)


def _padding(key_lengths: torch.Tensor | None, seq_len: int, device: torch.device) -> torch.Tensor | None:
    """Return which keys are padding, bool ``(batch, 1, 1, seq_len)``."""
    if key_lengths is None:
        return None
    return (torch.arange(seq_len, device=device) >= send(key_lengths, device)[:, None])[:, None, None, :]


def _membership(offsets: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return float32 ``(tokens, tiles)``, one where the token stands in the tile: a product with it sums over tiles."""
    tile = torch.bucketize(torch.arange(int(offsets[-1])), offsets, right=True) - 1
    return send(torch.nn.functional.one_hot(tile, offsets.numel() - 1).float(), device)


def _overlapping_chunks(offsets: torch.Tensor, tiles: int) -> list[torch.Tensor]:
    """Split offsets into runs of at most ``tiles`` tiles; the end of one run is the start of the next."""
    return [offsets[start : start + tiles + 1] for start in range(0, offsets.numel() - 1, tiles)]
