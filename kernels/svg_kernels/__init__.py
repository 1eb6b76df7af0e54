"""GPU kernels, one per file, each with its plain-torch reference and a SPEC by which tests and benchmarks find it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svg_kernels.spec import Spec


def specs() -> dict[str, Spec]:
    """Return the SPEC of every kernel file, by the name of the file."""
    modules = {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {name: module.SPEC for name, module in modules.items() if hasattr(module, "SPEC")}
