"""Times matrix products and a copy; this file and what it imports are the code that the hash of their record is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from experiments.timing_rows import latency_rows
from svg.cost import latency
from svg.cost.forecast import Product
from svg.cost.roofline import GIGA, TERA
from svg.results import Measurement

REPEATS = 20


def measured(products: Sequence[Product], dtype: torch.dtype, device: torch.device) -> Iterator[Measurement]:
    """Yield the times and rates of products and of a copy.

    Args:
        products: One of each name.
        dtype: Their precision.
        device: Where they run.
    """
    most = 0
    for product in products:
        found, moved = _time_product(product, dtype, device)
        most = max(most, moved)
        yield from latency_rows(product.name, found)
        rate = product.flops / product.count / (found.median / 1000)
        shared: dict[str, Any] = {"protocol": product.name, "n": found.repeats, "higher_is_better": True}
        yield Measurement(quantity="product_tflops", unit="TFLOP/s", value=rate / TERA, **shared)
    # It reads and writes as many bytes as the largest product.
    source = torch.ones(most // 2, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    found = latency.measure(lambda: target.copy_(source), device, REPEATS)
    yield from latency_rows("copy", found)
    rate = 2 * source.nbytes / (found.median / 1000)
    yield Measurement(quantity="copy_gb_s", unit="GB/s", value=rate / GIGA, n=found.repeats, higher_is_better=True)


def _time_product(product: Product, dtype: torch.dtype, device: torch.device) -> tuple[latency.Latency, int]:
    """Return what a product takes, and the bytes that it reads and writes.

    Its numbers are unit-normal: zeros take less power, and a GPU multiplies more of them in a second.
    """
    generator = torch.Generator(device).manual_seed(0)
    shapes = (product.rows, product.inner), (product.inner, product.columns)
    left, right = (torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes)
    output = left @ right
    moved = left.nbytes + right.nbytes + output.nbytes
    if product.is_fp8:
        return latency.measure(_fp8_product(left, right), device, REPEATS), moved
    return latency.measure(lambda: torch.mm(left, right, out=output), device, REPEATS), moved


def _fp8_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return the product of two matrices that are rounded to e4m3 before, as a linear layer in FP8 has it."""
    # Its kernels read the second matrix column by column.
    first, second = left.to(torch.float8_e4m3fn), right.t().contiguous().to(torch.float8_e4m3fn).t()
    rows, columns = (left.new_ones(shape, dtype=torch.float32) for shape in ((len(left), 1), (1, right.shape[1])))
    return lambda: torch._scaled_mm(first, second, rows, columns, out_dtype=left.dtype, use_fast_accum=left.is_cuda)
