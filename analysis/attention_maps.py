"""Example attention maps from a capture: a spatial and a temporal head, frame-major and token-major."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import deserialize

from analysis.figures.look import in_one_look, save
from svg.captures.index import Capture, CapturedCall, read_all
from svg.results import RecordError

# Cells of a map along either side, queries looked at for each of them, and for the masses of a head.
CELLS, ROWS_PER_CELL, MASS_ROWS = 240, 4, 64
_KINDS = {"spatial": "same-frame mass", "temporal": "same-position mass"}


@dataclass(frozen=True)
class Head:
    """One head of a captured call, ``head`` being its index in the model, and what its kind is known by, in [0, 1]."""

    capture: Capture
    call: CapturedCall
    item: int
    head: int
    mass: float


@in_one_look
def attention_maps(
    captures: str | Path, output: str | Path, *, suffixes: Iterable[str] = (".png", ".pdf")
) -> list[Path]:
    """Draw the most spatial and the most temporal head of a capture, each before and after the reordering.

    The most spatial one has the most attention on a query's own frame, the temporal one on its own place in all
    frames. A cell is the mean probability of the pairs in it, on up to ``ROWS_PER_CELL`` of its queries; the scale is
    logarithmic, over three orders of magnitude. Token-major is a place's tokens of all frames, then the next place's;
    text stays where it stands.

    Args:
        captures: Folder that experiments.capture has written.
        output: Path without a suffix.
        suffixes: File formats.

    Returns:
        The files written.

    Raises:
        RecordError: If there is no capture, or one is damaged.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (kind, found) in zip(axes, most_spatial_and_temporal(read_all(captures)).items(), strict=True):
        query, key = _query_and_key(found)
        maps = {words: pooled_map(query, key, order) for words, order in _orders(found.call).items()}
        top = max(float(np.quantile(cells, 0.999)) for cells in maps.values())
        scale = LogNorm(top / 1000, top, clip=True)
        for panel, (words, cells) in zip(row, maps.items(), strict=True):
            image = panel.imshow(cells, cmap="cividis", norm=scale, interpolation="none")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_xlabel(f"keys, {words}", fontsize=8)
            panel.set_ylabel(f"queries, {words}", fontsize=8)
        place = f"step {found.call.step}, layer {found.call.layer}, head {found.head}"
        row[0].set_title(f"{kind}: {place}", fontsize=9, loc="left")
        row[1].set_title(f"{_KINDS[kind]} {found.mass:.2f}", fontsize=9, loc="right")
        bar = figure.colorbar(image, ax=row, shrink=0.9)
        bar.set_label("mean probability of a pair", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return save(figure, output, suffixes)


def most_spatial_and_temporal(captures: Iterable[Capture]) -> dict[str, Head]:
    """Return of all captured heads the one with the most same-frame mass and the one with the most same-position mass.

    Masses are means over ``MASS_ROWS`` queries, spread evenly over the video.
    """
    best: dict[str, Head] = {}
    for capture in captures:
        for call in capture.calls:
            query, key = _tensors(capture, call)
            tokens = call.layout.num_video_tokens
            token = np.linspace(0, tokens - 1, min(tokens, MASS_ROWS)).round().astype(int)
            start = call.layout.video_start
            for item, place in np.ndindex(*query.shape[:2]):
                rows = _probability(query[item, place, start + token], _keys(call, key[item, place], item))
                video = rows[:, start : start + tokens].reshape(len(token), call.layout.num_frames, -1)
                frame, position = np.divmod(token, call.layout.tokens_per_frame)
                at = np.arange(len(token))
                masses = {
                    "spatial": float(video.sum(2)[at, frame].mean()),
                    "temporal": float(video.sum(1)[at, position].mean()),
                }
                for kind, mass in masses.items():
                    if kind not in best or mass > best[kind].mass:
                        best[kind] = Head(capture, call, item, capture.heads[place], mass)
    return best


def pooled_map(query: np.ndarray, key: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the attention map of a head in an order, ``(cells, cells)``, each the mean over its pairs.

    Args:
        query, key: ``(seq_len, head_dim)``; keys that are NaN are padding.
        order: ``(seq_len,)``, the original position of each place in the order.
    """
    edges = np.linspace(0, len(order), min(len(order), CELLS) + 1).round().astype(int)
    cells = []
    for start, stop in pairwise(edges):
        rows = np.unique(np.linspace(start, stop - 1, min(stop - start, ROWS_PER_CELL)).round().astype(int))
        mean = _probability(query[order[rows]], key)[:, order].mean(0)
        cells.append(np.add.reduceat(mean, edges[:-1]) / np.diff(edges))
    return np.stack(cells)


def _orders(call: CapturedCall) -> dict[str, np.ndarray]:
    layout = call.layout
    frame_major = np.arange(layout.seq_len)
    token_major = frame_major.copy()
    video = slice(layout.video_start, layout.video_stop)
    token_major[video] = frame_major[video].reshape(layout.num_frames, layout.tokens_per_frame).T.flatten()
    return {"frame-major": frame_major, "token-major": token_major}


def _query_and_key(found: Head) -> tuple[np.ndarray, np.ndarray]:
    query, key = _tensors(found.capture, found.call)
    place = found.capture.heads.index(found.head)
    return query[found.item, place], _keys(found.call, key[found.item, place], found.item)


def _tensors(capture: Capture, call: CapturedCall) -> tuple[np.ndarray, np.ndarray]:
    """Return query and key of a call as float32, ``(batch, heads, seq_len, head_dim)``."""
    found = {name: _array(facts) for name, facts in deserialize(capture.data(call)) if name in ("query", "key")}
    return found["query"], found["key"]


def _array(facts: dict) -> np.ndarray:
    """Return a tensor as float32; NumPy has no bfloat16, which is the upper half of one."""
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[facts["dtype"]]
    values = np.frombuffer(facts["data"], kind)
    if facts["dtype"] == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32).reshape(facts["shape"])


def _keys(call: CapturedCall, key: np.ndarray, item: int) -> np.ndarray:
    """Return the keys with padding marked by NaN."""
    if call.key_lengths is None:
        return key
    key = key.copy()
    key[call.key_lengths[item] :] = np.nan
    return key


def _probability(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the attention of some queries to all keys; keys that are NaN are padding and get none."""
    scores = (query @ key.T) / np.sqrt(query.shape[-1])
    scores = np.where(np.isnan(scores), -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.attention_maps", description="A spatial and a temporal head of a capture, as maps."
    )
    parser.add_argument("captures", metavar="CAPTURES", help="folder that experiments.capture has written")
    parser.add_argument("--output", required=True, help="path of the figures without a suffix")
    options = parser.parse_args(arguments)
    try:
        print("\n".join(map(str, attention_maps(options.captures, options.output))))
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
