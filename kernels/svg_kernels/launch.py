"""A kernel with its arguments, ready to run on a GPU, in Triton's interpreter, or to be compiled where no GPU is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.bool: "i1",
}


@dataclass(frozen=True, eq=False)
class Launch:
    """One call of one kernel.

    Args:
        kernel: What ``triton.jit`` or ``gluon.jit`` returned.
        grid: Number of programs.
        arguments: Every argument of the kernel by name: tensors, tensor descriptors, numbers, constants.
        options: ``num_warps``, ``num_stages`` and the like.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    options: Mapping[str, int] = field(default_factory=dict)

    def run(self) -> None:
        """Start the kernel on the current stream of the tensors' GPU, or run it in the interpreter if loaded for that.

        Triton by itself launches on the current GPU, which need not be the tensors'.
        """
        described = TensorDescriptor, GluonDescriptor
        tensors = (x.base if isinstance(x, described) else x for x in self.arguments.values())
        device = next((x.device for x in tensors if isinstance(x, torch.Tensor) and x.is_cuda), None)
        with nullcontext() if device is None else torch.cuda.device(device):
            self.kernel[self.grid](**self.arguments, **self.options)

    def compile(self, capability: int) -> Any:
        """Return the kernel compiled for a compute capability, such as 90; needs no GPU.

        The compiled kernel has ``asm["ptx"]``, ``asm["cubin"]`` and ``metadata.shared``, its bytes of shared memory.
        """
        signature, constants, attributes = {}, {}, {}
        for place, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name] = "constexpr"
                constants[(place,)] = value
                continue
            signature[parameter.name] = _type_of(value)
            if not parameter.do_not_specialize and _is_divisible_by_16(value):
                attributes[(place,)] = [["tt.divisibility", 16]]
        kind = GluonASTSource if isinstance(self.kernel, GluonJITFunction) else ASTSource
        source = kind(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(self.options))


def is_interpreted(kernel: Any) -> bool:
    """Return whether kernels run as Python on the CPU: TRITON_INTERPRET=1 was set before Triton was imported."""
    return not isinstance(kernel, triton.JITFunction)


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
    if isinstance(value, GluonDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)},{value.layout!r}>"
    return "fp32" if isinstance(value, float) else "i32"


def _is_divisible_by_16(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and value % 16 == 0
