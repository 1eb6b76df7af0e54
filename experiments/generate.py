"""Make videos and measure nothing: ``python -m experiments.generate [SETTING=VALUE ...]``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from experiments import planning, runner, truncation
from experiments.entry import command
from experiments.generation import Generator
from experiments.loading import load_pipeline
from experiments.progress import Progress
from experiments.schema import Config
from svg.video import write_lossless, write_preview


@command
def main(config: Config, names: planning.Names) -> None:
    plan = planning.check(config, names)
    assert plan.folder is not None, "it was downloaded"
    folder = Path(config.runs_dir) / "videos"
    jobs = [
        (prompt, seed, folder / f"{plan.run_id}-{prompt.prompt_id}-s{seed}.mkv")
        for prompt in plan.prompts
        for seed in config.seeds
    ]
    present = next((path for _, _, path in jobs if path.exists()), None)
    if present is not None and not config.overwrite:
        raise ValueError(f"runs_dir={config.runs_dir}: {present} is there already; overwrite=true makes it again")
    _check_writable(config.runs_dir, folder)
    runner.set_threads(config)
    pipeline = load_pipeline(config.model, plan.folder, plan.device)
    model = config.model
    generator = Generator(pipeline, model, plan.device, config.compile)
    generator.check(plan.prompts)
    for prompt in plan.prompts:
        truncation.facts(pipeline, model, prompt)
    dense_backend = runner.pick_dense_backend(config, generator, plan.prompts[0]).backend
    with Progress(plan.run_id, len(jobs) * model.num_inference_steps) as bar:
        for prompt, seed, path in jobs:
            made = generator(prompt, seed, plan.method, plan.backend, dense_backend, on_step=bar.step)
            assert made.frames is not None
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _write(path, partial(write_lossless, video=made.frames, fps=model.fps))
                _write(path.with_suffix(".mp4"), partial(write_preview, video=made.frames, fps=model.fps))
            except OSError as error:
                raise ValueError(
                    f"runs_dir={config.runs_dir}: {path.name} cannot be written: {error.strerror or error}"
                ) from error
            print(f"{path} and {path.with_suffix('.mp4').name}: {made.total_s:.1f} s", flush=True)


def _check_writable(runs_dir: str, folder: Path) -> None:
    """Raise ``ValueError`` if the folder of the videos, or what it would be made in, takes no file."""
    try:
        with TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.exists())):
            pass
    except OSError as error:
        raise ValueError(f"runs_dir={runs_dir} cannot be written: {error.strerror or error}") from error


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that appears whole or not at all."""
    unfinished = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
