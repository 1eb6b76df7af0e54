"""Writes a trained model's card, every number of it measured: ``python -m experiments.tiny.card --help``."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from experiments.tiny import clips, evaluate
from experiments.tiny import family as families
from experiments.tiny.family import SPATIAL, Family

TITLES = {"hunyuan_video": "Tiny HunyuanVideo", "cogvideox_i2v": "Tiny CogVideoX, image to video"}
ARCHITECTURES = {
    "hunyuan_video": "A text-to-video pipeline in HunyuanVideo's architecture",
    "cogvideox_i2v": "An image-to-video pipeline in CogVideoX 1.5's architecture",
}
TEMPLATE = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: {tag}
---

# {title}

{architecture}, small enough for a laptop's CPU and for a git repository, beside
[tiny_wan](../tiny_wan/README.md) and of the same little world, so that sparse attention can be run, tested and shown on
a trained model of this family. {frames} frames of {height} x {width} at 16 per second are {token_frames} token frames
of {tokens_per_frame} = {tokens} tokens.

```python
{example}
```

| part | class | parameters |
| --- | --- | ---: |
{parts}

Weights are bfloat16 safetensors, {size_mb:.1f} MB. Trained from nothing by
`python -m experiments.train_tiny --family {name}`, on clips that `experiments/tiny/clips.py` draws, on
{device}, one for each process:

| part | time | processes | steps |
| --- | ---: | ---: | ---: |
{training}

## How good it is

Measured on {device}, {num_captions} captions that training never saw, by the check in `experiments/tiny/check.py`
([evaluation.json](evaluation.json)){given}.

| | measured | wanted |
| --- | --- | --- |
{measured}

## Limits

It knows its grammar and nothing else. Numbers measured on it say whether a method and its implementation work, and how
methods rank on a small model; they do not stand for the large models.

Licence: Apache-2.0, as the rest of this repository.
"""
EXAMPLE = """import torch
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("{folder}", torch_dtype=torch.float32)
video = pipe(
    {image}prompt="a big green circle moves down over a maroon striped background",
    height={height}, width={width}, num_frames={frames}, num_inference_steps=20, guidance_scale={guidance},
    max_sequence_length=32,
).frames[0]"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=sorted(TITLES), required=True, help="whose card is written")
    parser.add_argument("--state", type=Path, required=True, help="folder that was trained in, with evaluation.json")
    parser.add_argument("--folder", type=Path, default=None, help="of the pipeline (default: assets/tiny_FAMILY)")
    options = parser.parse_args()
    evaluation, folder = options.state / "evaluation.json", options.folder or families.folder(options.family)
    for file in (evaluation, folder / "model_index.json"):
        if not file.is_file():
            raise SystemExit(f"error: {file} is not there; train with --evaluate first")
    results = json.loads(evaluation.read_text(encoding="utf-8"))
    (folder / "README.md").write_text(text(options.family, folder, results), encoding="utf-8")
    shutil.copy(evaluation, folder / "evaluation.json")


def text(name: str, folder: Path, results: dict[str, Any]) -> str:
    """Return the card of the pipeline in a folder.

    Args:
        name: Its family.
        folder: Where it lies.
        results: What ``train_tiny --evaluate`` found.
    """
    family = families.get(name)
    tokens_per_frame = clips.HEIGHT * clips.WIDTH // (SPATIAL * family.patch[1]) ** 2
    token_frames = family.latent_frames // family.patch[0]
    has_image = name == "cogvideox_i2v"
    size = {"height": clips.HEIGHT, "width": clips.WIDTH, "frames": family.num_frames}
    rows = [
        f"| {part} | {row['seconds']:.0f} s | {row.get('processes', 1)} | {row['steps']:,} |"
        for part, row in results["training"].items()
    ]
    return TEMPLATE.format(
        tag="image-to-video" if has_image else "text-to-video",
        title=TITLES[name],
        architecture=ARCHITECTURES[name],
        name=name,
        device=results["device"],
        token_frames=token_frames,
        tokens_per_frame=tokens_per_frame,
        tokens=token_frames * tokens_per_frame,
        example=EXAMPLE.format(
            pipeline=family.pipeline,
            folder=folder,
            guidance=f"{best(family, results)[1]:g}",
            image="image=first_frame, " if has_image else "",
            **size,
        ),
        parts="\n".join(_parts(folder)),
        size_mb=sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
        training="\n".join(rows),
        num_captions=len(results["captions"]),
        given=", colour and shape being given by the first frame" if has_image else "",
        measured="\n".join(measured(family, results)),
        **size,
    )


def measured(family: Family, results: dict[str, Any]) -> list[str]:
    """Return the rows of the table of what was measured."""
    scores = results["autoencoder_psnr_db"]
    psnr = f"{evaluate.mean_psnr(scores):.2f} dB (worst {min(scores):.2f})"
    rows = [f"| VAE, PSNR on {len(scores)} unseen clips | {psnr} | 34 dB |"]
    for steps, guidance in family.samplings:
        found = results[sampling(steps, guidance)]
        where = f"{steps} steps, guidance {guidance:g}"
        rows.append(f"| colour and shape as the caption says, {where} | {found['shape']:.0%} | 90 % |")
        rows.append(f"| colour, shape and motion, {where} | {found['motion']:.0%} | 75 % |")
    return rows


def best(family: Family, results: dict[str, Any]) -> tuple[int, float]:
    """Return steps and guidance of the highest score with the motion right."""
    return max(family.samplings, key=lambda each: results[sampling(*each)]["motion"])


def sampling(steps: int, guidance: float) -> str:
    """Return the name of a sampling's results."""
    return f"steps_{steps}_guidance_{guidance:g}"


def _parts(folder: Path) -> list[str]:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    rows = []
    for part, kind in sorted(index.items()):
        files = sorted((folder / part).glob("*.safetensors"))
        if files:
            rows.append(f"| {part} | `{kind[1]}` | {sum(map(_count, files)):,} |")
    return rows


def _count(file: Path) -> int:
    with safe_open(file, "pt") as stored:
        return sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()
