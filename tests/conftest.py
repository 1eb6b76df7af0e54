"""What tests need before the first import: one torch thread, no network, no bars, no window; and who needs a GPU."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"

import torch

# Triton reads it when it is imported: without a GPU, our kernels run as Python.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What tests measure of a busy machine is no news to its user.
_cache = tempfile.TemporaryDirectory(prefix="svg-tests-")
os.environ["SVG_CACHE_DIR"] = _cache.name


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none; `make test-gpu` then fails before it comes to this."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and torch finds none here")
