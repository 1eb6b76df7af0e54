"""One diffusers model family per file; ``adapter_for`` finds the one that knows a pipeline."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def adapter_for(pipeline: Any) -> Any:
    """Return the adapter of a diffusers pipeline.

    Every module here names the pipeline classes it knows in ``PIPELINES`` and has one class ending in ``Adapter``.

    Raises:
        ValueError: If no model family knows the pipeline's class.
    """
    known = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        known += module.PIPELINES
        if type(pipeline).__name__ in module.PIPELINES:
            return next(value for name, value in vars(module).items() if name.endswith("Adapter"))()
    raise ValueError(f"no model adapter knows {type(pipeline).__name__}; known pipelines: {', '.join(sorted(known))}")
