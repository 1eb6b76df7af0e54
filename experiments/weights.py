"""Refuses a checkpoint whose files lack weights: the libraries that load it would go on with random ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch

# Who says that weights were missing, and only says it.
_LOGGERS = ("transformers.modeling_utils", "diffusers.models.modeling_utils")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OF_TRANSFORMERS = re.compile(r"^(\S.*?) *\| *MISSING", re.MULTILINE)
_OF_DIFFUSERS = re.compile(r"were not initialized from the model checkpoint .*?\['?([^'\]]+)", re.DOTALL)


class _Missing(logging.Filter):
    """Collects the weights that a loader calls missing, and keeps that message from the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        message = _COLOUR.sub("", record.getMessage())
        found = [*_OF_TRANSFORMERS.findall(message), *_OF_DIFFUSERS.findall(message)]
        self.names += found
        return not found


@contextmanager
def all_weights(folder: Path) -> Iterator[None]:
    """Raise ``ValueError`` at the end of the block if a model that was loaded in it lacked weights in its files.

    Args:
        folder: Where they lie, for the message.
    """
    missing = _Missing()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.addFilter(missing)
        # Whatever the user wants to read, and Hydra has disabled.
        logger.disabled = False
        if not logger.isEnabledFor(logging.WARNING):
            logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (level, is_disabled) in zip(loggers, before, strict=True):
            logger.removeFilter(missing)
            logger.setLevel(level)
            logger.disabled = is_disabled
    refuse(folder, missing.names)


def check_parts(folder: Path, parts: dict[str, Any]) -> None:
    """Raise ``ValueError`` if a part of a pipeline has weights that nothing was loaded into."""
    for part, module in parts.items():
        if isinstance(module, torch.nn.Module):
            weights = chain(module.named_parameters(), module.named_buffers())
            refuse(folder, [f"{part}.{name}" for name, weight in weights if weight.is_meta])


def refuse(folder: Path, names: list[str]) -> None:
    """Raise ``ValueError`` if there are any names of missing weights."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"model.path={folder} is half there: its safetensors lack the weight {names[0]}{more}")
