"""A plan's masks as tensors on the device: tile states, tile lists and pattern integers, kept while a mask lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask
from svg.pattern import TokenPattern
from svg.plan import AttentionPlan

INTEGERS = tuple(field.name for field in fields(TokenPattern))

TileLists = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Palette:
    """The masks of a plan, stacked.

    Args:
        state: int8 ``(patterns, query_tiles, key_tiles)``.
        lists: Partial counts, partial indices, full counts, full indices; int32 ``(patterns, query_tiles)`` and
            ``(patterns, query_tiles, key_tiles)``. FlexAttention reads past narrower index tensors.
        integers: int64 ``(patterns, len(INTEGERS))``; zeros for a mask of whole tiles.
    """

    state: torch.Tensor
    lists: TileLists
    integers: torch.Tensor


# Masks that are still alive, by device.
_entry_of: WeakKeyDictionary[BlockMask, dict[torch.device, Palette]] = WeakKeyDictionary()


def palette(plan: AttentionPlan, seq_len: int, sizes: tuple[int, int], device: torch.device) -> Palette:
    """Return the plan's masks on ``device``; ``sizes`` is the (query, key) tile size."""
    entries = []
    for pattern in plan.patterns:
        if pattern.mask is None:
            query_tiles, key_tiles = (-(-seq_len // size) for size in sizes)
            entries.append(_everything(query_tiles, key_tiles, device))
            continue
        by_device = _entry_of.setdefault(pattern.mask, {})
        if device not in by_device:
            by_device[device] = _entry(pattern.mask.tile_map, pattern.mask.pattern, device)
        entries.append(by_device[device])
    return Palette(
        torch.stack([entry.state for entry in entries]),
        _each_list(lambda part: torch.stack([entry.lists[part] for entry in entries])),
        torch.stack([entry.integers for entry in entries]),
    )


def tile_lists(tiles: Palette, assignment: torch.Tensor, lengths: torch.Tensor | None, key_size: int) -> TileLists:
    """Return each head's partial counts, partial indices, full counts and full indices, without waiting for the device.

    Args:
        tiles: The plan's masks.
        assignment: ``(batch|1, num_heads|1)``.
        lengths: ``(batch,)`` keys of each item, or None. Tiles past them are skipped, tiles across them partial.
        key_size: Keys per tile.
    """
    if lengths is None:
        return _each_list(lambda part: tiles.lists[part][assignment])
    start = torch.arange(tiles.state.shape[2], device=lengths.device) * key_size
    is_cut = (start + key_size > lengths[:, None])[:, None, None, :]
    is_past = (start >= lengths[:, None])[:, None, None, :]
    state = tiles.state.masked_fill(is_past, SKIPPED)
    lists = _lists(torch.where(is_cut & (state == FULL), PARTIAL, state))
    item = torch.arange(lengths.shape[0], device=lengths.device)[:, None]
    return _each_list(lambda part: lists[part][item, assignment])


def _each_list(make: Callable[[int], torch.Tensor]) -> TileLists:
    return make(0), make(1), make(2), make(3)


@lru_cache(maxsize=16)
def _everything(query_tiles: int, key_tiles: int, device: torch.device) -> Palette:
    return _entry(torch.full((query_tiles, key_tiles), FULL, dtype=torch.int8), None, device)


def _entry(state: torch.Tensor, pattern: TokenPattern | None, device: torch.device) -> Palette:
    integers = torch.zeros(len(INTEGERS), dtype=torch.int64)
    if pattern is not None:
        # No padding: every position is below the end.
        end = max(pattern.query_len, pattern.key_len)
        values = [end if value is None else value for value in (getattr(pattern, name) for name in INTEGERS)]
        integers = torch.tensor(values)
    else:
        integers[INTEGERS.index("unit")] = 1
    state = state.to(device)
    return Palette(state, _lists(state), integers.to(device))


def _lists(state: torch.Tensor) -> TileLists:
    return *_tile_list(state == PARTIAL), *_tile_list(state == FULL)


def _tile_list(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts ``(..., query_tiles)`` and ascending indices ``(..., query_tiles, key_tiles)``; int32."""
    key_tiles = tiles.shape[-1]
    ascending = torch.arange(key_tiles, dtype=torch.int32, device=tiles.device).expand(tiles.shape)
    # Tiles not taken are all written to one place past the end, which is cut off.
    place = torch.where(tiles, tiles.cumsum(-1) - 1, key_tiles)
    index = torch.zeros(*tiles.shape[:-1], key_tiles + 1, dtype=torch.int32, device=tiles.device)
    index.scatter_(-1, place, ascending)
    return tiles.sum(-1, dtype=torch.int32), index[..., :key_tiles].contiguous()
