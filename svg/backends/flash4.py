"""Dense attention by FlashAttention 4, the CuTe kernels for Hopper and Blackwell."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._dense_kernel import FLASH_ATTENTION_4, DenseKernel


@dataclass(frozen=True)
class Flash4Backend(DenseKernel):
    """Computes dense plans in half precision; inference only. The first call of each shape compiles for seconds."""

    package = FLASH_ATTENTION_4
    capabilities = (9, 10)
    most_head_dim = 128

    name: str = "flash4"

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        from flash_attn.cute.interface import flash_attn_func

        return flash_attn_func(query, key, value)[0]
