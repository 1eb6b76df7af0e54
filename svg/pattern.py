"""Which (query, key) pairs a head keeps, as a few integers: a band, a sink, text, and the window for a density.

Positions are positions in the plan's order, so one band serves both kinds of head: a spatial head keeps frame-major
order and the band holds the tokens of near frames; a temporal head is laid out token-major and the same band holds the
same place across frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from svg.layout import TokenLayout

HeadKind = Literal["spatial", "temporal"]
Sink = Literal["first_frame", "layout", "none"]


@dataclass(frozen=True)
class TokenPattern:
    """The pairs kept by one head: band, sink columns, and text rows and columns.

    A query q and a key k are kept if any of these holds:

    - band: both stand in the band's range and ``|query_scale * q' - key_scale * k'| <= half_width``, where q' and k'
      are counted from the start of the range, in units of ``unit`` tokens;
    - sink: ``sink_start <= k < sink_stop``, or k' is a multiple of ``sink_stride`` (0: none);
    - text: q or k stands in ``[text_start, text_stop)``.

    Queries and keys at or past ``valid_stop`` (padding) see each other and nothing else.
    """

    query_len: int
    key_len: int
    half_width: int
    query_start: int = 0
    query_stop: int = 0
    key_start: int = 0
    key_stop: int = 0
    query_scale: int = 1
    key_scale: int = 1
    unit: int = 1
    sink_start: int = 0
    sink_stop: int = 0
    sink_stride: int = 0
    text_start: int = 0
    text_stop: int = 0
    valid_stop: int | None = None

    def keep(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether each pair is kept; integer positions broadcast, the result is bool."""
        offset = self.query_scale * ((query - self.query_start) // self.unit) - self.key_scale * (
            (key - self.key_start) // self.unit
        )
        in_range = (
            (query >= self.query_start) & (query < self.query_stop) & (key >= self.key_start) & (key < self.key_stop)
        )
        kept = in_range & (offset.abs() <= self.half_width)
        kept = kept | ((key >= self.sink_start) & (key < self.sink_stop))
        if self.sink_stride:
            kept = kept | (
                (key >= self.key_start) & (key < self.key_stop) & ((key - self.key_start) % self.sink_stride == 0)
            )
        kept = kept | ((query >= self.text_start) & (query < self.text_stop))
        kept = kept | ((key >= self.text_start) & (key < self.text_stop))
        if self.valid_stop is not None:
            query_is_valid, key_is_valid = query < self.valid_stop, key < self.valid_stop
            kept = (kept & query_is_valid & key_is_valid) | (~query_is_valid & ~key_is_valid)
        return kept

    def segments(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the disjoint key ranges kept by each query, stride sink apart.

        Args:
            query: LongTensor ``(rows,)``.

        Returns:
            Starts and stops, each ``(rows, 3)``; a range whose stop is not above its start is empty.
        """
        centre = self.query_scale * ((query - self.query_start) // self.unit)
        low = -((self.half_width - centre) // self.key_scale)
        high = (centre + self.half_width) // self.key_scale + 1
        in_range = (query >= self.query_start) & (query < self.query_stop) & (high > low)
        start = (self.key_start + low * self.unit).clamp(self.key_start, self.key_stop)
        stop = (self.key_start + high * self.unit).clamp(self.key_start, self.key_stop)
        stop = torch.where(in_range, stop, start)
        keeps_all = (query >= self.text_start) & (query < self.text_stop)
        start, stop = start.masked_fill(keeps_all, 0), stop.masked_fill(keeps_all, self.key_len)
        fixed = torch.full_like
        starts = torch.stack([start, fixed(start, self.sink_start), fixed(start, self.text_start)], 1)
        stops = torch.stack([stop, fixed(stop, self.sink_stop), fixed(stop, self.text_stop)], 1)
        if self.valid_stop is not None:
            is_valid = (query < self.valid_stop)[:, None]
            starts, stops = starts.clamp(max=self.valid_stop), stops.clamp(max=self.valid_stop)
            starts = torch.where(is_valid, starts, torch.tensor([self.valid_stop, 0, 0]))
            stops = torch.where(is_valid, stops, torch.tensor([self.key_len, 0, 0]))
        starts, by_start = starts.sort(1)
        stops = stops.gather(1, by_start)
        reached = torch.cat([torch.zeros_like(stops[:, :1]), stops.cummax(1).values[:, :-1]], 1)
        return torch.maximum(starts, reached), stops

    def count(self, query: torch.Tensor | None = None, key_length: int | None = None) -> torch.Tensor:
        """Return how many keys each query keeps, exactly and without an N x N tensor.

        Args:
            query: LongTensor ``(rows,)``; all queries if not given.
            key_length: Count only keys below it; all keys if not given.

        Returns:
            LongTensor ``(rows,)``.
        """
        query = torch.arange(self.query_len) if query is None else query
        key_length = self.key_len if key_length is None else key_length
        starts, stops = (edge.clamp(max=key_length) for edge in self.segments(query))
        kept = (stops - starts).clamp(min=0).sum(1)
        if self.sink_stride:
            valid_stop = self.key_len if self.valid_stop is None else self.valid_stop
            stop = max(self.key_start, min(self.key_stop, valid_stop, key_length))

            def strided(position: torch.Tensor) -> torch.Tensor:
                inside = position.clamp(self.key_start, stop) - self.key_start
                return -(-inside // self.sink_stride)

            inside = (strided(stops) - strided(starts)).clamp(min=0).sum(1)
            extra = strided(torch.tensor(stop)) - inside
            kept = kept + (extra if self.valid_stop is None else extra * (query < self.valid_stop))
        return kept


def band(
    layout: TokenLayout,
    kind: HeadKind,
    *,
    sink: Sink = "first_frame",
    keys: Literal["sink_first", "plain"] = "sink_first",
    half_width: int = -1,
    spatial_unit: Literal["token", "frame"] = "token",
) -> TokenPattern:
    """Return the band of one kind of head, text kept whole; its width is given or set later.

    Args:
        layout: Token counts of the sequence.
        kind: ``"spatial"`` (frame-major) or ``"temporal"`` (token-major).
        sink: ``"first_frame"``: every query keeps all keys of frame 0. ``"layout"``: every query keeps the first
            ``tokens_per_frame`` keys of whatever order its head has (what the reference code does; for a temporal head
            that is a strip at the top of the picture). ``"none"``.
        keys: Key order of a temporal head: ``svg.order.sink_first_order`` or, as in the reference code, the order of
            the queries. The former needs a sink: frame 0 is then no part of the band.
        half_width: In units of the scaled difference; -1 keeps nothing of the band.
        spatial_unit: ``"token"``: the band slides token by token; ``"frame"``: it keeps whole frames, as in the
            paper's figure. Matters for spatial heads only.
    """
    frame, frames, start, stop = layout.tokens_per_frame, layout.num_frames, layout.video_start, layout.video_stop
    pattern = TokenPattern(
        query_len=layout.seq_len,
        key_len=layout.seq_len,
        half_width=half_width,
        query_start=start,
        query_stop=stop,
        key_start=start,
        key_stop=stop,
        text_start=layout.text_start,
        text_stop=layout.text_stop,
    )
    if sink != "none":
        pattern = replace(pattern, sink_start=start, sink_stop=start + frame)
    if kind == "spatial":
        return replace(pattern, unit=frame) if spatial_unit == "frame" else pattern
    if keys == "plain":
        if sink == "first_frame":
            return replace(pattern, sink_start=0, sink_stop=0, sink_stride=frames)
        return pattern
    if sink == "none":
        raise ValueError("method.sink=none needs method.key_order=plain: frame 0 in front of the keys is in no band")
    if sink == "layout":
        raise ValueError("method.sink=layout needs method.key_order=plain: it is a quirk of the reference code's order")
    # Query (f, p) stands at p * F + f, key (f, p) at L + p * (F - 1) + f - 1: the diagonal has slope (F - 1) / F.
    return replace(pattern, key_start=start + frame, query_scale=max(frames - 1, 1), key_scale=frames)


def window_for_density(pattern: TokenPattern, density: float) -> TokenPattern:
    """Return ``pattern`` with the widest band whose kept pairs, sink and text included, stay within ``density``.

    Args:
        pattern: A band of any width.
        density: Fraction of all query-key pairs kept, in (0, 1].

    Raises:
        ValueError: If ``density`` is out of range, or text and sink alone keep more.

    Source: arXiv:2502.01776. The reference code leaves the first frame out of this count.
    """
    check_density(density)
    budget = density * pattern.query_len * pattern.key_len
    least = int(replace(pattern, half_width=0).count().sum())
    if least > budget:
        raise density_too_low(density, least / (pattern.query_len * pattern.key_len))
    low, high = 0, pattern.query_scale * pattern.query_len + pattern.key_scale * pattern.key_len
    while low < high:
        middle = (low + high + 1) // 2
        if int(replace(pattern, half_width=middle).count().sum()) <= budget:
            low = middle
        else:
            high = middle - 1
    return replace(pattern, half_width=low)


def upstream_half_width(layout: TokenLayout, sparsity: float, rounding: Literal["ceil128", "floor128"]) -> int:
    """Return the reference code's half-width W in tokens for its ``sparsity``, the KEPT fraction.

    w = N * (1 - sqrt(1 - s')), s' = sparsity - 2 * text / N, rounded up (Wan, Cosmos) or down (HunyuanVideo, CogVideoX)
    to a multiple of 128. The sink's columns are not counted.

    Raises:
        ValueError: If ``sparsity`` is out of range or below what the text alone keeps; the reference code then runs
            with an empty band.
    """
    check_density(sparsity)
    text_share = 2 * layout.num_text_tokens / layout.seq_len
    if sparsity < text_share:
        raise density_too_low(sparsity, text_share)
    width = layout.seq_len * (1 - math.sqrt(max(0.0, 1 - (sparsity - text_share))))
    return (math.ceil(width / 128) if rounding == "ceil128" else math.floor(width / 128)) * 128


def check_density(density: float) -> None:
    """Raise ``ValueError`` unless ``density`` is in (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(f"method.sparsity (the fraction kept, also method.density) is {density}; it must be in (0, 1]")


def density_too_low(density: float, floor_share: float) -> ValueError:
    # Rounded up, so that the number that is shown is enough.
    least = math.ceil(floor_share * 1e4) / 1e4
    return ValueError(
        f"method.sparsity (the fraction kept, also method.density) is {density}, but text, first frame and diagonal "
        f"alone keep {least:.4f}; raise it, lower method.block_size or use method.sink=none"
    )
