"""The least time that given operations take: on a named GPU by its maker's rates, on this machine by measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svg.cost.forecast import FP8, Product

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Gpu:
    """What a GPU computes per second at most, in bf16 where nothing else is said, without structured sparsity.

    Args:
        name: As people call it.
        peak_tflops: Matrix products, as the maker states it: no measurement can beat it.
        source: Who states it.
        fp8_tflops: The same in FP8; None where it has no such units.
        attention_tflops: Dense attention as measured by us; None where we have not.
        gemm_tflops: Matrix products as measured by us.
        measured: What was measured.
    """

    name: str
    peak_tflops: float
    source: str
    fp8_tflops: float | None = None
    attention_tflops: float | None = None
    gemm_tflops: float | None = None
    measured: str | None = None

    def floor_s(self, attention_flops: float, other_flops: float, fp8_flops: float = 0.0) -> float:
        """Return the seconds that no program can beat: all operations at the maker's peak, all else for nothing.

        Args:
            attention_flops: Of attention.
            other_flops: Of everything else.
            fp8_flops: Those of both that are in FP8.

        Raises:
            ValueError: If there are any, and the GPU has no units for them.
        """
        at_peak = (attention_flops + other_flops - fp8_flops) / self.peak_tflops
        if not fp8_flops:
            return at_peak / TERA
        if self.fp8_tflops is None:
            raise ValueError(f"{self.name} multiplies nothing in FP8; use model.linear_precision=bf16, or another gpu")
        return (at_peak + fp8_flops / self.fp8_tflops) / TERA

    def reachable_s(self, attention_flops: float, other_flops: float) -> float | None:
        """Return the seconds at the rates that kernels reach; None where they were not measured."""
        if self.attention_tflops is None or self.gemm_tflops is None:
            return None
        return (attention_flops / self.attention_tflops + other_flops / self.gemm_tflops) / TERA


@dataclass(frozen=True)
class Floor:
    """The least seconds of a piece of work at measured rates: attention, matrix products, and what is moved between."""

    attention_s: float
    products_s: float
    moving_s: float

    @property
    def total_s(self) -> float:
        return self.attention_s + self.products_s + self.moving_s


@dataclass(frozen=True)
class Rates:
    """What a machine reached, measured.

    Args:
        products: TFLOP/s of the model's own matrix products, by their name.
        copy_gb_s: Bytes read and written by a copy, in GB/s.
    """

    products: Mapping[str, float]
    copy_gb_s: float

    @property
    def has_fp8(self) -> bool:
        """Whether a product in FP8 is among them."""
        return any(name.endswith(FP8) for name in self.products)

    def attention_s(self, flops: float, moved_bytes: float, fp8_flops: float = 0.0) -> float:
        """Return the least seconds of attention: operations at the rate of the best product, or bytes at a copy's.

        ``fp8_flops``, of the ``flops``, are at the rate of the best product in FP8, of which there must be one.
        """
        in_fp8 = {name: name.endswith(FP8) for name in self.products}
        least = (flops - fp8_flops) / max(rate for name, rate in self.products.items() if not in_fp8[name])
        if fp8_flops:
            least += fp8_flops / max(rate for name, rate in self.products.items() if in_fp8[name])
        return max(least / TERA, moved_bytes / (self.copy_gb_s * GIGA))

    def floor(
        self,
        attention_flops: float,
        attention_bytes: float,
        products: Sequence[Product],
        moved_bytes: float,
        fp8_attention_flops: float = 0.0,
    ) -> Floor:
        """Return the least seconds of some forwards, whose parts do not overlap.

        Args:
            attention_flops: Operations of attention in the tiles that are computed, cross-attention included.
            attention_bytes: Bytes of its queries, keys, values and outputs.
            products: All other matrix products; each at the rate of its name.
            moved_bytes: Read and written between them.
            fp8_attention_flops: Those of attention that are in FP8.
        """
        return Floor(
            self.attention_s(attention_flops, attention_bytes, fp8_attention_flops),
            sum(product.flops / (self.products[product.name] * TERA) for product in products),
            moved_bytes / (self.copy_gb_s * GIGA),
        )


GPUS = {
    "a100": Gpu("NVIDIA A100", 312.0, "NVIDIA A100 data sheet, dense bf16"),
    "h100": Gpu("NVIDIA H100 SXM", 989.4, "NVIDIA H100 data sheet, dense bf16", fp8_tflops=1978.9),
    "h200": Gpu(
        "NVIDIA H200",
        989.4,
        "NVIDIA H200 data sheet, dense bf16",
        fp8_tflops=1978.9,
        attention_tflops=699.0,
        gemm_tflops=781.0,
        measured="FlashAttention 3 on 24 heads x 118784 tokens x 128, an 8192 x 8192 x 8192 product; torch 2.11",
    ),
    "h20": Gpu("NVIDIA H20", 148.0, "NVIDIA H20 data sheet, dense bf16", fp8_tflops=296.0),
    "b200": Gpu("NVIDIA B200", 2250.0, "NVIDIA DGX B200 data sheet, dense bf16, one GPU of eight", fp8_tflops=4500.0),
    "l40s": Gpu("NVIDIA L40S", 362.0, "NVIDIA L40S data sheet, dense bf16", fp8_tflops=733.0),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090",
        165.2,
        "NVIDIA Ada architecture white paper, bf16 summed in float32",
        fp8_tflops=330.3,
    ),
}


# What drivers call the GPUs whose peak is known: all of these words.
_DRIVER_WORDS = {
    "a100": ("A100",),
    "h100": ("H100", "HBM3"),
    "h200": ("H200",),
    "h20": ("H20",),
    "b200": ("B200",),
    "l40s": ("L40S",),
    "rtx4090": ("RTX", "4090"),
}


def gpu_of_driver(name: str) -> Gpu | None:
    """Return the GPU that a driver calls ``name``, such as ``NVIDIA H100 80GB HBM3``; None where its peak is not known.

    An H100 without HBM3 has another peak, and is not known.
    """
    words = name.replace("-", " ").split()
    return next((GPUS[key] for key, needed in _DRIVER_WORDS.items() if set(needed) <= set(words)), None)


def gpu_by_name(name: str) -> Gpu:
    """Return a GPU of ``GPUS``.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in GPUS:
        raise ValueError(f"gpu is {name!r}; it must be one of {', '.join(sorted(GPUS))}")
    return GPUS[name]
