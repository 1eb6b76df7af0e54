"""Time our kernels against eager PyTorch, torch.compile and what memory and matrix units allow at least.

``python -m experiments.bench_kernels``: each kernel's outputs are checked against its reference in the same process
before a time is printed; every time is a row of a run, with where it comes from.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import svg_kernels
from experiments.dense_choice import DenseChoice, choose_fastest
from experiments.identity import timed_hash
from experiments.timing_rows import clock_rows, latency_rows
from svg import provenance
from svg.code_hash import code_hash
from svg.cost import latency
from svg.cost.gpu_clocks import GpuClocks
from svg.plan import AttentionPlan
from svg.results import Measurement, RecordError, RunWriter
from svg_kernels.spec import Case, Inputs, Spec, allowed_errors, as_dtype, errors

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# Rows of the sequence that are checked at full size.
CHECKED_ROWS = 128


def main() -> int:
    arguments = _parser().parse_args()
    try:
        _run(arguments)
    except (ValueError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments.bench_kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kernel", nargs="+", choices=svg_kernels.specs(), help="which (default: all)")
    parser.add_argument("--size", choices=("paper", "small"), default="paper", help="small: rehearses without a GPU")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls, at least 2")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--overwrite", action="store_true", help="replace complete runs of this machine and code")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.repeats < 2:
        raise ValueError(f"--repeats is {arguments.repeats}; it must be at least 2")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cpu" and not is_interpreted:
        raise ValueError("kernels need an NVIDIA GPU; set TRITON_INTERPRET=1 and --size small to rehearse without one")
    if device.type == "cpu" and (arguments.size, arguments.dtype) != ("small", "float32"):
        raise ValueError(f"--size is {arguments.size}, --dtype {arguments.dtype}: a CPU needs small and float32")
    rates = _rates(device) if arguments.size == "paper" else {}
    origin = provenance.collect()
    for name, spec in svg_kernels.specs().items():
        if arguments.kernel and name not in arguments.kernel:
            continue
        cases = spec.paper_cases if arguments.size == "paper" else spec.cases
        settings = {
            "size": arguments.size,
            "dtype": arguments.dtype,
            "repeats": arguments.repeats,
            "device": device.type,
            "code": code_hash(f"{svg_kernels.__name__}.{name}", latency.__name__),
        }
        writer = RunWriter(
            arguments.runs_dir,
            f"{name}-{arguments.size}-{arguments.dtype}-{timed_hash(settings, device.type)}",
            model="kernels",
            method=name,
            backend=device.type,
            dense_backend="none",
            config=settings,
            provenance=origin | {"rates": rates},
            prompts=[{"prompt_id": str(index), "text": json.dumps(dict(case))} for index, case in enumerate(cases)],
            seeds=[],
            overwrite=arguments.overwrite,
        )
        with writer:
            for index, case in enumerate(cases):
                found = list(
                    _measure(spec, case, DTYPES[arguments.dtype], device, arguments.repeats, rates, str(index))
                )
                writer.extend(found)
                _say(name, case, found)


def _measure(
    spec: Spec, case: Case, dtype: torch.dtype, device: torch.device, repeats: int, rates: dict[str, float], prompt: str
) -> Iterator[Measurement]:
    """Yield a case's rows.

    Raises:
        ValueError: If the kernel is wrong on this machine.
    """
    inputs = spec.inputs(case, dtype, device)
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)
    error, allowed, relative = _check(spec, inputs, 10 * major + minor)
    if not error <= allowed:
        raise ValueError(f"the kernel is wrong on this machine for {dict(case)}: off by {error:.3g}, not {allowed:.3g}")
    yield Measurement(quantity="greatest_error", unit="1", value=error, prompt_id=prompt, higher_is_better=False)
    yield Measurement(quantity="relative_error", unit="1", value=relative, prompt_id=prompt, higher_is_better=False)
    choice = choose_fastest(tuple(case["shape"]), dtype, device) if spec.is_attention else None
    if choice is not None:
        yield from choice.rows({"prompt_id": prompt})
    flops = spec.flops(case)
    with GpuClocks(device) as clocks:
        for protocol, call in _calls(spec, inputs, device, 10 * major + minor, choice):
            found = latency.measure(call, device, repeats)
            yield from latency_rows(protocol, found, prompt)
            if protocol == "ours" and flops:
                rate: dict[str, Any] = {"unit": "TFLOP/s", "value": flops / found.median / 1e9, "n": found.repeats}
                yield Measurement(quantity="kernel_tflops", prompt_id=prompt, protocol=protocol, **rate)
    yield from clock_rows(clocks.samples, {"prompt_id": prompt})
    if rates:
        by_memory = 1e3 * spec.bytes(case, dtype.itemsize) / rates["bytes_s"]
        by_products = 1e3 * flops / rates["flops_s"]
        for protocol, value in (("memory_floor", by_memory), ("product_floor", by_products)):
            yield Measurement(
                quantity="latency_ms",
                unit="ms",
                value=value,
                protocol=protocol,
                prompt_id=prompt,
                higher_is_better=False,
            )


def _calls(
    spec: Spec, inputs: Inputs, device: torch.device, capability: int, choice: DenseChoice | None
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is timed: the kernel, the dense attention that it takes the place of, and plain torch."""
    _, launches = spec.prepare(inputs, capability)

    def ours() -> None:
        for launch in launches:
            launch.run()

    yield "ours", ours
    if choice is not None:
        plan, backend = AttentionPlan.dense(), choice.backend
        yield "dense", lambda: backend(inputs["query"], inputs["key"], inputs["value"], plan)
    if spec.has_baseline:
        yield "eager", lambda: spec.reference(inputs, None)
    if spec.has_baseline and device.type == "cuda":
        compiled = torch.compile(spec.reference, dynamic=False)
        yield "compiled", lambda: compiled(inputs, None)


def _check(spec: Spec, inputs: Inputs, capability: int) -> tuple[float, float, float]:
    """Return the kernel's greatest error, the one that it may have, and its relative one, on some rows at full size."""
    outputs = spec.run(inputs, capability)
    rows = None
    if spec.rows_axis is not None:
        length = outputs[0].shape[spec.rows_axis]
        rows = torch.linspace(0, length - 1, min(length, CHECKED_ROWS), device=outputs[0].device).round().long()
        outputs = tuple(output.index_select(spec.rows_axis, rows) for output in outputs)
    exact = spec.reference(as_dtype(inputs, torch.float64), rows)
    greatest, mean = errors(outputs, exact)
    size = errors(exact, tuple(torch.zeros_like(x) for x in exact))[1]
    return greatest, allowed_errors(spec.reference(inputs, rows), exact)[0], mean / size


def _rates(device: torch.device) -> dict[str, float]:
    """Return what this GPU reaches: bytes copied and operations of a large matrix product per second."""
    source = torch.empty(2**30, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    size = 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    copying = latency.measure(lambda: target.copy_(source), device)
    product = latency.measure(lambda: left @ right, device)
    return {"bytes_s": 2e3 * source.numel() / copying.median, "flops_s": 2e3 * size**3 / product.median}


def _say(name: str, case: Case, rows: list[Measurement]) -> None:
    times = {row.protocol: row.value for row in rows if row.quantity == "latency_ms"}
    shape = "x".join(map(str, case["shape"]))
    words = "  ".join(f"{protocol} {value:.3f} ms" for protocol, value in times.items() if not math.isnan(value or 0))
    print(f"{name} {shape}: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
