"""Dense attention by cuDNN, as PyTorch's scaled_dot_product_attention calls it."""

from __future__ import annotations

from dataclasses import dataclass, field

from svg.backends.sdpa import Kernel, SdpaBackend


@dataclass(frozen=True)
class CudnnBackend(SdpaBackend):
    """Computes dense plans on CUDA. Padding keys are sliced off: cuDNN is much slower under a mask."""

    kernel: Kernel = field(default="cudnn", init=False)

    @property
    def name(self) -> str:
        return "cudnn"
