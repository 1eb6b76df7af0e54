"""One way to compute an attention plan per file; ``get`` finds a backend by the name of its file.

A backend is a frozen dataclass with ``name``, ``check(query, plan)``, which raises ``ValueError`` naming a backend that
can, and ``__call__(query, key, value, plan)``. Inputs and output are ``(batch, num_heads, seq_len, head_dim)`` in the
plan's order. A query that keeps no key, or only padding, gets zeros from every backend. Files that begin with an
underscore are what backends share.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from svg.backends._fastest import DenseTiming


def names() -> list[str]:
    """Return the names of all backends, sorted."""
    return list(_names())


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")))


def get(name: str, **settings: Any) -> Any:
    """Return the backend of the file ``svg/backends/<name>.py``, which has one class ending in ``Backend``.

    Args:
        name: For instance ``"sdpa"``.
        settings: Fields of the backend's dataclass; its defaults where not given.

    Raises:
        ValueError: If there is no such backend.
    """
    if name not in names():
        raise ValueError(f"backend is {name!r}; it must be one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    [backend] = [
        value
        for attribute, value in vars(module).items()
        if attribute.endswith("Backend") and value.__module__ == module.__name__
    ]
    return backend(**settings)


def fitting(device_type: str, method: Any) -> str:
    """Return the name of the sparse backend that ``auto`` means.

    That is ``cpu_gather`` on a CPU; on a GPU ``triton_block_sparse``, but ``flex`` where that has no kernel: for a
    method with ``layout_transform=False``, and on GPUs before Ampere.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        method: The method whose plans it is to compute.
    """
    import torch

    if device_type != "cuda":
        return "cpu_gather"
    is_old = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
    return "flex" if is_old or not getattr(method, "layout_transform", True) else "triton_block_sparse"


def time_dense(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str, repeats: int = 5
) -> list[DenseTiming]:
    """Return the dense backends of a device, fastest first; ``shape`` is that of one call's query.

    Each candidate's output is checked before it is timed. One without a latency carries the reason.
    """
    from svg.backends import _fastest

    return _fastest.time_dense(shape, dtype, device, repeats)


def time_dense_modules(device_type: str) -> list[str]:
    """Return the full names of the modules by which ``time_dense`` picks on a device, without importing a backend."""
    from svg.backends import _fastest

    candidates = _fastest.CANDIDATES["cuda" if device_type == "cuda" else "cpu"]
    return [_fastest.__name__, *dict.fromkeys(f"{__name__}.{name}" for name, _ in candidates)]
