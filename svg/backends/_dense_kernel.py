"""What dense kernels of other packages share: whether they can run here, their layout of tokens, and padding."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from svg.backends._per_head import check_fits, check_tensors, key_limits
from svg.backends._reach import able_sparse
from svg.plan import AttentionPlan

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Package:
    """A package that brings a kernel.

    Args:
        distribution: Its name on the package index.
        version: The version that is known to be right; None takes any.
        extra: The project's extra that installs it; empty where there is none.
    """

    distribution: str
    version: str | None = None
    extra: str = ""

    def missing(self) -> str:
        """Return why the package cannot be used, empty where it can."""
        try:
            found = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            help_text = f" (pip install '.[{self.extra}]')" if self.extra else ""
            return f"the package {self.distribution}, which is not installed{help_text}"
        if self.version is not None and found != self.version:
            return f"{self.distribution} {self.version}, but {found} is installed"
        return ""


FLASH_ATTENTION_4 = Package("flash-attn-4", "4.0.0b36", "flash")


def check_gpu(
    name: str,
    query: torch.Tensor,
    able: str,
    *,
    package: Package,
    capabilities: tuple[int, ...],
    most_head_dim: int,
    head_dim_multiple: int = 8,
) -> None:
    """Raise ``ValueError`` unless a kernel in half precision can run on the query's device.

    Args:
        name: The backend that asks, for the message.
        query: ``(batch, num_heads, seq_len, head_dim)``.
        able: What to use instead.
        package: What brings the kernel.
        capabilities: First numbers of the compute capabilities that it knows.
        most_head_dim: The largest head_dim that it takes.
        head_dim_multiple: What head_dim must divide by.
    """
    if torch.is_grad_enabled() and query.requires_grad:
        raise ValueError(f"{name} computes no gradients here; call it under torch.no_grad() or use backend=reference")
    if not query.is_cuda:
        raise ValueError(f"{name} needs CUDA, got {query.device}; use backend={able}")
    major, minor = torch.cuda.get_device_capability(query.device)
    if major not in capabilities:
        known = " or ".join(f"{one}.x" for one in capabilities)
        raise ValueError(f"{name} needs compute capability {known}, this GPU has {major}.{minor}; use backend={able}")
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"{name} takes bfloat16 and float16, got {query.dtype}; use backend={able}")
    head_dim = query.shape[-1]
    if head_dim > most_head_dim or head_dim % head_dim_multiple:
        raise ValueError(
            f"{name} takes a head_dim up to {most_head_dim} that is a multiple of {head_dim_multiple}, got {head_dim}; "
            f"use backend={able}"
        )
    missing = package.missing()
    if missing:
        raise ValueError(f"{name} needs {missing}; use backend={able}")


def attend_to_real_keys(
    attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """Return dense attention with padding keys sliced off: one call where the lengths are equal, else one an item.

    Waits for the device unless ``plan.key_lengths`` is None or on the CPU.
    """
    limits = key_limits(plan, query.shape[0], query.shape[2])
    if min(limits) == max(limits):
        return _attend_up_to(attend, query, key, value, limits[0])
    items = zip(query.split(1), key.split(1), value.split(1), limits, strict=True)
    return torch.cat([_attend_up_to(attend, *item) for item in items])


def _attend_up_to(
    attend: Attend, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, limit: int
) -> torch.Tensor:
    if limit == 0:
        return torch.zeros_like(query)
    if limit < key.shape[2]:
        key, value = key[:, :, :limit], value[:, :, :limit]
    return attend(query, key, value)


@dataclass(frozen=True)
class DenseKernel:
    """A dense kernel that takes ``(batch, seq_len, num_heads, head_dim)``; one file of this folder names each."""

    package: ClassVar[Package]
    capabilities: ClassVar[tuple[int, ...]]
    most_head_dim: ClassVar[int] = 256

    name: str

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return attention, all tensors ``(batch, seq_len, num_heads, head_dim)``."""
        raise NotImplementedError

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the plan skips anything or the kernel cannot run on the query's device."""
        check_fits(self.name, query, plan)
        check_gpu(
            self.name,
            query,
            able_for(query, plan),
            package=self.package,
            capabilities=self.capabilities,
            most_head_dim=self.most_head_dim,
        )
        check_dense(self.name, query, plan)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return full attention, ``(batch, num_heads, seq_len, head_dim)``; padding keys are sliced off."""
        check_tensors(self.name, query, key, value)
        self.check(query, plan)
        return attend_to_real_keys(self._attend_by_head, query, key, value, plan)

    def _attend_by_head(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self.attend(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2)


def check_dense(name: str, query: torch.Tensor, plan: AttentionPlan) -> None:
    """Raise ``ValueError`` if the plan skips anything."""
    if not plan.is_dense:
        names = ", ".join(pattern.name for pattern in plan.patterns)
        raise ValueError(f"{name} computes dense plans only, got patterns {names}; use backend={able_for(query, plan)}")


def able_for(query: torch.Tensor, plan: AttentionPlan) -> str:
    """Return what computes a plan where a dense kernel does not."""
    if plan.is_dense:
        return "sdpa"
    return able_sparse(query, "")
