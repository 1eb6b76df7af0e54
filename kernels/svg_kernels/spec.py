"""What a kernel file says about itself: how to call it, what it must compute, on which inputs, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from svg_kernels.launch import Launch

# A reference that rounds every step in the same precision may be off by as much, twice over.
MOST_OF_REFERENCE = 2.0

# Kernels sum in float32, and a GPU's exponentials are off by two roundings: so many are allowed where a reference of
# few numbers rounds by luck to fewer.
MOST_ROUNDINGS = 8

Case = Mapping[str, Any]
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """One kernel.

    Args:
        inputs: (case, dtype, device) -> the inputs by name; the same for the same arguments.
        prepare: (inputs, compute capability) -> the output tensors, poisoned with NaN, and the launches that fill them.
        reference: (inputs, rows or None) -> what the outputs must be, in plain torch and in the inputs' own dtype; of
            these sequence positions only where the outputs have that axis and rows are given.
        rows_axis: Axis of the outputs that rows index; None where they have no such axis.
        has_baseline: Whether the reference, as a whole, is what people run without the kernel; not where it would hold
            a score of every pair.
        cases: Small, odd shapes for tests.
        paper_cases: Full-size shapes for benchmarks.
        flops: case -> operations of its matrix products; 0 where memory is what counts.
        bytes: (case, bytes per number) -> bytes read and written at least.
        is_attention: Whether it takes the place of full attention on a query of the case's shape.
        compiled_cases: Shapes that are compiled ahead besides ``cases``, and never run: the largest that people take.
        least_capability: The first GPUs that it runs on, such as 90 for Hopper.
    """

    inputs: Callable[[Case, torch.dtype, torch.device], Inputs]
    prepare: Callable[[Inputs, int], tuple[tuple[torch.Tensor, ...], list[Launch]]]
    reference: Callable[[Inputs, torch.Tensor | None], tuple[torch.Tensor, ...]]
    rows_axis: int | None
    has_baseline: bool
    cases: tuple[Case, ...]
    paper_cases: tuple[Case, ...]
    flops: Callable[[Case], float]
    bytes: Callable[[Case, int], float]
    is_attention: bool = False
    compiled_cases: tuple[Case, ...] = ()
    least_capability: int = 80

    def run(self, inputs: Inputs, capability: int) -> tuple[torch.Tensor, ...]:
        """Return the outputs that the kernel computes."""
        outputs, launches = self.prepare(inputs, capability)
        for launch in launches:
            launch.run()
        return outputs


def errors(outputs: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> tuple[float, float]:
    """Return the greatest and the root mean square error of outputs, NaN where one holds NaN."""
    difference = torch.cat(
        [(one.double() - other.double()).flatten() for one, other in zip(outputs, exact, strict=True)]
    )
    return float(difference.abs().max()), float(difference.square().mean().sqrt())


def allowed_errors(reference: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> tuple[float, float]:
    """Return the greatest and the root mean square error that a kernel may have.

    That is twice the reference's, or a few roundings of the exact outputs where it is less. A reference that does not
    round at all, because it only moves data, allows nothing.

    Args:
        reference: Outputs of the reference in the kernel's precision.
        exact: The same in float64.
    """
    found = errors(reference, exact)
    if found == (0.0, 0.0):
        return found
    eps = MOST_ROUNDINGS * torch.finfo(torch.float32).eps
    greatest, mean = errors(exact, tuple(torch.zeros_like(x) for x in exact))
    return max(MOST_OF_REFERENCE * found[0], eps * greatest), max(MOST_OF_REFERENCE * found[1], eps * mean)


def as_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Return the inputs with floating-point tensors in another precision."""
    return {
        name: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for name, x in inputs.items()
    }
