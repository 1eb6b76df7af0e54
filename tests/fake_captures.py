"""Captures made without a command, for tests of whatever reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svg.captures.index import INDEX_FILE, Capture, CapturedCall, read


def write_capture(folder: Path, calls: list[CapturedCall], heads: list[int], **facts: Any) -> Capture:
    """Write the index of calls whose files are in a folder, and return the capture as it is read."""
    named: dict[str, Any] = {"config": {}, "method_defaults": {}, "upstream": {}, "provenance": {}, "created": ""}
    named |= {"model": "m", "method": "dense", "prompt": {"prompt_id": "p00", "text": "a red circle"}, "seed": 0}
    named |= {"num_heads": max(heads) + 1, "num_layers": 3, "num_steps": 4, "timesteps": [4.0, 3.0, 2.0, 1.0]}
    capture = Capture(path=folder, calls=calls, heads=heads, **named | facts)
    (folder / INDEX_FILE).write_text(json.dumps(capture.content()))
    return read(folder)
