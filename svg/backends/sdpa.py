"""Dense attention by PyTorch's scaled_dot_product_attention, as diffusers' own processors call it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from svg.backends._per_head import check_fits, check_tensors, key_limits
from svg.plan import AttentionPlan

Kernel = Literal["auto", "flash", "cudnn", "efficient", "math"]

KERNELS: dict[str, SDPBackend | None] = {
    "auto": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class SdpaBackend:
    """Computes dense plans, on any device. Padding keys are sliced off rather than masked.

    Args:
        kernel: Which of PyTorch's kernels; ``"auto"`` is PyTorch's own choice and the stock pipeline's. ``"cudnn"`` and
            ``"efficient"`` need CUDA.
    """

    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"sdpa's kernel is {self.kernel!r}; it must be one of {', '.join(KERNELS)}")

    @property
    def name(self) -> str:
        """``"sdpa"``, with the kernel where one is named, so that a record says which."""
        return "sdpa" if self.kernel == "auto" else f"sdpa_{self.kernel}"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the plan skips anything or is for other shapes."""
        check_fits(self.name, query, plan)
        if self.kernel in ("cudnn", "efficient") and not query.is_cuda:
            raise ValueError(f"sdpa's kernel {self.kernel} needs CUDA, got {query.device}; use kernel=auto")
        if not plan.is_dense:
            able = "flex" if query.is_cuda else "cpu_gather"
            names = ", ".join(pattern.name for pattern in plan.patterns)
            raise ValueError(f"sdpa computes dense plans only, got patterns {names}; use backend={able} or reference")

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return full attention, ``(batch, num_heads, seq_len, head_dim)``.

        Without padding this is one call with diffusers' arguments, so its output equals the stock pipeline's bit for
        bit. With ``plan.key_lengths`` it is one call where they are equal, else one a batch item.
        """
        self.check(query, plan)
        check_tensors(self.name, query, key, value)
        batch, _, seq_len, _ = query.shape
        limits = key_limits(plan, batch, seq_len)
        with self._kernel_only():
            if min(limits) == max(limits):
                return self._attend(query, key, value, limits[0])
            items = zip(query.split(1), key.split(1), value.split(1), limits, strict=True)
            return torch.cat([self._attend(*item) for item in items])

    def _kernel_only(self) -> AbstractContextManager[None]:
        kernel = KERNELS[self.kernel]
        return nullcontext() if kernel is None else sdpa_kernel(kernel)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, limit: int) -> torch.Tensor:
        if limit == 0:
            return torch.zeros_like(query)
        if limit < key.shape[2]:
            key, value = key[:, :, :limit], value[:, :, :limit]
        try:
            return scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise ValueError(
                f"sdpa's kernel {self.kernel} does not take {query.dtype} with head_dim {query.shape[-1]} on "
                f"{query.device}; use kernel=auto"
            ) from error
