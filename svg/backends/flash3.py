"""Dense attention by FlashAttention 3, the CUDA kernels for Hopper, as the package fa3-fwd builds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._dense_kernel import DenseKernel, Package


@dataclass(frozen=True)
class Flash3Backend(DenseKernel):
    """Computes dense plans in half precision; inference only."""

    package = Package("fa3-fwd", extra="flash")
    capabilities = (9,)

    name: str = "flash3"

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        from fa3_fwd_interface import flash_attn_func

        return flash_attn_func(query, key, value)
