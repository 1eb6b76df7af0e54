"""Draws the first frames of the embedded models' captions: ``python tools/draw_first_frames.py [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "assets" / "prompts" / "first_frames"
# A caption's seed is this and its place.
SEED = 930_000


def draw(folder: Path, captions: list[str]) -> None:
    """Write ``<place>-<thing>.png`` and the caption beside it for each caption."""
    sys.path.insert(0, str(PROJECT))
    from experiments.tiny.clips import scene_of
    from experiments.tiny.cogvideox_i2v import first_frame

    folder.mkdir(parents=True, exist_ok=True)
    for index, caption in enumerate(captions):
        scene = scene_of(caption)
        name = f"{index:02d}-{scene.size}-{scene.colour}-{scene.shape}"
        (folder / f"{name}.txt").write_text(f"{caption}\n", encoding="utf-8")
        first_frame(scene, SEED + index).save(folder / f"{name}.png", optimize=True)


def main() -> None:
    captions = yaml.safe_load((PROJECT / "conf/prompts/ablation.yaml").read_text(encoding="utf-8"))["texts"]
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, captions)


if __name__ == "__main__":
    main()
