"""Which GPUs, dtypes and head_dims the block-sparse kernels of every GPU reach, and so what to name in a refusal."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Reach:
    """What a backend's kernel takes on a GPU.

    Args:
        capabilities: The least compute capability of each dtype that it takes.
        least_head_dim: Channels of a head, at least.
        most_head_dim: And at most; None where there is no limit.
    """

    capabilities: dict[torch.dtype, tuple[int, int]]
    least_head_dim: int = 1
    most_head_dim: int | None = None

    def missing(self, query: torch.Tensor) -> str:
        """Return what is wrong with a query for this kernel, empty where nothing is."""
        head_dim = query.shape[-1]
        if query.dtype not in self.capabilities:
            return f"has no kernel for {query.dtype}"
        if head_dim < self.least_head_dim:
            return f"needs head_dim >= {self.least_head_dim}, got {head_dim}"
        if self.most_head_dim is not None and head_dim > self.most_head_dim:
            return f"needs head_dim <= {self.most_head_dim}, got {head_dim}"
        if not _has_triton():
            return "needs the package triton, which is not installed"
        least = self.capabilities[query.dtype]
        if query.is_cuda and (found := torch.cuda.get_device_capability(query.device)) < least:
            return (
                f"needs compute capability {least[0]}.{least[1]} for {query.dtype}, this GPU has {found[0]}.{found[1]}"
            )
        return ""


# PyTorch compiles for 7.0 and up; bfloat16 has had matrix units since Ampere, 8.0.
FLEX = Reach({torch.float16: (7, 0), torch.bfloat16: (8, 0), torch.float32: (7, 0)}, least_head_dim=16)
TRITON = Reach(dict.fromkeys((torch.bfloat16, torch.float16, torch.float32), (8, 0)), most_head_dim=256)
REACHES = {"triton_block_sparse": TRITON, "flex": FLEX}


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def able_sparse(query: torch.Tensor, besides: str) -> str:
    """Return backends that compute plans of whole tiles for a query where the backend ``besides`` does not."""
    if not query.is_cuda:
        return "reference" if besides == "cpu_gather" else "cpu_gather or reference"
    able = [name for name, reach in REACHES.items() if name != besides and not reach.missing(query)]
    return " or ".join([*able, "reference"][:2])
