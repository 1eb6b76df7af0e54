"""The few computations that methods need to decide, in plain torch: errors of patterns on sampled rows, mass of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TorchOperations:
    """Reference implementations; a faster set with the same methods may be handed to ``svg.attach`` in its place."""

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
            dtype: Precision of scores, probabilities and errors; None is the inputs' own, as in the reference code.
            key_lengths: ``(batch,)``; keys at or past it get no attention under any pattern.

        Returns:
            ``(patterns, batch, num_heads)``, the mean over rows and head_dim.

        Source: arXiv:2502.01776, online profiling.
        """
        dtype = query.dtype if dtype is None else dtype
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if key_lengths is not None:
            is_padding = torch.arange(key.shape[2], device=key.device) >= key_lengths.to(key.device)[:, None]
            scores = scores.masked_fill(is_padding[:, None, None, :], -torch.inf)
        full = scores.softmax(-1) @ value
        errors = []
        for keep in keeps:
            output = scores.masked_fill(~keep.to(scores.device), -torch.inf).softmax(-1) @ value
            errors.append((output - full).square().mean((-1, -2)))
        return torch.stack(errors)

    def tile_mass(
        self, query: torch.Tensor, key: torch.Tensor, query_offsets: torch.Tensor, key_offsets: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention probability that falls into each tile, summed over its pairs.

        Args:
            query: ``(batch, num_heads, seq_len, head_dim)``.
            key: The same shape.
            query_offsets: LongTensor ``(query_tiles + 1,)``.
            key_offsets: LongTensor ``(key_tiles + 1,)``.

        Returns:
            float32 ``(batch, num_heads, query_tiles, key_tiles)``; a row of tiles sums to its number of queries.
        """
        batch, num_heads, seq_len, head_dim = query.shape
        key_tile = torch.bucketize(torch.arange(seq_len), key_offsets, right=True) - 1
        key_tile = key_tile.to(query.device)
        rows = []
        for start, stop in zip(query_offsets[:-1].tolist(), query_offsets[1:].tolist(), strict=True):
            scores = query[:, :, start:stop].float() @ key.float().transpose(-1, -2) * head_dim**-0.5
            probability = scores.softmax(-1).sum(2)
            tiles = probability.new_zeros(batch, num_heads, key_offsets.numel() - 1)
            rows.append(tiles.index_add_(2, key_tile, probability))
        return torch.stack(rows, 2)
