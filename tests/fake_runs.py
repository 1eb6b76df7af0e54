"""Eight small made-up runs, written through the real writer, for tests of whatever reads records."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from svg.results import Measurement, RunRecord, RunWriter, VideoPaths, config_hash
from svg.results.record import checksum
from svg.results.rows import sha256_of, to_parquet
from svg.video import write_lossless, write_preview

PROMPTS = [
    {"prompt_id": "p00-5e1f0b2c", "text": "a red circle moves to the right on a striped blue background"},
    {"prompt_id": "p01-9a7d44e1", "text": 'a small yellow triangle spins; <b>not bold</b> & "quoted" </script>'},
]
STEPS, LAYERS, HEADS, FRAMES, HEIGHT, WIDTH, FPS = 4, 3, 4, 9, 48, 64, 8.0
DENSE_STEPS, DENSE_LAYERS = 1, 1
# The step and the layer whose attention was sampled.
SAMPLED = (3, 1)

# (run id, method, kept fraction asked for, PSNR in dB against dense; None where the videos are identical)
RUNS: list[tuple[str, str, float | None, float | None]] = [
    ("dense", "dense", None, None),
    ("svg-0.15", "svg", 0.15, 24.0),
    ("svg-0.25", "svg", 0.25, 28.5),
    ("svg-0.50", "svg", 0.5, 34.0),
    ("one_pattern-0.25", "one_pattern", 0.25, 24.8),
    ("random_blocks-0.25", "random_blocks", 0.25, 22.1),
    ("random_blocks-0.50", "random_blocks", 0.5, 27.3),
]
FAILED_RUN = "svg-0.05"
PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": True,
    "diff_sha256": "9f" * 32,
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "diffusers": "0.42.1"},
    "cpu": {"name": "Example CPU 2.0 GHz", "cores": 2},
    "gpu": None,
    "threads": 1,
    "hostname_hash": "abcdef012345",
    "load_average": [0.5, 0.4, 0.3],
    "command": "python -m experiments.compare model=tiny_wan -m",
}


def write_fake_runs(runs_dir: str | Path, seed: int = 0) -> list[str]:
    """Write the runs of ``RUNS`` and one that failed below ``runs_dir``; equal seeds make equal rows and pixels.

    Returns:
        The run ids, the failed one last.
    """
    for run_id, method, density, psnr in RUNS:
        rng = random.Random(f"{seed}/{run_id}")
        with _writer(runs_dir, run_id, method, density, seed) as run:
            for prompt in PROMPTS:
                key = {"prompt_id": prompt["prompt_id"], "seed": seed}
                _write_videos(run.video_paths(**key), prompt["prompt_id"], seed, psnr)
                run.add_video(**key, frames=FRAMES, fps=FPS, height=HEIGHT, width=WIDTH)
                run.extend(_rows(rng, method, density, psnr, key))
    try:
        with _writer(runs_dir, FAILED_RUN, "svg", 0.05, seed):
            raise ValueError("method.sparsity=0.05 is less than text and first frame alone keep (0.0588)")
    except ValueError:
        pass
    return [run_id for run_id, *_ in RUNS] + [FAILED_RUN]


def write_many_runs(runs_dir: str | Path, count: int) -> None:
    """Write so many complete runs with a few rows each and no videos."""
    for number in range(count):
        settings = {"seed": 0, "method": {"sparsity": 0.25, "number": number}, "model": {"num_frames": FRAMES}}
        write_plain_run(Path(runs_dir) / f"svg-{number:05d}", settings, number)


def write_plain_run(folder: Path, settings: dict, number: int = 0) -> None:
    """Write a complete run of these settings without videos, faster than the real writer, which waits for the disk."""
    record = RunRecord(
        run_id=folder.name,
        model="tiny_wan",
        method="svg",
        backend="cpu_gather",
        dense_backend="sdpa",
        config=settings,
        provenance=PROVENANCE,
        prompts=PROMPTS[:1],
        seeds=[0],
        created="2026-01-02T03:04:05+00:00",
        config_hash=config_hash(settings),
    )
    folder.mkdir(parents=True)
    rows = list(_cost(random.Random(number), 0.25, {"prompt_id": PROMPTS[0]["prompt_id"], "seed": 0}))
    data = to_parquet(record, rows)
    (folder / "measurements.parquet").write_bytes(data)
    content = asdict(record) | {"measurements_sha256": sha256_of(data)}
    content["checksum"] = checksum(content)
    (folder / "run.json").write_text(json.dumps(content, indent=2))


def _writer(runs_dir: str | Path, run_id: str, method: str, density: float | None, seed: int) -> RunWriter:
    knobs = {"name": method, "sparsity": density, "num_sampled_rows": 64} if method != "dense" else {"name": method}
    return RunWriter(
        runs_dir,
        run_id,
        model="tiny_wan",
        method=method,
        backend="sdpa" if method == "dense" else "cpu_gather",
        dense_backend="sdpa",
        config={"seed": seed, "method": knobs, "model": {"name": "tiny_wan", "num_inference_steps": STEPS}},
        provenance=PROVENANCE,
        prompts=PROMPTS,
        seeds=[seed],
        overrides=[f"method={method}"] + ([] if density is None else [f"method.sparsity={density}"]),
        experiment="demo",
    )


def _clip(prompt_id: str, seed: int) -> np.ndarray:
    """A square that wanders over a gradient: uint8 (frames, height, width, 3)."""
    rng = np.random.default_rng(zlib.crc32(f"{prompt_id}/{seed}".encode()))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    clip = np.stack([rows * 2, columns * 2, rows + columns], axis=-1)[None].repeat(FRAMES, 0).astype(np.uint8)
    color = rng.integers(0, 256, 3)
    for frame in range(FRAMES):
        clip[frame, 12:28, 4 + 5 * frame : 18 + 5 * frame] = color
    return clip


def _write_videos(paths: VideoPaths, prompt_id: str, seed: int, psnr: float | None) -> None:
    dense = _clip(prompt_id, seed)
    sparse = dense
    if psnr is not None:
        noise = np.random.default_rng(seed).normal(0, 255 * 10 ** (-psnr / 20), dense.shape)
        sparse = np.clip(np.rint(dense + noise), 0, 255).astype(np.uint8)
    write_lossless(paths.sparse, sparse, FPS)
    write_preview(paths.preview, sparse, FPS)
    write_preview(paths.dense_preview, dense, FPS)


def _rows(
    rng: random.Random, method: str, density: float | None, psnr: float | None, key: dict
) -> Iterator[Measurement]:
    yield from _quality(rng, psnr, key)
    yield from _cost(rng, density, key)
    if method != "dense":
        yield from _heads(rng, method, key)


def _quality(rng: random.Random, psnr: float | None, key: dict) -> Iterator[Measurement]:
    better = {"protocol": "standard", "n": FRAMES, "higher_is_better": True}
    if psnr is None:
        yield Measurement(quantity="psnr_db", unit="dB", value=None, status="infinite", **key, **better)
        for frame in range(FRAMES):
            one = {"frame": frame, "status": "infinite"} | key | better | {"n": 1}
            yield Measurement(quantity="psnr_db", unit="dB", value=None, **one)
    else:
        values = [psnr + rng.gauss(0, 1.2) for _ in range(FRAMES)]
        mean = sum(values) / FRAMES
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / FRAMES)
        yield Measurement(quantity="psnr_db", unit="dB", value=mean, spread=spread, **key, **better)
        for frame, value in enumerate(values):
            yield Measurement(quantity="psnr_db", unit="dB", value=value, frame=frame, **key, **(better | {"n": 1}))
    ssim = 1.0 if psnr is None else 1 - 10 ** (-psnr / 22)
    vmaf = 100.0 if psnr is None else min(99.0, 2.6 * psnr)
    yield Measurement(quantity="ssim", unit="1", value=ssim, spread=0.01, **key, **better)
    yield Measurement(quantity="vmaf", unit="1", value=vmaf, **key, **better)
    for quantity, trunk in (("lpips_alex", "alexnet-owt-7be5be79.pth"), ("lpips_vgg", "vgg16-397923af.pth")):
        reason = f"backbone weights {trunk} not found; fetch them once with: python -m example"
        missing = {"status": "unavailable", "reason": reason, "higher_is_better": False, "n": 0}
        yield Measurement(quantity=quantity, unit="1", value=None, protocol="standard", **key, **missing)


def _cost(rng: random.Random, density: float | None, key: dict) -> Iterator[Measurement]:
    kept = 1.0 if density is None else density
    sparse_share = 0.0 if density is None else (1 - DENSE_STEPS / STEPS) * (1 - DENSE_LAYERS / LAYERS)
    dense_s = rng.uniform(7.8, 8.2)
    overall = 1 - sparse_share * (1 - kept)
    sparse_s = dense_s * (0.35 + 0.65 * overall) if density is not None else dense_s
    if density is not None:
        yield Measurement(quantity="density_requested", unit="1", value=density, **key)
        sparse_calls = (STEPS - DENSE_STEPS) * (LAYERS - DENSE_LAYERS) * 2
        token = {"protocol": "token", "n": sparse_calls} | key
        tile = {"protocol": "tile", "n": sparse_calls} | key
        yield Measurement(quantity="density_executed", unit="1", value=density * 0.995, **token)
        yield Measurement(quantity="density_executed", unit="1", value=min(1.0, density * 1.12), **tile)
    yield Measurement(quantity="density_overall", unit="1", value=overall, **key)
    yield Measurement(quantity="dense_steps", unit="steps", value=float(DENSE_STEPS if density else STEPS), **key)
    yield Measurement(quantity="dense_layers", unit="layers", value=float(DENSE_LAYERS if density else LAYERS), **key)
    seconds = {"unit": "s", "higher_is_better": False} | key
    yield Measurement(quantity="generation_s", value=sparse_s, **seconds)
    yield Measurement(quantity="dense_generation_s", value=dense_s, **seconds)
    yield Measurement(quantity="warmup_s", value=1.3, **seconds)
    for step in range(STEPS):
        yield Measurement(quantity="step_s", value=sparse_s / (STEPS + 1), step=step, **seconds)
    shares = {"attention": 0.45, "profiling": 0.05, "reordering": 0.03, "rest": 0.47}
    for phase, share in shares.items():
        yield Measurement(quantity="phase_s", value=share * sparse_s, protocol=phase, **seconds)
    faster = {"unit": "1", "higher_is_better": True} | key
    yield Measurement(quantity="speedup", value=dense_s / sparse_s, **faster)
    yield Measurement(quantity="denoise_speedup", value=1 / (0.2 + 0.8 * overall), **faster)
    yield Measurement(quantity="attention_speedup", value=1 / (0.1 + 0.9 * overall), **faster)
    yield Measurement(quantity="peak_memory_gib", unit="GiB", value=1.7, higher_is_better=False, **key)
    yield Measurement(quantity="pflops_dense", unit="PFLOP", value=0.0042, **key)
    yield Measurement(quantity="pflops_sparse", unit="PFLOP", value=0.0042 * (0.5 + 0.5 * overall), **key)


def _heads(rng: random.Random, method: str, key: dict) -> Iterator[Measurement]:
    for step in range(DENSE_STEPS, STEPS):
        for layer in range(DENSE_LAYERS, LAYERS):
            for branch in ("cond", "uncond"):
                for head in range(HEADS):
                    place = {"step": step, "layer": layer, "head": head, "branch": branch} | key
                    if method == "random_blocks":
                        continue
                    errors = {"spatial": rng.uniform(1e-4, 9e-3), "temporal": rng.uniform(1e-4, 9e-3)}
                    choice = 0.0 if method == "one_pattern" else float(errors["temporal"] < errors["spatial"])
                    yield Measurement(quantity="head_choice", unit="pattern", value=choice, **place)
                    if method == "svg":
                        for pattern, error in errors.items():
                            yield Measurement(quantity="head_error", unit="1", value=error, protocol=pattern, **place)
                        low, high = sorted(errors.values())
                        yield Measurement(quantity="head_margin", unit="1", value=(high - low) / high, **place)
                        if (step, layer) == SAMPLED:
                            yield Measurement(quantity="head_kept_mass", unit="1", value=0.2 * head, n=64, **place)
