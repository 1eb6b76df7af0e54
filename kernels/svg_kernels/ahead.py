"""``python -m svg_kernels.ahead``: compile every kernel for GPUs that need not be there, and say what each takes."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from triton import knobs

import svg_kernels
from svg_kernels.launch import Launch

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# Bytes of shared memory that one block may have, by compute capability.
MOST_SHARED = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}


def compile_all(capability: int, dtype: torch.dtype = torch.bfloat16, names: list[str] | None = None) -> list[str]:
    """Compile each kernel's test cases, and those that are only compiled, and return a line for each.

    Of kernels that multiply as only Hopper does it also says ``serial`` where matrix products wait for one another,
    and ``spills`` where registers do not suffice. Kernels for newer GPUs only are left out.

    Raises:
        ValueError: If a kernel needs more shared memory than the GPU has, or multiplies float32 as TF32.
    """
    lines = []
    for name, spec in svg_kernels.specs().items():
        if (names and name not in names) or capability < spec.least_capability:
            continue
        for case in spec.cases + spec.compiled_cases:
            _, launches = spec.prepare(spec.inputs(case, dtype, torch.device("cpu")), capability)
            for launch in launches:
                lines.append(f"{name} sm_{capability} {dtype} {_line(launch, capability)} {dict(case)}")
    return lines


def _line(launch: Launch, capability: int) -> str:
    compiled = launch.compile(capability)
    shared = compiled.metadata.shared
    if shared > MOST_SHARED[capability]:
        raise ValueError(
            f"{launch.kernel.__name__} takes {shared} bytes of shared memory with {dict(launch.options)}, but "
            f"sm_{capability} has {MOST_SHARED[capability]}; change its settings for this GPU"
        )
    if "tf32" in compiled.asm["ptx"]:
        raise ValueError(f'{launch.kernel.__name__} multiplies float32 as TF32; give tl.dot input_precision="ieee"')
    remarks = _remarks(compiled.asm["ptx"], capability)
    # It is so where ptxas cannot tell that nothing else writes to what the products add up.
    is_serial = "wgmma.mma_async instructions are serialized" in remarks
    has_spills = any(int(count) for count in re.findall(r"(\d+) bytes spill", remarks))
    program = launch.kernel.fn.__module__.rpartition(".")[2]
    return f"{program} shared={shared}" + " serial" * is_serial + " spills" * has_spills


def _remarks(ptx: str, capability: int) -> str:
    """Return what ptxas, and nothing else, says of a kernel with Hopper's matrix products; nothing of other kernels."""
    if "wgmma.mma_async" not in ptx:
        return ""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name=sm_{capability}a", str(source), "-o", os.devnull]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", type=int, nargs="+", choices=MOST_SHARED, default=[80, 89, 90, 100, 120])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--kernel", nargs="+", choices=svg_kernels.specs(), help="default: all")
    arguments = parser.parse_args()
    for capability in arguments.capability:
        for dtype in arguments.dtype:
            for line in compile_all(capability, DTYPES[dtype], arguments.kernel):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
