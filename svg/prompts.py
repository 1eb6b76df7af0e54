"""Prompts and the ids that name them in records: a list of texts, a file, or a folder, some with an image."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# What a folder's images may end in.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Ids name files.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}")


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Args:
        prompt_id: Given, or its place in the set and the first 8 hex digits of the sha256 of text and image.
        text: What the video shows.
        image: File of the image that the video begins from; None where it begins from text alone.
        image_sha256: Of that file's bytes.
        source: Name of the list that it comes from; None where it was given by hand. Tells no prompts apart.
        dimensions: What it tests, where the list says so.
    """

    prompt_id: str
    text: str
    image: str | None = None
    image_sha256: str | None = None
    source: str | None = field(default=None, compare=False)
    dimensions: tuple[str, ...] = ()

    @property
    def identity(self) -> Any:
        """What decides a video: the text, and the image's content wherever it lies."""
        return self.text if self.image is None else {"text": self.text, "image_sha256": self.image_sha256}

    def record(self) -> dict[str, str]:
        """Return what a run's record says of the prompt; of the image its name, not where it lay."""
        facts = {"prompt_id": self.prompt_id, "text": self.text}
        if self.image is not None:
            facts |= {"image": Path(self.image).name, "image_sha256": str(self.image_sha256)}
        if self.source is not None:
            facts["source"] = self.source
        if self.dimensions:
            facts["dimensions"] = ", ".join(self.dimensions)
        return facts


def make_prompts(
    texts: Iterable[str],
    source: str = "prompts.texts",
    images: Sequence[str | Path | None] = (),
    ids: Sequence[str | None] = (),
) -> list[Prompt]:
    """Return the prompts of a list of texts, white space at their ends taken off.

    Args:
        texts: One text a prompt, in order.
        source: The setting that errors name.
        images: One file a prompt, None for none; empty: none has one.
        ids: One a prompt, None for one that is made here; empty: all are made here.

    Raises:
        ValueError: If there is no text, one is empty or holds a control character, an image cannot be read, or an id
            cannot be a file's name or stands there twice.
    """
    given = list(texts)
    # Texts and images have a setting each; a file or a folder holds both.
    pictures = "prompts.images" if source == "prompts.texts" else source
    if images and len(images) != len(given):
        raise ValueError(f"{source}: {len(given)} texts and {len(images)} images; give one image a prompt, or none")
    prompts = []
    for index, raw in enumerate(given):
        text = raw.strip() if isinstance(raw, str) else ""
        if not text:
            raise ValueError(f"{source}: prompt {index + 1} is {raw!r}; a prompt is a text of at least one letter")
        control = next((letter for letter in text if ord(letter) < 32 and letter != "\t"), None)
        if control is not None:
            raise ValueError(f"{source}: prompt {index + 1} holds the control character {control!r}; use plain text")
        image = images[index] if images else None
        digest = None if image is None else _digest(Path(image), pictures, index)
        known = text if digest is None else f"{text}\0{digest}"
        made = f"p{index:02d}-{hashlib.sha256(known.encode('utf-8', errors='surrogatepass')).hexdigest()[:8]}"
        name = (ids[index] if ids else None) or made
        if not _ID.fullmatch(name):
            raise ValueError(
                f"{source}: prompt {index + 1} is named {name!r}; an id is at most 100 letters, digits and ._+=,-"
            )
        prompts.append(Prompt(name, text, None if image is None else str(image), digest))
    if not prompts:
        raise ValueError(f"{source} holds no prompt; give at least one")
    names = [prompt.prompt_id for prompt in prompts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{source}: two prompts are named {twice}; an id may stand there once")
    return prompts


def load_prompts(path: str | Path) -> list[Prompt]:
    """Return the prompts of a file or a folder.

    A text file holds one prompt a line; empty lines are passed over. A ``.jsonl`` file holds one object a line:
    ``text`` and, where they belong, ``id`` and ``image``, a file beside it. A folder holds, for each prompt,
    ``<id>.txt`` and maybe ``<id>.png`` (.jpg, .jpeg, .webp), in the order of their names. All are UTF-8.

    Raises:
        ValueError: If something is missing, is not UTF-8, or holds no prompt; one line that names ``prompts.path``.
    """
    source, path = f"prompts.path={path}", Path(path)
    return [replace(prompt, source=path.name) for prompt in _from_path(path, source)]


def _from_path(path: Path, source: str) -> list[Prompt]:
    if path.is_dir():
        return _from_folder(path, source)
    # Not splitlines: a prompt may hold U+2028 and its like.
    lines = [line for line in read_utf8(path, source).split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"{source} holds no prompt; write one a line")
    if path.suffix == ".jsonl":
        return _from_objects(lines, path.parent, source)
    return make_prompts(lines, source)


def _from_folder(folder: Path, source: str) -> list[Prompt]:
    files = sorted(file for file in folder.iterdir() if file.suffix == ".txt" and file.is_file())
    if not files:
        raise ValueError(f"{source} is a folder without prompts; a prompt is a file <id>.txt, with <id>.png beside it")
    images = []
    for file in files:
        found = [beside for suffix in IMAGE_SUFFIXES if (beside := file.with_suffix(suffix)).is_file()]
        if len(found) > 1:
            raise ValueError(f"{source}: {file.name} has {len(found)} images, {found[0].name} and {found[1].name}")
        images.append(found[0] if found else None)
    texts = [" ".join(read_utf8(file, f"{source}/{file.name}").split()) for file in files]
    return make_prompts(texts, source, images, [file.stem for file in files])


def _from_objects(lines: list[str], folder: Path, source: str) -> list[Prompt]:
    entries: list[dict[str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{source}: prompt {number} is no JSON: {error}") from None
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            raise ValueError(f"{source}: prompt {number} is no object of texts")
        if "text" not in entry or not set(entry) <= {"id", "text", "image"}:
            raise ValueError(
                f"{source}: prompt {number} has {', '.join(entry)}; it must have text, and may id and image"
            )
        entries.append(entry)
    images = [folder / entry["image"] if "image" in entry else None for entry in entries]
    return make_prompts([entry["text"] for entry in entries], source, images, [entry.get("id") for entry in entries])


def read_utf8(path: Path, source: str) -> str:
    """Return a file's text. Raises ``ValueError`` that begins with ``source`` if it cannot be read or is not UTF-8."""
    try:
        # A byte order mark is no part of the first prompt.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{source} is not UTF-8: line {line} holds byte 0x{error.object[error.start]:02x}") from None
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from None


def _digest(image: Path, source: str, index: int) -> str:
    try:
        with image.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{source}: image {image} of prompt {index + 1} cannot be read: {error.strerror}") from None
