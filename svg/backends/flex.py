"""Block-sparse attention by PyTorch's FlexAttention: tile lists say what is computed, one mask says what is kept."""

from __future__ import annotations

import math
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn.attention import flex_attention as flex
from torch.nn.functional import pad

from svg.backends._flex_tiles import is_known, mask_mod, palette, tile_lists
from svg.backends._per_head import check_fits, check_tensors
from svg.backends._reach import FLEX, able_sparse
from svg.placement import resident, send
from svg.plan import AttentionPlan

# A CUDA kernel's own tiles divide the mask's; it has none below 16.
KERNEL_TILE, LEAST_TILE = 128, 16

# Largest kernel tiles (queries, keys) by bytes per number: wider numbers fill the chip's memory sooner.
MOST_KERNEL_TILES = {2: (128, 128), 4: (64, 32)}

# Programs kept for different shapes; past it PyTorch would fall back to the uncompiled path with a log line only.
MOST_PROGRAMS = 64


@dataclass(frozen=True)
class FlexBackend:
    """Computes plans whose tiles are equal in size, on CUDA or the CPU; inference only.

    The first call of each shape compiles: seconds on CUDA, up to half a minute on a CPU. Where text stands in the
    sequence, every length of a prompt is a shape.

    Args:
        compiled: False runs FlexAttention's plain path, for debugging: it computes every pair and then masks, right but
            several times slower than dense attention.
        pads: Fill the sequence up to whole tiles, so that lengths which fill as many tiles share one program: of
            HunyuanVideo's prompts nearly all do. Each call then copies its inputs once.
    """

    compiled: bool = True
    pads: bool = False
    name: str = "flex"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if tiles are unequal or too small for a kernel, or if nothing here compiles one."""
        check_fits(self.name, query, plan)
        able = able_sparse(query, self.name)
        if torch.is_grad_enabled() and query.requires_grad:
            raise ValueError("flex computes no gradients here; call it under torch.no_grad() or use backend=reference")
        sizes = _tile_sizes(plan, able)
        if not all(is_known(pattern.mask) for pattern in plan.patterns):
            raise ValueError(f"flex computes partial tiles of a band only, got others; use backend={able}")
        if not self.compiled:
            return
        if not query.is_cuda:
            _check_cpu_compiler()
        elif min(math.gcd(size, KERNEL_TILE) for size in sizes) < LEAST_TILE:
            raise ValueError(
                f"flex on CUDA needs tiles that are multiples of {LEAST_TILE}, got {sizes[0]} queries x {sizes[1]} "
                f"keys; change method.block_size or use backend={able}"
            )
        elif missing := FLEX.missing(query):
            raise ValueError(f"{self.name} on CUDA {missing}; use backend={able}")

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``. Does not wait for the device."""
        self.check(query, plan)
        check_tensors(self.name, query, key, value)
        batch, num_heads, seq_len, _ = query.shape
        sizes = _tile_sizes(plan, "reference")
        tiles = palette(plan, seq_len, sizes, query.device)
        assignment = resident(plan.assignment, query.device)
        filled_queries, filled_keys = (seq_len if not self.pads else -(-seq_len // size) * size for size in sizes)
        # What fills the last tile up is padding like that of a shorter item.
        lengths = torch.full((batch,), seq_len, device=query.device) if filled_keys > seq_len else None
        if plan.key_lengths is not None:
            lengths = send(plan.key_lengths, query.device)
            # Padding may hold anything, and a probability of nothing times NaN is NaN.
            is_padding = torch.arange(seq_len, device=query.device) >= lengths[:, None]
            value = value.masked_fill(is_padding[:, None, :, None], 0)
        block_mask = flex.BlockMask.from_kv_blocks(
            *tile_lists(tiles, assignment, lengths, sizes[1]),
            BLOCK_SIZE=sizes,
            mask_mod=mask_mod(tiles, assignment.expand(batch, num_heads), lengths, sizes, seq_len),
            seq_lengths=(filled_queries, filled_keys),
            compute_q_blocks=False,
        )
        query = pad(query, (0, 0, 0, filled_queries - seq_len))
        key, value = (pad(x, (0, 0, 0, filled_keys - seq_len)) for x in (key, value))
        return self._attend(query, key, value, block_mask, sizes)[:, :, :seq_len]

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        block_mask: flex.BlockMask,
        sizes: tuple[int, int],
    ) -> torch.Tensor:
        if not self.compiled:
            with warnings.catch_warnings():
                # It warns that it is slow; the docstring says so, and the caller chose it.
                warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
                return flex.flex_attention(query, key, value, block_mask=block_mask)
        with torch._dynamo.config.patch(recompile_limit=MOST_PROGRAMS, fail_on_recompile_limit_hit=True):
            return _compiled()(query, key, value, block_mask=block_mask, kernel_options=_kernel_options(query, sizes))


def _kernel_options(query: torch.Tensor, sizes: tuple[int, int]) -> dict[str, int | bool] | None:
    """Return the kernel's own tiles where the mask's are smaller than the usual ones; CUDA only."""
    if not query.is_cuda:
        return None
    # Below 128 queries PyTorch would take its decoding kernel, whose tiles follow other rules.
    options: dict[str, int | bool] = {"FORCE_USE_FLEX_ATTENTION": True}
    if any(size % KERNEL_TILE for size in sizes):
        most_queries, most_keys = MOST_KERNEL_TILES[query.element_size()]
        options |= {"BLOCK_M": math.gcd(sizes[0], most_queries), "BLOCK_N": math.gcd(sizes[1], most_keys)}
    return options


@lru_cache(maxsize=1)
def _check_cpu_compiler() -> None:
    """Raise ``ValueError`` if PyTorch cannot compile for the CPU: it wants a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    missing = []
    if shutil.which(compiler) is None:
        missing.append(f"the C++ compiler {compiler}")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python.h of Python's development files")
    if missing:
        raise ValueError(
            f"flex on a CPU compiles its kernel and finds no {' and no '.join(missing)}; use backend=cpu_gather"
        )


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., torch.Tensor]:
    return torch.compile(flex.flex_attention, dynamic=False)


def _tile_sizes(plan: AttentionPlan, able: str) -> tuple[int, int]:
    """Return the (query, key) tile size that all masks of the plan share; 128 where nothing has tiles.

    Raises:
        ValueError: If tiles are unequal within a mask (the last may be shorter) or between masks.
    """
    found = set()
    for pattern in plan.patterns:
        if pattern.mask is not None:
            found.add((_tile_size(pattern.mask.query_offsets), _tile_size(pattern.mask.key_offsets)))
    if any(0 in sizes for sizes in found) or len(found) > 1:
        raise ValueError(
            f"flex needs tiles of one size, the same in every mask of the plan, got unequal ones; use backend={able}"
        )
    return found.pop() if found else (KERNEL_TILE, KERNEL_TILE)


def _tile_size(offsets: torch.Tensor) -> int:
    """Return the size of all tiles but the last, which is not larger; 0 if there is none such."""
    sizes = offsets.diff().tolist()
    if len(sizes) == 1:
        # One tile that holds everything may be called any size from its own up.
        return math.ceil(sizes[0] / KERNEL_TILE) * KERNEL_TILE
    return sizes[0] if set(sizes[:-1]) == {sizes[0]} and 0 < sizes[-1] <= sizes[0] else 0
