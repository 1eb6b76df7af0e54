"""What a folder of captured attention calls holds: its index, and the files that it vouches for by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from svg.layout import TokenLayout
from svg.results import RecordError
from svg.results.record import checksum

SCHEMA_VERSION = 1
INDEX_FILE = "index.json"


@dataclass(frozen=True, kw_only=True)
class CapturedCall:
    """One self-attention call.

    Args:
        file: Name of the safetensors file with ``query``, ``key`` and ``value``, each ``(batch, heads, seq_len,
            head_dim)`` after norm and RoPE, frame-major, in the precision of the model.
        sha256: Of that file.
        step, layer, branch: Where the call stands, as in ``AttentionContext``.
        transformer: Which of a pipeline's transformers made it, from 0.
        layout: Token counts of the sequence.
        key_lengths: Keys of each batch item, the others being padding; None where there is none.
        item_branches: Branch of each batch item where one forward holds several; else empty.
    """

    file: str
    sha256: str
    step: int
    layer: int
    branch: str
    transformer: int
    layout: TokenLayout
    key_lengths: list[int] | None
    item_branches: list[str]


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Captured calls of one generation.

    Args:
        path: The folder; not in the index.
        model, method: Names; ``method`` is what computed the generation, so what the tensors are a consequence of.
        config: All that decides the tensors but prompt and seed: equal for generations that belong together.
        method_defaults, upstream: What the model says of a method's settings that are null.
        prompt: As a run's record has it.
        seed: Of the initial noise and of what methods draw.
        heads: Indices of the heads that the files hold, in their order.
        num_heads, num_layers, num_steps: How many the model and the generation have.
        timesteps: What the transformer was given at each step.
        calls: In the order of the generation.
        provenance: As a run's record has it.
        created: UTC.
    """

    path: Path
    model: str
    method: str
    config: dict[str, Any]
    method_defaults: dict[str, Any]
    upstream: dict[str, Any]
    prompt: dict[str, str]
    seed: int
    heads: list[int]
    num_heads: int
    num_layers: int
    num_steps: int
    timesteps: list[float]
    calls: list[CapturedCall]
    provenance: dict[str, Any]
    created: str

    def content(self) -> dict[str, Any]:
        """Return what the index file holds, its own hash included."""
        facts = {name: value for name, value in asdict(self).items() if name != "path"}
        facts["schema_version"] = SCHEMA_VERSION
        return facts | {"checksum": checksum(facts)}

    @property
    def checksum(self) -> str:
        """16 hex digits over the index, and so, by the hashes in it, over all tensors."""
        return self.content()["checksum"]

    def data(self, call: CapturedCall) -> bytes:
        """Return the bytes of a call's safetensors file.

        Raises:
            RecordError: If it cannot be read, or is not what was written.
        """
        file = self.path / call.file
        try:
            data = file.read_bytes()
        except OSError as error:
            raise RecordError(f"{file} cannot be read: {error.strerror}; capture {self.path} again") from error
        if hashlib.sha256(data).hexdigest() != call.sha256:
            raise RecordError(f"{file} is damaged: it has not the hash that {INDEX_FILE} states; capture it again")
        return data


def read(path: str | Path) -> Capture:
    """Read the index of one generation's folder; the tensors are read and checked by ``Capture.data``.

    Raises:
        RecordError: If it is missing, damaged, changed by hand, or of another schema version.
    """
    file = Path(path) / INDEX_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} is no capture: it has no {INDEX_FILE}") from None
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{file} is damaged: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(f"{file} has schema_version {version}, this version reads {SCHEMA_VERSION}; capture it again")
    try:
        if checksum(content) != content["checksum"]:
            raise RecordError(f"{file} was changed after it was written: it has not the hash that it states")
        known = {field.name: content[field.name] for field in fields(Capture) if field.name != "path"}
        return Capture(path=Path(path), **known | {"calls": [_call(call) for call in known["calls"]]})
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} is damaged: {type(error).__name__} {error}") from None


def read_all(folder: str | Path) -> list[Capture]:
    """Return the captures of a folder, which is one generation's or holds the folders of several that belong together.

    Raises:
        RecordError: If there is none, one is damaged, or some do not belong together.
    """
    root = Path(folder)
    if (root / INDEX_FILE).is_file():
        return [read(root)]
    found = [read(path) for path in _below(root)]
    if not found:
        deeper = [str(place) for place in _visible(root) if _below(place)]
        hint = f"it holds folders of some: {', '.join(deeper)}" if deeper else "make one with experiments.capture"
        raise RecordError(f"captures={folder} holds no captured generation; {hint}")
    for capture in found[1:]:
        if (capture.model, capture.config) != (found[0].model, found[0].config):
            raise RecordError(
                f"captures={folder} holds captures of different settings, such as {found[0].path.name} and "
                f"{capture.path.name}; name one of them"
            )
    return found


def _call(content: Mapping[str, Any]) -> CapturedCall:
    return CapturedCall(**{**content, "layout": TokenLayout(**content["layout"])})


def _below(root: Path) -> list[Path]:
    return [place for place in _visible(root) if (place / INDEX_FILE).is_file()]


def _visible(root: Path) -> list[Path]:
    try:
        return sorted(place for place in root.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError as error:
        raise RecordError(f"captures={root} cannot be read: {error.strerror}") from error
