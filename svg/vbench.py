"""VBench's lists of prompts: JSON files with texts, the dimensions they test and, for image-to-video, an image.

The lists are https://github.com/Vchitect/VBench's ``VBench_full_info.json`` and, for image-to-video,
``vbench2_beta_i2v/vbench2_i2v_full_info.json``; its plain lists of one prompt a line are what ``load_prompts`` reads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from svg.prompts import Prompt, make_prompts, read_utf8

# Where an entry names its image; the second in lists that people make of their own images.
IMAGE_KEYS = ("image_name", "custom_image_path")


def load_vbench(path: str | Path, dimension: str | None = None, image_folder: str | Path | None = None) -> list[Prompt]:
    """Return the prompts of a list, in its order; an id is of the text and the image's name, wherever it stands.

    A prompt that the list has once for each of several dimensions is one prompt with all of them.

    Args:
        path: The JSON file.
        dimension: Only prompts that test this, such as ``"motion_smoothness"``; None: all.
        image_folder: Where the images lie; None: beside the file.

    Raises:
        ValueError: If the file is no such list, a prompt stands there twice, an image is missing, or no prompt has the
            dimension; one line that names the setting.
    """
    source, path = f"prompts.path={path}", Path(path)
    entries = _entries(path, source)
    known = sorted({name for entry in entries for name in entry["dimension"]})
    if dimension is not None and dimension not in known:
        raise ValueError(f"prompts.dimension is {dimension!r}; {path.name} has {', '.join(known)}")
    folder = path.parent if image_folder is None else Path(image_folder)
    found: dict[tuple[str, str | None], list[str]] = {}
    for number, entry in enumerate(entries, 1):
        dimensions = found.setdefault((entry["prompt_en"].strip(), _image_name(entry)), [])
        twice = next((name for name in entry["dimension"] if name in dimensions), None)
        if twice is not None:
            raise ValueError(f"{source}: prompt {number}, {entry['prompt_en']!r}, stands there twice for {twice}")
        dimensions += entry["dimension"]
    chosen = {key: names for key, names in found.items() if dimension is None or dimension in names}
    prompts = make_prompts(
        [text for text, _ in chosen],
        source,
        [None if image is None else folder / image for _, image in chosen],
        [_id(text, image) for text, image in chosen],
    )
    named = zip(prompts, chosen.values(), strict=True)
    return [replace(prompt, source=path.name, dimensions=tuple(names)) for prompt, names in named]


def _entries(path: Path, source: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(read_utf8(path, source))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is no JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{source} is no list of prompts; a list of VBench is one of objects with prompt_en, dimension"
        )
    for number, entry in enumerate(entries, 1):
        keys = entry if isinstance(entry, dict) else {}
        dimensions, images = keys.get("dimension"), [keys[key] for key in IMAGE_KEYS if key in keys]
        words = [keys.get("prompt_en"), *images, *(dimensions if isinstance(dimensions, list) else [None])]
        if dimensions == [] or not all(isinstance(word, str) for word in words):
            has = ", ".join(keys) or "no keys"
            raise ValueError(
                f"{source}: prompt {number} has {has}; it must have prompt_en, a text, and dimension, a list of texts"
            )
    return entries


def _image_name(entry: dict[str, Any]) -> str | None:
    """Return an entry's image; of one that moves the camera, the list names it by the text before the movement."""
    named = next((entry[key] for key in IMAGE_KEYS if key in entry), None)
    if named is None and "image_type" in entry:
        return entry["prompt_en"].partition(", camera ")[0] + ".jpg"
    return named


def _id(text: str, image: str | None) -> str:
    return "vbench-" + hashlib.sha256(f"{text}\0{image or ''}".encode("utf-8", errors="surrogatepass")).hexdigest()[:10]
