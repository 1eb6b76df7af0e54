"""Strips of frames: the dense video, sparse ones below it, and how they differ."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import videos
from analysis.figures import look
from analysis.figures.series import MissingRows, listed_note
from analysis.settings import counted, describe, knob_text

# Of a prompt so many characters are shown at most, and of runs without a preview so many are named.
_PROMPT, _NAMED = 160, 2


@look.in_one_look
def video_strips(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    run_ids: Sequence[str],
    output: str | Path,
    *,
    num_frames: int = 6,
    gain: float = 4.0,
    others: Sequence[str] = (),
    suffixes: Iterable[str] = look.SUFFIXES,
) -> list[Path]:
    """Draw frames of a prompt's dense video, and below it each run's and ``gain`` times the absolute difference.

    The first prompt and seed that all runs have is shown. Pictures are taken from the previews, which are lossy alike;
    the PSNR beside them is the recorded one, of the frames before that. Runs whose previews are not in their folders
    are left out and said to be, unless that is so of all.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; their folders hold the previews.
        run_ids: Complete runs with one dense twin, in the order in which they are shown.
        output: Path without a suffix.
        num_frames: How many frames, from the first to the last, evenly apart; at least 1.
        gain: What differences are multiplied with, greater than 0.
        others: Runs that are not shown, but counted among those with and without previews.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        MissingRows: If the runs share no video, or no run's previews are there.
        ValueError: If the videos differ in size or length, or one cannot be read.
    """
    table = runs.set_index("run_id")
    asked = list(dict.fromkeys([*run_ids, *others]))
    lacking = [run for run in asked if videos_of(table.loc[run]) and not present_videos_of(table.loc[run])]
    is_any_there = not set(run_ids) <= set(lacking)
    if is_any_there:
        run_ids = [run for run in run_ids if run not in lacking]
    table = table.loc[list(run_ids)]
    found = [(present_videos_of if is_any_there else videos_of)(run) for _, run in table.iterrows()]
    shared = [place for place in found[0] if all(place in own for own in found)]
    if not shared:
        raise MissingRows(f"runs {', '.join(run_ids)} have no preview of one prompt, seed and dense twin")
    prompt, seed, _ = shared[0]
    dense = _pixels(found[0][shared[0]]["dense_preview"])
    strips = [_pixels(own[shared[0]]["preview"]) for own in found]
    for run_id, strip in zip(run_ids, strips, strict=True):
        if strip.shape != dense.shape:
            raise ValueError(
                f"run_id={run_id}: its video has shape {strip.shape}, its dense twin {dense.shape}; they must be equal"
            )
    chosen = np.unique(np.linspace(0, len(dense) - 1, num_frames).round().astype(int))
    names = _names(measurements, runs, run_ids, prompt, seed)
    rows = [("dense", dense)]
    for name, strip in zip(names, strips, strict=True):
        rows += [(name, strip), (f"difference × {gain:g}", np.minimum(np.abs(strip - dense) * gain, 1.0))]
    height, width = dense.shape[1:3]
    side = (look.PAGE - 1.3) / len(chosen)
    figure = look.new_figure(look.PAGE, (side * height / width + 0.05) * len(rows) + 0.25)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0)
    panels = figure.subplots(len(rows), len(chosen), squeeze=False)
    for line, (name, pixels) in zip(panels, rows, strict=True):
        for axes, frame in zip(line, chosen, strict=True):
            axes.imshow(pixels[frame], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    for axes, frame in zip(panels[0], chosen, strict=True):
        axes.set_title(f"frame {frame}", fontsize=7)
    notes = [f"{table['model'].iloc[0]}, {_prompt(table.iloc[0], prompt)}, seed {seed}."]
    if lacking:
        words = f"Without a preview in this folder, {len(lacking)} of {counted(len(asked), 'sparse run')}"
        facts, methods = describe(runs)["knobs"], runs.set_index("run_id")["method"]
        left_out = [f"{methods[run]} {knob_text(facts[run])}".strip() for run in lacking]
        notes.append(listed_note(words, left_out, most=_NAMED))
    look.add_notes(figure, notes)
    return look.save(figure, output, suffixes)


def videos_of(run: pd.Series) -> dict[tuple[str, int, str | None], dict[str, Path]]:
    """Return the previews of a run, ``preview`` and ``dense_preview``, by prompt, seed and name of the dense twin.

    Args:
        run: A row of `analysis.load.runs`.
    """
    listed = run["videos"] if isinstance(run["videos"], list) else []
    kinds = ("preview", "dense_preview")
    return {
        (video["prompt_id"], video["seed"], video.get("dense_key")): {
            kind: Path(run["path"]) / video[kind] for kind in kinds
        }
        for video in listed
        if all(video[kind] for kind in kinds)
    }


def present_videos_of(run: pd.Series) -> dict[tuple[str, int, str | None], dict[str, Path]]:
    """Return those of `videos_of` whose files are there: rows may be kept without their previews."""
    return {place: paths for place, paths in videos_of(run).items() if all(path.is_file() for path in paths.values())}


def _prompt(run: pd.Series, prompt_id: str) -> str:
    """Return a prompt's text, shortened, in quotes; its id where the record has no text of it."""
    listed = run["prompts"] if isinstance(run["prompts"], list) else []
    texts = {prompt["prompt_id"]: prompt["text"] for prompt in listed}
    text = texts.get(prompt_id)
    return f"“{textwrap.shorten(text, _PROMPT, placeholder=' …')}”" if text else f"prompt {prompt_id}"


def _pixels(path: Path) -> np.ndarray:
    """Return a preview as ``(frames, height, width, 3)`` in [0, 1]."""
    if not path.is_file():
        raise MissingRows(f"{path} is not there; strips are drawn from the folder that the run was made in")
    try:
        frames, _ = videos.frames(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not frames:
        raise ValueError(f"{path} holds no frame")
    return np.stack([np.asarray(frame, np.float32) for frame in frames]) / 255


def _names(measurements: pd.DataFrame, runs: pd.DataFrame, run_ids: Sequence[str], prompt: str, seed: int) -> list[str]:
    """Return each run's method, its settings that differ, and the PSNR of this video, on lines of their own."""
    place = measurements["prompt_id"].eq(prompt) & measurements["seed"].eq(seed) & measurements["frame"].isna()
    scores = measurements[place & measurements["quantity"].eq("psnr_db") & measurements["protocol"].eq("standard")]
    texts = {
        score.run_id: "identical" if score.status == "infinite" else f"{score.value:.1f} dB"
        for score in scores.itertuples()
        if score.status in ("ok", "infinite")
    }
    facts, methods = describe(runs)["knobs"], runs.set_index("run_id")["method"]
    names = []
    for run in run_ids:
        lines = [methods[run], *knob_text(facts[run]).split()]
        names.append("\n".join([*lines, *([texts[run]] if run in texts else [])]))
    return names
