"""Does the embedded model do what its caption says? The automatic check on real clips and on generated videos."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.tiny import clips
from experiments.tiny.check import check
from experiments.tiny.family import Family

CALIBRATION_SEED, CAPTION_SEED = 910_000, 920_000


def calibrate(count: int = 256, seed: int = CALIBRATION_SEED) -> dict[str, float]:
    """Return the share of real clips that pass, and of clips beside another clip's caption, in [0, 1]."""
    scenes = clips.scenes(seed, count)
    passed = {"real_shape": 0, "real_motion": 0, "mismatched_shape": 0, "mismatched_motion": 0}
    for index, scene in enumerate(scenes):
        video = clips.draw([scene], seed + index)[0].permute(1, 2, 3, 0).numpy()
        right, wrong = check(video, scene), check(video, scenes[(index + 1) % count])
        passed["real_shape"] += right.is_shape_right
        passed["real_motion"] += right.is_motion_right
        passed["mismatched_shape"] += wrong.is_shape_right
        passed["mismatched_motion"] += wrong.is_motion_right
    return {name: value / count for name, value in passed.items()}


def generate(
    pipe: Any, family: Family, scenes: list[clips.Scene], steps: int, guidance_scale: float, seed: int, batch: int = 16
) -> np.ndarray:
    """Generate one video a scene; float32 ``(scenes, frames, height, width, 3)`` in [0, 1].

    Initial noise is drawn on the CPU, scene by scene, so that it does not depend on batch or device.
    """
    videos = []
    for at in range(0, len(scenes), batch):
        part = scenes[at : at + batch]
        seeds = [seed + at + index for index in range(len(part))]
        noise = [torch.randn(family.noise_shape, generator=torch.Generator().manual_seed(each)) for each in seeds]
        videos.append(
            pipe(
                prompt=[scene.caption for scene in part],
                height=clips.HEIGHT,
                width=clips.WIDTH,
                num_frames=family.num_frames,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                latents=torch.stack(noise).to(pipe.device),
                output_type="np",
                **family.call(part, seeds),
            ).frames
        )
    return np.concatenate(videos)


def score(videos: np.ndarray, scenes: list[clips.Scene]) -> dict[str, float]:
    """Return the share of videos with colour and shape right, and with the motion right as well."""
    # The check knows clips of NUM_FRAMES.
    every = (videos.shape[1] - 1) // (clips.NUM_FRAMES - 1)
    verdicts = [check(video[::every], scene) for video, scene in zip(videos, scenes, strict=True)]
    return {
        "shape": sum(verdict.is_shape_right for verdict in verdicts) / len(verdicts),
        "motion": sum(verdict.is_motion_right for verdict in verdicts) / len(verdicts),
    }


def contact_sheet(videos: np.ndarray, path: Path, frames: int = 6) -> None:
    """Write a PNG with one row of evenly spaced frames per video."""
    from PIL import Image

    shown = np.linspace(0, videos.shape[1] - 1, frames).round().astype(int)
    rows = [np.concatenate(list(video[shown]), 1) for video in videos]
    Image.fromarray((np.concatenate(rows).clip(0, 1) * 255).round().astype(np.uint8)).save(path)


def mean_psnr(scores: list[float]) -> float:
    return math.fsum(scores) / len(scores)
