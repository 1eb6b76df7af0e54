"""Training-free sparse attention for video diffusion transformers, around Sparse VideoGen (arXiv:2502.01776).

Names are looked up when they are used, so importing ``svg`` loads neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "attach": "svg.attaching",
    "TokenLayout": "svg.layout",
    "AttentionContext": "svg.context",
    "AttentionInputs": "svg.plan",
    "AttentionPlan": "svg.plan",
    "HeadPattern": "svg.plan",
    "BlockMask": "svg.block_mask",
    "SparseVideoGen": "svg.methods.svg",
    "StatisticsSample": "svg.statistics_sample",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'svg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
