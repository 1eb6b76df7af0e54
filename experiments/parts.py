"""What a pipeline is given besides its checkpoint: a guardrail or none, and an autoencoder that works tile by tile."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from typing import Any

from svg.models.cosmos import NoGuardrail


def guardrail_parts(name: str, guardrail: bool | None) -> dict[str, Any]:
    """Return what a pipeline is given in place of a guardrail: nothing where it has none, or is to have its own.

    Args:
        name: Class of the pipeline in diffusers.
        guardrail: Whether prompts and frames are checked; None: where the package for it is installed.

    Raises:
        ValueError: If it is asked for and there is none.
    """
    import diffusers

    if "safety_checker" not in inspect.signature(getattr(diffusers, name).__init__).parameters:
        if guardrail:
            raise ValueError(f"model.guardrail is true, but {name} has none; set it to null")
        return {}
    is_installed = importlib.util.find_spec("cosmos_guardrail") is not None
    if is_installed and guardrail is not False:
        return {}
    if guardrail:
        raise ValueError(
            "model.guardrail is true, but the package cosmos_guardrail is not installed; install it, or set it to false"
        )
    if guardrail is None:
        print(
            "note: cosmos_guardrail is not installed, so prompts and frames are not checked; the licence of NVIDIA's "
            "weights asks for a guardrail (model.guardrail=false: without this note)",
            file=sys.stderr,
            flush=True,
        )
    return {"safety_checker": NoGuardrail()}


def guardrail_facts(pipeline: Any) -> dict[str, str]:
    """Return which guardrail a pipeline has, for the record; nothing where its family has none."""
    checker = getattr(pipeline, "safety_checker", None)
    if checker is None:
        return {}
    return {"guardrail": "none" if isinstance(checker, NoGuardrail) else type(checker).__name__}


def set_vae_tiling(pipeline: Any, is_tiled: bool) -> None:
    """Let the autoencoder work tile by tile, which takes less memory, or in one piece.

    Raises:
        ValueError: If it cannot work tile by tile.
    """
    vae = pipeline.vae
    # diffusers' autoencoder of Cosmos has the switch, and nothing behind it.
    if is_tiled and not hasattr(vae, "tiled_decode"):
        raise ValueError(f"model.vae_tiling is true, but {type(vae).__name__} cannot; set it to false")
    switch = getattr(vae, "enable_tiling" if is_tiled else "disable_tiling", None)
    if switch is not None:
        switch()
