"""Dense attention by FlashAttention 2, the baseline of the published speed-ups."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._dense_kernel import DenseKernel, Package


@dataclass(frozen=True)
class Flash2Backend(DenseKernel):
    """Computes dense plans in half precision; inference only. The package is built from source: none of our extras."""

    package = Package("flash-attn")
    capabilities = (8, 9, 10, 12)

    name: str = "flash2"

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        from flash_attn import flash_attn_func

        return flash_attn_func(query, key, value)
