"""``svg.attach``: sparse attention on a diffusers pipeline in one line, for people without Hydra."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from svg import backends, models
from svg.attachment import Attachment, Backend, Method, Phases, Statistics
from svg.operations import TorchOperations
from svg.parallel import Ulysses


def attach(
    pipeline: Any,
    method: Method,
    backend: Backend | str = "auto",
    dense_backend: Backend | str = "sdpa",
    *,
    seed: int = 0,
    phases: Phases | None = None,
    strict: bool = True,
    operations: TorchOperations | None = None,
    statistics: Statistics | None = None,
    compile: bool | Mapping[str, Any] = False,
    parallel: Any = None,
) -> Attachment:
    """Return a context manager under which ``pipeline(...)`` runs with sparse attention.

    Args:
        pipeline: A diffusers pipeline of a known model family.
        method: For instance ``svg.SparseVideoGen(density=0.25)``.
        backend: What computes sparse calls, by object or name; ``"auto"``: what ``backends.fitting``
            says, ``cpu_gather`` on a CPU, mostly ``triton_block_sparse`` on a GPU.
        dense_backend: What computes dense steps and layers.
        seed: Seed of what the method draws.
        phases: A clock told of each phase; see ``svg.cost``.
        strict: Raise where a backend refuses a plan, rather than run that call dense and record it, and where the
            output of a backend in FP8 is not finite.
        operations: What the method computes with; None: kernels of ours on an NVIDIA GPU from Ampere on, else torch.
        statistics: Measures where the heads look in some calls, for the receipt's ``sampled``: for instance
            ``svg.StatisticsSample()``; None measures none.
        compile: Compile the transformers' repeated blocks as long as the with block lasts, each as one graph for fixed
            shapes: True, or options of ``torch.compile`` beside or in place of these. The first forward takes longer.
        parallel: A process group of ``torch.distributed`` whose processes share every video: each calls the pipeline
            with the same arguments and seed, and gets the whole video. None, or a group of one: no others.

    Raises:
        ValueError: If the pipeline's family, a backend's name or a setting is unknown, or ``method`` is no method.

    Example:
        ``with svg.attach(pipe, svg.SparseVideoGen(density=0.25)) as run: video = pipe(prompt).frames``
    """
    needed = ("plan", "dense_schedule")
    if isinstance(method, type) or not all(callable(getattr(method, name, None)) for name in needed):
        raise ValueError(f"method is {method!r}; it must be a method object, such as svg.SparseVideoGen(density=0.25)")
    if backend == "auto":
        backend = backends.fitting(execution_device(pipeline).type, method)
    return Attachment(
        pipeline,
        models.adapter_for(pipeline),
        method,
        backends.get(backend) if isinstance(backend, str) else backend,
        backends.get(dense_backend) if isinstance(dense_backend, str) else dense_backend,
        seed=seed,
        phases=phases,
        strict=strict,
        operations=operations if operations is not None else fastest_operations(execution_device(pipeline)),
        statistics=statistics,
        compile=compile,
        parallel=ulysses(parallel),
    )


def ulysses(group: Any) -> Ulysses | None:
    """Return what splits a generation over a process group; None for no group, or one of this process alone."""
    if group is None:
        return None
    together = Ulysses(group)
    return together if together.size > 1 else None


def execution_device(pipeline: Any) -> torch.device:
    """Return where a pipeline computes: under CPU offload that is not where its weights lie between two calls."""
    return getattr(pipeline, "_execution_device", pipeline.device)


def fastest_operations(device: torch.device) -> TorchOperations:
    """Return what a device computes with where nobody says: kernels of ours on a GPU that has them, else torch."""
    is_able = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    if not is_able or torch.cuda.get_device_capability(device) < (8, 0):
        return TorchOperations()
    from svg.kernel_operations import KernelOperations

    return KernelOperations()
