"""What the families' text encoders take of a prompt: its tokens, and how many of them are read."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextCount:
    """One text encoder's view of a prompt.

    Args:
        encoder: Part of the pipeline that reads it.
        tokens: Of the prompt, and of what the encoder's own form puts after it.
        most: How many are read; the pipeline cuts the others off.
    """

    encoder: str
    tokens: int
    most: int


def counted(encoder: str, tokenizer: Any, text: str, most: int, before: int = 0) -> TextCount:
    """Count a text as the pipeline's tokenizer makes it, ``before`` tokens of a template in front of it left out."""
    # Not verbose: it would warn of a text that is longer than the encoder's, which is what is asked here.
    return TextCount(encoder, len(tokenizer(text, verbose=False).input_ids) - before, most)


def most_tokens(pipeline: Any, max_sequence_length: int | None) -> int:
    """Return the tokens that a pipeline asks of its text encoder: those given, else its own default."""
    if max_sequence_length is not None:
        return max_sequence_length
    return inspect.signature(pipeline.__call__).parameters["max_sequence_length"].default
