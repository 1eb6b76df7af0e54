"""Prompts that are longer than a text encoder takes: cut as the stock pipeline cuts them, said once and recorded."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

from experiments.schema import ModelConfig
from svg.models import adapter_for
from svg.prompts import Prompt


def facts(pipeline: Any, model: ModelConfig, prompt: Prompt) -> dict[str, str]:
    """Return what a record says of a prompt that is too long, under ``truncated``; nothing where it is not.

    A warning says it, once in a process.
    """
    count = getattr(adapter_for(pipeline), "text_counts", None)
    counts = [] if count is None else count(pipeline, prompt.text, model.max_sequence_length)
    long = [f"{one.encoder} takes {one.most} of {one.tokens} tokens" for one in counts if one.tokens > one.most]
    if not long:
        return {}
    _warn(f"prompt {prompt.prompt_id} is too long: {', '.join(long)}, the others are cut off")
    # Some pipelines say the same at every generation.
    logger = logging.getLogger(type(pipeline).__module__)
    if not any(isinstance(known, _NotAgain) for known in logger.filters):
        logger.addFilter(_NotAgain())
    return {"truncated": ", ".join(long)}


@cache
def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


class _NotAgain(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "was truncated because" not in record.getMessage()
