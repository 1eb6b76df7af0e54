"""Block-sparse attention on a CPU that computes only the tiles of the plan.

Each row of tiles is three steps on one score buffer that stays in the core's cache: scores of its key ranges, softmax,
weighted sum of their values. Neighbouring tiles are one range, read in place; a row of many short ranges gathers its
keys and values first. All matrix products are PyTorch's own, each on one thread; heads run beside each other. What
depends on the mask alone is kept while it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import scaled_dot_product_attention

from svg.backends._per_head import check_fits, check_tensors, heads_by_pattern
from svg.backends._reach import able_sparse
from svg.backends._threads import run_jobs
from svg.backends._tile_rows import TileRow, tile_rows
from svg.block_mask import BlockMask
from svg.plan import AttentionPlan

# Scores of one row: 1 MiB of float32, which shares the second-level cache with the row's keys and values.
MOST_SCORES = 2**18

# Up to so many ranges are read in place; of more, copying keys and values costs less than one product per range.
MOST_RANGES = 3

# Rows of masks that are still alive, by the number of keys; of the last few numbers only.
MOST_LENGTHS = 8
_rows_of: WeakKeyDictionary[BlockMask, dict[int, list[TileRow]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class CpuGatherBackend:
    """Computes every plan on the CPU, skipping what the plan skips.

    Half-precision inputs are computed in float32, row of tiles by row of tiles. Heads that keep everything go to
    PyTorch's scaled_dot_product_attention. Inference only.
    """

    name: str = "cpu_gather"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the tensors are not on the CPU, want gradients or do not fit the plan."""
        check_fits(self.name, query, plan)
        if query.device.type != "cpu":
            able = able_sparse(query, self.name)
            raise ValueError(f"cpu_gather computes on the CPU only, got {query.device}; use backend={able}")
        if torch.is_grad_enabled() and query.requires_grad:
            raise ValueError("cpu_gather computes no gradients; call it under torch.no_grad() or use backend=reference")

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``, in the inputs' dtype."""
        self.check(query, plan)
        check_tensors(self.name, query, key, value)
        batch, num_heads, seq_len, _ = query.shape
        output = torch.empty_like(query)
        jobs: list[Callable[[], None]] = []
        # Two parts of work for every thread, cut where there are too few heads for that.
        parts = max(1, round(2 * torch.get_num_threads() / (batch * num_heads)))
        for item, pattern, heads, limit in heads_by_pattern(plan, batch, num_heads, seq_len):
            rows = None if pattern.mask is None else _rows(pattern.mask, limit)
            for head in heads:
                tensors = query[item, head], key[item, head, :limit], value[item, head, :limit], output[item, head]
                jobs.extend(_jobs(*tensors, rows, parts))
        run_jobs(jobs)
        return output


def _jobs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    rows: list[TileRow] | None,
    parts: int,
) -> Iterator[Callable[[], None]]:
    """Yield what fills ``output`` ``(seq_len, head_dim)`` of one head, in so many parts; without rows it is dense."""
    if rows is None:
        size = -(-query.shape[0] // parts)
        for queries, out in zip(query.split(size), output.split(size), strict=True):
            yield partial(_attend_everything, queries, key, value, out)
        return
    size = -(-len(rows) // parts)
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        part = slice(some[0].query_start, some[-1].query_stop)
        yield partial(_attend_rows, query[part], key, value, output[part], some)


def _rows(mask: BlockMask, key_length: int) -> list[TileRow]:
    by_length = _rows_of.setdefault(mask, {})
    if key_length not in by_length:
        if len(by_length) == MOST_LENGTHS:
            del by_length[next(iter(by_length))]
        by_length[key_length] = tile_rows(mask, key_length, MOST_SCORES)
    return by_length[key_length]


def _attend_everything(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor) -> None:
    if not key.shape[0]:
        output.zero_()
        return
    output.copy_(scaled_dot_product_attention(query[None, None], key[None, None], value[None, None])[0, 0])


def _attend_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor, rows: list[TileRow]
) -> None:
    """Fill ``output`` ``(queries, head_dim)``, the queries of some rows of one head."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    query, key, value = query.to(dtype) * query.shape[-1] ** -0.5, key.to(dtype), value.to(dtype)
    result = output if output.dtype == dtype else torch.empty_like(output, dtype=dtype)
    # Scores of an in-place range read this copy in its stored order: faster than transposing at each product.
    key_columns = key.t().contiguous()
    scores = _score_views(rows, dtype)
    sizes = [row.num_queries for row in rows]
    for row, queries, out in zip(rows, query.split(sizes), result.split(sizes), strict=True):
        whole, pieces = scores[row.num_queries, row.widths]
        if not pieces:
            out.zero_()
            continue
        if len(pieces) <= MOST_RANGES:
            for (start, stop), piece in zip(row.ranges, pieces, strict=True):
                torch.mm(queries, key_columns[:, start:stop], out=piece)
        else:
            torch.mm(queries, key.index_select(0, row.index).t(), out=whole)
        for start, stop, drop in row.drops:
            whole[:, start:stop].masked_fill_(drop, -torch.inf)
        torch.softmax(whole, -1, out=whole)
        if len(pieces) <= MOST_RANGES:
            _sum_ranges(row, pieces, value, out)
        else:
            torch.mm(whole, value.index_select(0, row.index), out=out)
        if row.empty_queries is not None:
            out[row.empty_queries] = 0
    if result is not output:
        output.copy_(result)


def _sum_ranges(row: TileRow, pieces: tuple[torch.Tensor, ...], value: torch.Tensor, out: torch.Tensor) -> None:
    for index, ((start, stop), piece) in enumerate(zip(row.ranges, pieces, strict=True)):
        if index == 0:
            torch.mm(piece, value[start:stop], out=out)
        else:
            out.addmm_(piece, value[start:stop])


def _score_views(
    rows: list[TileRow], dtype: torch.dtype
) -> dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
    """Return one buffer seen as each row needs it: all its scores, and those of each range."""
    buffer = torch.empty(max(row.num_queries * row.num_keys for row in rows), dtype=dtype)
    views = {}
    for row in rows:
        shape = row.num_queries, row.widths
        if shape not in views:
            whole = buffer[: row.num_queries * row.num_keys].view(row.num_queries, row.num_keys)
            views[shape] = whole, whole.split(row.widths, dim=1) if row.widths else ()
    return views
