"""A plan's masks as FlexAttention reads them: tile lists, and one mask function, the same for every plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, reduce
from operator import or_
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad

from svg.block_mask import FULL, PARTIAL, SKIPPED, BlockMask
from svg.pattern import TokenPattern
from svg.pattern_integers import has_integers
from svg.placement import send
from svg.plan import AttentionPlan
from svg.reordered import ReorderedPairs

INTEGERS = tuple(field.name for field in fields(TokenPattern))
MOST_RUNS = 3  # of a row of whole tiles: first frame, band and text

TileLists = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Palette:
    """The masks of a plan, stacked.

    Args:
        state: int8 ``(patterns, query_tiles, key_tiles)``.
        lists: Partial counts, partial indices, full counts, full indices; int32 ``(patterns, query_tiles)`` and
            ``(patterns, query_tiles, key_tiles)``. FlexAttention reads past narrower index tensors.
        integers: int64 ``(patterns, len(INTEGERS))``; zeros for a mask of whole tiles.
        places: int32 ``(patterns, 2, tokens)``: where each query and each key stands in the pattern's own order. None
            where all tokens were moved there.
        own_state: As ``state``, of the tiles in that order.
        runs: int32 ``(patterns, MOST_RUNS, 2, query_tiles)``: from where up to where the tiles that a row of that order
            keeps stand side by side, in tokens of that order. None where all tokens were moved, and where some tile
            is kept in part or some row has more runs.
    """

    state: torch.Tensor
    lists: TileLists
    integers: torch.Tensor
    places: torch.Tensor | None = None
    own_state: torch.Tensor | None = None
    runs: torch.Tensor | None = None


# Masks that are still alive, by device.
_entry_of: WeakKeyDictionary[BlockMask, dict[torch.device, Palette]] = WeakKeyDictionary()
_runs_of: WeakKeyDictionary[BlockMask, dict[torch.device, torch.Tensor | None]] = WeakKeyDictionary()


def is_known(mask: BlockMask | None) -> bool:
    """Return whether integers say what a mask keeps, in its own order or in one that its tokens were not moved to."""
    if mask is None or not isinstance(mask.pattern, ReorderedPairs):
        return has_integers(mask)
    own = mask.pattern.pattern.mask
    offsets = (mask.query_offsets, mask.key_offsets)
    return (
        has_integers(own) and own is not None and all(map(torch.equal, offsets, (own.query_offsets, own.key_offsets)))
    )


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
            # ``FlexBackend.check`` has refused partial tiles of what is no band.
            assert is_known(pattern.mask)
            by_device[device] = _entry_of_mask(pattern.mask, device)
        entries.append(by_device[device])
    return Palette(
        torch.stack([entry.state for entry in entries]),
        _each_list(lambda part: torch.stack([entry.lists[part] for entry in entries])),
        torch.stack([entry.integers for entry in entries]),
        *_in_place(entries, max(-(-seq_len // size) * size for size in sizes), device),
        _all_runs(plan, entries, seq_len, sizes[0], device),
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


def mask_mod(
    tiles: Palette,
    assignment: torch.Tensor,
    lengths: torch.Tensor | None,
    sizes: tuple[int, int],
    seq_len: int,
) -> MaskMod:
    """Return the mask of the whole plan, the same code for every plan: only the captured tensors differ.

    Save where tokens were not moved to a pattern's order: then their places in it are read, too.

    It equals the tile lists where it stands, not only in partial tiles, because uncompiled FlexAttention ignores them.
    """
    if lengths is None:
        lengths = torch.full((assignment.shape[0],), seq_len, device=assignment.device)
    places = None if tiles.places is None else tiles.places[assignment]
    of_own = _by_state(tiles, assignment, sizes) if tiles.runs is None else _by_run(tiles.runs[assignment], sizes[0])

    def keep(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        is_there = key < lengths[batch]
        if places is not None:
            query, key = places[batch, head, 0, query], places[batch, head, 1, key]
        return of_own(batch, head, query, key) & is_there

    return keep


def _by_state(tiles: Palette, assignment: torch.Tensor, sizes: tuple[int, int]) -> MaskMod:
    """Return what a plan keeps in its patterns' own orders, by the states of tiles and the patterns' integers."""
    state = (tiles.state if tiles.own_state is None else tiles.own_state)[assignment]
    integers = tiles.integers[assignment]
    query_size, key_size = sizes

    def keep(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        tile = state[batch, head, query // query_size, key // key_size]
        return (tile == FULL) | ((tile == PARTIAL) & _pattern_keeps(integers, batch, head, query, key))

    return keep


def _by_run(runs: torch.Tensor, query_size: int) -> MaskMod:
    """Return the same by runs of whole tiles, ``(batch, num_heads, MOST_RUNS, 2, query_tiles)``.

    Their ends are read once for each query; a state is read for each pair, which takes many times as long.
    """

    def keep(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        row = query // query_size
        in_run = [
            (key >= runs[batch, head, run, 0, row]) & (key < runs[batch, head, run, 1, row]) for run in range(MOST_RUNS)
        ]
        return reduce(or_, in_run)

    return keep


def _pattern_keeps(
    integers: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
) -> torch.Tensor:
    """``TokenPattern.keep`` with the pattern's integers read from a tensor, without a branch on their values."""

    def of(name: str) -> torch.Tensor:
        return integers[batch, head, INTEGERS.index(name)]

    from_query, from_key = query - of("query_start"), key - of("key_start")
    offset = of("query_scale") * (from_query // of("unit")) - of("key_scale") * (from_key // of("unit"))
    query_in_band = (from_query >= 0) & (query < of("query_stop"))
    key_in_band = (from_key >= 0) & (key < of("key_stop"))
    kept = query_in_band & key_in_band & (offset.abs() <= of("half_width"))
    kept = kept | ((key >= of("sink_start")) & (key < of("sink_stop")))
    kept = kept | (key_in_band & (of("sink_stride") > 0) & (from_key % of("sink_stride").clamp(min=1) == 0))
    kept = kept | ((query >= of("text_start")) & (query < of("text_stop")))
    kept = kept | ((key >= of("text_start")) & (key < of("text_stop")))
    query_is_valid, key_is_valid = query < of("valid_stop"), key < of("valid_stop")
    return (kept & query_is_valid & key_is_valid) | (~query_is_valid & ~key_is_valid)


def _each_list(make: Callable[[int], torch.Tensor]) -> TileLists:
    return make(0), make(1), make(2), make(3)


@lru_cache(maxsize=16)
def _everything(query_tiles: int, key_tiles: int, device: torch.device) -> Palette:
    return _entry(torch.full((query_tiles, key_tiles), FULL, dtype=torch.int8), None, device)


def _entry_of_mask(mask: BlockMask, device: torch.device) -> Palette:
    kept = mask.pattern
    if not isinstance(kept, ReorderedPairs):
        return _entry(mask.tile_map, kept if isinstance(kept, TokenPattern) else None, device)
    ordered = kept.pattern
    assert ordered.mask is not None
    own = _entry_of_mask(ordered.mask, device)
    where = [
        torch.arange(length) if place is None else place
        for length, place in ((mask.query_len, ordered.query_position), (mask.key_len, ordered.key_position))
    ]
    state = send(mask.tile_map, device)
    return Palette(state, _lists(state), own.integers, send(torch.stack(where).int(), device), own.state)


def _in_place(
    entries: list[Palette], filled: int, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the places and own states of all patterns; None where all tokens were moved.

    Places go on to the end of the last tile, ``filled``, for a kernel asks for them there, too.
    """
    if all(entry.places is None for entry in entries):
        return None, None
    stays = torch.arange(filled, dtype=torch.int32, device=device).expand(2, -1)
    places = [
        stays if entry.places is None else pad(entry.places, (0, filled - entry.places.shape[1])) for entry in entries
    ]
    states = [entry.state if entry.own_state is None else entry.own_state for entry in entries]
    return torch.stack(places), torch.stack(states)


def _all_runs(
    plan: AttentionPlan, entries: list[Palette], seq_len: int, query_size: int, device: torch.device
) -> torch.Tensor | None:
    """Return the runs of all patterns; None where all tokens were moved or some pattern has none."""
    if all(entry.places is None for entry in entries):
        return None
    everything = torch.zeros(MOST_RUNS, 2, -(-seq_len // query_size), dtype=torch.int32)
    everything[0, 1] = seq_len
    stacked = []
    for mask in (pattern.mask for pattern in plan.patterns):
        by_device = {} if mask is None else _runs_of.setdefault(mask, {})
        if device not in by_device:
            runs = everything if mask is None else _runs(mask)
            by_device[device] = None if runs is None else send(runs, device)
        if (sent := by_device[device]) is None:
            return None
        stacked.append(sent)
    return torch.stack(stacked)


def _runs(mask: BlockMask) -> torch.Tensor | None:
    """Return where the runs of whole tiles in each row of a mask's own order begin and end, ``Palette.runs`` of one."""
    if isinstance(mask.pattern, ReorderedPairs):
        ordered = mask.pattern.pattern.mask
        assert ordered is not None
        mask = ordered
    change = pad((mask.tile_map == FULL).int(), (1, 1)).diff(dim=1)
    if mask.has_partial or int((change == 1).sum(1).max()) > MOST_RUNS:
        return None
    runs = torch.zeros(MOST_RUNS, 2, change.shape[0], dtype=torch.int32)
    for end, is_end in enumerate((change == 1, change == -1)):
        row, tile = is_end.nonzero(as_tuple=True)
        runs[is_end.cumsum(1)[row, tile] - 1, end, row] = mask.key_offsets[tile].int()
    return runs


def _entry(state: torch.Tensor, pattern: TokenPattern | None, device: torch.device) -> Palette:
    integers = torch.zeros(len(INTEGERS), dtype=torch.int64)
    if pattern is not None:
        # No padding: every position is below the end.
        end = max(pattern.query_len, pattern.key_len)
        values = [end if value is None else value for value in (getattr(pattern, name) for name in INTEGERS)]
        integers = torch.tensor(values)
    else:
        integers[INTEGERS.index("unit")] = 1
    state = send(state, device)
    return Palette(state, _lists(state), send(integers, device))


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
