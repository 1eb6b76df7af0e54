"""Prompts and the ids that name them in records: from a list of texts or from a file, one prompt a line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prompt:
    """One prompt; ``prompt_id`` is its place in the set and the first 8 hex digits of its text's sha256."""

    prompt_id: str
    text: str


def make_prompts(texts: Iterable[str], source: str = "prompts.texts") -> list[Prompt]:
    """Return the prompts of a list of texts, white space at their ends taken off.

    Args:
        texts: One text a prompt, in order.
        source: The setting that errors name.

    Raises:
        ValueError: If there is no text, or one is empty or holds a line break or another control character.
    """
    prompts = []
    for index, raw in enumerate(texts):
        text = raw.strip() if isinstance(raw, str) else ""
        if not text:
            raise ValueError(f"{source}: prompt {index + 1} is {raw!r}; a prompt is a text of at least one letter")
        control = next((letter for letter in text if ord(letter) < 32 and letter != "\t"), None)
        if control is not None:
            raise ValueError(f"{source}: prompt {index + 1} holds the control character {control!r}; use plain text")
        digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
        prompts.append(Prompt(f"p{index:02d}-{digest[:8]}", text))
    if not prompts:
        raise ValueError(f"{source} holds no prompt; give at least one")
    return prompts


def load_prompts(path: str | Path) -> list[Prompt]:
    """Return the prompts of a UTF-8 text file, one a line; empty lines are passed over.

    Raises:
        ValueError: If the file is missing, is not UTF-8, or holds no prompt; one line that names ``prompts.path``.
    """
    source = f"prompts.path={path}"
    try:
        # A byte order mark is no part of the first prompt.
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{source} is not UTF-8: line {line} holds byte 0x{error.object[error.start]:02x}") from None
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from None
    # Not splitlines: a prompt may hold U+2028 and its like.
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{source} holds no prompt; write one a line")
    return make_prompts(lines, source)
