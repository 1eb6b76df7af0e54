"""Block-sparse attention by FlashAttention 4's kernel for Hopper, for plans of whole tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from svg.backends._dense_kernel import FLASH_ATTENTION_4, check_gpu
from svg.backends._per_head import check_fits, check_tensors
from svg.backends._reach import able_sparse
from svg.backends._tile_states import grid_states, tile_sizes
from svg.block_mask import FULL, BlockMask
from svg.placement import resident
from svg.plan import AttentionPlan

LEAST_QUERIES, LEAST_KEYS = 64, 16


@dataclass(frozen=True)
class FlashBlockSparseBackend:
    """Computes plans of whole tiles without padding, in half precision; inference only.

    Its own interface is called, and never FlexAttention's: there PyTorch drops the mask and computes everything. The
    first call of each shape compiles for a few seconds.
    """

    name: str = "flash_block_sparse"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if this GPU, the dtype or head_dim has no kernel, or the plan more than whole tiles."""
        check_fits(self.name, query, plan)
        able = able_sparse(query, self.name)
        check_gpu(
            self.name, query, able, package=FLASH_ATTENTION_4, capabilities=(9,), most_head_dim=256, head_dim_multiple=8
        )
        if plan.key_lengths is not None:
            raise ValueError(f"{self.name} does not know padding, got key_lengths; use backend={able}")
        masks = tuple(pattern.mask for pattern in plan.patterns)
        if any(mask is not None and mask.has_partial for mask in masks):
            raise ValueError(
                f"{self.name} computes whole tiles only, got partial ones; use method.rounding=tile, backend={able}"
            )
        queries, keys = tile_sizes(masks)
        if queries % LEAST_QUERIES or keys % LEAST_KEYS:
            raise ValueError(
                f"{self.name} needs tiles of equal size, multiples of {LEAST_QUERIES} queries and {LEAST_KEYS} keys; "
                f"change method.block_size or use backend={able}"
            )

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``. Does not wait for the device."""
        check_tensors(self.name, query, key, value)
        self.check(query, plan)
        from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
        from flash_attn.cute.interface import flash_attn_func

        masks = tuple(pattern.mask for pattern in plan.patterns)
        lists = index_lists(masks, query.shape[2], query.shape[3], query.device)
        assignment = resident(plan.assignment, query.device)
        tiles = BlockSparseTensorsTorch(
            mask_block_cnt=lists.no_counts,
            mask_block_idx=lists.no_tiles,
            full_block_cnt=lists.counts[assignment],
            full_block_idx=lists.tiles[assignment],
            block_size=lists.sizes,
        )
        by_token = (x.transpose(1, 2) for x in (query, key, value))
        return flash_attn_func(*by_token, block_sparse_tensors=tiles)[0].transpose(1, 2)


class IndexLists(NamedTuple):
    """The full tiles of every pattern, as the kernel reads them.

    It begins at the end of a list and masks what is past the last key there only: lists ascend.

    Args:
        sizes: Queries and keys per tile.
        counts: int32 ``(patterns, query_tiles)``.
        tiles: int32 ``(patterns, query_tiles, most)``, ascending; zeros past the count.
        no_counts: The same for partial tiles, of which there are none: zeros ``(1, 1, query_tiles)``.
        no_tiles: zeros ``(1, 1, query_tiles, 1)``.
    """

    sizes: tuple[int, int]
    counts: torch.Tensor
    tiles: torch.Tensor
    no_counts: torch.Tensor
    no_tiles: torch.Tensor


@lru_cache(maxsize=4)
def index_lists(masks: tuple[BlockMask | None, ...], seq_len: int, head_dim: int, device: torch.device) -> IndexLists:
    """Return the lists of a palette on ``device``; kept for the last few palettes."""
    queries, keys = tile_sizes(masks)
    # The kernel's own key tile, which the list's must be: 128, and 64 holds for any larger head_dim.
    keys = math.gcd(keys, 128 if head_dim <= 128 else 64)
    is_full = grid_states(masks, seq_len, queries, keys) == FULL
    counts = is_full.sum(2)
    most = max(1, int(counts.max()))
    tiles = is_full.to(torch.int8).argsort(dim=2, descending=True, stable=True)[..., :most]
    tiles = tiles.masked_fill(torch.arange(most) >= counts[..., None], 0)
    rows = counts.shape[1]
    return IndexLists(
        (queries, keys),
        counts.to(device, torch.int32),
        tiles.to(device, torch.int32),
        torch.zeros(1, 1, rows, dtype=torch.int32, device=device),
        torch.zeros(1, 1, rows, 1, dtype=torch.int32, device=device),
    )
