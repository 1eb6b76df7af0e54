"""Block-sparse attention by our own Triton kernels, for every plan and every NVIDIA GPU from Ampere on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from svg.backends._fp8 import SCORES, WIDE_VALUES, Precision, check_precision, name_of
from svg.backends._per_head import check_bands, check_fits, check_tensors
from svg.backends._reach import TRITON, able_sparse
from svg.backends._tile_states import tile_lists
from svg.pattern_orders import stacked_orders
from svg.placement import resident, send
from svg.plan import AttentionPlan

# Whose settings the interpreter takes.
LEAST_CAPABILITY = (8, 0)
FP8_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class TritonBlockSparseBackend:
    """Computes every plan whose partial tiles keep a ``TokenPattern``; inference only.

    The first call of each shape compiles for a few seconds. On a CPU it runs in Triton's interpreter where
    ``TRITON_INTERPRET=1`` was set before the start: right, and thousands of times slower.

    Args:
        precision: ``"bf16"``, which is the inputs' own precision; ``"fp8"``: queries, keys and values are rounded to
            e4m3, keys and values by the pass that puts them in order; ``"fp8_int8"``: queries and keys to int8, which
            rounds far less where no key is much longer than others of its block; ``"fp8_qk"``: queries and keys alone,
            to e4m3.
    """

    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        check_precision("triton_block_sparse", self.precision)

    @property
    def name(self) -> str:
        """``"triton_block_sparse"``, with the precision where it is not the inputs' own."""
        return name_of("triton_block_sparse", self.precision)

    def check(self, query: torch.Tensor, plan: AttentionPlan) -> None:
        """Raise ``ValueError`` if the device, the dtype or the head_dim has no kernel, or the plan does not fit."""
        check_fits(self.name, query, plan)
        able = able_sparse(query, self.name)
        check_bands(self.name, plan, able)
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
        if self.precision != "bf16":
            self._check_fp8(query)

    def _check_fp8(self, query: torch.Tensor) -> None:
        from svg_kernels import fp8_attention

        if query.is_cuda and (found := torch.cuda.get_device_capability(query.device)) < FP8_CAPABILITY:
            raise ValueError(
                f"precision={self.precision} of triton_block_sparse needs compute capability 9.0 (Hopper) or newer, "
                f"this GPU has {found[0]}.{found[1]}; use precision=bf16"
            )
        if query.shape[-1] not in fp8_attention.HEAD_DIMS:
            known = " or ".join(map(str, fp8_attention.HEAD_DIMS))
            raise ValueError(
                f"precision={self.precision} of triton_block_sparse takes head_dim {known}, got {query.shape[-1]}; "
                f"use precision=bf16"
            )

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """Return attention under the plan, ``(batch, num_heads, seq_len, head_dim)``. Does not wait for the device."""
        return self._attend(query, key, value, plan, None)

    @property
    def orders_keys(self) -> bool:
        """Whether ``attend_unordered`` saves the pass that puts keys and values in the plan's order."""
        return self.precision != "bf16"

    def attend_unordered(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """As a call, of keys and values in the original order: the pass that rounds them lays them out."""
        if self.precision == "bf16" or not plan.is_reordered:
            return self._attend(query, *plan.arrange_keys(key, value), plan, None)
        _, orders, _ = stacked_orders(plan.patterns, key.shape[2], key.device)
        return self._attend(query, key, value, plan, orders)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        plan: AttentionPlan,
        orders: torch.Tensor | None,
    ) -> torch.Tensor:
        check_tensors(self.name, query, key, value)
        self.check(query, plan)
        from svg_kernels import block_sparse_attention as kernel
        from svg_kernels import fp8_attention, fp8_inputs

        # The kernel reads whole rows.
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        output = torch.empty_like(query)
        lists = tile_lists(plan, query.shape[2], query.device)
        assignment = resident(plan.assignment, query.device)
        lengths = None if plan.key_lengths is None else send(plan.key_lengths, query.device)
        major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else LEAST_CAPABILITY
        capability = 10 * major + minor
        if self.precision != "bf16":
            score_type, is_wide = SCORES[self.precision], self.precision in WIDE_VALUES
            keys, launches = fp8_inputs.prepare(
                key, value, score_type, lengths, orders, assignment, wide_values=is_wide
            )
            launches += fp8_attention.fastest(query, keys, output, lists, assignment, lengths, capability)
        else:
            launches = kernel.fastest(query, key, value, output, lists, assignment, lengths, capability)
        for launch in launches:
            launch.run()
        return output


def _is_interpreted() -> bool:
    from svg_kernels import block_sparse_program, launch

    return launch.is_interpreted(block_sparse_program.attention)
