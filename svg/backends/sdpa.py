"""Dense attention by PyTorch's scaled_dot_product_attention, as diffusers' own processors call it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from svg.backends._dense_kernel import able_for, attend_to_real_keys, check_dense
from svg.backends._per_head import check_fits, check_tensors
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
            raise ValueError(f"{self.name} needs CUDA, got {query.device}; use backend={able_for(query, plan)}")
        check_dense(self.name, query, plan)
        if self.kernel == "math" and query.is_cuda:
            _check_memory(self.name, query)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return full attention, ``(batch, num_heads, seq_len, head_dim)``.

        Without padding this is one call with diffusers' arguments, so the same query, key and value give what they
        give in the stock pipeline, bit for bit. (On a GPU in half precision they are not the same: the fused kernel of
        norm and RoPE rounds once, diffusers after each.) With ``plan.key_lengths`` it is one call where they are equal,
        else one a batch item.
        """
        check_tensors(self.name, query, key, value)
        self.check(query, plan)
        with self._kernel_only():
            return attend_to_real_keys(self._attend, query, key, value, plan)

    def _kernel_only(self) -> AbstractContextManager[None]:
        kernel = KERNELS[self.kernel]
        return nullcontext() if kernel is None else sdpa_kernel(kernel)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        try:
            return scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise ValueError(
                f"{self.name} does not take {query.dtype} with head_dim {query.shape[-1]} on {query.device}; "
                f"use backend=sdpa"
            ) from error


def _check_memory(name: str, query: torch.Tensor) -> None:
    """Raise ``ValueError`` if the GPU cannot hold the score of every pair, which the plain kernel writes out."""
    batch, num_heads, seq_len, _ = query.shape
    needed = batch * num_heads * seq_len**2 * query.element_size()
    there = torch.cuda.get_device_properties(query.device).total_memory
    if needed > there:
        raise ValueError(
            f"{name} writes out the score of every pair, {needed / 2**30:.0f} GiB for {num_heads} heads of {seq_len} "
            f"tokens, and {query.device} has {there / 2**30:.0f} GiB; use backend=sdpa"
        )
