"""One diffusers model family per file; ``adapter_for`` finds the one that knows a pipeline."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any


def known_pipelines() -> list[str]:
    """Return the names of all pipeline classes that an adapter here knows, sorted."""
    return sorted(name for module in _modules() for name in module.PIPELINES)


def module_of(pipeline: str) -> str:
    """Return the name of the module that knows a class of pipeline, one of ``known_pipelines``."""
    return next(module.__name__ for module in _modules() if pipeline in module.PIPELINES)


def adapter_for(pipeline: Any) -> Any:
    """Return the adapter of a diffusers pipeline.

    Raises:
        ValueError: If no model family knows the pipeline's class.
    """
    return adapter_named(type(pipeline).__name__)


def adapter_named(name: str) -> Any:
    """Return the adapter for pipelines of the diffusers class ``name``.

    Every module here names the pipeline classes it knows in ``PIPELINES`` and has one class ending in ``Adapter``.

    Raises:
        ValueError: If no model family knows the class.
    """
    for module in _modules():
        if name in module.PIPELINES:
            # An adapter may derive from one that its module imports.
            [adapter] = [
                value
                for name, value in vars(module).items()
                if name.endswith("Adapter") and value.__module__ == module.__name__
            ]
            return adapter()
    raise ValueError(f"no model adapter knows {name}; known pipelines: {', '.join(known_pipelines())}")


def diffusers_ids(path: str | Path) -> list[str]:
    """Return where diffusers finds the models that ``path`` holds in their authors' own format; empty: it does not.

    A module may name in ``OFFICIAL`` what only such folders and repositories are called or hold, each with its id.

    Args:
        path: A folder, or a Hugging Face id.
    """
    folder = Path(path)
    holds = [folder.name, folder.parent.name] if folder.is_dir() else [str(path)]
    for inside in (folder, folder / "ckpts"):
        holds += [entry.name for entry in inside.iterdir()] if inside.is_dir() else []
    found = [getattr(module, "OFFICIAL", {}).items() for module in _modules()]
    return sorted({where for pairs in found for mark, where in pairs if mark in holds})


@cache
def _modules() -> list[Any]:
    # A name that begins with an underscore is what families share.
    names = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
