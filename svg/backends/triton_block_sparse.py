"""Block-sparse attention by our own Triton kernel, for every plan and every NVIDIA GPU from Ampere on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._per_head import check_bands, check_fits, check_tensors
from svg.backends._reach import TRITON, able_sparse
from svg.backends._tile_states import tile_lists
from svg.placement import resident, send
from svg.plan import AttentionPlan

# Whose settings the interpreter takes.
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class TritonBlockSparseBackend:
    """Computes every plan whose partial tiles keep a ``TokenPattern``; inference only.

    The first call of each shape compiles for a few seconds. On a CPU it runs in Triton's interpreter where
    ``TRITON_INTERPRET=1`` was set before the start: right, and thousands of times slower.
    """

    name: str = "triton_block_sparse"

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the device, the dtype or the head_dim has no kernel, or the plan does not fit."""
        check_fits(self.name, query, plan)
        able = able_sparse(query, self.name)
        check_bands(self.name, plan, "reference" if query.is_cuda else able)
        if torch.is_grad_enabled() and query.requires_grad:
            raise ValueError(
                f"{self.name} computes no gradients; call it under torch.no_grad() or use backend=reference"
            )
        if missing := TRITON.missing(query):
            raise ValueError(f"{self.name} {missing}; use backend={able}")
        if not query.is_cuda and not _is_interpreted():
            raise ValueError(
                f"{self.name} needs CUDA, or TRITON_INTERPRET=1 in the environment, got {query.device}; "
                f"use backend={able}"
            )

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``. Does not wait for the device."""
        check_tensors(self.name, query, key, value)
        self.check(query, plan)
        from svg_kernels import block_sparse_attention as kernel

        # The kernel reads whole rows.
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        output = torch.empty_like(query)
        lists = tile_lists(plan, query.shape[2], query.device)
        assignment = resident(plan.assignment, query.device)
        lengths = None if plan.key_lengths is None else send(plan.key_lengths, query.device)
        major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else LEAST_CAPABILITY
        settings = kernel.settings_for(query.shape[-1], query.element_size(), 10 * major + minor)
        kernel.prepare(query, key, value, output, lists, assignment, lengths, settings).run()
        return output


def _is_interpreted() -> bool:
    from svg_kernels import block_sparse_program, launch

    return launch.is_interpreted(block_sparse_program.attention)
