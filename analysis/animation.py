"""Sets a prompt's dense video beside the sparse ones of several runs, in one animated WebP.

python -m analysis.animation OUTPUT.webp RUN_DIR [RUN_DIR ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from analysis import load, videos
from analysis.summary import cell, summary

GAP, CAPTION, SCALE = 12, 30, 2
INK, PAPER = "#1f2328", "#ffffff"


def side_by_side(output: Path, run_dirs: Sequence[Path], scale: int = SCALE) -> None:
    """Write the animation of the first prompt and seed that the runs have.

    Args:
        output: The file, ``.webp``.
        run_dirs: Folders of complete runs of one prompt and one dense twin, in the order in which they are shown.
        scale: How many times larger than the videos.

    Raises:
        ValueError: If a run has no preview, or the videos differ in size, length or frame rate.
    """
    columns: list[tuple[list[Image.Image], float]] = []
    names: list[str] = []
    for path in run_dirs:
        sparse = sorted(file for file in (path / "videos").glob("*.mp4") if not file.stem.endswith(".dense"))
        if not sparse:
            raise ValueError(f"{path} holds no preview videos/*.mp4; name the folder of a complete run")
        if not columns:
            columns.append(videos.frames(sparse[0].with_suffix(".dense.mp4")))
            names.append("dense")
        columns.append(videos.frames(sparse[0]))
        names.append(_caption(path))
    if len({(len(frames), frames[0].size, rate) for frames, rate in columns}) > 1:
        raise ValueError("the runs' videos differ in size, length or frame rate; name runs of one prompt and model")
    font = ImageFont.load_default(size=17)
    rate = columns[0][1]
    pictures = []
    for moment in zip(*(frames for frames, _ in columns), strict=True):
        width, height = (side * scale for side in moment[0].size)
        picture = Image.new("RGB", (len(moment) * (width + GAP) - GAP, height + CAPTION), PAPER)
        pen = ImageDraw.Draw(picture)
        for index, (frame, name) in enumerate(zip(moment, names, strict=True)):
            left = index * (width + GAP)
            picture.paste(frame.resize((width, height), Image.Resampling.BICUBIC), (left, CAPTION))
            pen.text((left, 4), name, INK, font)
        pictures.append(picture)
    output.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        output, save_all=True, append_images=pictures[1:], duration=round(1000 / rate), loop=0, quality=82, method=6
    )


def _caption(path: Path) -> str:
    """Name a run by its method, density and PSNR."""
    runs = load.runs(path.parent)
    runs = runs[runs["run_id"] == path.name]
    rows = load.measurements(path.parent)
    [row] = [row for _, row in summary(rows[rows["run_id"] == path.name], runs).iterrows()]
    return f"{row['method']}, density {cell(row, 'density_executed')}, {cell(row, 'psnr_db')} dB"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.animation", description=__doc__)
    parser.add_argument("output", type=Path, help="file to write, .webp")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    options = parser.parse_args(arguments)
    try:
        side_by_side(options.output, options.runs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
