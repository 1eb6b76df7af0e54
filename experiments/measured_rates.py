"""Matrix products at a model's own sizes, and a copy, timed once for a machine: what its roofline is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from experiments import fp8_linear, resuming, timed_products
from experiments.forecasting import layout_of, size_of, sizes_of
from experiments.identity import Checked, Names
from experiments.planning import pick_device
from experiments.schema import RatesConfig, StepConfig
from experiments.timing_rows import clock_rows
from svg import provenance
from svg.code_hash import code_hash
from svg.cost.forecast import Product
from svg.cost.gpu_clocks import GpuClocks
from svg.cost.roofline import Rates
from svg.results import RecordError, RunWriter, read_measurements

METHOD = "rates"


@dataclass(frozen=True, kw_only=True)
class RatesPlan(Checked):
    """A measurement whose settings have been checked.

    Args:
        products: One of each name.
        dtype: Their precision.
    """

    products: list[Product]
    dtype: torch.dtype

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{METHOD}-{self.names.model}"


def check(config: RatesConfig | StepConfig, names: Names) -> RatesPlan:
    """Return the checked plan of a measurement.

    Args:
        config: Of the model, its text, the device and the threads; nothing else counts.
        names: What they were picked from.

    Raises:
        ValueError: If a setting is wrong, or the model's settings do not say its sizes.
    """
    device, model = pick_device(config.device), config.model
    geometry, transformer = sizes_of(model, "experiments.rates")
    layout = layout_of(model, geometry, config.text_tokens)
    batch = 2 if transformer.guidance == "batched" and model.guidance_scale > 1 else 1
    size = size_of(model, transformer)
    # In both precisions where the device has both: of the best of each, attention's least time is made.
    precisions = {False, size.is_fp8, model.dtype == "bfloat16" and fp8_linear.has_products(device)}
    every = [
        product for fp8 in sorted(precisions) for product in replace(size, is_fp8=fp8).products(layout.seq_len, batch)
    ]
    products = list({product.name: product for product in every}.values())
    settings = {
        "products": {product.name: [product.rows, product.inner, product.columns] for product in products},
        "dtype": model.dtype,
        "repeats": timed_products.REPEATS,
        "device": device.type,
        "threads": config.threads,
        "code": code_hash(timed_products.__name__),
    }
    fp8_linear.check(model, device)
    return RatesPlan(
        config=config,
        names=names,
        method=None,
        backend=None,
        device=device,
        settings=settings,
        products=products,
        dtype=getattr(torch, model.dtype),
    )


def run(plan: RatesPlan) -> Path:
    """Measure, write the record and return its folder; a complete record of the same settings is kept.

    Raises:
        ValueError: If the device has too little memory.
        RecordError: If the folder belongs to another run or is being written.
    """
    config = plan.config
    if resuming.is_kept(plan):
        return plan.path
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    writer = RunWriter(
        config.runs_dir,
        plan.run_id,
        model=plan.names.model,
        method=METHOD,
        backend=plan.device.type,
        dense_backend="none",
        config=plan.settings,
        provenance=provenance.collect(),
        prompts=[],
        seeds=[],
        overrides=plan.names.overrides,
        experiment=plan.names.experiment,
        overwrite=config.overwrite,
    )
    with writer:
        try:
            with GpuClocks(plan.device) as clocks:
                rows = list(timed_products.measured(plan.products, plan.dtype, plan.device))
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{plan.device} has too little memory for the products of model={plan.names.model}; make model.height, "
                f"model.width or model.num_frames smaller: {' '.join(str(error).split())[:300]}"
            ) from error
        writer.extend(rows)
        writer.extend(clock_rows(clocks.samples, {}))
    named = [row for row in rows if row.quantity in ("product_tflops", "copy_gb_s")]
    reached = {row.protocol or "copy": row.value for row in named}
    words = ", ".join(f"{name} {value:.4g}" for name, value in reached.items())
    print(f"{plan.run_id}: {words} (products in TFLOP/s, the copy in GB/s) in {plan.path}", flush=True)
    return plan.path


def read(plan: RatesPlan) -> Rates | str:
    """Return the rates that stand where a plan's record belongs, or the command that measures them."""
    missing = (
        f"what this machine reaches at these sizes was not measured; python -m experiments.rates "
        f"model={plan.names.model} with the same settings does, into {plan.config.runs_dir}"
    )
    try:
        if resuming.look(plan).state != "done":
            return missing
        rows = read_measurements(plan.path).to_pylist()
    except RecordError as error:
        return f"{missing}: {error}"
    products = {row["protocol"]: row["value"] for row in rows if row["quantity"] == "product_tflops"}
    [copy] = [row["value"] for row in rows if row["quantity"] == "copy_gb_s"]
    return Rates(products, copy)
